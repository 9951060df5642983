"""Stops: a signal asks a run to save and end, a second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(RuntimeError):
    """A run ended early because a signal asked it to. `exit_code`: 75 (try again) for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int, done: int, total: int, *, saved: bool, unit: str = "step") -> None:
        how = "saved; the same command goes on from here" if saved else "not saved"
        super().__init__(f"stopped by {signal.Signals(number).name} after {unit} {done} of {total}, {how}")
        self.exit_code = 130 if number == signal.SIGINT else 75


def check_stop(stop: Callable[[], int | None], done: int, total: int, unit: str) -> None:
    """Raises Stopped where a signal came; all that is done must be saved."""
    number = stop()
    if number is not None:
        raise Stopped(number, done, total, saved=True, unit=unit)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], int | None]]:
    """Within it, SIGTERM and SIGINT no longer end the process; gives a function that tells the first one that came.

    A second signal ends the process at once, also while a computation runs. Only for the main thread, which is the
    only one that may handle signals: raises ValueError elsewhere.
    """
    seen: list[int] = []
    receive, send = os.pipe()
    os.set_blocking(send, False)

    def watch() -> None:
        # A handler in Python waits for the running computation to return; the byte that the interpreter writes for each
        # signal does not, and this thread reads it.
        while (byte := os.read(receive, 1)) != b"\0":
            if byte[0] not in SIGNALS:
                continue
            if seen:
                os._exit(128 + byte[0])
            seen.append(byte[0])
            name = signal.Signals(byte[0]).name
            print(
                f"\n{name}: ending after this part of the work; a second signal ends at once",
                file=sys.stderr,
                flush=True,
            )

    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: seen[0] if seen else None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(send, b"\0")
        watcher.join()
        os.close(receive)
        os.close(send)
