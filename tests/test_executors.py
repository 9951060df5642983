"""What accelerators run: many depthwise convolutions and batch norms at once, the edges of a stage together."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.launches import launches
from jaxnas.base import Context
from jaxnas.kernels import many_depthwise as many
from jaxnas.kernels.depthwise import depthwise
from jaxnas.kernels.many_depthwise import many_depthwise
from jaxnas.kernels.platform import supposing
from jaxnas.kernels.windows import bordered
from jaxnas.ops import layers
from jaxnas.ops.primitives import initial_stats, named
from jaxnas.spaces import edge_table
from jaxnas.supernets.executors.chosen import chosen
from jaxnas.supernets.executors.edge import mixed_op
from jaxnas.supernets.executors.layout import Layout, edges_init, operations_init
from jaxnas.supernets.executors.scan import scan_executor
from jaxnas.supernets.executors.staged import stages
from jaxnas.supernets.executors.together import together
from jaxnas.supernets.executors.wide import suits, wide_executor


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def close(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected)


@pytest.mark.parametrize(("stride", "dilation", "shared"), [(1, 2, False), (2, 1, True)])
def test_many_depthwise_convolutions_are_those_one_by_one_in_every_form(stride, dilation, shared):
    x, kernels = normal(0, 2, 1 if shared else 3, 2, 5, 6, 2), bordered(normal(1, 2, 3, 3, 3, 2), 5)

    def one_by_one(x, kernels):
        def one(x, kernel):
            return depthwise(jax.nn.relu(x), kernel, stride, dilation)

        wide = jnp.broadcast_to(x, (*kernels.shape[:2], *x.shape[2:]))
        return jax.vmap(jax.vmap(one))(wide, kernels)

    ours, pull = jax.vjp(lambda x, k: many_depthwise(x, k, stride, dilation), x, kernels)
    expected, pull_expected = jax.vjp(one_by_one, x, kernels)
    close(ours, expected)
    close(pull(jnp.sin(ours)), pull_expected(jnp.sin(ours)))
    g = jnp.sin(ours)
    for forms, *arguments in (
        ((many.taps_looked_up, many._grouped), x, kernels, stride, dilation),
        ((many.sums_looked_up, many._transposed), x, g, 5, stride, dilation),
    ):
        close(*(form(*arguments) for form in forms))


def test_many_batch_norms_in_the_form_of_a_gpu_are_those_of_a_cpu_on_one_device_and_over_several():
    x, scale = 3 + normal(0, 2, 4, 3, 3, 2), normal(1, 2, 2)

    def norms(x, scale, axis_name=None):
        context = Context(axis_name=axis_name)
        return jax.vmap(lambda x, s: layers.batch_norm(x, {"scale": s}, context)[0])(x, scale)

    expected, pull = jax.vjp(norms, x, scale)
    g = jnp.sin(expected)
    expected_pulled = pull(g)

    def device(x, g):
        ours, pull = jax.vjp(lambda x, s: norms(x, s, "devices"), x, scale)
        return ours, *pull(g)

    halves = [array.reshape(2, 2, 2, *array.shape[2:]).swapaxes(0, 1) for array in (x, g)]
    with supposing("gpu"):
        ours, own_pull = jax.vjp(norms, x, scale)
        close((ours, own_pull(g)), (expected, expected_pulled))
        ours, dx, dscale = jax.vmap(device, axis_name="devices")(*halves)
    whole = [array.swapaxes(0, 1).reshape(x.shape) for array in (ours, dx)]
    close((*whole, dscale.sum(0)), (expected, *expected_pulled))


def nearly(ours, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * (1 + np.abs(b).max())), ours, expected
    )


def test_edges_of_a_stage_are_the_edges_one_by_one_forward_over_reverse_too():
    names = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5", "nor_conv_1x1")
    operations = named(names, pool_norms=True)
    init = functools.partial(operations_init, operations, channels=2, stride=1)
    params = jax.vmap(jax.vmap(init))(jax.random.split(jax.random.key(0), (2, 2)))
    weights, x = normal(1, 2, 2, len(names)), normal(2, 2, 2, 4, 4, 2)
    tangents = jax.tree.map(jnp.cos, (params, weights))

    def one_by_one(params, weights, x):
        def edge(params, weights, x):
            return mixed_op(operations, 1, None)(params, weights, x, (None, None), None, None)[0]

        return jnp.sum(jax.vmap(jax.vmap(edge, (0, 0, None)))(params, weights, x), 0)

    def derivatives(stage):
        """Values, gradients, and the derivative of the gradients along a direction, as in a second-order search."""

        def loss(params, weights):
            outputs = stage(params, weights, x)
            return jnp.sum(jnp.sin(outputs)), outputs

        gradient = jax.grad(loss, (0, 1), has_aux=True)
        return jax.jvp(gradient, (params, weights), tangents, has_aux=True)

    def at_once(params, weights, x):
        there = np.ones((2, len(names)), bool)
        return together(operations, 1, Context(), there, params, jnp.broadcast_to(weights[..., None], (2, 2, 6, 2)), x)

    ours, expected = (jax.jit(lambda stage=stage: derivatives(stage))() for stage in (at_once, one_by_one))
    nearly(ours, expected)


@pytest.mark.parametrize(("stride", "given", "affine"), [(1, False, False), (2, False, True), (2, True, True)])
def test_chosen_operations_are_each_edges_own(stride, given, affine):
    """Output, statistics and gradients; those of what is not chosen are exactly zero."""
    names = ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    operations = named((*names, "nor_conv_1x1", "nor_conv_3x3"), pool_norms=not affine)
    choice = (4, 1, 2, 3, 0, 5, 6, 7, 8, 6, len(operations))
    init = functools.partial(operations_init, operations, channels=2, stride=stride, affine=affine)
    params = jax.vmap(init)(jax.random.split(jax.random.key(0), len(choice)))
    params = jax.tree.map(lambda leaf: leaf + 0.2 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    x = normal(1, len(choice), 2, 5, 6, 2)
    before = [initial_stats(primitive, 2, stride) for primitive in operations]
    stats = jax.tree.map(lambda leaf: jnp.abs(normal(2, len(choice), *leaf.shape)), before)

    def at_once(params, x):
        return chosen(operations, stride, given)(params, jnp.array(choice), x, stats, Context(), None)

    def one_by_one(params, x):
        total, seen = 0.0, [list(own) for own in stats]
        for edge, o in enumerate(choice[:-1]):  # the last has none
            own, known = jax.tree.map(lambda leaf, edge=edge: leaf[edge], (params[o], stats[o]))
            y, told = operations[o].apply(own, x[edge], stride, Context(known if given else "batch"))
            total += y
            put = jax.tree.map(lambda old, new, edge=edge: old.at[edge].set(new), tuple(seen[o]), tuple(told))
            seen[o] = list(put)
        return total, [tuple(own) for own in seen]

    def derivatives(run):
        def loss(params, x):
            output, seen = run(params, x)
            return jnp.sum(jnp.sin(output)), (output, seen)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    ours, expected = derivatives(at_once), derivatives(one_by_one)
    nearly(ours, expected)
    for o, gradient in enumerate(ours[0][0]):
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_array_equal(np.asarray(leaf)[np.array(choice) != o], 0)


def test_stages_are_sources_that_are_complete_and_have_the_same_targets():
    edges = [(source, target + 2) for target, source in edge_table(3)]
    assert [(s.sources, s.nodes) for s in stages(edges)] == [((0, 1), (2, 3, 4)), ((2,), (3, 4)), ((3,), (4,))]
    for stage in stages(edges):
        for source, slots in zip(stage.sources, stage.slots, strict=True):
            assert [edges[slot] for slot in slots] == [(source, node) for node in stage.nodes]
    assert [s.sources for s in stages([(0, 2), (1, 2), (2, 3)])] == [(0, 1), (2,)]
    assert [s.sources for s in stages([(0, 1), (1, 1)])] == [(0,), (1,)]  # 1 is a target as well


PROGRAM = """HloModule step

%inner (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %n.1 = f32[2]{0:T(128)} negate(%a)
  ROOT %f = f32[2]{0} fusion(%n.1), kind=kLoop, calls=%fused
}

%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p = (s32[], f32[2]{0}) parameter(0)
  %each = f32[2]{0} conditional(%p, %p, %p), branch_computations={%once, %once_more}
  %x = f32[2]{0} get-tuple-element(%p), index=1
  %w = (s32[], f32[2]{0}) while(%p), condition=%c, body=%deep, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %t = (s32[], /*index=1*/f32[2]{0}) tuple(%x, %x)
}

%once (b: f32[2]) -> f32[2] {
  %b = f32[2]{0} parameter(0)
  ROOT %c = f32[2]{0} copy(%b)
}

%once_more (b: f32[2]) -> f32[2] {
  %b = f32[2]{0} parameter(0)
  ROOT %c = f32[2]{0} copy(%b)
}

%deep (q: (s32[], f32[2])) -> (s32[], f32[2]) {
  %q = (s32[], f32[2]{0}) parameter(0)
  ROOT %g = (s32[], f32[2]{0}) custom-call(%q), custom_call_target="gemm"
}

%until (q: (s32[], f32[2])) -> pred[] {
  %end = s32[]{:T(128)} constant(4)
  %q = (s32[], f32[2]{0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %counted = (s32[], f32[2]{0}) while(%x), condition=%until, body=%deep
  %loop = (s32[], f32[2]{0}) while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"2"}}
  %blind = (s32[], f32[2]{0}) while(%x), condition=%c, body=%deep
  %either = f32[2]{0} conditional(%x, %x, %x), branch_computations={%fused, %inner}
  %s = f32[2]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %d = f32[2]{0} all-reduce-done(%s)
}

%fused (a: f32[2]) -> f32[2] {
  ROOT %a = f32[2]{0} parameter(0)
}
"""


@pytest.mark.parametrize(
    ("ends", "turns"),
    [
        ([(s, n) for n in range(4) for s in range(n + 2)], 7),  # a cell of DARTS
        ([(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2)], 3),  # NAS-Bench-201
        ([(0, 0), (1, 1)], 2),  # the second reads what the first gives
        ([(0, 0), (0, 1), (1, 1)], 3),  # one has no other
    ],
)
def test_pairs_are_of_edges_that_do_not_wait_for_each_other(ends, turns):
    inputs = 2 if len(ends) == 14 else 1
    layout = Layout(inputs, max(node for _, node in ends) + 1, tuple(ends))
    members = named(("skip_connect", "avg_pool_3x3"))

    def run(pairs, weights, x):
        return scan_executor(members, pairs=pairs).mixture(layout, params, weights, x, Context())

    params = edges_init(members, layout, jax.random.key(0), 2, (), False)
    weights, x = normal(1, len(ends), 2), normal(2, inputs, 5, 3, 3, 2)
    one, two = (
        jax.jit(jax.value_and_grad(lambda w, x, p=p: jnp.sum(jnp.sin(run(p, w, x))), (0, 1))) for p in (False, True)
    )
    close(two(weights, x), one(weights, x))
    text = str(jax.make_jaxpr(functools.partial(run, True))(weights, x))
    assert [int(n) for n in re.findall(r"length=(\d+)", text)].count(turns) == 1


@pytest.mark.parametrize("kept", [None, "some"])
def test_edges_side_by_side_are_the_edges_one_by_one_forward_over_reverse_too(kept):
    """Also where slots have lost operations: one its dense convolutions, one all but those, and one all it had."""
    operations = named(("none", "max_pool_3x3", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"))
    layout = Layout(2, 3, ((0, 0), (1, 0), (0, 1), (2, 1), (0, 2), (1, 2), (3, 2)))
    keep = np.ones((7, 6), bool)
    if kept:
        keep[0, 3:5], keep[2, [1, 2, 5]], keep[3, 1:] = False, False, False
    assert suits(operations)
    assert not suits(named(("nor_conv_1x1", "sep_conv_3x3")))
    assert not suits(named(("nor_conv_1x1", "avg_pool_3x3"), pool_norms=True))
    params = edges_init(operations, layout, jax.random.key(0), 2, (), False)
    weights, x = normal(1, 7, 6), normal(2, 2, 2, 5, 6, 2)
    tangents = jax.tree.map(jnp.cos, (params, weights, x))

    def derivatives(executor):
        """Values, gradients, and the derivative of the gradients along a direction, as in a second-order search."""

        def loss(params, weights, x):
            nodes = executor.mixture(layout, params, weights, x, Context())
            return jnp.sum(jnp.sin(nodes)), nodes

        gradient = jax.grad(loss, (0, 1, 2), has_aux=True)
        return jax.jit(lambda: jax.jvp(gradient, (params, weights, x), tangents, has_aux=True))()

    ours, expected = (derivatives(make(operations, keep if kept else None)) for make in (wide_executor, scan_executor))
    nearly(ours, expected)


def test_launches_are_counted_through_loops_and_branches():
    assert launches(PROGRAM) == {
        "custom-call": 2 * 3 + 4 + 1,
        "unknown loop": 1,
        "negate": 1,
        "fusion": 1,
        "conditional": 2 + 1,
        "copy": 2,
        "all-reduce-start": 1,
        "bytes": 11 * 24 + 2 * 16 + 16 + 2 * 16,  # of operand and result, 12 of a pair and 8 of an array
    }
