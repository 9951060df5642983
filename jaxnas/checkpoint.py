"""Checkpoints of a whole training state, by Orbax; no other module knows Orbax.

A checkpoint is a pytree of arrays (typed keys and the states of optax among them) and a JSON object, `meta`. Once it is
whole, a list of its files with their sizes and CRC-32 is put beside, by which damage is found before Orbax reads: bytes
that changed on disk it would restore without a word, and what is missing it tells by errors of many kinds, some of them
in threads of its own. What is kept: the latest two, of which the older one serves where the latest is damaged, and the
best by a metric.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxnas.base import PyTree
from jaxnas.console import tell
from jaxnas.files import read_json, sync, write_json
from jaxnas.fingerprint import checksum
from jaxnas.memory import out_of_memory
from jaxnas.shapes import check_shape

_FILES = "files.json"
_BLOCK = 1 << 20


class _Leaf(TypedDict):
    dtype: str
    shape: list[int]


class _Body(TypedDict):
    """The JSON beside a state: what the caller gave, and path -> type and shape of its leaves."""

    meta: dict[str, Any]
    leaves: dict[str, _Leaf]


class Restored(NamedTuple):
    """A checkpoint read back: the state in the containers of its target, what was saved with it, its step."""

    state: PyTree
    meta: dict[str, Any]
    step: int


def abstract(state: PyTree) -> PyTree:
    """The target that restores into the form of `state`, its shapes and types, free of any device."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


class Checkpoints:
    """The checkpoints of one stage, in the subfolders `latest` and `best`. Close it or use it as a context manager.

    The two have an Orbax manager each: one that keeps the best deletes the newest where it is not among them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._latest = _manager(self._directory / "latest", keep=2)
        self._best = _manager(self._directory / "best", keep=1)

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
        """Saves as the latest; returns once it is on disk. Raises OSError where it cannot; older ones are kept."""
        _save(self._latest, step, state, meta)

    def save_best(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
        """Saves as the best, in place of the best so far."""
        _save(self._best, step, state, meta)

    def restore(self, target: PyTree) -> Restored | None:
        """The latest checkpoint that is whole; None where there is none, which is said on stderr if there were some.

        target: as of `abstract` or `jax.eval_shape`; a leaf with a sharding goes there, whatever devices saved it, and
        one without stays free to be used beside arrays on any. Damaged checkpoints are moved to the subfolder
        `damaged`. Raises ValueError where the saved state has another structure than the target.
        """
        return self._restore(self._latest, target)

    def restore_best(self, target: PyTree) -> Restored | None:
        """The best checkpoint; None where there is none that is whole."""
        return self._restore(self._best, target)

    def _restore(self, manager: ocp.CheckpointManager, target: PyTree) -> Restored | None:
        with _silent():
            return self._newest_whole(manager, target)

    def _newest_whole(self, manager: ocp.CheckpointManager, target: PyTree) -> Restored | None:
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            try:
                _check_files(Path(manager.directory / str(step)))
                meta, saved = _read_meta(manager, step)
            except Exception as error:  # Orbax and its libraries have no common class for what they find damaged.
                self._set_aside(manager, step, error)
                continue
            _check_structure(saved, target, manager.directory)
            try:
                return Restored(_read_state(manager, step, target), meta, step)
            except Exception as error:
                self._set_aside(manager, step, error)
        if steps:
            tell(f"no checkpoint in {manager.directory} is whole: starting anew")
        return None

    def _set_aside(self, manager: ocp.CheckpointManager, step: int, error: Exception) -> None:
        """Moves a damaged checkpoint away: its step is going to be saved again. Raises an error of another cause."""
        if out_of_memory(error):
            raise error
        _move_aside(Path(manager.directory / str(step)), error)
        manager.reload()

    def close(self) -> None:
        """Closes the managers."""
        with _silent():
            self._latest.close()
            self._best.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fingerprint(directory: Path) -> dict[str, Any]:
    """Of the latest checkpoint in the directory of a stage, for the identity of a run that goes on from a copy of it.

    Raises: OSError where there is none.
    """
    latest = directory / "latest"
    steps = [int(path.name) for path in latest.iterdir() if path.name.isdigit()] if latest.is_dir() else []
    if not steps:
        raise FileNotFoundError(f"{latest} has no checkpoint; run the command that makes it again")
    return {"step": max(steps), "checksum": checksum(json.dumps(_files(latest / str(max(steps)))))}


def _move_aside(folder: Path, error: Exception) -> None:
    """Moves the folder of a damaged checkpoint to `damaged`, beside `latest` and `best`, and says so."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    tell(f"checkpoint {folder} is damaged ({reason}): going back")
    damaged = folder.parent.parent / "damaged"
    damaged.mkdir(exist_ok=True)
    number = sum(1 for _ in damaged.iterdir())
    folder.rename(damaged / f"{folder.parent.name}-{folder.name}-{number}")


def _manager(directory: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,  # made here, with an error of our own
        cleanup_tmp_directories=False,  # done here: Orbax does it in a thread, which tells errors of its own
        # The state is given away to the next step, which must not happen while it is being written.
        enable_async_checkpointing=False,
        multiprocessing_options=_alone(),
    )

    def made() -> ocp.CheckpointManager:
        with _silent():
            return ocp.CheckpointManager(directory, options=options, item_names=("state", "meta"))

    try:
        directory.mkdir(parents=True, exist_ok=True)
        for unfinished in directory.glob(f"*{ocp.path.step.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        try:
            return made()
        except OSError:
            raise
        except Exception as error:  # of what it reads about each step, in any class
            if out_of_memory(error) or not _without_damaged(directory, error):
                raise ValueError(f"cannot read the checkpoints in {directory} ({error}); remove that folder") from error
            return made()
    except OSError as error:
        raise OSError(f"cannot use {directory} for checkpoints: {error.strerror or error}") from error


def _without_damaged(directory: Path, error: Exception) -> bool:
    """Moves the checkpoints away that are not as they were saved, or have no list of their files to tell; gives whether
    there were any."""
    moved = False
    for folder in sorted(path for path in directory.iterdir() if path.name.isdigit()):
        reason = error
        try:
            _check_files(folder)
            if (folder / _FILES).exists():
                continue
        except (OSError, ValueError) as found:
            reason = found
        _move_aside(folder, reason)
        moved = True
    return moved


def _alone() -> ocp.options.MultiprocessingOptions:
    """For a run over several processes: the one that has the folder works without the others."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process-{here}"
    )


def _save(manager: ocp.CheckpointManager, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
    if jax.process_count() > 1:  # Orbax takes an array of one process for a mistake, but not one of NumPy.
        state = jax.tree.map(np.asarray, state)
    body = json.dumps({"meta": dict(meta), "leaves": _describe(state)}, allow_nan=False)
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave({"body": body}),
    )
    try:
        with _silent():
            if step in manager.all_steps():
                manager.delete(step)
            manager.save(step, args=args, force=True)
            manager.wait_until_finished()
        folder = Path(manager.directory / str(step))
        write_json(folder / _FILES, _files(folder, synced=True))
        sync(folder.parent)
    except (OSError, ValueError, RuntimeError) as error:  # A full disk is any of these, by the layer that meets it.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(f"cannot save the checkpoint of step {step} in {manager.directory}: {reason}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within it Orbax tells nothing: what it raises is told in one line, before which it would put tracebacks of its
    threads."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("absl")
    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _files(folder: Path, synced: bool = False) -> dict[str, list[int]]:
    """Name within the folder -> [size, CRC-32] of each file of a checkpoint. synced: brings them to the disk too."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _FILES:
            crc32 = 0
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    crc32 = zlib.crc32(block, crc32)
            files[path.relative_to(folder).as_posix()] = [path.stat().st_size, crc32]
        if synced:
            sync(path)
    return files


def _check_files(folder: Path) -> None:
    """Raises ValueError for a file that is not as it was saved.

    Without a list nothing is checked: the save was killed after Orbax's part, or was that of an older version.
    """
    listed = folder / _FILES
    if not listed.exists():
        return
    there = _files(folder)
    for name, (size, crc32) in read_json(listed, dict[str, list[int]]).items():
        if name not in there:
            raise ValueError(f"{name} is missing")
        if there[name][0] != size:
            raise ValueError(f"{name} has {there[name][0]} of {size} bytes")
        if there[name][1] != crc32:
            raise ValueError(f"the checksum of {name} differs")


def _read_meta(manager: ocp.CheckpointManager, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    record = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    body = json.loads(record["body"])
    check_shape(body, _Body, f"the checkpoint of step {step}")
    return body["meta"], body["leaves"]


def _read_state(manager: ocp.CheckpointManager, step: int, target: PyTree) -> PyTree:
    placed = jax.tree.map(_with_sharding, target)
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(placed))).state
    return jax.tree.map(lambda leaf, wanted: _free(leaf) if wanted.sharding is None else leaf, state, target)


def _with_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Orbax restores to a stated place only; without one it would take the one of the file, which may be gone."""
    if leaf.sharding is not None:
        return leaf
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)


def _free(leaf: jax.Array) -> jax.Array:
    """The same values, not bound to a device: bound to one they could not be used beside data sharded over several."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_free(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.array(np.asarray(leaf))


def _check_structure(saved: dict[str, Any], target: PyTree, directory: Any) -> None:
    wanted = _describe(target)
    differing = []
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = (
            f"{leaf['dtype']}{leaf['shape']}" if leaf else "(absent)" for leaf in (saved.get(name), wanted.get(name))
        )
        if there != here:
            differing.append(f"{name}: {there} there, {here} now")
    if differing:
        rest = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"the checkpoints in {directory} are of another state ({'; '.join(differing[:3])}{rest}); "
            "resume with the settings that made them, or choose another folder"
        )


def _describe(tree: PyTree) -> dict[str, dict[str, Any]]:
    """Path -> type and shape of each leaf."""
    return {
        jax.tree_util.keystr(path): {"dtype": str(jnp.result_type(leaf)), "shape": list(jnp.shape(leaf))}
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
