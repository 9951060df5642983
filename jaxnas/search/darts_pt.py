"""DARTS-PT: Rethinking Architecture Selection in Differentiable NAS (Wang et al., ICLR 2021, arXiv 2108.04392).

The greatest alpha does not say which operation a supernet needs most. So after a search, of any method of the family,
one slot of each cell kind after another, in random order, is decided by what the supernet loses (algorithm 1): the
validation metric is taken without each of the options in turn; the option without which it is lowest is taken, alone
and with weight 1; and the supernet is tuned for some epochs before the next decision. Then, where a node keeps two
edges of several, the edge without which the metric is highest is dropped, until two are left.

Deviations: none known from the authors' program, in which as here the weights of the other options are not normalized
anew while one is left out, and alpha of undecided slots is searched on while the supernet is tuned. It tunes with a new
optimizer of a tenth of the learning rate, which falls to the search's last one: that is the caller's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Batch, Context, Key, Objective, Relaxation, SearchAlgorithm, Supernet
from jaxnas.objectives import CLASSIFICATION, means
from jaxnas.search.darts import DartsState, Variant


class Projected(NamedTuple):
    """search: the state of the search. fixed: kind -> bool [S], the slots that are decided; rows: kind -> [S, O], their
    weights. decisions: int32, how many were made of each kind."""

    search: DartsState
    fixed: Mapping[str, Array]
    rows: ArchWeights
    decisions: Array


def projected(state: DartsState, template: ArchWeights) -> Projected:
    """The state before any decision. template: that of the space.

    >>> state = projected(None, {"cell": jnp.zeros((6, 5))})
    >>> int(state.fixed["cell"].sum()), state.rows["cell"].shape
    (0, (6, 5))
    """
    fixed = {kind: jnp.zeros(len(own), bool) for kind, own in template.items()}
    return Projected(state, fixed, jax.tree.map(jnp.zeros_like, dict(template)), jnp.zeros((), jnp.int32))


def decided(relaxation: Relaxation, fixed: Mapping[str, Array], rows: ArchWeights) -> Relaxation:
    """The relaxation with the weights of the slots that are decided.

    fixed: cell kind -> bool [S], which slots those are. rows: cell kind -> [S, O], their weights.

    >>> from jaxnas.relax import softmax
    >>> fixed, rows = {"cell": jnp.array([True, False])}, {"cell": jnp.array([[0.0, 1.0], [0.0, 0.0]])}
    >>> decided(softmax(), fixed, rows).mean({"cell": jnp.zeros((2, 2))})["cell"].tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """

    def put(weights: ArchWeights) -> ArchWeights:
        return {kind: jnp.where(fixed[kind][:, None], rows[kind], own) for kind, own in weights.items()}

    return Relaxation(
        relaxation.init,
        lambda key, alpha, step: put(relaxation.weights(key, alpha, step)),
        lambda alpha: put(relaxation.mean(alpha)),
    )


def tuning(make: Callable[[Variant], SearchAlgorithm], variant: Variant) -> SearchAlgorithm:
    """The search of a variant, as made by `make`, on states that are `Projected`: decided slots stay as they are.

    make: variant -> the search, as by `darts`. variant: that of the search before.

    Raises: ValueError, in `init`, where the search has no supernet.

    >>> import optax
    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.search import adam_l2, darts
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> search = tuning(lambda variant: darts(supernet, optax.sgd(0.01), adam_l2(), variant=variant), Variant())
    >>> jax.eval_shape(search.init, jax.random.key(0)).fixed["cell"].shape
    (6,)
    """
    plain = make(variant)

    def of(state: Projected) -> SearchAlgorithm:
        return make(variant._replace(relaxation=decided(variant.relaxation, state.fixed, state.rows)))

    def step(key: Key, state: Projected, batch: Mapping[str, Batch]) -> tuple[Projected, NamedTuple]:
        search, info = of(state).phases[0].step(key, state.search, batch)
        return state._replace(search=search), info

    def init(key: Key) -> Projected:
        if plain.supernet is None:
            raise ValueError("the algorithm must have the supernet that it searches")
        return projected(plain.init(key), plain.supernet.space.template())

    def derive(key: Key, state: Projected, score: Callable[[Array], Array] | None = None) -> Arch:
        return of(state).derive(key, state.search, score)

    return plain._replace(init=init, phases=(plain.phases[0]._replace(step=step),), derive=derive)


def count_decisions(template: ArchWeights, nodes: Mapping[str, Sequence[int]] | None = None, edges: int = 2) -> int:
    """The number of decisions of a projection: slots and nodes with more than `edges`, of the largest cell kind.

    template: that of the space, cell kind -> [S, O]. nodes and edges: as of `make_projection`.

    >>> count_decisions({"cell": jnp.zeros((6, 5))})
    6
    >>> count_decisions({"normal": jnp.zeros((5, 8))}, {"normal": [0, 0, 1, 1, 1]})  # node 1 loses an edge at the end
    6
    """
    more = {kind: int((np.unique(own, return_counts=True)[1] > edges).sum()) for kind, own in (nodes or {}).items()}
    return max(len(own) + more.get(kind, 0) for kind, own in template.items())


def make_projection(
    supernet: Supernet, relaxation: Relaxation, nodes: Mapping[str, Sequence[int]] | None = None, *, edges: int = 2,
    objective: Objective = CLASSIFICATION,
) -> Callable[[Key, Projected, Batch], Projected]:  # fmt: skip
    """Makes (key, state, batches) -> the state after one more decision of each cell kind; traceable.

    batches: validation batches stacked, [N, B, ...]. nodes: cell kind -> of each slot the number of the node it ends
    in, where a node keeps `edges` of its slots at the end; None where each slot is one choice. objective: whose metric
    is compared.

    >>> from jaxnas.base import Aux
    >>> from jaxnas.relax import softmax
    >>> from jaxnas.spaces import product_space
    >>> scaled = lambda params, weights, inputs, context: (inputs * weights["scale"][0, 1], Aux(()))
    >>> space = product_space("two", {"scale": ("0", "1")})
    >>> project = make_projection(Supernet(space, lambda key: (), scaled, scaled, lambda arch: ()), softmax())
    >>> state = projected(DartsState((), {"scale": jnp.zeros((1, 2))}, (), (), 0), space.template())
    >>> state = jax.jit(project)(jax.random.key(0), state, Batch(jnp.eye(3)[None], jnp.arange(3)[None]))
    >>> state.rows["scale"].tolist()  # without the scale of 1 nothing is recognized
    [[0.0, 1.0]]
    """
    ends = {kind: np.asarray(own) for kind, own in (nodes or {}).items()}
    taken = _taken(supernet)

    def project(key: Key, state: Projected, batches: Batch) -> Projected:
        def metric(weights: ArchWeights) -> Array:
            def one(batch: Batch) -> Array:
                outputs, _ = supernet.apply(state.search.params, weights, batch.inputs, Context())
                return means(objective, outputs, batch.targets)[1]

            return jnp.mean(jax.lax.map(one, batches))

        now = decided(relaxation, state.fixed, state.rows).mean(state.search.alpha)
        fixed, rows = dict(state.fixed), dict(state.rows)
        for number, kind in enumerate(sorted(now)):
            own_key = jax.random.fold_in(jax.random.fold_in(key, number), state.decisions)

            def without(mask: Array, kind: str = kind) -> Array:
                """The metric where the weights of a kind are multiplied by mask."""
                return metric({**now, kind: now[kind] * mask})

            before = fixed[kind], rows[kind]
            decide = functools.partial(_operation, own_key, *before, (now[kind] > 0) & taken[kind], without)
            if kind in ends:
                fewer = functools.partial(_fewer, own_key, *before, ends[kind], edges, without)
                fixed[kind], rows[kind] = jax.lax.cond(fixed[kind].all(), fewer, decide)
            else:
                fixed[kind], rows[kind] = decide()
        return Projected(state.search, fixed, rows, state.decisions + 1)

    return project


def _taken(supernet: Supernet) -> dict[str, np.ndarray]:
    """kind -> bool [S, O], the options that a slot can be decided for.

    Not those that stand for an absent edge, as "none" in the DARTS space: they appear where another option was asked
    for in every slot.
    """
    space, found = supernet.space, {}
    template = space.template()

    def has(kind: str, asked: int, option: int) -> bool:
        weights = {k: jax.nn.one_hot(jnp.full(len(own), asked), own.shape[1]) for k, own in template.items()}
        return bool((space.one_hot(space.discretize(weights))[kind][:, option] > 0).any())

    for kind, own in template.items():
        count = own.shape[1]
        columns = [has(kind, o, o) and not has(kind, (o + 1) % count, o) for o in range(count)]
        found[kind] = np.broadcast_to(np.array(columns), own.shape)
    return found


def _operation(
    key: Key, fixed: Array, rows: Array, options: Array, without: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """One more slot, at random, with the option that is missed most. options: bool [S, O], of which one is taken."""
    slots, count = rows.shape
    slot = jnp.argmax(jnp.where(fixed, -1.0, jax.random.uniform(key, (slots,))))
    masks = 1.0 - jax.nn.one_hot(slot, slots)[None, :, None] * jnp.eye(count)[:, None, :]
    worth = jnp.where(options[slot], jax.lax.map(without, masks), jnp.inf)
    return fixed.at[slot].set(True), rows.at[slot].set(jax.nn.one_hot(jnp.argmin(worth), count))


def _fewer(
    key: Key, fixed: Array, rows: Array, ends: np.ndarray, edges: int, without: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """A random node of those with more than `edges` edges has them no more: those go that are missed least."""
    there = rows.sum(1) > 0
    each = np.unique(ends)
    counts = jnp.stack([jnp.sum(there & (ends == n)) for n in each])
    node = jnp.argmax(jnp.where(counts > edges, jax.random.uniform(key, counts.shape), -1.0))
    mine = jnp.stack([jnp.asarray(ends == n) for n in each])[node]

    def drop(left: Array) -> Array:
        def worth(slot: Array) -> Array:
            return jax.lax.cond(
                left[slot] & mine[slot],
                lambda: without((left & (jnp.arange(len(left)) != slot))[:, None].astype(rows.dtype)),
                lambda: jnp.full((), -jnp.inf),
            )

        worst = jnp.argmax(jax.lax.map(worth, jnp.arange(len(left))))
        return left.at[worst].set(False)

    left = jax.lax.while_loop(lambda left: jnp.sum(left & mine) > edges, drop, there)
    return fixed, rows * left[:, None]
