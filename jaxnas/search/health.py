"""The health of a search by gradients: signs that it collapses, and when to stop it.

DARTS tends to end in cells of skip connections, whose mixture learns well and whose derived network does not. Zela et
al., "Understanding and Robustifying Differentiable Architecture Search" (ICLR 2020, https://arxiv.org/abs/1909.09656)
find that this goes with a growing dominant eigenvalue of the Hessian of the validation loss with respect to alpha, at
fixed weights, and stop before it has grown (DARTS-ES): with e(i) the mean eigenvalue of the `window` measurements
around measurement i, the search ends where

    e(i - lag) / e(i)  <  ratio,

and the alpha of measurement i - lag is what it found. The ratio is the paper's, 0.75; the authors' program has a factor
of 1.3, which is 0.77. The other defaults are the program's.

The eigenvalue is Lanczos', on exact Hessian-vector products, instead of that of a whole Hessian of hundreds of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnas.base import (
    Arch,
    ArchWeights,
    Array,
    Batch,
    Context,
    Key,
    Objective,
    Phase,
    PyTree,
    SearchAlgorithm,
    SearchSpace,
    Supernet,
)
from jaxnas.objectives import CLASSIFICATION, means
from jaxnas.relax import softmax

Mixture = Callable[[ArchWeights], ArchWeights]
"""alpha -> the weights of the mixture, without randomness."""


def softmax_mixture(alpha: ArchWeights) -> ArchWeights:
    """The mixture weights of DARTS: the softmax of alpha."""
    return softmax().mean(alpha)


class Gap(NamedTuple):
    """Loss and metric of the mixture and of the architecture derived from it, on the same batches and parameters.

    Where the derived path is far worse than the mixture, the weights that guided the search are not those that its
    result uses.
    """

    mixture_loss: Array
    mixture_metric: Array
    path_loss: Array
    path_metric: Array


class Curvature(NamedTuple):
    """The largest eigenvalue of the Hessian, a bound on its error, and the number of Hessian-vector products."""

    eigenvalue: float
    error: float
    products: int


def skip_connections(genotype: Mapping[str, Any]) -> dict[str, int]:
    """Skip connections of each cell of a genotype in JSON form: its name -> how many.

    >>> skip_connections({"normal": [[["skip_connect", 0], ["sep_conv_3x3", 1]]], "normal_concat": [2]})
    {'normal': 1}
    """

    def count(part: Any) -> int:
        if isinstance(part, (list, tuple)):
            return sum(map(count, part))
        return int(part == "skip_connect")

    # "normal_concat" and other lists without operations are no cells.
    named = {kind: part for kind, part in genotype.items() if isinstance(part, (list, tuple)) and _has_name(part)}
    return {kind: count(part) for kind, part in named.items()}


def _has_name(part: Any) -> bool:
    return any(map(_has_name, part)) if isinstance(part, (list, tuple)) else isinstance(part, str)


def entropy(weights: ArchWeights) -> Array:
    """The mean entropy of the slots of a mixture, in nats: log O where nothing is decided, 0 where everything is.

    >>> round(float(entropy({"cell": jnp.full((6, 4), 0.25)})), 3)  # ln 4
    1.386
    """
    slots = []
    for value in weights.values():
        p = value / value.sum(-1, keepdims=True)
        slots.append(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), -1))
    return jnp.mean(jnp.concatenate(slots))


def make_gap(
    space: SearchSpace, supernet: Supernet, mixture: Mixture = softmax_mixture, *, objective: Objective = CLASSIFICATION
) -> Callable[[PyTree, ArchWeights, Sequence[Batch]], Gap]:
    """Makes (params, alpha, batches of one size) -> Gap, one compiled forward pass of a mixture.

    mixture: alpha -> weights, the softmax by default. objective: whose loss and metric are told.

    The path is computed as the mixture of its one-hot weights, which is the same function, unless the supernet samples
    its mixtures: so there is one program. Batch norm is by the statistics of each batch, for both.

    >>> from jaxnas.base import Aux
    >>> from jaxnas.spaces import product_space
    >>> scaled = lambda params, weights, inputs, context: (inputs * weights["scale"][0, 1], Aux(()))
    >>> space = product_space("two", {"scale": ("0", "1")})
    >>> gap = make_gap(space, Supernet(space, lambda key: (), scaled, scaled, lambda arch: ()))
    >>> told = gap((), {"scale": jnp.array([[1.0, 0.0]])}, [Batch(jnp.eye(4), jnp.arange(4))])
    >>> float(told.mixture_metric), float(told.path_metric)  # the path of scale 0 sees nothing
    (1.0, 0.25)
    """

    @jax.jit
    def evaluate(params: PyTree, weights: ArchWeights, batch: Batch) -> tuple[Array, Array]:
        outputs, _ = supernet.apply(params, weights, batch.inputs, Context())
        return means(objective, outputs, batch.targets)

    @jax.jit
    def both(alpha: ArchWeights) -> tuple[ArchWeights, ArchWeights]:
        weights = mixture(alpha)
        return weights, space.one_hot(space.discretize(weights))

    def gap(params: PyTree, alpha: ArchWeights, batches: Sequence[Batch]) -> Gap:
        means = []
        for weights in both(alpha):
            told = [evaluate(params, weights, batch) for batch in batches]
            means += [jnp.mean(jnp.stack(values)) for values in zip(*told, strict=True)]
        return Gap(*means)

    return gap


def make_hessian_product(
    supernet: Supernet, mixture: Mixture = softmax_mixture, *, objective: Objective = CLASSIFICATION
) -> Callable[[PyTree, ArchWeights, Batch, ArchWeights], ArchWeights]:
    """Makes (params, alpha, batch, direction) -> the Hessian of the batch's loss with respect to alpha times direction.

    Forward over reverse. It is traceable; jit it.
    """

    def loss(params: PyTree, alpha: ArchWeights, batch: Batch) -> Array:
        outputs, _ = supernet.apply(params, mixture(alpha), batch.inputs, Context())
        return objective.loss(outputs, batch.targets).mean()

    def product(params: PyTree, alpha: ArchWeights, batch: Batch, direction: ArchWeights) -> ArchWeights:
        # With respect to the weights too, and thrown away: see `bilevel`, `alpha_gradient`.
        def gradient(alpha: ArchWeights) -> ArchWeights:
            return jax.grad(loss, (0, 1))(params, alpha, batch)[1]

        return jax.jvp(gradient, (alpha,), (direction,))[1]

    return product


def make_curvature(
    supernet: Supernet,
    mixture: Mixture = softmax_mixture,
    *,
    objective: Objective = CLASSIFICATION,
    most_products: int = 20,
    tolerance: float = 0.01,
) -> Callable[[Key, PyTree, ArchWeights, Sequence[Batch]], Curvature]:
    """Makes (key, params, alpha, batches of one size) -> Curvature of the mean loss of the batches.

    mixture: alpha -> weights, the softmax by default. The key draws the vector that Lanczos starts from. The iteration
    ends when the relative error of the eigenvalue is below `tolerance`, or after `most_products`.

    Raises: ValueError where most_products is less than 1.

    >>> from jaxnas.base import Aux
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.spaces import product_space
    >>> scaled = lambda params, weights, inputs, context: (inputs * weights["scale"][0, 1], Aux(()))
    >>> space = product_space("two", {"scale": ("0", "1")})
    >>> supernet = Supernet(space, lambda key: (), scaled, scaled, lambda arch: ())
    >>> curvature = make_curvature(supernet, lambda alpha: alpha, objective=regression())
    >>> batch = Batch(jnp.array([3.0]), jnp.array([1.0]))
    >>> told = curvature(jax.random.key(0), (), {"scale": jnp.zeros((1, 2))}, [batch])
    >>> round(told.eigenvalue, 3)  # of the loss (3 a - 1)^2
    18.0
    """
    if most_products < 1:
        raise ValueError(f"most_products must be at least 1, got {most_products}")
    product = jax.jit(make_hessian_product(supernet, mixture, objective=objective))

    def curvature(key: Key, params: PyTree, alpha: ArchWeights, batches: Sequence[Batch]) -> Curvature:
        flat, unravel = ravel_pytree(alpha)

        def times(vector: np.ndarray) -> np.ndarray:
            direction = unravel(jnp.asarray(vector, flat.dtype))
            each = [ravel_pytree(product(params, alpha, batch, direction))[0] for batch in batches]
            return np.mean(np.asarray(each, np.float64), axis=0)

        return largest_eigenvalue(times, np.asarray(jax.random.normal(key, flat.shape)), most_products, tolerance)

    return curvature


def largest_eigenvalue(
    times: Callable[[np.ndarray], np.ndarray], start: np.ndarray, most_products: int, tolerance: float
) -> Curvature:
    """The largest eigenvalue of a symmetric matrix by Lanczos' iteration, from its products with vectors [n].

    Every new vector is made orthogonal to all before, twice, so that no eigenvalue comes again as a copy. The residual
    of the largest Ritz pair bounds its distance to an eigenvalue; below tolerance times the value the iteration ends.
    """
    basis = [np.asarray(start, np.float64) / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = times(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = np.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        beside.append(float(np.linalg.norm(image)))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
        value, error = float(values[-1]), beside[-1] * abs(float(vectors[-1, -1]))
        done = error <= tolerance * abs(value) or len(basis) == len(start)
        if done or len(basis) == most_products:
            return Curvature(value, error, len(basis))
        basis.append(image / beside[-1])


class History(NamedTuple):
    """T measurements, of which `made` are done: eigenvalues [T], and alpha at each of them, kind -> [T, S, O]."""

    eigenvalues: Array
    alphas: ArchWeights
    made: Array


def start_history(alpha: ArchWeights, measurements: int) -> History:
    """The history before the first measurement, with places for so many. alpha: cell kind -> [S, O], for its shape.

    >>> start_history({"cell": jnp.zeros((6, 5))}, measurements=50).alphas["cell"].shape
    (50, 6, 5)
    """
    alphas = jax.tree.map(lambda a: jnp.zeros((measurements, *a.shape), a.dtype), alpha)
    return History(jnp.zeros(measurements), alphas, jnp.zeros((), jnp.int32))


def record(history: History, eigenvalue: float | Array, alpha: ArchWeights) -> History:
    """Adds a measurement. Where all T places are taken, it is dropped.

    >>> alpha = {"cell": jnp.zeros((6, 5))}
    >>> history = record(start_history(alpha, 3), 0.25, alpha)
    >>> history.eigenvalues.tolist(), int(history.made)
    ([0.25, 0.0, 0.0], 1)
    """
    return History(
        history.eigenvalues.at[history.made].set(eigenvalue, mode="drop"),
        jax.tree.map(lambda all_, a: all_.at[history.made].set(a, mode="drop"), history.alphas, alpha),
        history.made + 1,
    )


class EarlyStop(NamedTuple):
    """The rule of DARTS-ES, in measurements: `window`, `lag` and `ratio` are those of its inequality (see the module).

    `first`: it returns to no measurement before this one.

    >>> EarlyStop(window=3, first=20)
    EarlyStop(window=3, lag=4, ratio=0.75, first=20)
    """

    window: int = 5
    lag: int = 4
    ratio: float = 0.75
    first: int = 10


def collapsed(history: History, rule: EarlyStop) -> Array:
    """The measurement to return to, counted from 0, or -1 where there is no reason to stop; int32.

    A window ends with the last measurement, so its center lies window // 2 measurements earlier. The first windows are
    shorter, as in the authors' program.

    >>> eigenvalues = jnp.array([0.2] * 15 + [0.8] * 5)
    >>> int(collapsed(History(eigenvalues, {}, jnp.int32(20)), EarlyStop()))  # before they grow
    13
    """
    place = jnp.arange(len(history.eigenvalues))

    def smoothed(last: Array) -> Array:
        inside = (place <= last) & (place > last - rule.window)
        return jnp.sum(jnp.where(inside, history.eigenvalues, 0.0)) / jnp.maximum(inside.sum(), 1)

    last = history.made - 1
    back = last - rule.window // 2 - rule.lag
    grown = smoothed(last - rule.lag) < rule.ratio * smoothed(last)
    return jnp.where((back >= max(rule.first, 0)) & grown, back, -1)


class WatchedState(NamedTuple):
    """search: the state of the watched algorithm. history: what was measured of it."""

    search: Any
    history: History


def watched(algorithm: SearchAlgorithm, measurements: int, rule: EarlyStop | None = None) -> SearchAlgorithm:
    """The algorithm with a history in its state; its own state has a field `alpha`.

    The steps leave the history alone; whoever measures calls `record`. measurements: how many there will be. rule:
    where it calls for a stop, `derive` reads the alpha of an earlier measurement. With None `derive` always reads the
    last alpha.

    Raises: ValueError where there is no measurement, or the rule makes no sense.

    >>> import optax
    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.search import adam_l2, darts
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> search = watched(darts(supernet, optax.sgd(0.025), adam_l2()), measurements=50, rule=EarlyStop())
    >>> jax.eval_shape(search.init, jax.random.key(0)).history.eigenvalues.shape
    (50,)
    """
    if measurements < 1:
        raise ValueError(f"measurements must be at least 1, got {measurements}")
    if rule is not None:
        check_rule(rule)

    def init(key: Key) -> WatchedState:
        state = algorithm.init(key)
        return WatchedState(state, start_history(state.alpha, measurements))

    def step_of(phase: Phase) -> Callable[[Key, WatchedState, Mapping[str, Batch]], tuple[WatchedState, Any]]:
        def step(key: Key, state: WatchedState, batch: Mapping[str, Batch]) -> tuple[WatchedState, Any]:
            search, info = phase.step(key, state.search, batch)
            return state._replace(search=search), info

        return step

    def derive(key: Key, state: WatchedState, score: Callable[[Array], Array] | None = None) -> Arch:
        return algorithm.derive(key, state.search._replace(alpha=kept_alpha(state, rule)), score)

    phases = tuple(p._replace(step=step_of(p)) for p in algorithm.phases)
    return SearchAlgorithm(init, phases, derive, algorithm.supernet)


def kept_alpha(state: WatchedState, rule: EarlyStop | None) -> ArchWeights:
    """The architecture parameters from which a watched search derives: its last ones, or those of an early stop.

    >>> from jaxnas.search import DartsState
    >>> alphas, last = {"cell": jnp.arange(20.0)[:, None, None]}, {"cell": jnp.array([[19.0]])}
    >>> history = History(jnp.array([0.2] * 15 + [0.8] * 5), alphas, jnp.int32(20))
    >>> state = WatchedState(DartsState((), last, (), (), 20), history)
    >>> kept_alpha(state, None)["cell"].tolist(), kept_alpha(state, EarlyStop())["cell"].tolist()
    ([[19.0]], [[13.0]])
    """
    if rule is None:
        return state.search.alpha
    back = collapsed(state.history, rule)
    return jax.tree.map(
        lambda now, before: jnp.where(back < 0, now, before[jnp.maximum(back, 0)]),
        state.search.alpha,
        state.history.alphas,
    )


def check_rule(rule: EarlyStop) -> None:
    """Raises ValueError for a rule that makes no sense."""
    for name in ("window", "lag"):
        if getattr(rule, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(rule, name)}")
    if not 0 < rule.ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {rule.ratio}")
    if rule.first < 0:
        raise ValueError(f"first must not be negative, got {rule.first}")
