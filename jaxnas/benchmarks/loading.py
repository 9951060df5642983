"""Tables from files of any user, over a space of the library, by its name, or over the product of what occurs.

A file is a CSV (or TSV, with any usual separator), JSON or a NumPy archive (npz); `columns` says which forms. A metric
of several fidelities has a column `NAME@LABEL` for each; of an npz or JSON it may also be one array [A, F], and an
encoding one array [A, D].
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.base import Choice, SearchSpace
from jaxnas.benchmarks.cells import (
    holds_words,
    known_options,
    options_that_occur,
    read_genotypes,
    read_metrics,
    texts_of,
)
from jaxnas.benchmarks.columns import HEADER, Columns, read_columns
from jaxnas.benchmarks.repeats import REPEATS, join_repeats
from jaxnas.benchmarks.table import Table, distinct, make_table
from jaxnas.spaces.families import FAMILIES, space_of_choices, space_of_texts

Space = str | SearchSpace | Sequence[Choice]


def load_table(
    path: str | os.PathLike[str],
    space: Space | None = None,
    *,
    architecture: str | None = None,
    encoding: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    needed: Sequence[str] = (),
    duplicates: str = "refuse",
    name: str | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> Table:
    """A table from a file that ends in .csv, .tsv, .txt, .json, .jsonl or .npz.

    space: the name of a space (`jaxnas.spaces.FAMILIES`), a space, or the choices of a plain product. Of a name the
    smallest space is taken that has all architectures of the file: with its numbers of nodes or layers, its operations
    and, of DARTS, "none" and two edges from one input where they occur.

    Either `architecture` names a column of architectures in the field's notation or as JSON genotypes. Or `encoding`
    names the columns of options in the order of the choices, also one column of tuples or of strings of digits. With a
    space their cells are the numbers of options, from 0, or their names; without one the values that occur are the
    options, numbers in their order or words in that of the alphabet. Without both, the table is one of `save_table`,
    or an npz is encoded in its array "archs" [A, D].

    metrics: columns to be read, by default all others that hold numbers; "NAME" stands for all its fidelities. Labels
    that are numbers put fidelities in their order, others keep the file's. needed: metrics that must be there; one
    written "-NAME" is NAME. duplicates: what is made of several rows of one architecture (`REPEATS`): "refuse", their
    "mean", the "first", or "seeds" (`join_repeats`). name: by default the file's.

    Raises: OSError where the file cannot be opened. ValueError naming the row and column of what is wrong, rows of a
    CSV counted as in the file with the header as line 1.

    >>> import tempfile
    >>> records = [{"width": 8, "bias": "no", "accuracy": 0.7}, {"width": 16, "bias": "yes", "accuracy": 0.9}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "mine.json")
    ...     _ = path.write_text(json.dumps(records))
    ...     table = load_table(path, encoding=["width", "bias"])
    >>> [(choice.name, choice.options) for choice in table.choices], list(table.metrics)
    ([('width', ('8', '16')), ('bias', ('no', 'yes'))], ['accuracy'])
    """
    if duplicates not in REPEATS:
        raise ValueError(f"duplicates are one of {', '.join(REPEATS)}, got {duplicates!r}")
    source = read_columns(path)
    header = _header(source)
    over, archs, columns, taken = _architectures(source, header, space, architecture, encoding)
    choices = over.choices if isinstance(over, SearchSpace) else over
    if duplicates == "refuse":
        source.check_archs(choices, archs, columns)
    wanted, notes = _find_metrics(source, metrics, needed, taken)
    values, labels = read_metrics(source, wanted)
    for metric in values:  # an array of several fidelities has its labels in the header
        if metric in header.get("fidelities", {}):
            labels[metric] = header["fidelities"][metric]
    described = {metric: text for metric, text in header.get("descriptions", {}).items() if metric in values}
    described |= descriptions or {}
    if duplicates != "refuse":
        source.check_archs(choices, archs[distinct(choices, archs)[0]], columns)
        archs, values, labels, said = join_repeats(choices, archs, values, labels, duplicates)
        notes += said
    return make_table(name or header.get("name") or Path(path).stem, over, archs, values, described, labels, notes)


def save_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes a table as a compressed npz that `load_table(path)` gives back: names, labels, descriptions and space.

    A table over a space of your own is given back by `load_table(path, space)`.

    Raises: ValueError where the path does not end in .npz, or a metric is called "archs".

    >>> import tempfile
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16), "depth": (1, 2)})
    >>> table = make_table("mine", space, [[0, 0], [1, 1]], {"valid": [50.0, 60.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_table(table, f"{folder}/mine.npz")
    ...     load_table(f"{folder}/mine.npz", space).archs.tolist()
    [[0, 0], [1, 1]]
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path}: a table is saved as .npz")
    if "archs" in table.metrics:
        raise ValueError("a metric is called 'archs', as the architectures are in the file; give it another name")
    header = {
        "name": table.name,
        "choices": [[choice.name, list(choice.options)] for choice in table.choices],
        "descriptions": dict(table.descriptions),
        "fidelities": {metric: list(labels) for metric, labels in table.fidelities.items()},
        "space": None if table.space is None else table.space.name,
    }
    smallest = np.min_scalar_type(max(len(choice.options) for choice in table.choices))
    arrays: dict[str, Any] = {metric: np.asarray(value) for metric, value in table.metrics.items()}
    arrays |= {"archs": np.asarray(table.archs).astype(smallest), HEADER: np.array(json.dumps(header))}
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def _header(source: Columns) -> dict[str, Any]:
    """What `save_table` left, taken out of the columns; empty where another program made the file."""
    entry = source.columns.pop(HEADER, None)
    if entry is None:
        return {}
    try:
        header = json.loads(str(entry))
        kinds = {"name": str, "choices": list, "descriptions": dict, "fidelities": dict}
        if all(isinstance(header[key], kind) for key, kind in kinds.items()):
            choices = tuple(Choice(str(name), tuple(map(str, options))) for name, options in header["choices"])
            return {**header, "choices": choices}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{source.path}, array {HEADER!r}: not as save_table writes it; save the table again")


def _architectures(
    source: Columns,
    header: Mapping[str, Any],
    space: Space | None,
    architecture: str | None,
    encoding: str | Sequence[str] | None,
) -> tuple[SearchSpace | tuple[Choice, ...], np.ndarray, list[str], list[str]]:
    """(space or choices, int [A, D], the column of each choice, the columns that were read)."""
    if architecture is not None and encoding is not None:
        raise ValueError("architectures are either strings or an encoding; give one of architecture= and encoding=")
    if architecture is not None:
        if space is None or not isinstance(space, (str, SearchSpace)):
            raise ValueError(f"architecture={architecture!r} is read by a space; give one, such as 'nasbench201'")
        texts = texts_of(source, architecture)
        if isinstance(space, str):
            space = space_of_texts(space, texts.tolist(), lambda row, why: source.error(row, architecture, why))
        return space, read_genotypes(source, architecture, space), [architecture] * len(space.choices), [architecture]
    if encoding is None:
        if "archs" not in source.columns:
            raise ValueError(
                f"{source.path}: say where the architectures are, by architecture=COLUMN (strings of the space) or "
                f"encoding=[COLUMN, …] (option numbers); there are {', '.join(source.columns)}"
            )
        encoding = ["archs"]
    taken = [encoding] if isinstance(encoding, str) else list(encoding)
    if space is None and not header:
        choices, archs, columns = options_that_occur(source, taken)
        return choices, archs, columns, taken
    over = _known_space(source, space, header)
    choices = over.choices if isinstance(over, SearchSpace) else over
    archs, columns = known_options(source, taken, choices)
    if header and [choice.options for choice in choices] != [choice.options for choice in header["choices"]]:
        raise ValueError(f"{source.path} was saved with other choices than those given; leave out the space")
    return over, archs, columns, taken


def _known_space(source: Columns, space: Space | None, header: Mapping[str, Any]) -> SearchSpace | tuple[Choice, ...]:
    """The space or the choices that are given, or those of a saved table."""
    if isinstance(space, SearchSpace):
        return space
    if isinstance(space, str):
        named = space_of_choices(space, header["choices"] if header else None)
        if named is None:
            raise ValueError(f"{source.path} was saved with other choices than those of {space}; leave out the space")
        return named
    if space is None:
        name = header.get("space")
        if isinstance(name, str) and name not in FAMILIES:
            raise ValueError(
                f"{source.path} was saved over the space {name!r}, which is not one of the library; give it as "
                "load_table(path, space)"
            )
        named = space_of_choices(name, header["choices"]) if isinstance(name, str) else None
        return header["choices"] if named is None else named
    return tuple(space)


def _find_metrics(
    source: Columns, metrics: str | Sequence[str] | None, needed: Sequence[str], taken: list[str]
) -> tuple[list[str], list[str]]:
    """(the columns of the metrics that are wanted, what is to be said of the others)."""
    others = [column for column in source.columns if column not in taken]
    must = [metric.removeprefix("-") for metric in needed]
    wanted = [metrics] if isinstance(metrics, str) else list(metrics or ())
    asked = {name: [column for column in others if _is_of(column, name)] for name in (*wanted, *must)}
    if not others:
        raise ValueError(f"{source.path} has no column beside the architectures; it needs a metric")
    for metric, found in asked.items():
        if not found:
            source.check([metric] if metric in source.twice else [])
            raise ValueError(f"{source.path} has no metric {metric!r}; it has {', '.join(others)}")
    named = {column for columns in asked.values() for column in columns}
    if metrics is not None:
        return [column for column in others if column in named], []
    words = [column for column in others if column not in named and holds_words(source, column)]
    found = [column for column in others if column not in words]
    if not found:
        raise ValueError(f"{source.path} has no column of numbers beside the architectures; it needs a metric")
    return found, [f"not read, because it holds words: {', '.join(words)}"] if words else []


def _is_of(column: str, metric: str) -> bool:
    """Whether a column has a metric, or a fidelity of it; an array of all its fidelities has each."""
    return metric in (column, column.partition("@")[0]) or metric.partition("@")[0] == column
