"""The folder of one run: its configuration, its lock, its metrics, its stages and its result.

    run/
      config.json       {"identity": …, "runtime": …}; a resume must match the identity, the runtime is free to change.
                        Paths are runtime; the fingerprints of what was read there (`jaxnas.fingerprint`) are identity
      metrics.jsonl     one JSON object a line; "time" is the only field that depends on the clock
      result.json       what came out
      stages/NAME/      done.json once the stage is finished, and what the stage keeps, checkpoints among it
      .lock             held by `flock` while a process works here, so that a killed process leaves no lock

Files are replaced in one step: a reader sees the old content or the new, never a part. Nothing here needs JAX but
`versions`. Errors a user can mend are `ValueError` and `OSError` with one line that says how.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from jaxnas.files import open_to_append, read_json, write_atomic, write_json

_ABSENT = "(absent)"
_LONGEST = 100
_MOST = 8
_PACKAGES = ("jaxnas", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


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
        """What `finish` was given; None while the stage is not finished."""
        done = self.path / "done.json"
        return self._run.share(read_json(done) if done.exists() else None)

    def finish(self, result: Any) -> None:
        """Marks the stage as finished. `result` is JSON, not None."""
        if result is None:
            raise ValueError("a finished stage needs a result, got None; an empty dict will do")
        write_json(self.path / "done.json", result)

    def log(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl: `step` steps of this stage are done, and `values` is what they gave."""
        self._run.log({"stage": self.name, "phase": phase, "step": step, **values})

    def truncate_metrics(self, step: int) -> None:
        """Drops the lines of this stage that come after `step`, which a resumed run writes again."""
        self._run.keep_metrics(lambda line: line.get("stage") != self.name or line["step"] <= step)


class RunFolder:
    """A run folder held by this process. Use `open_run`, and close it or use it as a context manager."""

    def __init__(
        self, path: Path, lock: IO[str], *, resumed: bool, tensorboard: bool, share: Callable[[Any], Any]
    ) -> None:
        self.path = path
        self.share = share
        self.resumed = resumed
        self._lock = lock
        self._board = _tensorboard(path) if tensorboard else None
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
        write_json(self.path / "result.json", result)

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
        if self._board is not None:
            for name, value in line.items():
                if name not in ("step", "epoch") and isinstance(value, int | float):
                    self._board.add_scalar(f"{line['stage']}/{name}", value, line["step"])

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keeps the lines of metrics.jsonl for which `keep(line)` holds, and drops a last line that was cut short."""
        text = self.metrics_path.read_text(encoding="utf-8")
        kept = []
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                continue
            try:
                if keep(json.loads(line)):
                    kept.append(line)
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{self.metrics_path}, line {number} is damaged: {error}; take another folder"
                ) from error
        if "".join(kept) != text:
            self._metrics.close()  # It would go on writing to the file that is replaced.
            write_atomic(self.metrics_path, "".join(kept))
            self._metrics = self._open_metrics()

    def _open_metrics(self) -> IO[str]:
        try:
            return open_to_append(self.metrics_path)
        except OSError as error:
            raise OSError(f"cannot write {self.metrics_path}: {error.strerror}") from error

    def close(self) -> None:
        """Releases the folder."""
        with contextlib.suppress(OSError):  # `log` flushes, and has said so where that failed.
            self._metrics.close()
        if self._board is not None:
            self._board.close()
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
    tensorboard: bool = False,
    share: Callable[[Any], Any] = lambda value: value,
) -> RunFolder:
    """Creates a run folder, or takes up the one that is there.

    identity: what the numbers depend on (JSON); a folder with another identity is refused. runtime: what they do not
    depend on; it is written anew each time. tensorboard: metrics also go to `path`/tensorboard. share: gives all
    processes of a run over several hosts the result that the first one reads; each process has a folder of its own.

    Raises ValueError where the folder is of other settings or data or holds something else, BlockingIOError where
    another process works in it, another OSError where it cannot be written.
    """
    folder = Path(path).absolute()
    _make_folder(folder)
    lock = _lock(folder)
    try:
        resumed = _configure(folder, identity, runtime)
        return RunFolder(folder, lock, resumed=resumed, tensorboard=tensorboard, share=share)
    except BaseException:
        lock.close()
        raise


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two identities, in JSON's terms, as "search.epochs: 12 there, 50 now; …"; "" for nothing.

    Of two fingerprints that differ in their checksums alone it is said that the content has changed.
    """
    found = _differences(dict(there), dict(now), "")
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def _differences(there: Any, now: Any, name: str) -> list[str]:
    found: list[str] = []
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            if key != "checksum":
                entry = f"{name}.{key}" if name else key
                found += _differences(there.get(key, _ABSENT), now.get(key, _ABSENT), entry)
        if not found and there.get("checksum") != now.get("checksum"):
            found.append(f"{name}: the content has changed since, its checksum is another")
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        for index, (old, new) in enumerate(zip(there, now, strict=True)):
            found += _differences(old, new, f"{name}[{index}]")
    elif there != now:
        found.append(f"{name}: {_short(there)} there, {_short(now)} now")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raises what `open_run` would of a folder that cannot be that of a run, but makes nothing."""
    folder = Path(path).absolute()
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
    strangers = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if strangers and not (folder / "config.json").exists():
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


def _lock(folder: Path) -> IO[str]:
    path = folder / ".lock"
    try:
        file = open_to_append(path)
    except OSError as error:
        raise OSError(f"cannot write in {folder}: {error.strerror}; choose a folder that can be written") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        by = f"process {holder}" if holder else "another process"
        raise BlockingIOError(f"{folder} is in use by {by}; wait for it to end or choose another folder") from None
    except OSError as error:
        file.close()
        raise OSError(f"cannot lock {path}: {error.strerror}; choose a folder on a local file system") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _configure(folder: Path, identity: Mapping[str, Any], runtime: Mapping[str, Any]) -> bool:
    """Writes config.json; returns whether there was one, and raises ValueError where it was another run's."""
    path = folder / "config.json"
    wanted = json.loads(json.dumps(dict(identity), allow_nan=False))
    resumed = path.exists()
    if resumed:
        config = read_json(path)
        if not isinstance(config, dict) or not isinstance(config.get("identity"), dict):
            raise ValueError(f"{path} is not the configuration of a run; choose another folder")
        if differing := differences(config["identity"], wanted):
            raise ValueError(
                f"{folder} holds a run of other settings or data ({differing}); choose another folder, or give "
                "the run what it was started with"
            )
    else:
        _check_strangers(folder)
    write_json(path, {"identity": wanted, "runtime": dict(runtime)})
    return resumed


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError("TensorBoard needs the package tensorboardX: pip install 'jaxnas[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))
