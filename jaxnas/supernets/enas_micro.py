"""The supernet of ENAS's micro space (Pham et al. 2018, section 2.4, https://arxiv.org/abs/1802.03268).

Every cell holds, for each node, side and source, the parameters of every operation. Batch norm after operations has no
affine part; pools have none, as in the paper. The frame is that of the evaluation network, with room for the outputs
of all nodes: those that are read by another node are zeros in the output, and reach nothing that reads it.

In the mixture a node is in the output with the product of the weights of "none" on the edges that could read it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Network, PyTree, Skeleton, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.kernels.arrays import joined
from jaxnas.kernels.norm import widened
from jaxnas.networks.enas_micro import enas_micro_network
from jaxnas.ops.primitives import Operations, named
from jaxnas.spaces.enas_micro import (
    ENAS_MICRO_OPERATIONS,
    enas_micro_edges,
    enas_micro_loose,
    enas_micro_slots,
    enas_micro_space,
)
from jaxnas.supernets.cells import in_runs, make_cells, separate
from jaxnas.supernets.executors import Edges, Form, strongest_alone
from jaxnas.supernets.extracting import as_network, of_channels
from jaxnas.supernets.used import kernel_of, used_by_path


def enas_micro_supernet(
    skeleton: Skeleton,
    nodes: int = 5,
    operations: Operations = ENAS_MICRO_OPERATIONS,
    *,
    form: Form | None = None,
    remat: bool = False,
    sampled: bool = False,
    partial: int = 1,
) -> Supernet:
    """The supernet over `enas_micro_space(nodes, operations)`.

    The paper's has `Skeleton(channels=20, cells=8, image_shape=(32, 32, 3), num_classes=10)`: six normal and two
    reduction cells. Other arguments as of `darts_supernet`; "none" here is no edge, past which no channels go, so that
    of partial channels they have the sum of the other weights.

    Raises: ValueError as `enas_micro_space`, and for a form or a mixture that cannot be.

    >>> skeleton = Skeleton(channels=4, cells=3, image_shape=(8, 8, 3), num_classes=10)
    >>> supernet = enas_micro_supernet(skeleton, 1, ("sep_conv_3x3", "skip_connect"))
    >>> params, images = jax.eval_shape(supernet.init, jax.random.key(0)), jnp.zeros((5, 8, 8, 3))
    >>> arch = supernet.space.sample(jax.random.key(1))
    >>> jax.eval_shape(lambda p: supernet.apply_path(p, arch, images, Context())[0], params).shape
    (5, 10)
    """
    space, slots = enas_micro_space(nodes, operations), enas_micro_slots(nodes)
    cells = make_cells(
        skeleton, nodes, [(source, node) for node, _, source in slots], named(("none", *operations)),
        form=form, remat=remat, affine=False, inputs_affine=True, sampled=sampled, partial=partial,
        absent=0,
    )  # fmt: skip
    kinds = [shape.kind for shape, count in cells.frame.runs for _ in range(count)]

    def edges_of(arch: Arch) -> dict[str, Edges]:
        ends = tuple(node for node in range(nodes) for _ in range(2))
        return {kind: Edges(*own, ends) for kind, own in enas_micro_edges(arch).items()}

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        def join(kind: str, states: Array) -> Array:
            loose, own = jnp.ones(nodes), strongest_alone(weights[kind]) if sampled else weights[kind]
            for slot, (_, _, source) in enumerate(slots):
                if source > 1:
                    loose = loose.at[source - 2].multiply(own[slot, 0])
            return _weighted(states, loose)

        return cells.mixture(params, weights, join, x, context)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        loose = enas_micro_loose(arch)
        return cells.path(params, edges_of(arch), lambda kind, states: _weighted(states, loose[kind]), x, context)

    def used(arch: Arch) -> PyTree:
        return used_by_path(skeleton, cells, edges_of(arch), enas_micro_loose(arch), none=0)

    def network(arch: Arch) -> Network:
        return enas_micro_network(arch, skeleton, space, operations=operations)

    def output_counts(genotype: Any) -> dict[str, int]:
        return {kind: len(genotype[f"{kind}_concat"]) for kind in ("normal", "reduce")}

    def extract(params: PyTree, arch: Arch) -> PyTree:
        genotype = space.to_genotype(arch)

        def there(index: int, kernel: Array) -> Array:
            """Of the rows of a kernel, which are C of each node of the cell that it reads, those of loose ends."""
            if index < 0:
                return kernel
            rows = np.arange(kernel.shape[0]).reshape(nodes, -1)
            return kernel[rows[np.array(genotype[f"{kinds[index]}_concat"]) - 2].reshape(-1)]

        each = separate(cells, params["cells"], edges_of(arch), by_slot=True)
        for c, cell in enumerate(each):
            cell["preprocess"] = tuple(
                {**own, kernel_of(own): jax.tree.map(lambda k, at=c - 2 + side: there(at, k), own[kernel_of(own)])}
                for side, own in enumerate(cell["preprocess"])
            )
        kernel = there(len(kinds) - 1, params["classifier"]["kernel"])
        runs = in_runs(each, skeleton, output_counts(genotype))
        found = {**params, "cells": runs, "classifier": {**params["classifier"], "kernel": kernel}}
        return as_network(network, found, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        genotype = space.to_genotype(arch)
        each = separate(cells, stats["cells"], edges_of(arch), by_slot=False)
        return {**stats, "cells": in_runs(each, skeleton, output_counts(genotype))}

    parts = (cells.init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(of_channels(Supernet(space, *parts, skeleton.image_shape), partial))


def _weighted(states: Array, loose: Array) -> Array:
    """Nodes [N, B, H, W, C] side by side, each times its entry of loose [N]."""
    return joined((widened(states) * loose[:, None, None, None, None]).astype(states.dtype))
