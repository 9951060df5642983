"""Stops: a signal asks a run to save and end; a second one, or too long a wait, ends it at once."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from jaxnas.console import tell

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP comes where a terminal or a connection is closed; a program that was started to ignore it, by nohup, does."""

_came: list[int] = []
"""The first signal of this process, once one came: a process has one set of handlers."""
_saved = -math.inf
"""When the last save ended, on the monotonic clock; infinity while one runs."""


class Stopped(RuntimeError):
    """A run ended early because a signal asked it to. `exit_code`: 130 for SIGINT, else 75 (try again)."""

    def __init__(self, number: int, done: int, total: int, *, saved: bool, unit: str = "step") -> None:
        how = "saved; the same command goes on from here" if saved else "not saved"
        super().__init__(f"stopped by {signal.Signals(number).name} after {unit} {done} of {total}, {how}")
        self.exit_code = _exit_code(number)


def _exit_code(number: int) -> int:
    return 130 if number == signal.SIGINT else 75


def check_stop(stop: Callable[[], int | None], done: int, total: int, unit: str) -> None:
    """Raises Stopped where a signal came; all that is done must be saved."""
    number = stop()
    if number is not None:
        raise Stopped(number, done, total, saved=True, unit=unit)


def asked_to_stop() -> bool:
    """Whether a signal came since the last `stop_on_signal` began."""
    return bool(_came)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within it, a run that a signal asked to end has all the time that it needs, and its grace again afterwards."""
    global _saved
    _saved = math.inf
    try:
        yield
    finally:
        _saved = time.monotonic()


def compiling() -> bool:
    """Whether a thread traces, lowers or compiles a program of JAX: nothing of that can be saved or cut short."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code.co_filename.endswith(_COMPILERS):
                return True
            frame = frame.f_back
    return False


_COMPILERS = tuple(os.path.join("jax", "_src", *path) for path in (
    ("compiler.py",), ("interpreters", "mlir.py"), ("interpreters", "partial_eval.py"),
))  # fmt: skip
"""Ends of the paths of JAX's modules that are on the stack then."""


@contextlib.contextmanager
def stop_on_signal(grace: float = 25.0, compile_grace: float = 7.0) -> Iterator[Callable[[], int | None]]:
    """Within it, SIGTERM, SIGINT and SIGHUP no longer end the process; gives a function that tells the first that came.

    The program asks that function between the parts of its work, saves and leaves. If it has not left `grace` seconds
    after the signal, it is taken to stand in a call that does not return, and the process ends as by a kill, with the
    exit code of a stop: what was saved before is what it goes on from. `saving` does not count. Where it compiles after
    `compile_grace` seconds, it ends then: a compilation may take minutes, and nothing of it is lost but time. A second
    signal ends the process at once. All also hold while a computation runs. Only for the main thread, which is the only
    one that may handle signals: raises ValueError elsewhere.
    """
    _came.clear()
    receive, send = os.pipe()
    os.set_blocking(send, False)

    def watch() -> None:
        # A handler in Python waits for the running computation to return; the byte that the interpreter writes for each
        # signal does not, and this thread reads it.
        since = math.inf
        while True:
            waited = time.monotonic() - max(since, _saved)
            if waited >= grace or (waited >= compile_grace and compiling()):
                why = f"no part of the work ended in {grace:g} s" if waited >= grace else "a program is being compiled"
                tell(f"{signal.Signals(_came[0]).name}: {why}; ended without saving, and the same command goes on from "
                     "what was saved before", wait=False)  # fmt: skip
                os._exit(_exit_code(_came[0]))
            # While a save runs, or before any signal, there is no end to wait for.
            if not select.select([receive], [], [], 0.2 if _came else None)[0]:
                continue
            number = os.read(receive, 1)[0]
            if number == 0:
                return
            if number not in SIGNALS:
                continue
            if _came:
                os._exit(128 + number)
            _came.append(number)
            since = time.monotonic()
            tell(f"\n{signal.Signals(number).name}: the run saves and ends once the current part of its work is done. "
                 f"If that takes longer than {grace:g} s ({compile_grace:g} s while a program compiles), it ends "
                 "without saving. A second signal ends it at once.", wait=False)  # fmt: skip

    heeded = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in heeded}
    wakeup = signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: _came[0] if _came else None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(send, b"\0")
        watcher.join()
        os.close(receive)
        os.close(send)


@contextlib.contextmanager
def heed_signals() -> Iterator[Callable[[], int | None]]:
    """`stop_on_signal` in the main thread; elsewhere, as in a server's thread, signals are left to others."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    with stop_on_signal() as stop:
        yield stop
