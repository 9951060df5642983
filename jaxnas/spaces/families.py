"""The spaces by their names: of each name the space that has some architectures, or some choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxnas.base import Choice, SearchSpace
from jaxnas.spaces import genotypes
from jaxnas.spaces.chain import chain_space
from jaxnas.spaces.darts import DARTS_OPERATIONS, darts_space
from jaxnas.spaces.enas_macro import enas_macro_space
from jaxnas.spaces.enas_micro import ENAS_MICRO_OPERATIONS, enas_micro_space
from jaxnas.spaces.nasbench101 import nasbench101_space
from jaxnas.spaces.nasbench201 import NASBENCH201_OPERATIONS, nasbench201_space
from jaxnas.spaces.own import genotype_space
from jaxnas.spaces.reading import read_genotype
from jaxnas.spaces.sizes import natsbench_size_space

Fail = Callable[[int, str], ValueError]
"""(number of an architecture, what is wrong) -> the error that says so."""


class Family(NamedTuple):
    """Spaces of one name. space: that of the paper. larger: (space, genotypes) -> the space that has them as well, None
    where there is one space alone. like: choices -> the spaces of this name that may have them."""

    space: Callable[[], SearchSpace]
    larger: Callable[[Sequence[Mapping[str, Any]]], SearchSpace] | None
    like: Callable[[Sequence[Choice]], Iterable[SearchSpace]]


def _options(choices: Sequence[Choice], place: int, operations: Sequence[str]) -> tuple[str, ...]:
    """Operations of a paper and those of a choice that it has not; those of the choice where it lacks some of them."""
    own = choices[place].options
    others = tuple(name for name in own if name not in operations)
    return (*operations, *others) if set(operations) - {"none"} <= set(own) else own


def _darts(free: bool) -> Callable[[Sequence[Choice]], Iterable[SearchSpace]]:
    def like(choices: Sequence[Choice]) -> Iterable[SearchSpace]:
        if len(choices) % 6 == 0 and choices:
            yield darts_space(len(choices) // 6, _options(choices, 1, DARTS_OPERATIONS), free=free)
            if not free:
                yield from _darts(True)(choices)

    return like


def _larger_darts(found: Sequence[Mapping[str, Any]]) -> SearchSpace:
    """With the operations of all, and free where one is."""
    spaces = [genotype_space({**genotype, "space": "darts"}) for genotype in found]
    nodes = max(len(space.choices) // 6 for space in spaces)
    names = dict.fromkeys(name for space in spaces for name in space.choices[1].options)
    free = any(choice.options[0] == "0,0" for space in spaces for choice in space.choices[:1])
    others = tuple(name for name in names if name not in DARTS_OPERATIONS)
    return darts_space(nodes, (*DARTS_OPERATIONS, *others), free=free)


def _larger_nasbench201(found: Sequence[Mapping[str, Any]]) -> SearchSpace:
    spaces = [genotype_space({**genotype, "space": "nasbench201"}) for genotype in found]
    names = dict.fromkeys(name for space in spaces for name in space.choices[0].options)
    others = tuple(name for name in names if name not in NASBENCH201_OPERATIONS)
    return nasbench201_space((*NASBENCH201_OPERATIONS, *others))


def _larger_micro(found: Sequence[Mapping[str, Any]]) -> SearchSpace:
    spaces = [genotype_space({**genotype, "space": "enas_micro"}) for genotype in found]
    names = dict.fromkeys(name for space in spaces for name in space.choices[2].options)
    others = tuple(name for name in names if name not in ENAS_MICRO_OPERATIONS)
    return enas_micro_space(max(len(space.choices) // 8 for space in spaces), (*ENAS_MICRO_OPERATIONS, *others))


def _first(name: str) -> Callable[[Sequence[Mapping[str, Any]]], SearchSpace]:
    """The space of the first genotype, which says how many layers there are."""
    return lambda found: genotype_space({**found[0], "space": name})


def _macro_like(choices: Sequence[Choice]) -> Iterable[SearchSpace]:
    for layers in range(3, 65):
        if layers * (layers + 1) // 2 == len(choices):
            yield enas_macro_space(layers, choices[0].options)


def _chain_like(choices: Sequence[Choice]) -> Iterable[SearchSpace]:
    depths: dict[str, int] = {}
    for choice in choices:  # "stage 0 layer 3"
        stage = choice.name.partition(" layer")[0]
        depths[stage] = depths.get(stage, 0) + 1
    blocks = max((choice.options for choice in choices), key=len, default=())
    yield chain_space(tuple(depths.values()), blocks)


def _only(make: Callable[[], SearchSpace]) -> Callable[[Sequence[Choice]], Iterable[SearchSpace]]:
    return lambda choices: [make()]


def _free_darts() -> SearchSpace:
    return darts_space(free=True)


FAMILIES: dict[str, Family] = {
    "darts": Family(darts_space, _larger_darts, _darts(False)),
    "darts_free": Family(_free_darts, _larger_darts, _darts(True)),
    "nasbench201": Family(
        nasbench201_space,
        _larger_nasbench201,
        lambda choices: [nasbench201_space(_options(choices, 0, NASBENCH201_OPERATIONS))] if choices else [],
    ),
    "nasbench101": Family(nasbench101_space, None, _only(nasbench101_space)),
    "natsbench_size": Family(natsbench_size_space, None, _only(natsbench_size_space)),
    "enas_micro": Family(
        enas_micro_space,
        _larger_micro,
        lambda choices: (
            [enas_micro_space(len(choices) // 8, _options(choices, 2, ENAS_MICRO_OPERATIONS))]
            if choices and len(choices) % 8 == 0
            else []
        ),
    ),
    "enas_macro": Family(enas_macro_space, _first("enas_macro"), _macro_like),
    "chain": Family(chain_space, _first("chain"), _chain_like),
}
"""The names by which tables know the spaces of the library."""


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise ValueError(f"there is no space {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def space_of_choices(name: str, choices: Sequence[Choice] | None = None) -> SearchSpace | None:
    """The space of a name that has these choices, None where none has; without choices that of the paper.

    Raises: ValueError for an unknown name.
    """
    family = _family(name)
    if choices is None:
        return family.space()
    wanted = [choice.options for choice in choices]
    try:
        for space in family.like(choices):
            if [choice.options for choice in space.choices] == wanted:
                return space
    except ValueError:
        pass  # choices of another kind
    return None


def space_of_texts(name: str, texts: Sequence[str], fail: Fail) -> SearchSpace:
    """The smallest space of a name that has all architectures that are written in some texts.

    It is that of the paper where that has them. Otherwise it has the operations that occur beside those of the paper,
    as many nodes or layers as they have and, of DARTS, "none" and two edges from one input.

    Raises: ValueError for an unknown name, or by `fail` for the first text that no space of the name has.
    """
    family = _family(name)
    space = family.space()
    if family.larger is None:
        return space
    others: list[int] = []
    known: set[str] = set()
    for number, text in enumerate(texts):
        if text in known:
            continue
        known.add(text)
        try:
            space.from_genotype(text)
        except ValueError as error:
            others.append(number)
            if len(others) == 1:
                first = str(error)
    if not others:
        return space
    found: list[Mapping[str, Any]] = []
    for number in others:
        try:
            genotype = _genotype(name, texts[number])
            family.larger([genotype])
            found.append(genotype)
        except ValueError as error:
            raise fail(number, first if number == others[0] and _same_size(name) else str(error)) from None
    return family.larger(found)


def _same_size(name: str) -> bool:
    """Whether all spaces of a name have as many choices, so that the error of the paper's space says enough."""
    return name == "nasbench201"


def _genotype(name: str, text: str) -> Mapping[str, Any]:
    """The JSON form of an architecture in the notation of a space. Raises ValueError where it is none."""
    if name == "nasbench201":
        return read_genotype(text, lambda given: {"cell": genotypes.parse_nasbench201(given)})
    if name == "chain":
        return read_genotype(text, lambda given: {"stages": [stage.split() for stage in given.split("|")]})
    if name in ("enas_micro", "enas_macro"):
        return read_genotype(text, lambda given: {"arc": _numbers(given)})
    return read_genotype(text)


def _numbers(text: str) -> list[int]:
    return genotypes.parse_numbers(text, len(genotypes.number_words(text)), "the numbers of an architecture")
