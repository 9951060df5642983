"""The house as docs/design.md draws it: imports go down, in no circle, and functions are short enough to be read."""

import ast
import graphlib
from pathlib import Path

from conftest import LATER, LONG, SLOW

import jaxnas

ROOT = Path(jaxnas.__file__).parent
LAYERS = (
    "base",
    "shapes jaxprs",
    "files lock console cache memory ranges cholesky checks fingerprint objectives parallel kernels",
    "ops relax controllers predictors proxies report livepage loggers celllayout",
    "spaces data draw runfolder checkpoint testing",
    "networks benchmarks hardware",
    "supernets samplers",
    "catalog",
    "search train choices saved",
    "making export",
    "streams",
    "tabular",
    "command",
    "fit __main__",
    "shrinking",
)
"""From the ground up. A module may import from the layers below its own, and from its own where that is no circle."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
LONGEST = 100
"""Lines of a function."""


def modules():
    """Name of every module -> its syntax."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree, names):
    """The modules of the library that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("jaxnas"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxnas"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else node.module


def part(module):
    return module.split(".")[1] if "." in module else ""


def test_imports_go_down_and_in_no_circle():
    trees = dict(modules())
    edges = {module: set(imported(tree, trees)) - {module} for module, tree in trees.items()}
    up = [
        (module, other)
        for module, others in edges.items()
        for other in others
        if part(module) and part(module) != part(other) and LEVEL[part(other)] > LEVEL[part(module)]
    ]
    assert not up
    parts = {part(module) for module in trees}
    between = {own: {part(o) for m in trees if part(m) == own for o in edges[m]} - {own} for own in parts}
    list(graphlib.TopologicalSorter(between).static_order())  # raises for a circle
    # A package's __init__ imports its modules, which name it only by going through it.
    plain = {
        module: {o for o in others if o in trees and not o.startswith(f"{module}.")} for module, others in edges.items()
    }
    list(graphlib.TopologicalSorter(plain).static_order())


def test_no_function_is_longer_than_a_page():
    long = [
        (f"{module}.{node.name}", node.end_lineno - node.lineno + 1)
        for module, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST
    ]
    assert not long


def test_every_long_or_slow_test_of_conftest_is_there():
    there = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        there[path.stem] = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    assert set(LONG) <= set(there)
    several = [*LATER.items(), *SLOW.items()]
    names = [(file, name.partition("[")[0]) for file, own in several for name in own]
    assert [
        (file, name) for file, name in names if not any(test.startswith(name) for test in there.get(file, ()))
    ] == []
