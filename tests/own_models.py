"""Small models with every kind of choice in them, for the tests of `jaxnas.choices`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from jaxnas import choices


class ConvNet(nn.Module):
    """Channels, a layer among several (one with a width of its own), depth, batch and group norms, pools, dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        channels = choices.width("channels", (4, 8))
        x = nn.Conv(channels, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))

        def inverted(x):
            hidden = choices.width("hidden", (4, 12))
            y = nn.Conv(hidden, (1, 1))(x)
            y = nn.relu6(nn.BatchNorm(use_running_average=not train)(y))
            y = nn.Conv(y.shape[-1], (3, 3), feature_group_count=y.shape[-1])(y)
            return x + nn.Conv(channels, (1, 1))(nn.GroupNorm(2)(y))

        x = choices.one_of("block", {"inverted": inverted, "conv": nn.Conv(channels, (3, 3)), "skip": choices.skip})(x)
        x = choices.depth("depth", [nn.Conv(channels, (3, 3)) for _ in range(2)], (0, 1, 2))(x)
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return nn.Dense(5)(x.mean((1, 2)))


class Block(nn.Module):
    """A block of a transformer, with heads and an expansion to be chosen."""

    number: int

    @nn.compact
    def __call__(self, x, train=False):
        heads = choices.width(f"heads{self.number}", (1, 2, 4))
        attention = nn.MultiHeadDotProductAttention(heads, qkv_features=4 * heads, dropout_rate=0.2)
        x = x + attention(nn.LayerNorm()(x), deterministic=not train)
        hidden = nn.Dense(choices.width(f"expansion{self.number}", (6, 12)))(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(hidden))


class ViT(nn.Module):
    """Heads, head size, expansion, depth, patch stem; a layer norm of the stem's features."""

    @nn.compact
    def __call__(self, x, train=False):
        dim = choices.width("dim", (6, 8))
        stems = {
            "patch": nn.Conv(dim, (4, 4), strides=(4, 4)),
            "convs": nn.Sequential([nn.Conv(dim, (3, 3), (2, 2)), nn.relu, nn.Conv(dim, (3, 3), (2, 2))]),
        }
        x = choices.one_of("stem", stems)(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], x.shape[2]))
        x = choices.depth("depth", [Block(0), Block(1)], (1, 2))(x, train)
        x = nn.Dropout(0.2, deterministic=not train)(nn.LayerNorm()(x))
        return nn.Dense(5)(x.mean(1))


class Fused(nn.Module):
    """Attention by hand: one product for queries, keys and values, heads and head size both chosen, a gated unit."""

    @nn.compact
    def __call__(self, x, train=False):
        heads, size = choices.width("heads", (1, 3)), choices.width("size", (2, 4))
        y = nn.Dense(3 * heads * size)(nn.RMSNorm()(nn.Dense(6)(x)))
        q, k, v = jnp.split(y, 3, axis=-1)
        q, k, v = (a.reshape(*a.shape[:2], heads, size) for a in (q, k, v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(size))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], heads * size)
        gate, own = jnp.split(nn.Dense(2 * choices.width("gated", (3, 5)))(y), 2, axis=-1)
        y = nn.Dense(4)(nn.silu(gate) * own)
        return nn.Dense(3)(y[:, -1])


class Table(nn.Module):
    """Inputs in two arrays, which of three branches are joined, a choice in two places, a softmax over features."""

    @nn.compact
    def __call__(self, inputs, train=False):
        a = nn.Dense(choices.width("a", (2, 5)))(inputs["numbers"])
        b = nn.Embed(3, choices.width("b", (3, 4)))(inputs["kind"])

        def c():
            return nn.Dense(3)(inputs["numbers"])

        x = choices.join("branches", {"a": a, "b": b, "c": c}, ("a", "a+b", "b+c"), how="concat")
        x = nn.LayerNorm()(x)
        for number in range(2):
            layers = {"linear": nn.Dense(6), "softmax": lambda x: nn.Dense(6)(jax.nn.softmax(x))}
            y = choices.one_of("same", layers)(x)
            x = choices.join(f"skip{number}", {"y": y, "z": nn.Dense(6)(x)}, how="mean")
        x = choices.narrow(x, choices.width("first", (2, 4)))
        return nn.Dense(1)(jnp.tanh(x))[:, 0]


IMAGES = jnp.zeros((4, 8, 8, 2))
SEQUENCE = jnp.zeros((4, 5, 3))
ROWS = {"numbers": jnp.zeros((4, 3)), "kind": jnp.zeros(4, jnp.int32)}


class NnxNet(nnx.Module):
    """The kinds of choices in nnx: widths given to constructors, layers among several, depth, norms, dropout."""

    def __init__(self, rngs):
        channels, hidden = choices.width("channels", (4, 8)), choices.width("hidden", (4, 12))
        self.stem = nnx.Conv(2, channels, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(channels, rngs=rngs)
        self.block = choices.one_of(
            "block", {
                "wide": nnx.Sequential(
                    nnx.Linear(channels, hidden, rngs=rngs), nnx.BatchNorm(hidden, rngs=rngs), nnx.relu,
                    nnx.Linear(hidden, channels, rngs=rngs),
                ),
                "conv": nnx.Conv(channels, channels, (3, 3), rngs=rngs),
                "skip": choices.skip,
            },
        )  # fmt: skip
        self.blocks = choices.depth("depth", [nnx.Linear(channels, channels, rngs=rngs) for _ in range(2)], (0, 1, 2))
        self.last = nnx.LayerNorm(channels, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(channels, 5, rngs=rngs)

    def __call__(self, x):
        x = self.blocks(self.block(nnx.relu(self.norm(self.stem(x)))))
        return self.head(self.dropout(self.last(x)).mean((1, 2)))
