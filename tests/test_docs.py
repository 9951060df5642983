"""The documentation: links lead somewhere, commands and their flags exist, and examples in docstrings are true."""

import dataclasses
import doctest
import importlib
import inspect
import re
import sys
import typing
from pathlib import Path

import pytest

import jaxnas

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/[a-z]*/*.md")])
CODE = Path(jaxnas.__file__).parent
WITH_EXAMPLES = sorted(path for path in CODE.rglob("*.py") if "    >>> " in path.read_text(encoding="utf-8"))
sys.path.insert(0, str(ROOT / "docs" / "_ext"))


def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """Of the headings of a page, as a code forge makes them."""
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_pages_leads_to_a_file_and_a_heading():
    broken, followed = [], 0
    for page in PAGES:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]*)\)", prose):
            if target.startswith(("http:", "https:", "mailto:")):
                continue
            name, _, heading = target.partition("#")
            file = page if not name else page.parent / name
            followed += 1
            if not target or not file.exists() or (heading and heading not in anchors(file)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
    assert followed > 70


def commands():
    """(page, module, flags) of every `python -m` that a page has in a block of code or within a sentence."""
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", text_of(page))
        blocks = [
            line.split(" #")[0] for block in re.findall(r"```.*?```", text, re.DOTALL) for line in block.split("\n")
        ]
        spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [*blocks, *spans]:
            for module, rest in re.findall(r"python -m ((?:experiments|benchmarks)\.\w+)(.*)", line, re.DOTALL):
                # In a block, words after many spaces say what the line does.
                given = rest.partition("   ")[0] if line in blocks else rest
                yield page, module, re.findall(r"(?<=\s)--([a-z][\w.-]*)", given)


def flags_of(config):
    """The flags of a config and of those within it, as the command line spells them."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        flag = field.name.replace("_", "-")
        if not field.init:
            continue
        kind, own = hints[field.name], False
        for option in (kind, *typing.get_args(kind)):
            if dataclasses.is_dataclass(option):
                own = True
                yield from (f"{flag}.{inner}" for inner in flags_of(option))
        if not own:
            yield flag
            yield f"no-{flag}"


def known_flags(module):
    """All flags of a program: of its config, else those that its source adds to a parser."""
    source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
    if "add_argument" in source or "class Config" not in source:
        return None if "add_argument" not in source else set(re.findall(r'add_argument\(\s*"--([\w.-]+)"', source))
    return set(flags_of(importlib.import_module(module).Config))


def test_every_command_of_a_page_exists_with_its_flags():
    wrong, flags, known = [], 0, {}
    for page, module, given in commands():
        if module == "experiments.NAME":
            continue
        if not (ROOT / Path(*module.split("."))).with_suffix(".py").exists():
            wrong.append(f"{page.relative_to(ROOT)}: {module}")
            continue
        known.setdefault(module, known_flags(module))
        flags += len(given)
        if known[module] is not None:
            wrong += [f"{page.relative_to(ROOT)}: {module} --{flag}" for flag in given if flag not in known[module]]
    assert wrong == []
    assert flags > 60


def test_what_the_table_of_methods_says_was_found_is_on_the_leaderboard():
    board = set(re.findall(r"\d+\.\d+ ± \d+\.\d+", text_of(ROOT / "docs" / "leaderboard.md")))
    table = set(re.findall(r"\d+\.\d+ ± \d+\.\d+", text_of(ROOT / "docs" / "methods.md")))
    assert table <= board
    assert len(table) >= 8


def test_every_method_of_darts_is_in_the_tables():
    for page in ("methods.md", "differentiable.md"):
        text = text_of(ROOT / "docs" / page)
        names = typing.get_args(typing.get_type_hints(jaxnas.Darts)["method"])
        assert [name for name in names if f"{name}`" not in text and f"`… {name}`" not in text] == []


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_are_true(path):
    name = ".".join(path.relative_to(CODE.parent).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testmod(module, optionflags=flags, verbose=False)
    assert tried
    assert not failed


def test_every_function_of_the_reference_has_an_example_or_names_the_page_that_runs_it():
    listed = re.findall(r"^   (jaxnas[\w.]*)$", text_of(ROOT / "docs" / "reference" / "index.md"), re.MULTILINE)
    folders = [CODE.parent.joinpath(*name.split(".")) for name in listed]
    found = [each.is_dir() or each.with_suffix(".py").exists() for each in folders]
    modules = [importlib.import_module(name) for name, there in zip(listed, found, strict=True) if there]
    functions, without = 0, []
    for module in modules:
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if inspect.isfunction(value) and not name.startswith("_"):
                functions += 1
                text = value.__doc__ or ""
                pages = re.findall(r"docs/[\w/]+\.md", text)
                if ">>>" not in text and not any((ROOT / page).exists() for page in pages):
                    without.append(f"{module.__name__}.{name}")
    assert without == []
    assert functions > 200


def test_plain_docstrings_become_paragraphs_lists_and_code():
    to_rst = importlib.import_module("plain_docstrings").to_rst
    out = to_rst(
        [
            "The worth of `arch`, up to a*b_c.",
            "",
            "arch: int32 [D]. table, other: names, as of",
            "`load`. How: it is looked up.",
            "",
            "    x = y * z",
            "",
            "- one",
            "  and more",
            "- two",
            "",
            "Raises: ValueError where it is_ not there.",
            "",
            ">>> 1 + 1",
            "2",
        ],
        ["arch", "table", "other"],
    )
    assert out[0] == "The worth of \\ :py:obj:`arch`\\ , up to a\\*b\\_c."
    assert "- **arch**: int32 [D]." in out
    assert any(line.startswith("- **table**, **other**: names, as of") for line in out)
    assert "    " + "    x = y * z" in out
    assert "::" in out
    assert "- one" in out
    assert "  and more" in out
    assert "**Raises:** ValueError where it is\\_ not there." in out
    assert out[-3:] == [">>> 1 + 1", "2", ""]


def test_every_tutorial_is_a_notebook_that_the_site_executes_and_lists():
    index = text_of(ROOT / "docs" / "index.md")
    tutorials = sorted(ROOT.glob("docs/tutorials/*.md"))
    assert len(tutorials) >= 9
    for page in tutorials:
        text = text_of(page)
        assert "format_name: myst" in text, page
        assert "```{code-cell} python" in text, page
        assert "```python" not in text, page  # would be shown and not run
        assert f"tutorials/{page.stem}" in index, page
