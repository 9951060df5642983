"""The operations that cells and layers choose among. Each is an object that says what it is, does and costs.

An operation of your own is one more `Primitive`, in your own file: a space takes it in the place of a name. Of `init`
and `apply` alone is asked what every layer of the field's papers does; docs/search_spaces.md has an example, and
`jaxnas.testing.check_primitive` says whether it keeps what it promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Context, Key, PyTree, Stats
from jaxnas.kernels.pooling import avg_pool, max_pool
from jaxnas.ops import costs as cost
from jaxnas.ops import layers

__all__ = [
    "PRIMITIVES",
    "Apply",
    "Operations",
    "Primitive",
    "conv",
    "named",
    "norm_init",
    "separable_conv",
    "without_parameters",
]


class Apply(Protocol):
    """(params, x [B, H, W, C], stride, context) -> (y, statistics), y [B, ceil(H/stride), ceil(W/stride), C'].

    The statistics are a tuple with what each batch norm told, in turn: number n is given `context.at(n)`. An apply that
    draws from `context.key`, such as dropout, must do without where it is None.
    """

    def __call__(self, params: Any, x: Array, stride: int, context: Context, /) -> tuple[Array, Stats]: ...


class Separable(NamedTuple):
    """`repeats` times ReLU, depthwise convolution, pointwise convolution, batch norm, the stride in the first."""

    size: int
    dilation: int
    repeats: int


class Dense(NamedTuple):
    """ReLU, convolution, batch norm."""

    size: int


class Pool(NamedTuple):
    """A pool, which has no parameters."""


class Zero(NamedTuple):
    """Zeros, which a mixture need not add."""


class Normed(NamedTuple):
    """A pool, then batch norm."""

    pool: Apply


class Largest(NamedTuple):
    """An operation that computes any of some cases, whichever its parameters are those of.

    embed: (case, params of that, channels, stride) -> its own parameters. norms: (case, channels, stride) -> for each
    batch norm of the case, which of its own that is, of which the first channels. widths: (channels, stride) -> the
    channels of its own batch norms, which have no scale and offset.
    """

    apply: Apply
    embed: Callable[[Any, Any, int, int], PyTree]
    norms: Callable[[Any, int, int], tuple[int, ...]]
    widths: Callable[[int, int], tuple[int, ...]]


class Case(NamedTuple):
    """A case of a larger operation, which is computed once where it is data which of its cases is taken.

    largest: some cases -> the operation that they are cases of; the same function for all of them.
    """

    largest: Callable[[tuple[Any, ...]], Largest]
    case: Any


def _no_norms(channels: int, stride: int) -> tuple[int, ...]:
    del channels, stride
    return ()


class Primitive(NamedTuple):
    """An operation.

    name: as genotypes and tables have it. init: (key, channels, stride, affine) -> params; affine: whether batch norms
    have scale and offset, which they have in a derived network and have not in a search. cost: (channels, stride, size
    of the input) -> that of the operation in a derived network. norms: (channels, stride) -> the channels of each of
    its batch norms. random: whether it draws from `context.key` in a search.

    Two fields are for speed alone. scaled: (params without affine, scale [C]) -> params with which the output is
    multiplied by the scale, in a last batch norm, whose gradient has the scale's in it; None: it does not. family: of
    operations that can be computed in one kernel; None: of no such family.

    >>> def init(key, channels, stride, affine):
    ...     return {"scale": jnp.ones(channels)}
    >>> def apply(params, x, stride, context):
    ...     return x[:, ::stride, ::stride] * params["scale"], ()
    >>> scale = Primitive("scale", init, apply, lambda channels, stride, size: cost.Cost(params=channels))
    >>> names_of(["none", "skip_connect", scale])
    ('none', 'skip_connect', 'scale')
    """

    name: str
    init: Callable[[Key, int, int, bool], PyTree]
    apply: Apply
    cost: Callable[[int, int, cost.Size], cost.Cost]
    norms: Callable[[int, int], tuple[int, ...]] = _no_norms
    random: bool = False
    scaled: Callable[[Any, Array], Any | None] = lambda params, scale: None
    family: Separable | Dense | Pool | Zero | Normed | Case | None = None


def operation_key(key: Key | None, *primitives: Primitive) -> Key | None:
    """What an operation of an edge draws from; its drop-path draws from the key itself. None where no one draws."""
    if key is None or not any(primitive.random for primitive in primitives):
        return None
    return jax.random.fold_in(key, 1)


def initial_stats(primitive: Primitive, channels: int, stride: int) -> Stats:
    """The statistics of a primitive before any batch was seen."""
    return tuple(map(layers.initial_stats, primitive.norms(channels, stride)))


def scaled_norm(params: Any, scale: Array) -> Any | None:
    """`Primitive.scaled` of an operation whose last batch norm is `params["norm"]`, if it has that."""
    return {**params, "norm": {"scale": scale}} if "norm" in params else None


def norm_init(channels: int, affine: bool) -> layers.Params | None:
    """The scale and offset of a batch norm, float32 [C] each, or None for one without.

    >>> {name: leaf.shape for name, leaf in norm_init(16, affine=True).items()}
    {'scale': (16,), 'offset': (16,)}
    >>> norm_init(16, affine=False) is None
    True
    """
    return layers.affine_init(channels) if affine else None


def without_parameters(
    name: str, function: Callable[[Array, int], Array], family: Pool | Zero | None = None
) -> Primitive:
    """A primitive that is a function of (x, stride) alone, and whose MACs are not counted.

    function: (x [B, H, W, C], stride) -> y [B, ceil(H/stride), ceil(W/stride), C].

    >>> half = without_parameters("half", lambda x, stride: x[:, ::stride, ::stride] / 2)
    >>> y, _ = half.apply({}, jnp.ones((1, 8, 8, 3)), 2, Context())
    >>> y.shape, float(y.max())
    ((1, 4, 4, 3), 0.5)
    """

    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        return {}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        return function(x, stride), ()

    return Primitive(name, init, apply, lambda channels, stride, size: cost.Cost(), family=family)


def normed(primitive: Primitive) -> Primitive:
    """A primitive without parameters followed by batch norm without affine: what a pool is in a DARTS search cell."""

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        y, _ = primitive.apply({}, x, stride, context)
        y, seen = layers.batch_norm(y, params.get("norm"), context.at(0))
        return y, (seen,)

    def scaled(params: Any, scale: Array) -> Any:
        return {**params, "norm": {"scale": scale}}

    return primitive._replace(
        apply=apply, norms=lambda channels, stride: (channels,), scaled=scaled, family=Normed(primitive.apply)
    )


def skip_connect() -> Primitive:
    """The identity, or a factorized reduction (ReLU first, batch norm last) where the stride is 2."""

    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        if stride == 1:
            return {}
        return {"reduce": layers.factorized_reduce_init(key, channels, channels), "norm": norm_init(channels, affine)}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        if stride == 1:
            return x, ()
        y = layers.factorized_reduce(jax.nn.relu(x), params["reduce"], context)
        y, seen = layers.batch_norm(y, params["norm"], context.at(0))
        return y, (seen,)

    def costs(channels: int, stride: int, size: cost.Size) -> cost.Cost:
        return cost.Cost() if stride == 1 else cost.factorized_reduce(channels, channels, cost.strided(size, stride))

    return Primitive(
        "skip_connect",
        init,
        apply,
        costs,
        norms=lambda channels, stride: () if stride == 1 else (channels,),
        scaled=scaled_norm,
    )


def separable_conv(name: str, size: int, dilation: int, repeats: int) -> Primitive:
    """A separable convolution: ReLU, depthwise and pointwise convolution, batch norm.

    size: of the kernel. repeats: how often all of it comes, with the stride in the first.

    >>> wide = separable_conv("sep_conv_7x7", size=7, dilation=1, repeats=2)
    >>> wide.cost(16, 1, (32, 32)).params  # twice 7·7·16 + 16·16 weights and 2·16 of the batch norm
    2144
    """

    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        def one(key: Key) -> PyTree:
            spatial, mixing = jax.random.split(key)
            return {
                "depthwise": layers.depthwise_init(spatial, size, channels),
                "pointwise": layers.conv_init(mixing, 1, channels, channels),
                "norm": norm_init(channels, affine),
            }

        return [one(k) for k in jax.random.split(key, repeats)]

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        seen = []
        for r, layer in enumerate(params):
            x = layers.relu_depthwise(x, layer["depthwise"], stride if r == 0 else 1, dilation, context)
            x = layers.pointwise(x, layer["pointwise"], 1, context)
            x, one_seen = layers.batch_norm(x, layer["norm"], context.at(r))
            seen.append(one_seen)
        return x, tuple(seen)

    def scaled(params: Any, scale: Array) -> Any:
        return [*params[:-1], scaled_norm(params[-1], scale)]

    def costs(channels: int, stride: int, image: cost.Size) -> cost.Cost:
        return sum([cost.depthwise_separable(channels, size, cost.strided(image, stride))] * repeats, cost.Cost())

    return Primitive(
        name,
        init,
        apply,
        costs,
        norms=lambda channels, stride: (channels,) * repeats,
        scaled=scaled,
        family=Separable(size, dilation, repeats),
    )


def conv(name: str, size: int) -> Primitive:
    """ReLU, dense convolution, batch norm. size: of the kernel.

    >>> conv("nor_conv_5x5", size=5).cost(16, 1, (32, 32)).params  # 5·5·16·16 weights and 2·16 of the batch norm
    6432
    """

    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        return {"kernel": layers.conv_init(key, size, channels, channels), "norm": norm_init(channels, affine)}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        convolve = layers.pointwise if size == 1 else layers.conv
        x = convolve(jax.nn.relu(x), params["kernel"], stride, context)
        x, seen = layers.batch_norm(x, params["norm"], context.at(0))
        return x, (seen,)

    def costs(channels: int, stride: int, image: cost.Size) -> cost.Cost:
        return cost.conv_bn(channels, channels, size, cost.strided(image, stride))

    return Primitive(
        name, init, apply, costs, lambda channels, stride: (channels,), scaled=scaled_norm, family=Dense(size)
    )


PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        without_parameters("none", lambda x, stride: jnp.zeros_like(x[:, ::stride, ::stride]), family=Zero()),
        without_parameters("max_pool_3x3", max_pool, family=Pool()),
        without_parameters("avg_pool_3x3", avg_pool, family=Pool()),
        skip_connect(),
        separable_conv("sep_conv_3x3", 3, 1, 2),
        separable_conv("sep_conv_5x5", 5, 1, 2),
        separable_conv("dil_conv_3x3", 3, 2, 1),
        separable_conv("dil_conv_5x5", 5, 2, 1),
        conv("nor_conv_1x1", 1),
        conv("nor_conv_3x3", 3),
    )
}
"""The operations of the DARTS and NAS-Bench-201 spaces, by the field's names."""

Operations = Sequence[str | Primitive]
"""What a space takes: names of a table such as `PRIMITIVES`, or objects."""


def named(operations: Operations, pool_norms: bool = False) -> tuple[Primitive, ...]:
    """The primitives of some operations. pool_norms: pools are followed by batch norm, as `normed` says.

    Raises: ValueError for a name that has none, and for two operations of one name.

    >>> [primitive.name for primitive in named(["skip_connect", "nor_conv_3x3"])]
    ['skip_connect', 'nor_conv_3x3']
    >>> named(["conv_9x9"])
    Traceback (most recent call last):
        ...
    ValueError: unknown operation 'conv_9x9'; known are ...
    """
    taken = taken_from(PRIMITIVES, operations, "operation")
    return tuple(normed(p) if pool_norms and isinstance(p.family, Pool) else p for p in taken)


def taken_from(table: Mapping[str, Primitive], operations: Operations, word: str) -> tuple[Primitive, ...]:
    """The primitives of operations that are given by their names in a table, or as objects.

    word: what one is called in an error. Raises: ValueError for a name that is not in the table, and for two operations
    of one name.
    """
    given = [operation for operation in operations if isinstance(operation, str)]
    if unknown := [name for name in given if name not in table]:
        raise ValueError(
            f"unknown {word} {unknown[0]!r}; known are {', '.join(sorted(table))}; another is given as a Primitive"
        )
    taken = tuple(table[operation] if isinstance(operation, str) else operation for operation in operations)
    names = [primitive.name for primitive in taken]
    if len(set(names)) < len(names):
        raise ValueError(f"{word}s must have different names, got {', '.join(names)}")
    return taken


def none_index(names: Sequence[str]) -> int:
    """The number of "none" among the names of operations, or one that no operation has."""
    return names.index("none") if "none" in names else len(names)


def names_of(operations: Operations) -> tuple[str, ...]:
    """The names of some operations; raises as `named`."""
    return tuple(primitive.name for primitive in named(operations))
