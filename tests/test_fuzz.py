"""A minute of `benchmarks.fuzz`, always the same: what nobody would give fails in one line and within seconds."""

import dataclasses
import typing

import pytest

from benchmarks import fuzz
from jaxnas import fit
from jaxnas.making import Settings
from jaxnas.ranges import Within
from jaxnas.tabular import MethodSettings


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return fuzz.make_places(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize("name", sorted(fuzz.PROGRAMS))
def test_flags(name, places, tmp_path):
    assert fuzz.tried(fuzz.checks(places, tmp_path)[f"program {name}"], 4, 0) is None


def test_files_genotypes_and_tables(places, tmp_path):
    checks = fuzz.checks(places, tmp_path)
    for name in fuzz.FILES:
        assert fuzz.tried(checks[f"file {name}"], 4, 1) is None, name
    for name in ("genotypes", "tables"):
        assert fuzz.tried(checks[name], 15, 1) is None, name


def test_what_is_no_line_is_found():
    def fault():
        raise KeyError("x")

    with pytest.raises(fuzz.FoundError, match="KeyError for 'it'"):
        fuzz.attempt(fault, "it")
    assert fuzz.attempt(lambda: [][0:], "it") is None


SETTINGS = (
    fit.Training, fit.Darts, fit.Enas, fit.OneShot, fit.BlackBox, fit.Limits, fit.Devices, fit.Sharing, Settings,
    MethodSettings, *(module.Config for module in fuzz.PROGRAMS.values()),
)  # fmt: skip
FREE = {"fidelities", "size", "batch_sizes", "steps"}
"""What is checked with the data, or against another setting."""


def has_range(hint):
    if isinstance(hint, type) and issubclass(hint, int | float) and hint is not bool:
        return False
    if typing.get_origin(hint) is typing.Annotated:
        return any(isinstance(each, Within) for each in hint.__metadata__) or has_range(typing.get_args(hint)[0])
    inner = typing.get_args(hint)
    return typing.get_origin(hint) is typing.Literal or all(has_range(each) for each in inner if each is not ...)


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_number_of_the_settings_has_a_range(kind):
    hints = typing.get_type_hints(kind, include_extras=True)
    names = {field.name for field in dataclasses.fields(kind)} - FREE
    assert not [name for name in names if not has_range(hints[name])]
