"""Gives programs and readers what nobody would, for as long as asked: every failure must be one line, within seconds.

    python -m benchmarks.fuzz --minutes 60

Flags of every program take values of every kind, files of a run are changed, cut and replaced, and so are genotypes
and tables. What fails is printed as it was found and made small by Hypothesis; the exit code is then 2. The checks of a
program run whole, and not its work: the run folder that it is given holds another run, which it finds out last.
`tests/test_fuzz.py` does some of each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import signal
import tempfile
import time
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

import experiments
from jaxnas import command, fit, load, samplers, spaces
from jaxnas.base import Skeleton
from jaxnas.benchmarks import named_table
from jaxnas.checkpoint import Checkpoints, abstract
from jaxnas.data import load_dataset
from jaxnas.fit import comparing
from jaxnas.fit.black_box import search_black_box
from jaxnas.fit.fixed import read_genotype
from jaxnas.hardware import LatencyTable, load_latency, save_latency
from jaxnas.networks import nasbench201_network
from jaxnas.ranges import Count
from jaxnas.runfolder import open_run
from jaxnas.saved import describe, image_form, save_network
from jaxnas.train.finite import NonFiniteError

MOST_SECONDS = 10.0
"""Of computing that a failure may take; the machine may have other things to do."""
_HANGS = 90
"""Seconds after which it is taken to wait for ever."""
_MODULES = {
    each.name: importlib.import_module(f"experiments.{each.name}")
    for each in pkgutil.iter_modules(experiments.__path__)
}
PROGRAMS: dict[str, Any] = {
    name: module for name, module in _MODULES.items() if dataclasses.is_dataclass(getattr(module, "Config", None))
}
"""Name -> module of every program."""
_CHECKED = "holds a run of other settings or data"
"""What a program says that has checked all and then meets the folder of another run."""


class FoundError(AssertionError):
    """A failure that is no line, or took too long."""


@contextlib.contextmanager
def limited(what: object) -> Iterator[None]:
    """Raises FoundError where what is done within computes for too long, or does not end. Only in the main thread."""

    def hangs(number: int, frame: object) -> None:
        raise FoundError(f"no end after {_HANGS} s for {what!r}")

    before, started = signal.signal(signal.SIGALRM, hangs), time.process_time()
    signal.alarm(_HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if (seconds := time.process_time() - started) > MOST_SECONDS:
        raise FoundError(f"{seconds:.0f} s for {what!r}")


def attempt(work: Callable[[], object], what: object) -> str | None:
    """What a user is told of the failure of some work; None where it does not fail. Raises FoundError."""
    line: str | None = None
    with limited(what):
        try:
            work()
        except NonFiniteError as error:
            line = str(error)
        except Exception as error:
            line = command.line_of(error)
            if line is None:
                raise FoundError(f"{type(error).__name__} for {what!r}") from error
    return line


# Programs ---------------------------------------------------------------------------------------------------------


def flags_of(kind: type, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """(flag, type) of every field of a config, also of those within it; "" is for what stands without a flag."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name not in kind.__dataclass_fields__:  # type: ignore[attr-defined]
            continue
        flag = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from flags_of(hint, f"{flag}.")  # type: ignore[arg-type]
        else:
            yield ("" if name in ("images", "runs") else flag), hint


_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_NUMBERS = st.one_of(
    st.integers(-2, 9),
    st.integers(),
    st.sampled_from([10**6, 10**9, 2**31, 2**32, 2**63, 10**15, 10**40]),
    st.floats(),
    st.floats(0, 1),
).map(str)
_PATHS = st.sampled_from(
    ["FILE", "PIPE", "EMPTY", "ABSENT", "OTHER", "IMAGES", "ONE", "RUN", "folder:IMAGES", "folder:ONE", "folder:PIPE",
     "~", "~no-such-user/x", "FILE/run", "PIPE.csv", "PIPE.npz",
     "PIPE.json", "", ".", "/dev/null", "TABLE", "digits", "digits201", "x" * 300]
)  # fmt: skip


_WRITTEN = {
    "--workdir": ("OTHER", "FILE", "FILE/run", "PIPE", "IMAGES", "TABLE", "~no-such-user/x", "/dev/null", "x" * 300),
    "--out": ("FILE", "PIPE", "EMPTY", "ABSENT", "OTHER", "RUN", "FILE/run", "~no-such-user/x"),
    "--cache-dir": ("FILE", "PIPE", "EMPTY", "FILE/run", "~no-such-user/x"),
}
"""What is written to: within the folder of the fuzzer, and no folder in which the work would begin."""


def _values(flag: str, hint: Any) -> st.SearchStrategy[list[str]]:
    """The words that may follow a flag."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _values(flag, inner[0])
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(flag, each) for each in inner])
    if hint is bool:
        return st.just([])
    if origin is typing.Literal:
        return st.one_of(st.sampled_from(inner).map(str), _WORDS).map(lambda word: [word])
    if origin is tuple:
        return st.lists(_values(flag, inner[0]), max_size=3).map(lambda rows: [word for row in rows for word in row])
    if hint in (int, float):
        return st.one_of(_NUMBERS, _WORDS).map(lambda word: [word])
    if flag in _WRITTEN:
        return st.sampled_from(_WRITTEN[flag]).map(lambda word: [word])
    if flag.endswith("coordinator"):  # one that is well formed is waited for
        return st.sampled_from(["x", "x:y", ":", "localhost"]).map(lambda word: [word])
    return st.one_of(_PATHS, _WORDS, _NUMBERS).map(lambda word: [word])


def arguments_of(config: type) -> st.SearchStrategy[list[str]]:
    """Some flags of a program with values."""
    every = list(flags_of(config))
    one = st.sampled_from(every).flatmap(
        lambda pair: _values(*pair).map(lambda words: [pair[0], *words] if pair[0] else words)
    )
    return st.lists(one, min_size=1, max_size=3).map(lambda rows: [word for row in rows for word in row])


def check_program(name: str, arguments: list[str], places: Path) -> None:
    """Gives a program arguments. Raises FoundError where it does not end as it must."""
    module = PROGRAMS[name]
    words = [_placed(word, places) for word in arguments]
    for flag, value in {"--workdir": "OTHER", "--archive": "FILE", "--data-dir": "EMPTY"}.items():
        wanted = flag in dict(flags_of(module.Config)) and (flag != "--data-dir" or name == "prepare_cifar10")
        if wanted and flag not in words:
            words += [flag, str(places / value)]
    main = module.run if name == "prepare_cifar10" else module.main
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        with limited((name, words)), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command.main(main, module.Config, words, getattr(module, "PRESETS", None))
    except SystemExit as stopped:
        code = stopped.code
    except FoundError:
        raise
    except BaseException as error:
        raise FoundError(f"{name} {words}: {type(error).__name__}") from error
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
    told = err.getvalue()
    if code not in (0, 2) or "Traceback" in told or (code == 2 and not told.strip()):
        raise FoundError(f"{name} {words}: exit code {code}, {told!r}")


def _placed(word: str, places: Path) -> str:
    before, _, name = word.rpartition(":")
    if re.split("[/.]", name)[0] not in ("FILE", "PIPE", "EMPTY", "ABSENT", "OTHER", "IMAGES", "ONE", "RUN", "TABLE"):
        return word
    return f"{before}:{places / name}" if before else str(places / name)


def make_places(folder: Path) -> Path:
    """Files and folders of the kinds that flags are given."""
    (folder / "FILE").write_bytes(b"\x00\xffnothing")
    for name in ("PIPE", "PIPE.csv", "PIPE.npz", "PIPE.json"):
        os.mkfifo(folder / name)
    (folder / "EMPTY").mkdir()
    (folder / "OTHER").mkdir()
    (folder / "OTHER" / "config.json").write_text(json.dumps({"identity": {"another": "run"}, "runtime": {}}))
    for name, count in (("IMAGES", 6), ("ONE", 1)):
        for label in ("ant", "bee"):
            (folder / name / label).mkdir(parents=True)
            for number in range(count):
                values = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(values).save(folder / name / label / f"{number}.png")
    rows = [f"{a},{b},{(a * 7 + b * 3) % 11 / 10}" for a in range(4) for b in range(5)]
    (folder / "TABLE").write_text("\n".join(["a,b,value", *rows]) + "\n")
    make_run(folder / "RUN")
    return folder


# Files of a run ---------------------------------------------------------------------------------------------------


def make_run(run: Path) -> None:
    """A finished run with every kind of file, of a network that was never trained."""
    dataset = load_dataset(str(run.parent / "IMAGES"))
    space, skeleton = spaces.nasbench201_space(), Skeleton(2, 1, dataset.image_shape, 2)
    arch = jnp.full(6, 1)
    genotype = space.to_genotype(arch)
    with open_run(run, {"experiment": "retrain", "seed": 0, "data": {"checksum": "x"}}, {}) as held:
        stage = held.stage("search")
        stage.log("epoch", 1, {"loss": 1.0, "epoch": 1})
        with Checkpoints(stage.path / "checkpoints") as checkpoints:
            checkpoints.save(1, {"w": jnp.ones(3)}, {"seconds": 1.0, "best": None})
        stage.finish({"found": [{"genotype": genotype, "told": {}}], "seconds": 1.0})
        params, stats = nasbench201_network(arch, skeleton).init(jax.random.key(0))
        save_network(run, params, stats, genotype, skeleton, dataset)
        (run / "genotype.json").write_text(json.dumps(genotype))
        save_latency(LatencyTable("cpu", 1, ("a",), {"cell": np.ones((1, 1))}), run / "latency.json")
        row = {"test_accuracy": 0.5, "test_interval": [0.4, 0.6], "valid_accuracy": None, "params": 1, "macs": 2}
        held.finish({
            **row, "notation": space.notation(arch), "genotype": genotype, "dataset": "ants", "seed": 0,
            "baselines": {"random-1": row}, "timing": {"search": 1.0},
        })  # fmt: skip
    _search(run / "black_box")


_TINY = spaces.product_space("tiny", {"a": [0, 1, 2], "b": [0, 1]})


def _search(folder: Path) -> None:
    search_black_box(
        samplers.random_search(_TINY), lambda arch: float(arch.sum()), 3, space=_TINY, folder=folder, stop=lambda: None
    )


def read_run(run: Path, file: str) -> None:
    """Reads what programs read of a run where one of its files was changed; each reader is an attempt of its own."""

    def opened() -> None:
        with open_run(run, {"experiment": "retrain", "seed": 0, "data": {"checksum": "x"}}, {}) as held:
            fit.results.check_result(held.result, run / "result.json")
            stage = held.stage("search")
            stage.truncate_metrics(0)
            _ = stage.result

    def restored() -> None:
        with Checkpoints(run / "stages" / "search" / "checkpoints") as checkpoints:
            checkpoints.restore(abstract({"w": jnp.ones(3)}))

    def compared() -> None:
        runs = comparing.read_runs([str(run)])
        comparing.text(runs, comparing.group(runs))

    readers: Mapping[str, Callable[[], object]] = {
        "open": opened, "checkpoint": restored, "compare": compared, "describe": lambda: image_form(describe(run)),
        "load": lambda: load(run), "genotype": lambda: _as_arch(str(run)),
        "latency": lambda: load_latency(run / "latency.json"), "black box": lambda: _search(run / "black_box"),
    }  # fmt: skip
    for name in FILES[file]:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            attempt(readers[name], f"{name} of {run}")


def _as_arch(text: str) -> None:
    genotype, entry = read_genotype(text)
    size = fit.fixed.layers_of(genotype) or 2
    entry.space(Skeleton(4, min(size, 50), (16, 16, 3), 10)).from_genotype(genotype)


_SAVED = "stages/search/checkpoints/latest/1"
FILES: dict[str, tuple[str, ...]] = {
    "config.json": ("open", "compare"),
    "result.json": ("open", "compare"),
    "genotype.json": ("genotype",),
    "metrics.jsonl": ("open",),
    "latency.json": ("latency",),
    "network/network.json": ("describe", "load", "compare"),
    "stages/search/done.json": ("open",),
    f"{_SAVED}/files.json": ("checkpoint",),
    f"{_SAVED}/_CHECKPOINT_METADATA": ("checkpoint",),
    f"{_SAVED}/meta/metadata": ("checkpoint",),
    "black_box/config.json": ("black box",),
    "black_box/evaluations.jsonl": ("black box",),
    "black_box/result.json": ("black box",),
}
"""Files of a run -> who reads them."""
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_WHOLE = [
    "", "null", "[]", "{}", "3", '"x"', "[" * 100_000, '{"a":' * 100_000, "NaN", "1" * 5000, "\ufeff{}", "[[[[]]]]",
]  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Something that changes a file: within its JSON, in its bytes, or as a whole."""
    kind = draw(st.sampled_from(["value", "value", "value", "gone", "cut", "byte", "whole"]))
    path, value = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5)), draw(_JSON)
    number, whole = draw(st.integers(0, 1 << 16)), draw(st.sampled_from(_WHOLE))

    def change(content: bytes) -> bytes:
        if kind == "cut":
            return content[: number % (len(content) + 1)]
        if kind == "byte":
            place = number % max(len(content), 1)
            return content[:place] + bytes([number % 256]) + content[place + 1 :]
        if kind == "whole":
            return whole.encode() + b"\n"
        lines = content.decode().splitlines()
        if len(lines) > 1 and lines[0].startswith("{") and lines[0].endswith("}"):
            place = number % len(lines)
            lines[place] = json.dumps(_changed(json.loads(lines[place]), path, value, kind == "gone"))
            return ("\n".join(lines) + "\n").encode()
        return json.dumps(_changed(json.loads(content), path, value, kind == "gone")).encode()

    return change


def _changed(tree: Any, path: list[int], value: Any, gone: bool) -> Any:
    """A tree with the value at a place, or without what is there."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[path[0] % len(keys)]
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1 and gone:
        del copy[key]
    else:
        copy[key] = _changed(tree[key], path[1:], value, gone)
    return copy


def check_file(run: Path, name: str, change: Callable[[bytes], bytes], scratch: Path) -> None:
    """Changes one file of a copy of a run and reads all."""
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    if name.startswith(_SAVED) and not name.endswith("files.json"):
        (copy / _SAVED / "files.json").unlink()  # whose checksums would tell
    read_run(copy, name)


# Genotypes and tables ---------------------------------------------------------------------------------------------

_GENOTYPES = (
    "DARTS_V2", "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|",
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1)], "
    "normal_concat=range(2, 4), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3])",
    "0 2 0 0 0 4 0 1 2 0 1 1", "[1, [2, 3]]", '{"space": "nasbench201", "cell": [["none", 0]]}',
    "mbconv3_3x3 identity | mbconv6_5x5", "a.py:X",
)  # fmt: skip
_PIECES = st.sampled_from(
    ["(", ")", "[", "]", "'", '"', ",", "|", "+", "~", ":", "=", " ", "\n", "\\", "#", "0", "-1", "9" * 30, "1e999",
     "None", "range(", "Genotype(", "normal", "__import__('os')", "lambda:", "*", "{", "}", "\x00", "é", "nan"]
) | st.text(max_size=3)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, texts: tuple[str, ...], pieces: st.SearchStrategy[str]) -> str:
    """A text with some pieces put in, and some of it gone."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(0, 4))):
        place, length = draw(st.integers(0, len(text))), draw(st.sampled_from([0, 0, 1, 5, 40]))
        text = text[:place] + draw(pieces) * draw(st.sampled_from([1, 1, 1, 2, 300])) + text[place + length :]
    return text


GENOTYPES = mutated(_GENOTYPES, _PIECES)
_TABLES = (
    "a,b,value\n0,0,1.5\n0,1,2\n1,0,3\n1,1,4\n", "a;b;value\n0;0;1,5\n0;1;2\n1;0;3\n1;1;4\n",
    "arch_str,own\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,3\n", '[{"a": 0, "b": 1, "value": 2}]',
)  # fmt: skip
TABLES = mutated(_TABLES, st.sampled_from([",", ";", "\t", "\n", '"', "nan", "inf", "-", "N/A", "\ufeff", "1e400", "%",
                                           "9" * 40, "x", "|", "~", "\x00", "é"]))  # fmt: skip


def check_table(text: str, scratch: Path) -> None:
    """Reads a text as a table, by its columns and by itself."""
    for suffix in (".csv", ".json"):
        path = scratch / f"table{suffix}"
        path.write_text(text, encoding="utf-8")
        for encoding in (None, "a,b"):
            attempt(lambda path=path, encoding=encoding: named_table(str(path), encoding), text)  # type: ignore[misc]


# For as long as asked ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    minutes: float = 60.0
    seed: int = 0
    examples: Count = 50
    """Of each kind in a round."""


def main(config: Config) -> None:
    """Prints one JSON object a kind and round, and raises where anything was found."""
    if not 0 < config.minutes < 1e5:
        raise ValueError(f"minutes must be positive, got {config.minutes}")
    end, number, found = time.monotonic() + 60 * config.minutes, 0, 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        places, scratch = make_places(Path(folder)), Path(folder) / "scratch"
        scratch.mkdir()
        while time.monotonic() < end:
            for name, check in checks(places, scratch).items():
                if time.monotonic() > end:
                    break
                started = time.monotonic()
                told = tried(check, config.examples, config.seed + number)
                found += told is not None
                seconds = round(time.monotonic() - started, 1)
                print(json.dumps({"kind": name, "round": number, "seconds": seconds, "found": told}), flush=True)
            number += 1
    if found:
        raise ValueError(f"{found} kinds failed in {number} rounds; each is printed above")


def checks(places: Path, scratch: Path) -> dict[str, Callable[..., None]]:
    """Name -> a test of Hypothesis, without settings."""

    def program(name: str) -> Callable[..., None]:
        return given(arguments_of(PROGRAMS[name].Config))(lambda arguments: check_program(name, arguments, places))

    def file(name: str) -> Callable[..., None]:
        return given(changes())(lambda change: check_file(places / "RUN", name, change, scratch))

    def genotype(text: str) -> None:
        attempt(lambda: _as_arch(text), text)

    return {
        **{f"program {name}": program(name) for name in PROGRAMS},
        **{f"file {name}": file(name) for name in FILES},
        "genotypes": given(GENOTYPES)(genotype),
        "tables": given(TABLES)(lambda text: check_table(text, scratch)),
    }


def tried(check: Callable[..., None], examples: int, number: int) -> str | None:
    """What a check finds in so many examples, made small; None for nothing."""
    own = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), print_blob=False,
    )  # fmt: skip
    try:
        seed(number)(own(check))()
    except FoundError as error:
        return _told(error)
    except BaseExceptionGroup as errors:
        return "; ".join(map(_told, errors.exceptions))
    return None


def _told(error: BaseException) -> str:
    """An error, its cause, and where that was raised."""
    cause = error.__cause__
    if cause is None:
        return str(error)
    place = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{error} ({cause}, {place.filename}, line {place.lineno})"


if __name__ == "__main__":
    command.main(main, Config)
