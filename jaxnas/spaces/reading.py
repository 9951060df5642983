"""Genotypes as people have them: text or a file of a paper, a program or a log, read as the JSON form of a space."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnas.ops.chain import BLOCKS
from jaxnas.spaces.genotypes import (
    NASBENCH201_STRING,
    is_number,
    number_words,
    parse_nasbench201,
    spaces_of,
)
from jaxnas.spaces.literals import FIELDS, LONGEST, Found, calls, parsed, plain, shown, value
from jaxnas.spaces.published import PUBLISHED, published_name

LARGEST_FILE = 32 << 20
"""Bytes of a file that is read."""
_FILE = re.compile(r"([^\n()\[\]{}|]*\.(?:py|txt|log|json))(?::([^:/\\\n]{1,200}))?")
_ANY_FILE = re.compile(r"(.*\.(?:py|txt|log|json))(?::([^:/\\\n]{1,200}))?")
"""Also of names with brackets; but a text with a genotype in it may end as the name of a file does."""

Otherwise = Callable[[str], Mapping[str, Any]]


def read_genotype(given: Any, otherwise: Otherwise | None = None) -> dict[str, Any]:
    """The JSON form of a genotype, of whatever space.

    given: the JSON form, a `Genotype` of a program, or a text. A text has a published name in any spelling
    ("PC-DARTS"), or somewhere in it one `Genotype(…)`, one architecture string of NAS-Bench-201, or the integers of
    ENAS; or it is the path of a .py, .txt, .log or .json file that has. Of several in a file one is chosen by its name
    or its number, "genotypes.py:PDARTS" or "search.log:-1" for the last; one that stands in a comment counts where no
    other does. Edges are read as `genotypes.by_node` says. Texts are parsed, never evaluated. otherwise: reads a text
    in which nothing of these is found.

    Raises: ValueError where there is no genotype or more than one, OSError where a file is not there.

    >>> read_genotype("best so far: |nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2| (epoch 3)")
    {'space': 'nasbench201',
     'cell': [['nor_conv_3x3', 0], ['none', 0], ['skip_connect', 1], ['none', 0], ['none', 1], ['nor_conv_1x1', 2]]}
    """
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
        if isinstance(given, str) and not _FILE.fullmatch(given):
            return _one(_of_file(given), None, given)
    if not isinstance(given, str):
        if given is None or isinstance(given, (bool, int, float, bytes)):
            raise ValueError(f"a genotype is a text or the JSON form of its space, got {shown(given)}")
        simple = plain(given)
        if isinstance(simple, dict) and (spaces_of(simple) or not any(map(_is_form, simple.values()))):
            return simple
        return _one(_of_value(simple), None, "")
    match = _FILE.fullmatch(given.strip())
    if match is None and len(given) < 1000 and (other := _ANY_FILE.fullmatch(given.strip())):
        match = other if os.path.isfile(other[1]) else None
    if match:
        return _one(_of_file(match[1], match[2]), match[2], match[1])
    if len(given) > LARGEST_FILE:
        raise ValueError(f"a text of {len(given)} characters is no genotype; at most {LARGEST_FILE} are read")
    found = _of_text(given)
    if not found:
        return dict((otherwise or _nothing)(given))
    return _one(found, None, "")


def _nothing(text: str) -> Mapping[str, Any]:
    """Raises ValueError for a text that is no genotype."""
    if re.search(r"[(\[{]", text):
        raise ValueError(
            "not a genotype; write Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), …)"
        )
    raise ValueError(f"unknown genotype {shown(text)}; write Genotype(normal=…) or a name: {', '.join(PUBLISHED)}")


def _one(found: Sequence[Found], wanted: str | None, where: str) -> dict[str, Any]:
    """The one genotype of some. wanted: its name or number. where: the file, empty for a text."""
    source = "".join(c if c.isprintable() else "?" for c in where) or "the text"
    if wanted is not None:
        return _wanted(found, wanted.strip(), source)
    found = [one for one in found if not one.disabled] or found
    good = [one for one in found if not one.error]
    if not good:
        if not found:
            raise ValueError(f"{source} holds no genotype; it may have Genotype(…), |op~0|+… or integers of ENAS")
        reason = found[0].error
        if "never closed" in reason or "nested" in reason:
            reason = f"not a genotype: {reason}; write Genotype(normal=[('sep_conv_3x3', 0), …], …)"
        raise ValueError(f"{source}: {reason}" if where else reason)
    different = {json.dumps(one.value, sort_keys=True, default=str): one for one in good}
    if len(different) > 1:
        names = [one.names[0] if one.names else f"number {number + 1}" for number, one in enumerate(good)]
        listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        how = (
            f"choose one by its name or number, as {source}:{good[0].names[0] if good[0].names else 1}, the last is :-1"
            if where
            else "give one of them alone, or a file and the name in it, as genotypes.py:NAME"
        )
        raise ValueError(f"{source} has {len(different)} different genotypes ({listed}): {how}")
    return dict(good[0].value)


def _wanted(found: Sequence[Found], wanted: str, source: str) -> dict[str, Any]:
    """The genotype of a name, of several of one name the last, as in a program; or that of a number, from 1."""
    named = [one for one in found if wanted in one.names]
    if not named and re.fullmatch(r"-?\d{1,9}", wanted):
        good = [one for one in found if not one.error]
        # Another name of a genotype is no other one.
        counted = list({id(one.value): one for one in good if not one.disabled}.values()) or good
        number = int(wanted)
        if not 1 <= abs(number) <= len(counted):
            raise ValueError(f"{source} has {len(counted)} genotypes, none of the number {number}; they count from 1")
        return dict(counted[number - (number > 0)].value)
    if not named:
        names = list(dict.fromkeys(name for one in found for name in one.names))
        raise ValueError(
            f"{source} has no genotype {shown(wanted)}; there are {', '.join(names[:40]) or 'none by name'}"
        )
    last = ([one for one in named if not one.disabled] or named)[-1]
    if last.error:
        raise ValueError(f"{source}: {wanted}: {last.error}")
    return dict(last.value)


def _of_file(path: str, wanted: str | None = None) -> list[Found]:
    """The genotypes of a file. Raises OSError where it is not there, ValueError where it is too large or damaged."""
    shown_path = "".join(c if c.isprintable() else "?" for c in path)
    if not os.path.isfile(path):
        raise OSError(
            f"there is no file {shown_path}: give the folder of a run, its genotype.json, or a published name "
            "(DARTS_V2)"
        )
    if os.path.getsize(path) > LARGEST_FILE:
        raise ValueError(
            f"{shown_path} has {os.path.getsize(path)} bytes; a file of genotypes has at most {LARGEST_FILE}"
        )
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if path.endswith(".json"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise ValueError(f"{shown_path} is not readable as JSON ({reason}); give another file") from None
        try:
            found = _of_value(plain(content))
        except ValueError as error:
            raise ValueError(f"{shown_path}: {error}") from None
        if not found and not isinstance(content, dict):
            kind = type(content).__name__
            raise ValueError(f"{shown_path} is no genotype in JSON: it must be an object, got {kind}")
        return found
    return _with_aliases(_of_text(text), text) if wanted else _of_text(text)


def _with_aliases(found: list[Found], text: str) -> list[Found]:
    """Those of a program, also under the names that it gives them afterwards, as in DARTS = DARTS_V2."""
    lines = re.findall(r"^[ \t]*([A-Za-z_]\w*)[ \t]*=[ \t]*([A-Za-z_]\w*)[ \t]*(?:#.*)?$", text, re.MULTILINE)
    for name, other in lines:
        named = [one for one in found if other in one.names and not one.disabled]
        if named:
            found = [*found, named[-1]._replace(names=(name,))]
    return found


def _of_text(text: str) -> list[Found]:
    """Every genotype of a text."""
    if name := published_name(text):
        return [Found((name,), PUBLISHED[name])]
    if found := list(calls(text)):
        return found
    # What begins with an edge is that string, or nothing but the space can say what is wrong with it.
    whole = text.lstrip().startswith("|")
    strings = NASBENCH201_STRING.fullmatch(text.strip()) if whole else None
    if found := [_nasbench201(match[0]) for match in ([strings] if strings else NASBENCH201_STRING.finditer(text))]:
        return [] if whole and not strings else found
    # What is the whole of a text: a value of JSON or Python, integers, blocks.
    if len(text) > LONGEST:
        return []
    words = number_words(text)
    if len(words) > 1 and all(map(is_number, words)):
        return [Found((), {"arc": [int(word) for word in words]})]
    if text.lstrip()[:1] in ("{", "[", "(", '"', "'"):
        return _of_value(_literal(text.strip()))
    stages = [stage.split() for stage in text.split("|")]
    if "|" in text and all(stages) and all(word in BLOCKS for stage in stages for word in stage):
        return [Found((), {"space": "chain", "stages": stages})]
    return []


def _nasbench201(text: str) -> Found:
    try:
        edges = parse_nasbench201(text)
    except ValueError as error:
        return Found((), None, str(error))
    return Found((), {"space": "nasbench201", "cell": [list(edge) for edge in edges]})


def _literal(text: str) -> Any:
    """The value that a text is in JSON or in Python; None where it is neither."""
    try:
        return plain(json.loads(text))
    except RecursionError:
        raise ValueError("not a genotype: it is nested too deeply") from None
    except json.JSONDecodeError:
        pass
    try:
        return plain(value(parsed(text), "the text", text))
    except ValueError:
        return None


def _is_form(entry: Any) -> bool:
    return isinstance(entry, (str, dict, list))


def _of_value(given: Any, names: tuple[str, ...] = (), depth: int = 0) -> list[Found]:
    """The genotypes of a value of JSON: one, or what holds some by name."""
    if depth > 3:
        return []
    if isinstance(given, str):
        # Within an object a plain word is no published name: it may be the name of anything.
        found = _of_text(given) if depth == 0 or re.search(r"[(|]", given) else []
        return [one._replace(names=names or one.names) for one in found]
    if isinstance(given, dict):
        if spaces_of(given):
            return [Found(names, given)]
        if "genotype" in given:  # the result of a run
            return _of_value(given["genotype"], names, depth)
        return [one for name, entry in given.items() for one in _of_value(entry, (str(name),), depth + 1)]
    if not isinstance(given, list) or not given:
        return []
    if all(isinstance(entry, int) and not isinstance(entry, bool) for entry in given):
        return [Found(names, {"arc": given})] if len(given) > 1 else []
    if len(given) == len(FIELDS) and all(isinstance(entry, list) for entry in given) and _are_edges(given[0]):
        return [Found(names, dict(zip(FIELDS, given, strict=True)))]
    if [len(entry) for entry in given if isinstance(entry, list) and _are_edges(entry)] == [1, 2, 3]:
        edges = [edge for node in given for edge in node]
        return [Found(names, {"space": "nasbench201", "cell": edges})]
    return [one for entry in given for one in _of_value(entry, names, depth + 1)]


def _are_edges(given: Any) -> bool:
    """Whether a value is a list of edges, or of lists of edges for each node."""
    return (
        isinstance(given, list)
        and bool(given)
        and all(isinstance(edge, list) and bool(edge) for edge in given)
        and all(isinstance(edge[0], str) or _are_edges(edge) for edge in given)
    )
