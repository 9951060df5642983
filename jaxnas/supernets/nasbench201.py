"""The supernet of the NAS-Bench-201 space (Dong and Yang, "NAS-Bench-201", ICLR 2020, section 2).

Three stages of equal cells, a residual block that halves the image between them. Batch norm in the cells has no affine
part in a search; the benchmark's own networks have it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import (
    Arch,
    ArchWeights,
    Array,
    Aux,
    Context,
    Key,
    Network,
    PyTree,
    Skeleton,
    Stats,
    Supernet,
)
from jaxnas.checks import checked_supernet
from jaxnas.kernels.marks import CELL, mark
from jaxnas.kernels.trees import taken
from jaxnas.networks.blocks import Item, draw, equal_runs, part_keys
from jaxnas.networks.nasbench201 import apply_frame, init_frame, nasbench201_network
from jaxnas.ops.primitives import Operations, named, names_of, none_index
from jaxnas.spaces.nasbench201 import (
    NASBENCH201_EDGES,
    NASBENCH201_OPERATIONS,
    nasbench201_live,
    nasbench201_space,
    nasbench201_stages,
)
from jaxnas.supernets.executors import (
    Edges,
    Form,
    Layout,
    checked_form,
    checked_mixture,
    edges_init,
    executor,
    used_edges,
    with_key_if_read,
)
from jaxnas.supernets.extracting import as_network, of_channels
from jaxnas.supernets.kept import checked_keep

_LAYOUT = Layout(inputs=1, nodes=3, ends=tuple((source, node - 1) for node, source in NASBENCH201_EDGES))


def nasbench201_supernet(
    skeleton: Skeleton,
    operations: Operations = NASBENCH201_OPERATIONS,
    *,
    keep: Mapping[str, Any] | None = None,
    form: Form | None = None,
    remat: bool = False,
    affine: bool = False,
    sampled: bool = False,
    partial: int = 1,
) -> Supernet:
    """The supernet over `nasbench201_space(operations)`; the benchmark's skeleton has channels=16 and cells=5 a stage.

    Arguments as in `darts_supernet`. Parameters of the cells are stacked over the cells and edges of a stage,
    [N, 6, …], and the cells of a stage are scanned. Of partial channels "none" brings what goes past it, too. The
    operations that `keep` leaves out are not computed in the mixture; here they keep their parameters.

    Raises: ValueError as `nasbench201_space`, and for a form or a mixture that cannot be.

    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> arch = supernet.space.from_genotype("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|")
    >>> params = jax.eval_shape(supernet.init, jax.random.key(0))
    >>> own = jax.eval_shape(lambda p: supernet.extract(p, arch), params)  # cut out for the network of `arch`
    >>> own == jax.eval_shape(supernet.network(arch).init, jax.random.key(0))[0]
    True
    """
    form = checked_form(skeleton, form, remat)
    space, names, primitives = nasbench201_space(operations), names_of(operations), named(operations)
    stages = nasbench201_stages(skeleton)
    shape = (len(NASBENCH201_EDGES), len(names))
    kept = checked_keep(keep, {"cell": shape}, none_index(names))
    checked_mixture([channels for channels, _ in stages], partial=partial, sampled=sampled, affine=affine)
    run = executor(
        form, primitives, None if kept is None else kept["cell"], remat=remat, sampled=sampled, partial=partial
    )

    def init(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(stages))
        cells = [
            edges_init(primitives, _LAYOUT, k, channels // partial, (skeleton.cells,), affine)["plain"]
            for k, (channels, _) in zip(rest, stages, strict=True)
        ]
        return {**draw(outside, functools.partial(init_frame, skeleton=skeleton)), "stages": cells}

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        context = context._replace(bn="batch")

        def cell(x: Array, item: Item) -> tuple[Array, Stats]:
            here, own = item.within(context), {"plain": item.params}
            return run.mixture(_LAYOUT, own, weights["cell"], x[None], here)[-1], ()

        return forward(cell, params, x, context)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        def cell(x: Array, item: Item) -> tuple[Array, Stats]:
            here = item.within(context)
            here = here if isinstance(here.bn, str) else here._replace(bn={"plain": here.bn})
            states, seen = run.path(_LAYOUT, _edges(arch), {"plain": item.params}, x[None], here)
            return mark(states[-1], CELL), seen["plain"]

        return forward(cell, params, x, context)

    def forward(cell: Any, params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        context = with_key_if_read(context, primitives)
        keys = part_keys(context, len(stages) * skeleton.cells)  # as those of a derived network

        def stage(s: int, x: Array) -> tuple[Array, Stats]:
            here = context.at("stages", s)
            own = None if keys is None else keys[s * skeleton.cells : (s + 1) * skeleton.cells]
            return equal_runs(cell, x, params["stages"][s], here, own)

        return apply_frame(stage, params, x.astype(skeleton.dtype), context)

    def used(arch: Arch) -> PyTree:
        shapes = jax.eval_shape(init, jax.random.key(0))
        edges, live = _edges(arch), nasbench201_live(arch, operations)
        masks = []
        for own, (channels, _) in zip(shapes["stages"], stages, strict=True):
            # What goes past an operation is read by others, unless each gets one channel, which no shuffle moves.
            alive = live if partial in (1, channels) else jnp.ones_like(live)
            masks.append(used_edges(_LAYOUT, edges, {"plain": own}, jnp.tile(alive, (skeleton.cells, 1)))["plain"])
        return {**jax.tree.map(lambda _: jnp.array(True), shapes), "stages": masks}

    def network(arch: Arch) -> Network:
        return nasbench201_network(arch, skeleton, space, operations=operations)

    def extract(params: PyTree, arch: Arch) -> PyTree:
        return as_network(network, {**params, "stages": _by_cells(params["stages"], arch, names, skeleton.cells)}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        return {**stats, "stages": _by_cells(stats["stages"], arch, names, skeleton.cells)}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(of_channels(Supernet(space, *parts, skeleton.image_shape), partial))


def _edges(arch: Arch) -> Edges:
    """What a path runs in each cell: of every slot the operation taken."""
    sources, nodes = zip(*_LAYOUT.ends, strict=True)
    return Edges(jnp.arange(len(sources)), jnp.array(sources), jnp.asarray(arch), nodes)


def _by_cells(trees: PyTree, arch: Arch, names: tuple[str, ...], cells: int) -> list[list[PyTree]]:
    """Parameters or statistics of all stages -> for each cell those of its edges but "none"."""
    edges = [(slot, o) for slot, o in enumerate(np.asarray(arch).tolist()) if names[o] != "none"]
    return [[[taken(stage[o], cell, slot) for slot, o in edges] for cell in range(cells)] for stage in trees]
