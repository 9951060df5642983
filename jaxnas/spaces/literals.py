"""Genotypes as Python writes them, found in any text and parsed; nothing is ever called or evaluated."""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
import reprlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LONGEST = 100_000
"""Characters of one genotype, and entries of one list."""
DEEPEST = 16
"""Brackets within each other."""

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_ALSO = {
    **dict.fromkeys(("normal_arch", "normal_cell", "normal_0"), "normal"),
    **dict.fromkeys(("reduce_arch", "reduced_arch", "reduce_cell", "reduce_1", "reduction"), "reduce"),
    **dict.fromkeys(("reduced_concat", "reduction_concat"), "reduce_concat"),
}
"""Other names of the fields, in programs that derive from that of DARTS."""
_SCALARS = re.compile(r"int|float|str|int_|str_|u?int(8|16|32|64)|float(16|32|64)|half|bfloat16|longlong")
_LISTS = ("list", "tuple", "sorted", "array", "asarray", "tensor", "Tensor")
_MARK = r"(?:'|\"|\\\")"
_START = re.compile(
    r"(?<![\w.])(?:\w+\.)*Genotype(?:\.\w+)?\s*\(|(?<![\w.])dict\(\s*normal\w*\s*="
    rf"|\{{\s*{_MARK}(?:space{_MARK}\s*:\s*{_MARK}\w+{_MARK}\s*,\s*{_MARK})?normal{_MARK}\s*:"
)
_TOKEN = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|#[^\n]*|[\[\](){}]")
_NAMES = re.compile(r"((?:[A-Za-z_]\w*\s*(?::\s*[\w.\[\]]+\s*)?=\s*)+)$")
_KEY = re.compile(r"(?:['\"]([^'\"\n]{1,80})['\"]|\b(\w+))\s*:$")
_ESCAPED = re.compile(r"[(\[{]\s*\\\\?['\"]")
"""A quote within a quoted text."""
_QUOTES = str.maketrans("‘’“”", "''\"\"")


class Found(NamedTuple):
    """A genotype in a text. names: that it is assigned to. value: its fields, or None, and then error says why.

    disabled: it stands in a comment of a program.
    """

    names: tuple[str, ...]
    value: Any
    error: str = ""
    disabled: bool = False


_shorter = reprlib.Repr()
_shorter.maxlevel, _shorter.maxstring, _shorter.maxother = 3, 120, 120
_shorter.maxlist = _shorter.maxtuple = _shorter.maxdict = 12


def shown(value: Any) -> str:
    """The `repr` of a value for an error: short, and without control characters."""
    text = _shorter.repr(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain(value: Any, depth: int = 0) -> Any:
    """A value of lists, dictionaries, Python's numbers and strings, made of tuples, arrays, ranges and named tuples.

    Raises: ValueError where it is nested too deeply or too long.
    """
    if depth > DEEPEST:
        raise ValueError(f"a genotype has at most {DEEPEST} brackets within each other; this one is nested deeper")
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(_short(entry), depth + 1) for key, entry in _short(value).items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(entry, depth + 1) for entry in _short(value)]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # an array or a number of NumPy or JAX
        if value.size > LONGEST:
            raise ValueError(f"a genotype has no arrays of {value.size} numbers")
        return plain(value.tolist(), depth + 1)
    return value


def _short(value: Any) -> Any:
    if isinstance(value, (Mapping, list, tuple, range)) and len(value) > LONGEST:
        raise ValueError(f"a genotype has no lists of {len(value)} entries; at most {LONGEST} are read")
    return value


def calls(text: str) -> Iterator[Found]:
    """Every `Genotype(…)` of a text, also as an attribute or a dictionary of its fields, in turn."""
    starts = list(_START.finditer(text))
    done = 0
    ends = [*(match.start() for match in starts), len(text)]
    for start, after in itertools.pairwise(ends):
        line = text[max(0, start - 300) : start].rpartition("\n")[2]
        if start < done or re.search(r"\b(?:class|def)\s+$", line):
            continue
        disabled = line.lstrip().startswith("#")
        # One does not stand in another, so that what is never closed ends before the next.
        written = text[start : min(after, start + LONGEST)]
        quoted = _ESCAPED.search(written[:200]) is not None
        if quoted:
            written = written.replace("\\'", "'").replace('\\"', '"')
        if disabled:
            written = re.sub(r"\n[ \t]*#", "\n", written)
        end, error = _end(written)
        names = _names(text[max(0, start - 200) : start])
        if end is None:
            yield Found(names, None, error, disabled)
            continue
        done = 0 if disabled or quoted else start + end
        try:
            yield Found(names, fields(written[:end]), disabled=disabled)
        except ValueError as wrong:
            yield Found(names, None, str(wrong), disabled)


def _end(written: str) -> tuple[int | None, str]:
    """Where the first bracket of a text is closed; None and the reason where it is not."""
    depth = 0
    for token in _TOKEN.finditer(written):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if depth == 0:
                return token.end(), ""
        if depth > DEEPEST:
            return None, "it is nested too deeply"
    return None, "its first bracket was never closed" + (" in 100,000 characters" if len(written) >= LONGEST else "")


def _names(before: str) -> tuple[str, ...]:
    """What the text that ends before a genotype assigns it to."""
    before = before.rstrip(" \t\n\\('\"`")
    if before[-1:] not in ("=", ":"):
        return ()
    assigned = _NAMES.search(before)
    if assigned:
        return tuple(re.findall(r"([A-Za-z_]\w*)\s*(?::\s*[\w.\[\]]+\s*)?=", assigned[1]))
    key = _KEY.search(before)
    return (key[1] or key[2],) if key else ()


def fields(written: str) -> dict[str, Any]:
    """The fields of `Genotype(…)`, in order or by name, or of a dictionary of them.

    Raises: ValueError naming what cannot be read.
    """
    node = parsed(written)
    named: list[tuple[Any, ast.expr]]
    match node:
        case ast.Dict(keys=keys, values=values):
            named = [(key.value if isinstance(key, ast.Constant) else None, value)
                     for key, value in zip(keys, values, strict=True)]  # fmt: skip
        case ast.Call(args=arguments, keywords=keywords):
            if len(arguments) > len(FIELDS):
                raise ValueError(f"Genotype(…) has {len(arguments)} arguments; it takes {', '.join(FIELDS)}")
            named = [*zip(FIELDS, arguments, strict=False), *((item.arg, item.value) for item in keywords)]
        case _:
            raise ValueError("not a genotype; write Genotype(normal=[('sep_conv_3x3', 0), …], …)")
    result: dict[str, Any] = {}
    for written_name, part in named:
        name = _ALSO.get(written_name, written_name)
        if name not in (*FIELDS, "space") and isinstance(part, ast.Constant) and part.value in ("", None):
            continue  # a field of a program of its own, which says nothing
        if name not in (*FIELDS, "space") or name in result:
            raise ValueError(
                f"Genotype(…) has {shown(written_name)} twice or unasked; it takes {', '.join(FIELDS)}, each once"
            )
        result[name] = value(part, name, written)
    return result


def parsed(written: str) -> ast.expr:
    """The syntax of one Python expression. Raises ValueError where it is none."""
    if len(written) > LONGEST:
        raise ValueError(f"a genotype has at most {LONGEST} characters, got {len(written)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings, which are nobody's here
            return ast.parse(written.translate(_QUOTES).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it cannot be parsed"
        raise ValueError(f"not a genotype: {reason}; write Genotype(normal=[('sep_conv_3x3', 0), …], …)") from None


def value(node: ast.expr, part: str, written: str) -> Any:
    """The value of numbers, strings, lists, dictionaries, `range(…)`, and of arrays and numbers of NumPy.

    part: what the value is of, for errors. written: the text that was parsed.
    """
    try:
        return _value(node)
    except (_OtherError, RecursionError, OverflowError) as error:
        other = error.args[0] if isinstance(error, _OtherError) else node
        segment = ast.get_source_segment(written.translate(_QUOTES).strip(), other) or ""
        raise ValueError(
            f"{part}: cannot read {shown(' '.join(segment.split()))}; write ('operation', source) pairs or range(2, 6)"
        ) from None


class _OtherError(Exception):
    """A part that is no value."""


_SUMS = {ast.Add: operator.add, ast.Sub: operator.sub}
_CONSTANTS = {"nan": math.nan, "inf": math.inf}


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.Name(id="nan" | "inf"):
            return _CONSTANTS[node.id]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            return {key.value: _value(entry) for key, entry in zip(keys, values, strict=True)}  # type: ignore[union-attr]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
            sides = _value(left), _value(right)
            if all(isinstance(side, int) and abs(side) < LONGEST for side in sides):
                return _SUMS[type(op)](*sides)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments, keywords=keywords):
            taken = [_value(argument) for argument in arguments[: 3 if name == "range" else 1]]
            if name == "range" and len(arguments) in (1, 2, 3) and not keywords:
                if all(isinstance(bound, int) and 0 <= bound < 100 for bound in taken) and 0 not in taken[2:]:
                    return list(range(*taken))
            elif name in _LISTS and taken and isinstance(taken[0], (list, int, float)):
                return taken[0]  # what else there is, as a type or a device, changes no value
            elif _SCALARS.fullmatch(name) and len(arguments) == 1 and isinstance(taken[0], (str, int, float)):
                real = "float" in name or name == "half"
                return float(taken[0]) if real and isinstance(taken[0], int) else taken[0]
    raise _OtherError(node)
