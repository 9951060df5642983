"""The first Python that a reader meets runs as it stands."""

import re
from pathlib import Path

import jaxnas

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_first_lines_of_python_run_and_find_a_cell(monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    lines = block.splitlines()
    assert len(lines) <= 15
    assert sum(line.startswith(("import", "from")) for line in lines) <= 6

    def short(*arguments):
        """The preset with three candidates and one epoch: what the lines do is the same."""
        method, training, *rest = jaxnas.fit.preset(*arguments)
        replace = jaxnas.fit.presets.dataclasses.replace
        return replace(method, evaluations=3, epochs=1), replace(training, epochs=1, channels=2), *rest

    monkeypatch.setattr(jaxnas, "preset", short, raising=False)
    names = {}
    exec(block, names)
    assert names["result"].result["truth"]["rank"] >= 1
    assert names["logits"].shape == (10, 10)


def test_every_program_of_the_readme_is_there_with_its_flags():
    root = Path(__file__).parents[1]
    named = set(re.findall(r"python -m experiments\.(\w+)", TEXT)) - {"NAME"}
    files = {path.stem for path in (root / "experiments").glob("*.py")} - {"__init__", "common", "models"}
    assert named == files
