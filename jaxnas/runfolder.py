"""The folder of one run: its configuration, its lock, its metrics, its stages and its result.

    run/
      config.json       {"identity": …, "runtime": …}; a resume must match the identity, the runtime is free to change.
                        Paths are runtime; the fingerprints of what was read there (`jaxnas.fingerprint`) are identity
      metrics.jsonl     one JSON object a line; "time" is the only field that depends on the clock
      result.json       what came out
      stages/NAME/      done.json once the stage is finished, and what the stage keeps, checkpoints among it
      .lock             held by `flock` while a process works here, so that a killed process leaves no lock
                        (`jaxnas.lock`)

Files are replaced in one step: a reader sees the old content or the new, never a part. What is read back is checked: a
file of another shape, or a stage's result that is not as it was written, is refused. A folder that is refused is left
as it was. Nothing here needs JAX but `versions`. Errors a user can mend are `ValueError` and `OSError` with one line
that says how.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypedDict

from jaxnas.files import (
    check_to_append,
    expanded,
    open_to_append,
    read_json,
    read_json_lines,
    write_atomic,
    write_json,
)
from jaxnas.fingerprint import checksum
from jaxnas.livepage import LivePage
from jaxnas.lock import Lock
from jaxnas.loggers import Logger, check_loggers, numbers, open_logger

_ABSENT = "(absent)"
_LONGEST = 100
_MOST = 8
_PACKAGES = ("jaxnas", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Config(TypedDict):
    """The shape of config.json."""

    identity: dict[str, Any]
    runtime: dict[str, Any]


class Line(TypedDict):
    """The shape of a line of metrics.jsonl, beside the numbers, and lists of numbers, that were measured."""

    stage: str
    phase: str
    step: int


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, and the devices in use."""
    import jax

    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    devices = jax.devices()
    return found | {"devices": f"{len(devices)} × {devices[0].platform} {devices[0].device_kind}"}


class Stage:
    """One stage of a run (search, training of one network, …), with a folder of its own. Made by `RunFolder.stage`."""

    def __init__(self, run: RunFolder, name: str) -> None:
        self.name = name
        self.path = run.path / "stages" / name
        self._run = run
        _make_folder(self.path)

    @property
    def result(self) -> Any | None:
        """What `finish` was given; None while the stage is not finished.

        Raises: ValueError where it is not as it was written.
        """
        done = self.path / "done.json"
        return self._run.share(_unsealed(done) if done.exists() else None)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Marks the stage as finished. `result` is an object in JSON's terms, without an entry "checksum"."""
        if not isinstance(result, Mapping) or "checksum" in result:
            raise ValueError(f"a finished stage needs a result, an object without a checksum, got {result!r:.80}")
        self._run.sync()
        write_json(self.path / "done.json", {**result, "checksum": _seal(result)})

    def log(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl: `step` steps of this stage are done, and `values` is what they gave."""
        self._run.log({"stage": self.name, "phase": phase, "step": step, **values})

    def sync(self) -> None:
        """Brings the lines to the disk, before a checkpoint that comes after them."""
        self._run.sync()

    def truncate_metrics(self, step: int) -> None:
        """Drops the lines of this stage that come after `step`, which a resumed run writes again."""
        self._run.keep_metrics(lambda line: line["stage"] != self.name or line["step"] <= step)


class RunFolder:
    """A run folder held by this process. Use `open_run`, and close it or use it as a context manager."""

    def __init__(
        self, path: Path, lock: Lock, *, resumed: bool, loggers: Sequence[Logger], share: Callable[[Any], Any]
    ) -> None:
        self.path = path
        self.share = share
        self.resumed = resumed
        self._lock = lock
        self._loggers = loggers
        self._live = LivePage(path)
        self._metrics = self._open_metrics()
        try:
            self.keep_metrics(lambda line: True)
        except BaseException:
            self._metrics.close()
            raise

    @property
    def metrics_path(self) -> Path:
        """Path of metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Any | None:
        """The content of result.json; None while the run is not finished."""
        path = self.path / "result.json"
        return self.share(read_json(path) if path.exists() else None)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes result.json in one step; put what depends on the clock under "timing"."""
        self.sync()
        write_json(self.path / "result.json", result)
        for logger in self._loggers:
            logger.finish(numbers(result))

    def stage(self, name: str) -> Stage:
        """The stage of that name; its `result` tells whether it was finished before."""
        if not name or name.startswith(".") or "/" in name:
            raise ValueError(f"a stage's name is the name of a folder, got {name!r}")
        return Stage(self, name)

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl, with the time."""
        try:
            self._metrics.write(json.dumps({**line, "time": round(time.time(), 3)}, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise OSError(f"cannot write {self.metrics_path}: {error.strerror}") from error
        stage, step = str(line["stage"]), int(line["step"])
        values = {name: value for name, value in numbers(line).items() if name not in ("step", "epoch")}
        for logger in self._loggers:
            logger.log(stage, step, values)
        self._live.log(stage, step, values)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. Raises ValueError where one is damaged."""
        return read_json_lines(self.metrics_path, Line)

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keeps the lines of metrics.jsonl for which `keep(line)` holds, and drops a last line that was cut short."""
        content = self.metrics_path.read_bytes()
        texts = content.split(b"\n")[:-1]
        kept = b"".join(text + b"\n" for text, line in zip(texts, self.metrics(), strict=True) if keep(line))
        if kept != content:
            self._metrics.close()  # It would go on writing to the file that is replaced.
            write_atomic(self.metrics_path, kept)
            self._metrics = self._open_metrics()

    def sync(self) -> None:
        """Brings what was logged to the disk, and makes sure that this process still holds the folder.

        Raises: OSError where it does not, or the disk is full.
        """
        self._lock.check()
        try:
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
        except OSError as error:
            raise OSError(f"cannot write {self.metrics_path}: {error.strerror}") from error

    def _open_metrics(self) -> IO[str]:
        try:
            return open_to_append(self.metrics_path)
        except OSError as error:
            raise OSError(f"cannot write {self.metrics_path}: {error.strerror}") from error

    def close(self) -> None:
        """Releases the folder."""
        with contextlib.suppress(OSError):  # `log` flushes, and has said so where that failed.
            self._metrics.close()
        for logger in self._loggers:
            logger.close()
        if not (self.path / "result.json").exists():
            self._live.stopped()
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_run(
    path: str | os.PathLike[str],
    identity: Mapping[str, Any],
    runtime: Mapping[str, Any],
    *,
    loggers: Sequence[str] = (),
    share: Callable[[Any], Any] = lambda value: value,
) -> RunFolder:
    """Creates a run folder, or takes up the one that is there.

    identity: what the numbers depend on (JSON); a folder with another identity is refused. runtime: what they do not
    depend on; it is written anew each time. loggers: names of `jaxnas.loggers.LOGGERS`, to which metrics go too. share:
    gives all processes of a run over several hosts the result that the first one reads; each process has a folder of
    its own.

    Raises ValueError where the folder is of other settings or data or holds something else, and for what JSON cannot
    hold, which is named; BlockingIOError where another process works in it, another OSError where it cannot be written.
    """
    check_loggers(loggers)
    for settings in (identity, runtime):
        _check_json(dict(settings), "")
    folder = expanded(path).absolute()
    wanted = json.loads(json.dumps(dict(identity), allow_nan=False))
    _check_run(folder, wanted)  # before anything is written, also the lock
    _make_folder(folder)
    lock = Lock(folder / ".lock")
    try:
        resumed = _check_run(folder, wanted)
        write_json(folder / "config.json", {"identity": wanted, "runtime": dict(runtime)})
        opened = [open_logger(name, folder, identity) for name in loggers]
        return RunFolder(folder, lock, resumed=resumed, loggers=opened, share=share)
    except BaseException:
        lock.close()
        raise


def _check_json(value: Any, name: str) -> None:
    """Raises ValueError for the first part of a value that JSON cannot hold, with its name, as "search.layers[2]"."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        if isinstance(value, dict):
            for key, part in value.items():
                _check_json(part, f"{name}.{key}" if name else str(key))
        elif isinstance(value, list | tuple):
            for index, part in enumerate(value):
                _check_json(part, f"{name}[{index}]")
        raise ValueError(
            f"{name or 'the settings'}: {_short(value)} cannot be kept as JSON ({error}); settings of a run are finite "
            "numbers of Python, texts, True, False, None, and lists and dictionaries of them: give the name of "
            "anything else"
        ) from error


def differences(there: Mapping[str, Any], now: Mapping[str, Any], where: tuple[str, str] = ("there", "now")) -> str:
    """What differs between two identities, in JSON's terms, as "search.epochs: 12 there, 50 now; …"; "" for nothing.

    where: what is said behind the values of each, such as "in runs/a". Of two fingerprints that differ in their
    checksums alone it is said that the content has changed.
    """
    found = _differences(dict(there), dict(now), "", where)
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def _differences(there: Any, now: Any, name: str, where: tuple[str, str]) -> list[str]:
    found: list[str] = []
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            if key != "checksum":
                entry = f"{name}.{key}" if name else key
                found += _differences(there.get(key, _ABSENT), now.get(key, _ABSENT), entry, where)
        if not found and there.get("checksum") != now.get("checksum"):
            found.append(f"{name}: the content has changed since, its checksum is another")
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        for index, (old, new) in enumerate(zip(there, now, strict=True)):
            found += _differences(old, new, f"{name}[{index}]", where)
    elif there != now:
        found.append(f"{name}: {_short(there)} {where[0]}, {_short(now)} {where[1]}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raises what `open_run` would of a folder that cannot be that of a run, but makes nothing."""
    folder = expanded(path).absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise OSError(
            f"cannot make the folder {folder}: {os.strerror(errno.ENOTDIR)}; choose a folder that can be written"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise OSError(f"cannot write in {there}: {os.strerror(errno.EACCES)}; choose a folder that can be written")
    if there == folder:
        _check_strangers(folder)


def _check_strangers(folder: Path) -> None:
    if (folder / "config.json").exists():
        return
    # What a run leaves that was killed before it had a configuration, and what systems put into every folder.
    strangers = sorted({entry.name for entry in folder.iterdir()} - {".lock", ".config.json.part", ".DS_Store"})
    if strangers:
        raise ValueError(
            f"{folder} holds {strangers[0]!r} but no run (no config.json); choose an empty or a new folder"
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {path}: {error.strerror}; choose a folder that can be written"
        ) from error


def _check_run(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder has a run of this identity; it may also be empty or missing. Only reads.

    Raises: ValueError for another run, something else, or files of a run that are damaged or no files; OSError.
    """
    if not folder.is_dir():
        return False
    path = folder / "config.json"
    if not path.exists():
        _check_strangers(folder)
        return False
    config = read_json(path, Config, "choose another folder")
    program, own = config["identity"].get("experiment"), identity.get("experiment")
    if program is not None and own is not None and program != own:  # then all else differs as well and says nothing
        raise ValueError(f"{folder} holds a run of {_short(program)}, and this is {_short(own)}; choose another folder")
    if differing := differences(config["identity"], identity):
        raise ValueError(
            f"{folder} holds a run of other settings or data ({differing}); choose another folder, or give "
            "the run what it was started with"
        )
    for name in (".lock", "metrics.jsonl"):
        check_to_append(folder / name)
    read_json_lines(folder / "metrics.jsonl", Line)
    return True


def _seal(result: Mapping[str, Any]) -> str:
    return checksum(json.dumps(result, sort_keys=True, allow_nan=False))[:16]


def _unsealed(path: Path) -> dict[str, Any]:
    """The result of a stage. Raises ValueError where it is not as it was written."""
    remedy = f"remove {path.parent} to do that part again"
    result = read_json(path, dict, remedy)
    seal = result.pop("checksum", None)
    if seal is None or seal != _seal(result):
        raise ValueError(f"{path} was changed after it was written; {remedy}")
    return dict(result)
