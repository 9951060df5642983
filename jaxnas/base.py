"""The contracts of the library: everything else makes or consumes one of these.

Each contract is a NamedTuple of pure functions that a factory returns. Closures hold hyper-parameters, state holds what
changes, PRNG keys come first and are consumed once. Shapes use one legend: B batch, H W C image, S slots of a mixture
(edges or positions), O operations, D choices of a search space, G cell kinds, N nodes, P population, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

__all__ = [
    "DTYPES",
    "PLAIN",
    "Arch",
    "ArchWeights",
    "Aux",
    "Batch",
    "Candidates",
    "Choice",
    "Context",
    "Graph",
    "Key",
    "Network",
    "Objective",
    "Phase",
    "Predictor",
    "Relaxation",
    "Sampler",
    "SearchAlgorithm",
    "SearchSpace",
    "Skeleton",
    "Stats",
    "Supernet",
]

Array = jax.Array
Key = jax.Array
"""A typed key, as made by `jax.random.key`."""
PyTree = Any
Arch = jax.Array
"""An architecture: int32 [D], one entry for each choice of its space; a population is [P, D]."""
ArchWeights = dict[str, jax.Array]
"""Mixture weights or architecture parameters: cell kind -> float [S, O]."""


DTYPES = ("float32", "bfloat16", "float64")
"""What activations may be; float64 only where JAX has it (`jax_enable_x64`)."""


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The network that the searched cells are put into.

    `cells` counts all cells for the DARTS space and the cells of one stage for NAS-Bench-201. `channels` is the width
    of the first stage. `image_shape` is (H, W, C). `dtype` is that of activations. Parameters are float32, and cast
    where they are used; statistics of batch norms, what the classifier reads, logits and weights of a mixture stay
    float32.

    >>> Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)
    Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10, auxiliary=False, dtype='float32')
    """

    channels: int
    cells: int
    image_shape: tuple[int, int, int]
    num_classes: int
    auxiliary: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for name in ("channels", "cells", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape must be (height, width, channels), all positive, got {self.image_shape}")


class Choice(NamedTuple):
    """One decision of a search space; an architecture holds the index of the option taken.

    node: the node of the graph whose making the choice is part of. reads: where the options are connections, the nodes
    that each of them reads, () for a connection that is left out. A space that says so lists all choices of a node
    before any choice that may read it; empty where it does not say, or where the options are operations.

    >>> choice = Choice("kernel of layer 1", ("3x3", "5x5", "7x7"))
    >>> choice.options[2]  # what the entry 2 of an architecture means there
    '7x7'
    """

    name: str
    options: tuple[str, ...]
    node: str = ""
    reads: tuple[tuple[str, ...], ...] = ()


class Graph(NamedTuple):
    """Architectures as graphs with operations on the nodes; an edge-labeled cell gives its line graph.

    adjacency: [G, N, N] float32, entry (i, j) is 1 where node i feeds node j; a node feeds later ones only. ops: [G, N]
    int32. mask: [G, N] bool. signals: [F] float32, what else is known of the architecture before it is trained, costs
    or scores of one-shot networks; None where nothing is.

    >>> import jax.numpy as jnp
    >>> chain = Graph(jnp.eye(3, k=1)[None], jnp.array([[5, 0, 6]]), jnp.ones((1, 3), bool))
    >>> jnp.argwhere(chain.adjacency[0]).tolist()  # place 0 feeds place 1, and that one place 2
    [[0, 1], [1, 2]]
    """

    adjacency: Array
    ops: Array
    mask: Array
    signals: Array | None = None


class SearchSpace(NamedTuple):
    """A finite product of choices, and what the choices mean.

    Every function but `to_genotype`, `from_genotype`, `notation` and `costs` is traceable.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> arch = space.from_genotype("width=16 depth=2")
    >>> archs, valid = space.neighbors(arch)
    >>> [space.notation(each) for each in archs[valid]]
    ['width=32 depth=2', 'width=8 depth=2', 'width=16 depth=1']
    """

    name: str
    choices: tuple[Choice, ...]
    sample: Callable[[Key], Arch]
    mutate: Callable[[Key, Arch], Arch]
    """Changes exactly one choice to another of its options, uniformly over the neighbors."""
    crossover: Callable[[Key, Arch, Arch], Arch]
    neighbors: Callable[[Arch], tuple[Array, Array]]
    """arch -> (archs [M, D], valid bool [M]): all that differ in one choice, and which of them are in the space."""
    canonical: Callable[[Arch], Arch]
    template: Callable[[], ArchWeights]
    """Zeros in the shape of the mixture's weights."""
    one_hot: Callable[[Arch], ArchWeights]
    discretize: Callable[[ArchWeights], Arch]
    graph: Callable[[Arch], Graph]
    costs: Callable[[Arch, Skeleton], dict[str, int]]
    """(arch, skeleton) -> {"params": …, "macs": …} of the derived network, exact Python integers."""
    to_genotype: Callable[[Arch], dict[str, Any]]
    """The JSON form."""
    from_genotype: Callable[[Mapping[str, Any] | str], Arch]
    """Reads the JSON form or the field's notation; raises ValueError naming what is wrong."""
    notation: Callable[[Arch], str]
    """The field's own notation, as printed by the papers' programs."""
    vocabulary: tuple[str, ...] = ()
    """What the operation ids of `graph` mean, which predictors need."""


class Batch(NamedTuple):
    """What a step reads. Both are any pytrees of arrays [B, …], whose first axis is that of the examples.

    inputs: what the network is given; images are float32 [B, H, W, C], normalized. targets: what its outputs are
    compared with; classes are int32 [B].

    >>> import jax.numpy as jnp
    >>> batch = Batch(jnp.zeros((4, 8, 8, 1)), jnp.array([3, 0, 9, 1]))
    >>> batch.inputs.shape, batch.targets.shape
    ((4, 8, 8, 1), (4,))
    """

    inputs: PyTree
    targets: PyTree


class Objective(NamedTuple):
    """What training minimizes, and what searches compare; `jaxnas.objectives` has the usual ones.

    loss, metric: (outputs, targets) -> float32 [B], one number for each example, so that what fills up a batch can be
    left out. Training minimizes the mean of the loss, searches maximize that of the metric. name: of the mean of the
    metric, such as "accuracy". share: whether the metric of an example is 0 or 1, so that its mean is a share of the
    examples and has the confidence interval of a share.

    >>> import jax.numpy as jnp
    >>> absolute = Objective(lambda y, t: abs(y - t), lambda y, t: -abs(y - t), "minus the absolute error")
    >>> absolute.loss(jnp.array([1.0, 3.0]), jnp.array([2.0, 3.0])).tolist()
    [1.0, 0.0]
    """

    loss: Callable[[PyTree, PyTree], Array]
    metric: Callable[[PyTree, PyTree], Array]
    name: str
    share: bool = False


Stats = Any
"""A pytree of (mean [C], variance [C]) pairs, one for each batch norm of a network, laid out as in its Aux."""


class Context(NamedTuple):
    """What a forward pass may need beside parameters and data.

    bn: "batch" normalizes by the statistics of the batch; a Stats pytree normalizes by those. key: randomness of
    drop-path and dropout, None where the pass is deterministic. drop_path: probability of dropping a path. dropout:
    probability of dropping an entry, in operations that do so.
    axis_name: the mapped axis over which statistics and gradients are averaged, None outside pmap and shard_map.
    wanted: bool [], false where the gradients of kernels are not used, which may then be zero; None is true.

    >>> import jax.numpy as jnp
    >>> tested = Context(bn={"stem": (jnp.zeros(8), jnp.ones(8))})  # by running statistics, without randomness
    >>> mean, variance = tested.at("stem").bn
    >>> mean.shape
    (8,)
    """

    bn: Literal["batch"] | Stats = "batch"
    key: Key | None = None
    drop_path: float | Array = 0.0
    axis_name: str | None = None
    wanted: Array | None = None
    dropout: float | Array = 0.0

    def at(self, *path: Any) -> Context:
        """The context of a part of a network, whose statistics are at this path in those of the whole."""
        bn = self.bn
        for name in path:
            bn = bn if isinstance(bn, str) else bn[name]
        return self._replace(bn=bn)


PLAIN = Context()
"""By the statistics of the batch, without randomness, on one device."""


class Aux(NamedTuple):
    """What a forward pass tells beside the outputs.

    stats: the batch statistics it saw (the given ones where it was given some), None or () of a network without batch
    norms. aux_logits: the outputs of the auxiliary head in training, else None.
    """

    stats: Stats
    aux_logits: Array | None = None


class Network(NamedTuple):
    """A fixed network to be trained from scratch.

    init: key -> (params, stats), stats being the running statistics before the first step (mean 0, variance 1).
    apply: (params, inputs, context) -> (outputs, Aux): inputs are those of a `Batch`, and outputs what an `Objective`
    compares with its targets; of images [B, H, W, C] and their classes they are logits [B, K].

    >>> import jax.numpy as jnp
    >>> def apply(params, images, context):
    ...     return images.reshape(-1, 64) @ params, Aux(())
    >>> linear = Network(lambda key: (jnp.zeros((64, 10)), ()), apply, {"params": 640, "macs": 640})
    >>> params, stats = linear.init(jax.random.key(0))
    >>> linear.apply(params, jnp.zeros((5, 8, 8, 1)), PLAIN)[0].shape
    (5, 10)
    """

    init: Callable[[Key], tuple[PyTree, Stats]]
    apply: Callable[[PyTree, Any, Context], tuple[Any, Aux]]
    costs: dict[str, int]


def no_network(*_: Any) -> Any:
    """What stands in a `Supernet` for a derived network that it does not have: raises ValueError."""
    raise ValueError("this supernet has no derived network: give it `network`, `extract` and `extract_stats`")


def no_parameters(*_: Any) -> Any:
    """What stands for `extract` and `extract_stats` where paths are of a part of the channels: raises ValueError."""
    raise ValueError(
        "a supernet of partial channels has no parameters for a network of all of them: train the network from scratch"
    )


class Supernet(NamedTuple):
    """A network that holds the parameters of every architecture of a space.

    space: of which it is; algorithms take it from here, so that the two always fit. init: key -> params. apply:
    (params, weights, inputs, context) -> (outputs, Aux), the mixture. apply_path: (params, arch, inputs, context) ->
    (outputs, Aux), one architecture; only its operations are computed. Inputs and outputs are as in `Network`. used:
    arch -> bool pytree that broadcasts against params, true where the output of that architecture depends on them.

    network: arch -> the derived network, which computes what the path computes; arch is concrete here and below.
    extract: (params, arch) -> the parameters of that network, new batch norms with scale 1 and offset 0.
    extract_stats: (statistics that a path told, arch) -> those of that network. input_shape: of one example, (H, W, C)
    of an image; where the inputs are not one array of floats, a pytree of `jax.ShapeDtypeStruct`.

    >>> from jaxnas.catalog import entry_of
    >>> supernet = entry_of("nasbench201").supernet(Skeleton(4, 1, (8, 8, 3), num_classes=10))
    >>> params = jax.eval_shape(supernet.init, jax.random.key(0))
    >>> arch, images = jax.ShapeDtypeStruct((6,), "int32"), jax.ShapeDtypeStruct((5, 8, 8, 3), "float32")
    >>> jax.eval_shape(lambda p, a, x: supernet.apply_path(p, a, x, PLAIN)[0], params, arch, images).shape
    (5, 10)
    """

    space: SearchSpace
    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, ArchWeights, Any, Context], tuple[Any, Aux]]
    apply_path: Callable[[PyTree, Arch, Any, Context], tuple[Any, Aux]]
    used: Callable[[Arch], PyTree]
    network: Callable[[Arch], Network] = no_network
    extract: Callable[[PyTree, Arch], PyTree] = no_network
    extract_stats: Callable[[Stats, Arch], Stats] = no_network
    input_shape: tuple[int, ...] | PyTree = ()


class Relaxation(NamedTuple):
    """How architecture parameters become the weights of a mixture.

    init: (key, template of the space) -> alpha, any pytree. weights: (key, alpha, step) -> what a pass of a search
    sees, random or annealed. mean: alpha -> what is derived, reported and watched: without randomness, as at the end of
    any annealing.

    >>> def softmax(alpha):
    ...     return jax.tree.map(jax.nn.softmax, alpha)
    >>> plain = Relaxation(lambda key, template: template, lambda key, alpha, step: softmax(alpha), softmax)
    >>> alpha = plain.init(jax.random.key(0), {"cell": jax.numpy.zeros((1, 4))})
    >>> plain.mean(alpha)["cell"].tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    init: Callable[[Key, ArchWeights], PyTree]
    weights: Callable[[Key, PyTree, Array], ArchWeights]
    mean: Callable[[PyTree], ArchWeights]


class Phase(NamedTuple):
    """One kind of step of an algorithm.

    reads: the splits of which it is given a batch each, "train" and "valid". plain: whether it is given the examples as
    they are, without augmentation.

    >>> def step(key, state, batch):
    ...     return state + len(batch["valid"].targets), {}
    >>> counting = Phase("count", step, reads=("valid",), plain=True)
    >>> counting.step(jax.random.key(0), 8, {"valid": Batch(inputs=[0.5, 0.7], targets=[1, 0])})[0]
    10
    """

    name: str
    step: Callable[[Key, Any, Mapping[str, Batch]], tuple[Any, Any]]
    reads: tuple[str, ...]
    plain: bool = False


class SearchAlgorithm(NamedTuple):
    """A search with shared weights, as pure functions over one state.

    init: key -> state. phases: the steps, run in turn. derive: (key, state, score) -> architecture.

    `score` maps archs [P, D] to fitness [P]; None where the algorithm needs none. State is carried and checkpointed;
    the second result of a step, its Info, is only reported. supernet: whose weights the state holds, as `params`.

    draw: (key, state, count) -> archs [count, D], the candidates of which `derive` keeps the one of the highest score;
    traceable but for the count. None where the state alone decides.

    >>> import optax
    >>> from jaxnas.catalog import entry_of
    >>> from jaxnas.search import single_path, uniform_paths
    >>> supernet = entry_of("nasbench201").supernet(Skeleton(4, 1, (8, 8, 3), num_classes=10))
    >>> algorithm = single_path(supernet, uniform_paths(supernet.space), optax.sgd(0.1))
    >>> [(phase.name, phase.reads) for phase in algorithm.phases]
    [('supernet', ('train',))]
    """

    init: Callable[[Key], Any]
    phases: tuple[Phase, ...]
    derive: Callable[[Key, Any, Callable[[Array], Array] | None], Arch]
    supernet: Supernet | None = None
    draw: Callable[[Key, Any, int], Array] | None = None


class Candidates(NamedTuple):
    """What a sampler wants evaluated. archs: int32 [P, D]. fidelity: int32 [P], an index into a benchmark's fidelities.

    Higher indices cost more and tell more; -1 is the highest. Entries of a batch may be padding: `wanted` bool [P].

    >>> import jax.numpy as jnp
    >>> archs = jnp.array([[0, 1], [2, 1]])
    >>> candidates = Candidates(archs, fidelity=jnp.full(2, -1), wanted=jnp.array([True, False]))
    >>> candidates.archs[candidates.wanted].tolist()
    [[0, 1]]
    """

    archs: Array
    fidelity: Array
    wanted: Array


class Sampler(NamedTuple):
    """Black-box search: pure functions over a fixed-shape state, under `jit`, `scan` and `vmap` over seeds.

    init: key -> state. ask: (key, state) -> candidates. tell: (key, state, candidates, objectives [P, M] float32 to be
    maximized, valid bool [P]) -> state; an invalid one counts as not evaluated. Each call takes a key of its own; most
    samplers draw nothing when they are told. best: state -> archs [Q, D], the best first; for several objectives the
    non-dominated ones, with repeats as padding.

    >>> from jaxnas.samplers import random_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = random_search(space, batch=4)
    >>> state = sampler.init(jax.random.key(0))
    >>> sampler.ask(jax.random.key(1), state).archs.shape
    (4, 2)
    """

    init: Callable[[Key], Any]
    ask: Callable[[Key, Any], Candidates]
    tell: Callable[[Key, Any, Candidates, Array, Array], Any]
    best: Callable[[Any], Array]


class Predictor(NamedTuple):
    """What an architecture will be worth, learned from some that were measured.

    init: key -> state. fit: (key, state, graphs [P], targets [P], weight [P]) -> state, both float32; a weight of 0 is
    padding, so that data may grow without a new trace. It begins from the state: that of `init`, or that of an earlier
    fit to be continued. predict: (state, graphs [Q]) -> (mean [Q], std [Q]) in the targets' unit; std is that of a new
    measurement as far as the predictor knows. Graphs are batched by `vmap` of `SearchSpace.graph`.

    >>> import jax.numpy as jnp
    >>> def fit(key, state, graphs, targets, weight):  # all are as good as those before
    ...     return (targets * weight).sum() / weight.sum()
    >>> mean = Predictor(lambda key: jnp.zeros(()), fit, lambda state, graphs: (state, jnp.ones(())))
    >>> float(mean.fit(jax.random.key(0), 0.0, None, jnp.array([1.0, 3.0, 7.0]), jnp.array([1.0, 1.0, 0.0])))
    2.0
    """

    init: Callable[[Key], Any]
    fit: Callable[[Key, Any, Graph, Array, Array], Any]
    predict: Callable[[Any, Graph], tuple[Array, Array]]
