"""Imports run downward only, as docs/design.md has it."""

import ast
from pathlib import Path

import pytest

import jaxnas

ROOT = Path(jaxnas.__file__).parent
OUTSIDE = {"data", "checkpoint", "runfolder", "draw", "report", "celllayout"}
ALLOWED = {
    "base": set(),
    "checks": {"base"},
    "testing": {"base", "checks"},
    "fingerprint": set(),
    "console": set(),
    "memory": set(),
    "files": set(),
    "kernels": {"base"},
    "ops": {"base", "kernels"},
    "spaces": {"base", "checks", "ops"},
    "relax": {"base"},
    "networks": {"base", "kernels", "ops", "spaces"},
    "supernets": {"base", "checks", "kernels", "ops", "spaces", "networks"},
    "controllers": {"base", "checks"},
    "cholesky": {"base"},
    "proxies": {"base", "cholesky"},
    "parallel": {"base", "kernels"},
    "search": {"base", "checks", "kernels", "spaces", "relax", "controllers"},
    "benchmarks": {"base", "checks", "fingerprint", "ops", "spaces"},
    "predictors": {"base", "checks", "cholesky"},
    "hardware": {"base", "checks", "files", "ops", "spaces"},
    "samplers": {"base", "checks", "spaces", "benchmarks", "controllers", "predictors"},
    "train": {"base", "kernels", "supernets", "parallel", "checkpoint", "console", "runfolder", "data"},
    "saved": {"base", "networks", "spaces", "checkpoint", "files", "data"},
    **{
        name: {"base", "spaces", "runfolder", "celllayout", "console", "files", "fingerprint", "memory"}
        for name in OUTSIDE - {"data"}
    },
    "data": {"base", "files", "fingerprint", "parallel"},
}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_lies_below(part):
    files = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).glob("*.py"))
    assert files
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxnas":
                names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                imported.update(names)
    assert imported - {part} <= ALLOWED[part]


def test_every_part_has_its_place():
    parts = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert parts - {"__init__", "__pycache__"} == set(ALLOWED)
