"""A space that is only a product of named choices: what a space is where no cell and no network stands behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Choice, Graph, SearchSpace, Skeleton
from jaxnas.checks import checked_space
from jaxnas.spaces.literals import shown
from jaxnas.spaces.product import entries, product
from jaxnas.spaces.reading import read_genotype


def product_space(name: str, options: Mapping[str, Sequence[Any]]) -> SearchSpace:
    """The space of all combinations of options. options: name of a choice -> its options, known by their `str`.

    A mixture has a cell kind for each choice, [1, O]. The graph is the choices one after another; an operation id is
    the number of an option among those of all choices in turn. The genotype is {"space": name, choice: option, …}, the
    notation "choice=option choice=option …". There are no costs.

    A name or an option with a space in it cannot be read back from the notation, only from the genotype.

    Raises: ValueError where a choice has options of one name, no option, or all choices together have one combination.

    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> space.notation(space.from_genotype({"space": "tiny", "width": "16", "depth": "2"}))
    'width=16 depth=2'
    >>> [choice.name for choice in space.choices]
    ['width', 'depth']
    """
    choices = tuple(Choice(choice, tuple(map(str, values))) for choice, values in options.items())
    for choice in choices:
        if len(set(choice.options)) < len(choice.options):
            raise ValueError(f"choice {choice.name!r} has an option twice: {', '.join(choice.options)}")
    first = np.array([sum(len(choice.options) for choice in choices[:d]) for d in range(len(choices))], np.int32)

    def template() -> ArchWeights:
        return {choice.name: jnp.zeros((1, len(choice.options)), jnp.float32) for choice in choices}

    def one_hot(arch: Arch) -> ArchWeights:
        return {c.name: jax.nn.one_hot(arch[d], len(c.options), dtype=jnp.float32)[None] for d, c in enumerate(choices)}

    def discretize(weights: ArchWeights) -> Arch:
        return jnp.stack([jnp.argmax(weights[choice.name][0]) for choice in choices]).astype(jnp.int32)

    def graph(arch: Arch) -> Graph:
        count = len(choices)
        return Graph(jnp.eye(count, k=1)[None], jnp.asarray(first + arch)[None], jnp.ones((1, count), bool))

    def costs(arch: Arch, skeleton: Skeleton) -> dict[str, int]:
        return {}

    def to_genotype(arch: Arch) -> dict[str, Any]:
        taken = zip(choices, entries(choices, arch), strict=True)
        return {"space": name, **{choice.name: choice.options[entry] for choice, entry in taken}}

    def parse(text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for choice, _, option in (part.partition("=") for part in text.split()):
            if choice in found:
                raise ValueError(f"the genotype has choice {choice!r} twice: {found[choice]} and {option}")
            found[choice] = option
        return found

    def notation(arch: Arch) -> str:
        taken = zip(choices, entries(choices, arch), strict=True)
        return " ".join(f"{choice.name}={choice.options[entry]}" for choice, entry in taken)

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        found: Any = genotype
        if isinstance(genotype, str):
            found = parse(genotype) if not genotype.lstrip().startswith("{") else read_genotype(genotype)
        if not isinstance(found, Mapping):
            raise ValueError(f"a genotype is a text or the JSON form of its space, got {shown(found)}")
        if found.get("space", name) != name:
            raise ValueError(f"the genotype is of the space {shown(found['space'])}, not of {name!r}")
        known = {choice.name for choice in choices}
        if unknown := [key for key in found if key not in known and key != "space"]:
            raise ValueError(f"there is no choice {shown(unknown[0])}; there are {', '.join(sorted(known))}")
        arch = []
        for choice in choices:
            option = found.get(choice.name, "missing")
            option = str(option) if isinstance(option, (str, int, float)) else shown(option)
            if option not in choice.options:
                raise ValueError(
                    f"choice {choice.name!r} is {shown(option)[1:-1]}; it must be one of {', '.join(choice.options)}"
                )
            arch.append(choice.options.index(option))
        return jnp.array(arch, jnp.int32)

    space = SearchSpace(
        name=name,
        choices=choices,
        **product(choices)._asdict(),
        canonical=lambda arch: arch,
        template=template,
        one_hot=one_hot,
        discretize=discretize,
        graph=graph,
        costs=costs,
        to_genotype=to_genotype,
        from_genotype=from_genotype,
        notation=notation,
        vocabulary=tuple(f"{choice.name}={option}" for choice in choices for option in choice.options),
    )
    return checked_space(space)
