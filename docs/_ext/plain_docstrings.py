"""Turns the library's docstrings, which are plain text, into reStructuredText for autodoc.

A docstring here is a few paragraphs. Names of code stand in single backquotes, and arguments are described in running
text, as "name: description." In the reference each argument gets a line of its own, "Returns:" and "Raises:" stand out,
and characters that reStructuredText would read as markup are escaped. Doctests and indented blocks stay as they are.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_origin

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_CODE = re.compile(r"(`+[^`\n]+`+)")
_MARKUP = re.compile(r"([\\*`|_<>])")
_LEAD = re.compile(r"(Returns|Raises|Yields): ")
_ITEM = re.compile(r"(?:[-*]|\d+[.)]) ")


def inline(text: str) -> str:
    """A line of plain text as reStructuredText: `name` becomes a reference to code, all else is escaped."""
    parts = _CODE.split(text)
    parts[0::2] = [_MARKUP.sub(r"\\\1", part) for part in parts[0::2]]
    parts[1::2] = [_code(part.strip("`")) for part in parts[1::2]]
    return "\\ ".join(part for part in parts if part) if any(parts[1::2]) else parts[0]


def _code(text: str) -> str:
    return f":py:obj:`{text}`" if re.fullmatch(r"[A-Za-z_][\w.]*", text) else f"``{text}``"


def described(paragraph: str, names: Iterable[str]) -> list[str]:
    """The pieces of a paragraph: each begins with the description of other arguments, the first may be of none."""
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    if not known:
        return [paragraph]
    starts = re.finditer(rf"(?:^|(?<=[.;:)] ))(?:{known})(?:(?:, | and )(?:{known}))*: ", paragraph)
    cuts = [match.start() for match in starts]
    pieces = [paragraph[a:b].strip() for a, b in zip([0, *cuts], [*cuts, len(paragraph)], strict=True)]
    return [piece for piece in pieces if piece]


def _blocks(lines: Sequence[str]) -> Iterable[list[str]]:
    """Runs of lines without an empty one, but for those inside an indented block."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def to_rst(lines: Sequence[str], names: Iterable[str] = ()) -> list[str]:
    """A docstring of plain text as lines of reStructuredText. names: the arguments or the fields that it describes."""
    names = list(names)
    out: list[str] = []
    for block in _blocks(lines):
        if block[0].startswith(">>>"):
            out += [*block, ""]
        elif block[0].startswith(" "):
            out += ["::", "", *(f"    {line}" for line in block), ""]
        else:
            out += _paragraph(block, names)
    return out


def _paragraph(block: list[str], names: list[str]) -> list[str]:
    """One block of plain lines; a line that is indented inside of it begins a literal block."""
    indented = next((n for n, line in enumerate(block) if line.startswith("  ") and not _ITEM.match(block[0])), None)
    if indented is not None:
        return [*_paragraph(block[:indented], names), *to_rst(block[indented:], names)]
    if _ITEM.match(block[0]):
        items: list[str] = []
        for line in block:
            new = _ITEM.match(line)
            items += [f"- {inline(line[new.end() :])}"] if new else [f"  {inline(line.strip())}"]
        return [*items, ""]
    text = " ".join(line.strip() for line in block)
    lead = _LEAD.match(text)
    if lead:
        return [f"**{lead[1]}:** {inline(text[lead.end() :])}", ""]
    out: list[str] = []
    for piece in described(text, names):
        own, colon, rest = piece.partition(": ")
        if colon and all(name in names for name in re.split(r", | and ", own)):
            parts = [f"**{inline(name)}**" for name in re.split(r", | and ", own)]
            out += [f"- {', '.join(parts)}: {inline(rest)}"]
        else:
            out += [inline(piece), ""]
    return [*out, ""]


def names_of(obj: Any) -> list[str]:
    """What the docstring of an object may describe: its parameters, or the fields of a NamedTuple or a dataclass."""
    if isinstance(obj, property):
        return []
    names: list[str] = list(getattr(obj, "_fields", ())) or list(getattr(obj, "__dataclass_fields__", ()))
    try:
        return [*names, *inspect.signature(obj).parameters]
    except (TypeError, ValueError):
        return names


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines, names_of(obj))


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of a NamedTuple that say only which place they have: the class describes them."""
    if (inspect.getdoc(obj) or "").startswith("Alias for field number"):
        return True
    return None


_ANNOTATED = re.compile(r"Annotated\[([^,\[\]]+), \w+\([^()]*\)\]")


def _plain_types(app: Sphinx) -> None:
    """Settings are shown with the types of their values; their ranges would fill the page (`jaxnas.ranges`)."""
    ranges: Any = importlib.import_module("jaxnas.ranges")
    for name, kind in vars(ranges).copy().items():
        if get_origin(kind) is Annotated:
            setattr(ranges, name, kind.__origin__)
    for package in ("fit", "tabular", "making"):  # which read them from there
        importlib.import_module(f"jaxnas.{package}")
    modules = [module for name, module in sys.modules.items() if name.startswith("jaxnas.")]
    for kind in (kind for module in modules for kind in vars(module).values() if isinstance(kind, type)):
        if dataclasses.is_dataclass(kind):
            for annotations in (kind.__annotations__, kind.__init__.__annotations__):
                for name, text in annotations.items():
                    annotations[name] = _ANNOTATED.sub(r"\1", text) if isinstance(text, str) else text


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", _plain_types, priority=1)
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
