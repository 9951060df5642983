"""The laws that every operation, search space, supernet and sampler obeys, as functions that a test calls.

    from jaxnas.testing import check_primitive, check_space, check_supernet

    check_primitive(primitive)
    check_space(space)
    check_supernet(space, supernet, network)

They raise AssertionError, whose message begins with the law that is broken. They know the contracts of `jaxnas.base`
and that of `jaxnas.ops.primitives.Primitive` alone, so that they hold what a user wrote to the same laws as the
library's own.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import (
    Arch,
    Array,
    Candidates,
    Choice,
    Context,
    Network,
    Sampler,
    SearchSpace,
    Skeleton,
    Supernet,
    no_network,
    no_parameters,
)
from jaxnas.checks import check_choices
from jaxnas.ops import layers
from jaxnas.ops.chain import BLOCKS
from jaxnas.ops.costs import strided
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.ops.primitives import PRIMITIVES, Primitive, initial_stats


def _law(holds: bool | np.bool_, law: str, detail: str = "") -> None:
    if not holds:
        raise AssertionError(f"{law}{': ' if detail else ''}{detail}")


def _equal(a: Any, b: Any, law: str) -> None:
    _law(np.array_equal(np.asarray(a), np.asarray(b)), law, f"{np.asarray(a).tolist()} is not {np.asarray(b).tolist()}")


def _quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled without much optimization: these programs run once or twice."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def _refused(what: str, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except ValueError:
        return
    raise AssertionError(f"what is of another space is refused by ValueError: {what} was taken")


def check_primitive(
    primitive: Primitive,
    channels: int = 4,
    strides: Sequence[int] = (1, 2),
    *,
    widens: bool = False,
    seed: int = 0,
) -> None:
    """Holds an operation to what `Primitive` promises, at some strides.

    widens: whether a stride multiplies the channels, as in the blocks of a chain; else they are kept.

    The laws: its name is that of no other operation of the library, and a notation can hold it; the output has the
    shape and type that it should have, at odd and at even sizes; `cost` counts the parameters of `init`; it tells the
    statistics that `norms` says, and tells given ones as they were given, number n those of `context.at(n)`; given what
    it has just told, as `jaxnas.ops.layers.Known`, it computes the same output; `scaled` multiplies the output; it
    draws from a key if it is `random`, and only then, and works without one.

    Raises: AssertionError naming the operation and the law.

    >>> from jaxnas.ops.primitives import PRIMITIVES
    >>> pool = PRIMITIVES["avg_pool_3x3"]
    >>> check_primitive(pool, channels=2, strides=(1,))
    >>> check_primitive(pool._replace(name="mine", cost=PRIMITIVES["nor_conv_3x3"].cost), channels=2, strides=(1,))
    Traceback (most recent call last):
        ...
    AssertionError: mine at stride 1: cost counts the parameters of init: 40 of 0
    """
    name = primitive.name
    known = [table[name] for table in (PRIMITIVES, MACRO_PRIMITIVES, BLOCKS) if name in table]
    _law(not known or primitive in known, f"{name}: its name is that of no other operation of the library")
    _law(
        bool(name) and not set(name) & set("|~+'\"") and name == "".join(name.split()),
        f"{name!r}: a name is not empty, and without spaces, quotes and any of |~+",
    )
    for stride in strides:
        at = f"{name} at stride {stride}"
        _check_forms(primitive, channels, stride, channels * stride if widens else channels, at)
        _check_numbers(primitive, channels, stride, seed, at)


def _check_forms(primitive: Primitive, channels: int, stride: int, outputs: int, at: str) -> None:
    key = jax.random.key(0)
    searched, derived = (
        jax.eval_shape(lambda k, affine=affine: primitive.init(k, channels, stride, affine), key)
        for affine in (False, True)
    )
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(derived))
    stats: Any = jax.tree.structure(initial_stats(primitive, channels, stride))
    for size in ((6, 6), (5, 7)):
        cost = primitive.cost(channels, stride, size)
        _law(cost.params == count, f"{at}: cost counts the parameters of init", f"{cost.params} of {count}")
        x = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
        for params in (searched, derived):
            y, told = jax.eval_shape(lambda p, x: primitive.apply(p, x, stride, Context()), params, x)
            expected = jax.ShapeDtypeStruct((2, *strided(size, stride), outputs), jnp.float32)
            _law((y.shape, y.dtype) == (expected.shape, expected.dtype), f"{at}: the output is {expected}", str(y))
            form: Any = jax.tree.structure(told)
            _law(bool(form == stats), f"{at}: it tells a (mean, variance) for each of its norms", str(told))
            _same_form(told, initial_stats(primitive, channels, stride), f"{at}: its norms have the channels told")


def _check_numbers(primitive: Primitive, channels: int, stride: int, seed: int, at: str) -> None:
    params_key, x_key, scale_key, *keys = jax.random.split(jax.random.key(seed), 5)
    params = primitive.init(params_key, channels, stride, False)
    x = jax.random.normal(x_key, (3, 5, 6, channels))
    widths = primitive.norms(channels, stride)
    given = tuple((jnp.full(c, 0.1 * (n + 1)), jnp.full(c, n + 1.0)) for n, c in enumerate(widths))

    def run(params: Any, x: Array, scale: Array, given: Any, keys: Any) -> tuple[Any, ...]:
        apply = functools.partial(primitive.apply, params, x, stride)
        y, told = apply(Context())
        again, _ = apply(Context(tuple(layers.Known(*pair) for pair in told)))
        multiplied = primitive.scaled(params, scale)
        scaled = None if multiplied is None else primitive.apply(multiplied, x, stride, Context())[0]
        return y, again, apply(Context(given))[1], scaled, [apply(Context(key=key))[0] for key in keys]

    scale = jax.random.uniform(
        scale_key, (jax.eval_shape(lambda: primitive.apply(params, x, stride, Context()))[0].shape[-1],)
    )
    y, again, told, scaled, drawn = _quick(run)(params, x, scale, given, keys)
    _close(told, given, 0.0, f"{at}: it tells the statistics that it is given, each in its place")
    _close(again, y, 1e-4, f"{at}: by the statistics that it told it gives the same output")
    if scaled is not None:
        _close(scaled, y * scale[None, None, None], 1e-4, f"{at}: scaled multiplies the output by the scale")
    differs = [bool((np.asarray(one) != np.asarray(y)).any()) for one in drawn]
    _law(primitive.random or not any(differs), f"{at}: it draws from a key only where it is random")
    _law(not primitive.random or any(differs), f"{at}: it is random, and draws from its key")


def check_space(space: SearchSpace, skeletons: Sequence[Skeleton] = (), *, draws: int = 512, seed: int = 0) -> None:
    """Holds a space to the laws of `SearchSpace`.

    skeletons: networks whose costs are asked for as well. draws: sampled architectures, of which the laws that need
    Python, not a traced function, see the first 16.

    Raises: AssertionError naming the law.

    >>> from jaxnas.spaces import product_space
    >>> check_space(product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)}))
    """
    choices, template = space.choices, space.template()
    sizes = np.array([len(choice.options) for choice in choices])
    sample_keys, mutate_keys, cross_keys = jax.random.split(jax.random.key(seed), (3, draws))
    archs = jax.jit(jax.vmap(space.sample))(sample_keys)
    _law(archs.dtype == jnp.int32 and archs.shape == (draws, len(choices)), "sample gives int32 [D]", str(archs.shape))
    for choice, column in zip(choices, np.asarray(archs).T, strict=True):
        _equal(np.unique(column), np.arange(len(choice.options)), f"sample reaches the options of {choice.name!r}")
    _check_moves(space, mutate_keys, cross_keys, archs, sizes)

    canonical = jax.jit(jax.vmap(space.canonical))(archs)
    _equal(jax.jit(jax.vmap(space.canonical))(canonical), canonical, "canonical(canonical(a)) == canonical(a)")
    weights = jax.jit(jax.vmap(space.one_hot))(archs)
    again = jax.jit(jax.vmap(space.discretize))(weights)
    _equal(again, canonical, "discretize(one_hot(a)) == canonical(a)")
    _law(again.dtype == jnp.int32, "discretize gives int32", str(again.dtype))
    _law(weights.keys() == template.keys(), "one_hot has the cell kinds of the template", str(sorted(weights)))
    for kind, value in weights.items():
        _law(value.shape[1:] == template[kind].shape, "one_hot has the shape of the template", f"{kind} {value.shape}")
        _law(value.dtype == template[kind].dtype, "one_hot has the type of the template", f"{kind} {value.dtype}")
        _law(bool(((value >= 0) & (value % 1 == 0)).all()), "one_hot counts how often a slot takes an option")
    graphs, simplest = (jax.jit(jax.vmap(space.graph))(each) for each in (archs, canonical))
    for leaf, other in zip(graphs[:3], simplest[:3], strict=True):
        _equal(leaf, other, "graph(canonical(a)) == graph(a)")
    types = [leaf.dtype for leaf in (graphs.adjacency, graphs.ops, graphs.mask)]
    _law(types == [jnp.float32, jnp.int32, jnp.bool_], "a graph is float32, int32 and bool", str(types))
    _law(graphs.ops.shape == graphs.mask.shape == graphs.adjacency.shape[:-1], "a graph has G cells of N nodes")
    there = np.asarray(graphs.mask)[..., None] & np.asarray(graphs.mask)[..., None, :]
    _law(not np.tril(np.asarray(graphs.adjacency)).any(), "a node of the graph feeds later ones only")
    _law(not (np.asarray(graphs.adjacency) * ~there).any(), "what is masked out of the graph has no edge")

    for arch, plain in zip(archs[:16], canonical[:16], strict=True):
        genotype = json.loads(json.dumps(space.to_genotype(arch)))
        _law(genotype.get("space") == space.name, "a genotype names its space", str(genotype))
        _equal(space.from_genotype(genotype), plain, "from_genotype(to_genotype(a)) == canonical(a)")
        _equal(space.from_genotype(space.notation(arch)), plain, "from_genotype(notation(a)) == canonical(a)")
        for skeleton in skeletons:
            costs = space.costs(arch, skeleton)
            _law(costs == space.costs(plain, skeleton), "costs(canonical(a)) == costs(a)", str(costs))
            _law(all(type(cost) is int and cost >= 0 for cost in costs.values()), "costs are counts", str(costs))
    beyond = np.zeros(len(choices), np.int32)
    beyond[-1] = sizes[-1]
    for name in ("neighbors", "canonical", "one_hot", "graph", "to_genotype", "notation"):
        function = getattr(space, name)
        _refused(f"{name} of D + 1 choices", function, jnp.zeros(len(choices) + 1, jnp.int32))
        _refused(f"{name} of numbers that are no integers", function, jnp.zeros(len(choices)))
        _refused(f"{name} of an option that does not exist", function, beyond)
    wider = {kind: jnp.pad(value, ((0, 0), (0, 1))) for kind, value in template.items()}
    _refused("discretize of one option more", jax.eval_shape, space.discretize, wider)


def _check_moves(space: SearchSpace, mutate_keys: Array, cross_keys: Array, archs: Array, sizes: np.ndarray) -> None:
    def among(children: np.ndarray, arch: np.ndarray) -> bool:
        """Whether all are options, and each differs from `arch` in one choice."""
        inside = (children >= 0) & (children < sizes)
        return bool(inside.all() and ((children != arch).sum(axis=-1) == 1).all())

    rows = np.asarray(archs)
    _law(among(np.asarray(jax.jit(jax.vmap(space.mutate))(mutate_keys, archs)), rows), "mutate changes one choice")
    around, valid = jax.tree.map(np.asarray, jax.jit(jax.vmap(space.neighbors))(archs[:16]))
    for arch, others, there in zip(rows, around, valid, strict=False):
        found = others[there]
        _law(among(found, arch), "neighbors differ in one choice")
        _law(bool(there.any()), "an architecture has a neighbor in the space")
        _law(len(np.unique(others, axis=0)) == (sizes - 1).sum(), "neighbors are all, each once", f"{len(found)}")
    a, b = rows, np.roll(rows, 1, axis=0)
    child = np.asarray(jax.jit(jax.vmap(space.crossover))(cross_keys, jnp.asarray(a), jnp.asarray(b)))
    _law(((child == a) | (child == b)).all(), "crossover takes each choice from a parent")
    _law((child != a).any() and (child != b).any(), "crossover takes from both parents")


def check_supernet(
    space: SearchSpace,
    supernet: Supernet,
    network: Callable[[Arch], Network] | None = None,
    *,
    archs: Sequence[Arch] | None = None,
    inputs: Any = None,
    batch: int = 4,
    seed: int = 0,
    tolerance: float = 1e-3,
) -> None:
    """Holds a supernet and its derived networks to the laws, at the sizes it was made with: choose small ones.

    network: arch -> the derived network, by default that of the supernet; the laws of derived networks are left out
    where it has none, or no parameters for them. archs: by default, of 64 sampled ones, the one of the most parameters,
    in which places that are exchanged show, and one unlike it whose choices also differ from each other. inputs: a
    batch to try it with, by default `batch` examples of random numbers of its `input_shape`; give one where inputs are
    not one array of floats.
    tolerance: of differences, in parts of the largest entry.

    The laws: the mixture of one-hot weights is the path; different architectures compute different functions; the
    derived network with `extract(params, arch)` computes what the path computes and tells the same statistics, by the
    batch's statistics and by given ones; every parameter in `used` has a gradient that is not all zero, all others
    have one of exactly zero; what is of another space is refused.

    Raises: AssertionError naming the law; ValueError where the supernet is of another space.

    docs/tutorials/own_data.md has an example.
    """
    check_choices(space.choices, supernet.space.choices, "the space", "the supernet")
    network = supernet.network if network is None else network
    network = None if network is no_network or supernet.extract is no_parameters else network
    params_key, arch_key, x_key = jax.random.split(jax.random.key(seed), 3)
    params = _quick(supernet.init)(params_key)
    x = jax.random.normal(x_key, (batch, *supernet.input_shape)) if inputs is None else inputs
    if archs is None:
        archs = _telling(jax.vmap(space.sample)(jax.random.split(arch_key, 64)), network)

    def path(params: Any, arch: Arch, x: Any) -> tuple[Array, Any]:
        logits, aux = supernet.apply_path(params, arch, x, Context())
        return jnp.sum(jnp.sin(logits + jnp.arange(logits.size).reshape(logits.shape))), (logits, aux.stats)

    differentiated = _quick(jax.value_and_grad(path, (0, 2), has_aux=True, allow_int=True))
    mixture = _quick(lambda arch: supernet.apply(params, space.one_hot(arch), x, Context())[0])
    given = _quick(lambda arch, stats: supernet.apply_path(params, arch, _first(x), Context(stats)))
    outputs = []
    for arch in archs:
        (_, (logits, stats)), (gradient, to_x) = differentiated(params, arch, x)
        outputs.append(np.asarray(logits))
        _close(mixture(arch), logits, tolerance, "the mixture of one-hot weights is the path")
        _check_used(supernet.used(arch), gradient, connected=_any_gradient(to_x))
        alone, seen = given(arch, stats)
        _close(seen.stats, stats, 0.0, "a path that is given statistics tells them")
        if network is None:
            continue
        derived, own, own_stats = network(arch), supernet.extract(params, arch), supernet.extract_stats(stats, arch)
        shapes = jax.eval_shape(derived.init, jax.random.key(0))
        _same_form((own, own_stats), shapes, "extract gives what the network initializes")
        by_batch, by_given = _quick(functools.partial(_both_ways, derived.apply))(own, own_stats, x)
        _close(by_batch[0], logits, tolerance, "the derived network computes what the path computes")
        _close(own_stats, by_batch[1].stats, tolerance, "the derived network tells the statistics that the path tells")
        _close(by_given[0], alone, tolerance, "path and derived network agree by given statistics")
    _law(
        any(np.abs(a - b).max() > tolerance * np.abs(a).max() for a, b in itertools.pairwise(outputs)),
        "different architectures compute different functions",
    )
    _check_refusals(space, supernet, params, x)


def _telling(archs: Array, network: Callable[[Arch], Network] | None) -> list[Arch]:
    rows = np.asarray(archs)
    sizes = np.array([0 if network is None else network(arch).costs["params"] for arch in archs])
    first = int(np.argmax(sizes))
    unlike = (rows != rows[first]).sum(axis=1) + (rows[:, 1:] != rows[:, :-1]).sum(axis=1)
    return [archs[first], archs[int(np.lexsort((sizes, unlike))[-1])]]


def _both_ways(apply: Callable[..., Any], params: Any, stats: Any, x: Any) -> Any:
    """A network by the statistics of the batch, and on one example by those that are given."""
    return apply(params, x, Context()), apply(params, _first(x), Context(stats))


def _first(inputs: Any) -> Any:
    """The first example of a batch of inputs."""
    return jax.tree.map(lambda leaf: leaf[:1], inputs)


def _any_gradient(to_inputs: Any) -> bool:
    """Whether an output depends on an input that is a float."""
    leaves = [leaf for leaf in jax.tree.leaves(to_inputs) if leaf.dtype != jax.dtypes.float0]
    return any(bool(jnp.any(leaf != 0)) for leaf in leaves)


def _check_refusals(space: SearchSpace, supernet: Supernet, params: Any, x: Any) -> None:
    """All are asked for shapes alone: a refusal is made while tracing."""
    count = len(space.choices)

    def path(params: Any, arch: Any, bn: Any = "batch") -> Any:
        return jax.eval_shape(lambda p, x: supernet.apply_path(p, arch, x, Context(bn))[0], params, x)

    def mixture(weights: Any) -> Any:
        return jax.eval_shape(lambda p, x: supernet.apply(p, weights, x, Context())[0], params, x)

    arch, beyond = jnp.zeros(count, jnp.int32), np.zeros(count, np.int32)
    beyond[-1] = len(space.choices[-1].options)
    for function in (functools.partial(path, params), supernet.used):
        _refused("an architecture of D + 1 choices", function, jnp.zeros(count + 1, jnp.int32))
        _refused("an architecture of numbers that are no integers", function, jnp.zeros(count))
        _refused("an option that does not exist", function, beyond)
    _refused("a mixture of a slot less", mixture, {kind: rows[:-1] for kind, rows in space.template().items()})
    _refused("other parameters", path, jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, 1)), params), arch)
    _refused("other statistics", path, params, arch, (jnp.zeros(3), jnp.ones(3)))


def _close(a: Any, b: Any, tolerance: float, law: str) -> None:
    _same_form(a, b, law)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        scale = max(float(np.abs(y).max(initial=0.0)), 0.1)
        _law(np.isfinite(x).all() and np.abs(x - y).max(initial=0.0) <= tolerance * scale, law, f"{x} is not {y}")


def _same_form(a: Any, b: Any, law: str) -> None:
    one, other = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (a, b))
    shapes, others = ({jax.tree_util.keystr(p): np.shape(leaf) for p, leaf in each} for each in (one, other))
    differing = sorted(p for p in shapes.keys() | others.keys() if shapes.get(p) != others.get(p))
    if differing:
        raise AssertionError(f"{law}: {differing[0]} is {shapes.get(differing[0])} and {others.get(differing[0])}")


def _check_used(used: Any, gradient: Any, connected: bool) -> None:
    """connected: whether the output depends on the input; where it does not, some used parameters have no gradient."""
    leaves = zip(jax.tree_util.tree_flatten_with_path(gradient)[0], jax.tree.leaves(used), strict=True)
    for (path, leaf), mask in leaves:
        leaf, mask = np.asarray(leaf), np.asarray(mask)
        name, inside = jax.tree_util.keystr(path), np.broadcast_to(mask, leaf.shape)
        _law(not leaf[~inside].any(), "a parameter that is not used has a gradient of zero", name)
        if not connected:
            continue
        # The entries that the mask tells apart, each with all of the leaf that it stands for.
        axes = (1,) * (leaf.ndim - mask.ndim) + mask.shape
        flat = tuple(axis for axis, size in enumerate(axes) if size == 1)
        moved = np.any(leaf != 0, axis=flat, keepdims=True)
        _law(bool(moved[np.broadcast_to(mask, moved.shape)].all()), "every used parameter has a gradient", name)


def check_sampler(
    sampler: Sampler,
    choices: Sequence[Choice] | None = None,
    *,
    objectives: int = 1,
    steps: int = 24,
    seed: int = 0,
) -> None:
    """Holds a sampler to the laws of `Sampler`, by steps of ask and tell on values that a fixed function gives.

    choices: those that it searches, so that options are checked too. objectives: how many it takes. A third of what is
    asked for is told as not valid, with a value beyond all others.

    The laws: candidates and states keep their shapes and types, so that a search is a scan; the same key and state ask
    for the same; what was not valid is never the best; with one objective the best is the best of what was told at the
    highest fidelity; with several, what `best` gives was told, and none of it dominates another.

    Raises: AssertionError naming the law.

    >>> from jaxnas.samplers import random_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = random_search(space)
    >>> check_sampler(sampler, space.choices)
    >>> check_sampler(sampler._replace(best=lambda state: jnp.full((1, 2), 7)), space.choices)
    Traceback (most recent call last):
        ...
    AssertionError: the best was told: (7, 7)
    """
    init_key, ask_key, tell_key = jax.random.split(jax.random.key(seed), 3)
    state = sampler.init(init_key)
    ask, tell = _quick(sampler.ask), _quick(sampler.tell)
    shapes = jax.eval_shape(sampler.init, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    first: Candidates | None = None
    told: dict[tuple[int, ...], Any] = {}
    refused: set[tuple[int, ...]] = set()
    for step in range(steps):
        key = jax.random.fold_in(ask_key, step)
        candidates = ask(key, state)
        first = candidates if first is None else first
        _check_candidates(candidates, first, choices)
        _equal(candidates.archs, ask(jax.random.clone(key), state).archs, "one key and state ask for the same")
        archs = np.asarray(candidates.archs)
        valid = np.asarray(candidates.wanted) & (rng.random(len(archs)) < 2 / 3)
        values = np.where(valid[:, None], _values(archs, objectives), 1e6).astype(np.float32)
        state = tell(jax.random.fold_in(tell_key, step), state, candidates, jnp.asarray(values), jnp.asarray(valid))
        _same_form(state, shapes, "tell keeps the form of the state")
        types = (leaf.dtype for leaf in jax.tree.leaves(shapes)), (leaf.dtype for leaf in jax.tree.leaves(state))
        _law(list(types[0]) == list(types[1]), "tell keeps the types of the state")
        for arch, fidelity, value, counts in zip(
            archs.tolist(), np.asarray(candidates.fidelity).tolist(), values, valid, strict=True
        ):
            level = np.inf if fidelity == -1 else fidelity
            if counts:
                told[tuple(arch)] = max(told.get(tuple(arch), (-np.inf, None)), (level, value.tolist()))
            else:
                refused.add(tuple(arch))
    _check_best(np.asarray(sampler.best(state)), told, refused)
    keys = jax.random.split(jax.random.key(seed), 2)
    batched = jax.eval_shape(jax.vmap(sampler.init), keys)
    asked = jax.eval_shape(jax.vmap(sampler.ask), keys, batched)
    none = jnp.zeros((*asked.wanted.shape, objectives)), jnp.zeros(asked.wanted.shape, bool)
    jax.eval_shape(jax.vmap(sampler.tell), keys, batched, asked, *none)


def _values(archs: np.ndarray, objectives: int) -> np.ndarray:
    """A function of architectures without ties to speak of, float64 [P, M], at most 1 in size."""
    place = np.arange(archs.shape[1])
    phases = [np.sin(1.7 * (archs + 1) * (place + 1) + m).sum(axis=1) for m in range(objectives)]
    return np.stack(phases, axis=1) / archs.shape[1]


def _check_candidates(candidates: Candidates, first: Candidates, choices: Sequence[Choice] | None) -> None:
    _same_form(candidates, first, "candidates keep their shapes")
    count = len(candidates.archs)
    _law(candidates.archs.dtype == jnp.int32 and candidates.archs.ndim == 2, "archs are int32 [P, D]")
    _law(candidates.fidelity.shape == (count,) and candidates.fidelity.dtype == jnp.int32, "fidelity is int32 [P]")
    _law(candidates.wanted.shape == (count,) and candidates.wanted.dtype == jnp.bool_, "wanted is bool [P]")
    if choices is None:
        return
    archs = np.asarray(candidates.archs)
    _law(archs.shape[1] == len(choices), "an architecture has an entry for each choice", str(archs.shape))
    sizes = np.array([len(choice.options) for choice in choices])
    _law(bool(((archs >= 0) & (archs < sizes)).all()), "what is asked for are options")


def _check_best(best: np.ndarray, told: dict[tuple[int, ...], Any], refused: set[tuple[int, ...]]) -> None:
    _law(best.ndim == 2 and len(best) > 0, "best gives archs [Q, D]", str(best.shape))
    found = [tuple(arch) for arch in best.tolist()]
    for arch in found:
        _law(arch not in refused - told.keys(), "what was not valid is never the best", str(arch))
        _law(arch in told, "the best was told", str(arch))
    if len(next(iter(told.values()))[1]) == 1:
        most = max(told.values())
        _law(told[found[0]] == most, "the best is the best of what was told", f"{told[found[0]]} is not {most}")
        return
    values = np.array([told[arch][1] for arch in found])
    for value in values:
        better = (values >= value).all(axis=1) & (values > value).any(axis=1)
        _law(not better.any(), "none of the best dominates another", str(values.tolist()))
