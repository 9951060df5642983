"""The supernets as their papers write them: loops over cells, nodes, edges and operations, and nothing else.

These are the definition. The fast supernets hold the same parameters in stacks and run their edges in loops or in few
large kernels; the tests hold them to what is here, in values and gradients, in double precision. To see what a supernet
computes, read this. To search in a cell of your own, copy a function and change its loops: what it returns is a whole
`Supernet`, slow to compile but right.

A mixture is normalized by the statistics of the batch, and tells none. A path is the mixture of its one-hot weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Key, PyTree, SearchSpace, Skeleton, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.networks.blocks import conv_bn, conv_bn_init, fresh_keys, global_pool
from jaxnas.networks.frame import preprocess, preprocess_init
from jaxnas.networks.nasbench201 import residual_block, residual_block_init
from jaxnas.ops import layers
from jaxnas.ops.chain import named_blocks
from jaxnas.ops.macro import named_macro
from jaxnas.ops.primitives import Operations, Primitive, named
from jaxnas.spaces import (
    CHAIN_BLOCKS,
    CHAIN_HEAD,
    DARTS_OPERATIONS,
    ENAS_MACRO_OPERATIONS,
    ENAS_MICRO_OPERATIONS,
    NASBENCH201_EDGES,
    NASBENCH201_OPERATIONS,
    chain_space,
    darts_space,
    edge_table,
    enas_macro_space,
    enas_micro_slots,
    enas_micro_space,
    nasbench201_space,
)
from jaxnas.spaces.chain import chain_stages, changing_blocks
from jaxnas.spaces.darts import darts_cells, stride_of
from jaxnas.spaces.enas_macro import enas_macro_stages
from jaxnas.spaces.nasbench201 import nasbench201_stages

Mixture = Callable[[PyTree, ArchWeights, Array, Context], Array]
"""(params, weights, images [B, H, W, C], context) -> logits [B, K]."""


def mixed_op(
    primitives: Sequence[Primitive], params: Sequence[PyTree], weights: Array, x: Array, stride: int, context: Context
) -> Array:
    """The mixed operation: the sum over operations o of weights[o] · o(x) (Liu et al. 2019, equation 2)."""
    return total(
        weights[o] * primitive.apply(params[o], x, stride, context)[0] for o, primitive in enumerate(primitives)
    )


def partial_op(
    primitives: Sequence[Primitive],
    params: Sequence[PyTree],
    weights: Array,
    x: Array,
    stride: int,
    context: Context,
    partial: int,
    past: Array | None = None,
) -> Array:
    """The mixed operation of the first 1 / partial of the channels (Xu et al. 2020, equation 1), all channels shuffled.

    past: what the others go past it with, by default the sum of the weights.
    """
    if partial == 1:
        return mixed_op(primitives, params, weights, x, stride, context)
    count = x.shape[-1] // partial
    mixed, rest = mixed_op(primitives, params, weights, x[..., :count], stride, context), x[..., count:]
    if stride == 2:
        rest = jax.lax.reduce_window(rest, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    both = jnp.concatenate([mixed, (weights.sum() if past is None else past) * rest], axis=-1)
    return both.reshape(*both.shape[:-1], partial, count).swapaxes(-1, -2).reshape(both.shape)


def sampled_weights(weights: ArchWeights) -> ArchWeights:
    """Of each slot the greatest weight; the others are zero. A sampled mixture is the mixture of these."""
    return {
        kind: jnp.where(jax.nn.one_hot(jnp.argmax(rows, axis=1), rows.shape[1], dtype=bool), rows, 0)
        for kind, rows in weights.items()
    }


def total(arrays: Iterable[Array]) -> Array:
    """The sum of arrays, of which there is at least one."""
    return functools.reduce(jnp.add, arrays)


def edge_init(primitives: Sequence[Primitive], key: Key, channels: int, stride: int) -> list[PyTree]:
    """The parameters of one edge: of each operation, batch norms without affine part."""
    keys = fresh_keys(key)
    return [primitive.init(next(keys), channels, stride, False) for primitive in primitives]


def plain_supernet(
    space: SearchSpace,
    input_shape: tuple[int, ...],
    init: Callable[[Key], PyTree],
    mixture: Mixture,
    used: Callable[[PyTree, ArchWeights], PyTree] | None = None,
) -> Supernet:
    """A whole supernet from the function of its mixture.

    used: (a tree of True in the form of the parameters, one-hot weights) -> the mask of the contract; where it is not
    given, all parameters count as used, and an optimizer may move those of operations that a path did not take.
    """

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        return mixture(params, weights, x, Context(axis_name=context.axis_name)), Aux(())

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return apply(params, space.one_hot(arch), x, context)

    def used_by(arch: Arch) -> PyTree:
        everything = jax.tree.map(lambda _: jnp.array(True), jax.eval_shape(init, jax.random.key(0)))
        return everything if used is None else used(everything, space.one_hot(arch))

    return checked_supernet(Supernet(space, init, apply, apply_path, used_by, input_shape=input_shape))


def where(mask: Array, tree: PyTree) -> PyTree:
    """The mask in the place of every leaf of a tree."""
    return jax.tree.map(lambda _: mask, tree)


def darts_reference(
    skeleton: Skeleton, nodes: int = 4, operations: Operations = DARTS_OPERATIONS, partial: int = 1
) -> Supernet:
    """The search network of DARTS (Liu et al. 2019, sections 2.1 and 2.2, https://arxiv.org/abs/1806.09055).

    A cell has two inputs, the outputs of the two cells before it. Each of its nodes is the sum over all earlier nodes
    and inputs of mixed operations; its output is the concatenation of all nodes. partial: K of PC-DARTS.
    """
    space, primitives = darts_space(nodes, operations), named(operations, pool_norms=True)
    cells, edges = darts_cells(skeleton, nodes), edge_table(nodes)

    def init(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], 3 * skeleton.channels),
            "cells": [
                {
                    "preprocess": preprocess_init(next(keys), cell, affine=False),
                    "edges": [
                        edge_init(primitives, next(keys), cell.channels // partial, stride_of(cell.kind, s))
                        for _, s in edges
                    ],
                }
                for cell in cells
            ],
            "classifier": layers.dense_init(next(keys), cells[-1].outputs, skeleton.num_classes),
        }

    def mixture(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> Array:
        x, _ = conv_bn(x, params["stem"], context)
        s0 = s1 = x
        for cell, own in zip(cells, params["cells"], strict=True):
            states = [preprocess(s, p, context)[0] for s, p in zip((s0, s1), own["preprocess"], strict=True)]
            for node in range(nodes):
                incoming = [(slot, source) for slot, (target, source) in enumerate(edges) if target == node]
                states.append(
                    total(
                        partial_op(
                            primitives, own["edges"][slot], weights[cell.kind][slot], states[source],
                            stride_of(cell.kind, source), context, partial,
                        )
                        for slot, source in incoming
                    )
                )  # fmt: skip
            s0, s1 = s1, jnp.concatenate(states[2:], axis=-1)
        return layers.dense(global_pool(s1), params["classifier"])

    def used(mask: PyTree, taken: ArchWeights) -> PyTree:
        for cell, own in zip(cells, mask["cells"], strict=True):
            for slot, edge in enumerate(own["edges"]):
                own["edges"][slot] = [where(taken[cell.kind][slot, o] > 0, each) for o, each in enumerate(edge)]
        return mask

    return plain_supernet(space, skeleton.image_shape, init, mixture, used)


def nasbench201_reference(
    skeleton: Skeleton, operations: Operations = NASBENCH201_OPERATIONS, partial: int = 1
) -> Supernet:
    """The supernet of NAS-Bench-201 (Dong and Yang 2020, section 2, https://arxiv.org/abs/2001.00326).

    Node 0 of a cell is its input, node 3 its output; a node is the sum of mixed operations of all earlier ones.
    partial: K of PC-DARTS.
    """
    space, primitives = nasbench201_space(operations), named(operations)
    widths = [channels for channels, _ in nasbench201_stages(skeleton)]

    def init(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "blocks": [residual_block_init(next(keys), c, 2 * c) for c in widths[:-1]],
            "stages": [
                [
                    [edge_init(primitives, next(keys), c // partial, 1) for _ in NASBENCH201_EDGES]
                    for _ in range(skeleton.cells)
                ]
                for c in widths
            ],
            "norm": layers.affine_init(widths[-1]),
            "classifier": layers.dense_init(next(keys), widths[-1], skeleton.num_classes),
        }

    def mixture(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> Array:
        x, _ = conv_bn(x, params["stem"], context)
        for s, stage in enumerate(params["stages"]):
            if s > 0:
                x, _ = residual_block(x, params["blocks"][s - 1], context)
            for edges in stage:
                nodes = [x, *[jnp.zeros_like(x)] * 3]
                for slot, (target, source) in enumerate(NASBENCH201_EDGES):
                    nodes[target] += partial_op(
                        primitives, edges[slot], weights["cell"][slot], nodes[source], 1, context, partial
                    )
                x = nodes[3]
        x, _ = layers.batch_norm(x, params["norm"], context)
        return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"])

    def used(mask: PyTree, taken: ArchWeights) -> PyTree:
        for stage in mask["stages"]:
            for edges in stage:
                for slot, edge in enumerate(edges):
                    edges[slot] = [where(taken["cell"][slot, o] > 0, each) for o, each in enumerate(edge)]
        return mask

    return plain_supernet(space, skeleton.image_shape, init, mixture, used)


def enas_micro_reference(
    skeleton: Skeleton, nodes: int = 5, operations: Operations = ENAS_MICRO_OPERATIONS, partial: int = 1
) -> Supernet:
    """The shared network of ENAS's micro search (Pham et al. 2018, section 2.4, https://arxiv.org/abs/1802.03268).

    A node adds two sides, each a mixed operation of every earlier node and input. What no other node reads is
    concatenated: node n counts in the output with the product of the weights of "none" on all edges that start from it.
    partial: K of PC-DARTS, of which nothing goes past "none", which is no edge.
    """
    space, primitives = enas_micro_space(nodes, operations), named(("none", *operations))
    cells, slots = darts_cells(skeleton, nodes), enas_micro_slots(nodes)

    def init(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], 3 * skeleton.channels),
            "cells": [
                {
                    "preprocess": preprocess_init(next(keys), cell),
                    "edges": [
                        edge_init(primitives, next(keys), cell.channels // partial, stride_of(cell.kind, s))
                        for *_, s in slots
                    ],
                }
                for cell in cells
            ],
            "classifier": layers.dense_init(next(keys), cells[-1].outputs, skeleton.num_classes),
        }

    def mixture(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> Array:
        x, _ = conv_bn(x, params["stem"], context)
        s0 = s1 = x
        for cell, own in zip(cells, params["cells"], strict=True):
            here = weights[cell.kind]
            states = [preprocess(s, p, context)[0] for s, p in zip((s0, s1), own["preprocess"], strict=True)]
            for node in range(nodes):
                incoming = [(slot, source) for slot, (target, _, source) in enumerate(slots) if target == node]
                states.append(
                    total(
                        partial_op(
                            primitives, own["edges"][slot], here[slot], states[s], stride_of(cell.kind, s), context,
                            partial, here[slot, 1:].sum(),
                        )
                        for slot, s in incoming
                    )
                )  # fmt: skip
            loose = [
                jnp.prod(
                    jnp.stack([jnp.ones(()), *(here[k, 0] for k, (*_, source) in enumerate(slots) if source == n)])
                )
                for n in range(2, nodes + 2)
            ]
            s0, s1 = s1, jnp.concatenate([w * y for w, y in zip(loose, states[2:], strict=True)], axis=-1)
        return layers.dense(global_pool(s1), params["classifier"])

    return plain_supernet(space, skeleton.image_shape, init, mixture)


def enas_macro_reference(skeleton: Skeleton, operations: Operations = ENAS_MACRO_OPERATIONS) -> Supernet:
    """The shared network of ENAS's macro search (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268).

    Layer k is a mixed operation of the state before, plus every earlier state times the weight of its skip connection,
    normalized. After a stage all states are reduced.
    """
    space, primitives = enas_macro_space(skeleton.cells, operations), named_macro(operations)
    stages = enas_macro_stages(skeleton)

    def init(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "layers": [edge_init(primitives, next(keys), stage.channels, 1) for stage in stages for _ in stage.layers],
            "reductions": [
                [
                    layers.factorized_reduce_init(next(keys), stage.channels, 2 * stage.channels)
                    for _ in range(stage.layers.stop + 1)
                ]
                for stage in stages[:-1]
            ],
            "classifier": layers.dense_init(next(keys), stages[-1].channels, skeleton.num_classes),
        }

    def mixture(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> Array:
        x, _ = conv_bn(x, params["stem"], context)
        states = [x]
        for s, stage in enumerate(stages):
            for k in stage.layers:
                y = mixed_op(primitives, params["layers"][k], weights["operation"][k], states[k], 1, context)
                first = k * (k - 1) // 2  # the skips into layer k: from states 0 … k - 1
                y += sum(weights["skip"][first + earlier, 1] * states[earlier] for earlier in range(k))
                states.append(layers.batch_norm(y, None, context)[0])
            if s < len(stages) - 1:
                reduced = [layers.factorized_reduce(y, p) for y, p in zip(states, params["reductions"][s], strict=True)]
                states = [layers.batch_norm(y, None, context)[0] for y in reduced]
        return layers.dense(global_pool(states[-1]), params["classifier"])

    return plain_supernet(space, skeleton.image_shape, init, mixture)


def chain_reference(skeleton: Skeleton, depths: Sequence[int], blocks: Operations = CHAIN_BLOCKS) -> Supernet:
    """The supernet of a chain of mobile blocks (`jaxnas.spaces.chain`): a layer is a mixture of all its blocks.

    A layer that halves the image has no identity among them.
    """
    space, stages = chain_space(depths, blocks), chain_stages(skeleton, depths)
    every, changing = named_blocks(blocks), changing_blocks(blocks)
    # Of each layer: its blocks, channels of its input, stride, and where its weights are.
    plan: list[tuple[tuple[Primitive, ...], int, int, str, int]] = []
    counts = {"normal": 0, "reduce": 0}
    for stage in stages:
        for number in range(len(stage.layers)):
            reduces = stage.reduces and number == 0
            kind = "reduce" if reduces else "normal"
            channels = stage.channels // 2 if reduces else stage.channels
            plan.append((changing if reduces else every, channels, 2 if reduces else 1, kind, counts[kind]))
            counts[kind] += 1
    width = stages[-1].channels

    def init(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "layers": [edge_init(own, next(keys), c, stride) for own, c, stride, *_ in plan],
            "head": conv_bn_init(next(keys), 1, width, CHAIN_HEAD * width),
            "classifier": layers.dense_init(next(keys), CHAIN_HEAD * width, skeleton.num_classes),
        }

    def mixture(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> Array:
        x = jax.nn.relu(conv_bn(x, params["stem"], context)[0])
        for (own, _, stride, kind, slot), each in zip(plan, params["layers"], strict=True):
            x = mixed_op(own, each, weights[kind][slot], x, stride, context)
        x, _ = conv_bn(x, params["head"], context)
        return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"])

    return plain_supernet(space, skeleton.image_shape, init, mixture)
