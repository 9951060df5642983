"""The proxies of the library, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from jaxnas.proxies import gradients, patterns
from jaxnas.proxies.aggregate import AGGREGATES, COSTS
from jaxnas.proxies.az_nas import expressivity, progressivity, trainability
from jaxnas.proxies.passes import Proxy
from jaxnas.proxies.vkdnw import vkdnw
from jaxnas.proxies.zen import zen

PROXIES: Mapping[str, Proxy] = MappingProxyType(
    {
        "layers": gradients.layers,
        "l2_norm": gradients.l2_norm,
        "plain": gradients.plain,
        "grad_norm": gradients.grad_norm,
        "snip": gradients.snip,
        "grasp": gradients.grasp,
        "synflow": gradients.synflow,
        "fisher": gradients.fisher,
        "zico": gradients.zico,
        "jacov": patterns.jacobian_covariance,
        "epe_nas": patterns.epe_nas,
        "naswot": patterns.naswot,
        "swap": patterns.swap,
        "zen": zen,
        "expressivity": expressivity,
        "progressivity": progressivity,
        "trainability": trainability,
        "vkdnw": vkdnw,
    }
)
"""Those that are made from a network."""


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of proxies, costs and aggregates, each once; an aggregate brings what it is made from.

    Raises: ValueError for a name that there is not, or none.

    >>> checked_names(["az_nas"])
    ('expressivity', 'progressivity', 'trainability', 'macs', 'az_nas')
    """
    every: dict[str, None] = {}
    for name in names:
        if name not in PROXIES and name not in COSTS and name not in AGGREGATES:
            known = ", ".join((*COSTS, *PROXIES, *AGGREGATES))
            raise ValueError(f"there is no proxy {name!r}; there are {known}")
        every.update(dict.fromkeys((*AGGREGATES.get(name, ()), name)))
    if not every:
        raise ValueError("name at least one proxy, got none")
    return tuple(every)
