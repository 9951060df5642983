"""`jaxnas NAME …` runs a program of the library: the same as `python -m experiments.NAME …` in a clone."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxnas.streams import take_standard_streams

PROGRAMS = "jaxnas.programs"
_SHARED = ("__init__", "common", "models")
"""Files that are no programs."""


def programs() -> dict[str, str]:
    """Name of each program that is installed -> what it does, in one line."""
    spec = importlib.util.find_spec(PROGRAMS)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = sorted(path for folder in folders for path in folder.glob("*.py") if path.stem not in _SHARED)
    return {path.stem: _first_words(path) for path in files}


def _first_words(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(":")[0].rstrip(".")


def main(arguments: Sequence[str] | None = None) -> None:
    """Replaces this process by the program that is named, or lists the programs."""
    take_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = given[0] if given else "--help", given[1:]
    known = programs()
    if not known:
        sys.exit(
            "jaxnas: error: the programs are not installed: install the package, or use python -m experiments.NAME"
        )
    if name in ("-h", "--help"):
        width = max(map(len, known))
        print(
            "usage: jaxnas NAME [--flags]\n\n" + "\n".join(f"  {own:<{width}}  {says}" for own, says in known.items())
        )
        print("\njaxnas NAME --help tells the flags of a program.")
        return
    if name not in known:
        print(f"jaxnas: error: there is no program {name!r}; there are {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    os.execv(sys.executable, [sys.executable, "-m", f"{PROGRAMS}.{name}", *rest])


if __name__ == "__main__":
    main()
