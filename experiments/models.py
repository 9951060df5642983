"""Two models with choices in them, as a user writes them, for `experiments.shrink`. Choices are at their widest."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

import jaxnas

_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def _width(name: str, most: int) -> int:
    return jaxnas.width(name, tuple(int(share * most) for share in _SHARES))


class Residual(nn.Module):
    """Two convolutions around which the input is added."""

    name_of: str
    hidden: int
    train: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Channels between the two are chosen."""
        y = nn.Conv(_width(f"{self.name_of}.hidden", self.hidden), (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not self.train)(y))
        y = nn.Conv(x.shape[-1], (3, 3), use_bias=False)(y)
        return nn.relu(x + nn.BatchNorm(use_running_average=not self.train)(y))


class ConvNet(nn.Module):
    """A small ResNet: channels of each stage, channels inside each block, and whether a second block is there."""

    channels: tuple[int, ...] = (16, 32, 64)
    classes: int = 10

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """Images [B, H, W, C] -> logits [B, K]."""
        for stage, most in enumerate(self.channels):
            x = nn.Conv(_width(f"stage{stage}", most), (3, 3), strides=2 if stage else 1, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = Residual(f"stage{stage}.a", most, train)(x)
            x = jaxnas.depth(f"stage{stage}.more", [Residual(f"stage{stage}.b", most, train)], (0, 1))(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class Attention(nn.Module):
    """Attention with a number of heads that is chosen."""

    name_of: str
    heads: int
    size: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Adds what it computes to its input."""
        heads = jaxnas.width(f"{self.name_of}.heads", tuple(range(1, self.heads + 1)))
        attention = nn.MultiHeadDotProductAttention(heads, qkv_features=heads * self.size, out_features=x.shape[-1])
        return x + attention(nn.LayerNorm()(x))


class FeedForward(nn.Module):
    """Two layers for each token, with a number of units between them that is chosen."""

    name_of: str
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Adds what it computes to its input."""
        return x + nn.Dense(x.shape[-1])(
            nn.gelu(nn.Dense(_width(f"{self.name_of}.hidden", self.hidden))(nn.LayerNorm()(x)))
        )


class ViT(nn.Module):
    """A small vision transformer behind two convolutions, each token of 4 x 4 pixels.

    Chosen are heads and hidden units of each block, and whether each half of a block is there.
    """

    blocks: int = 4
    features: int = 64
    heads: int = 4
    classes: int = 10

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """Images [B, H, W, C] -> logits [B, K]."""
        x = nn.gelu(nn.Conv(self.features // 2, (3, 3), strides=2)(x))
        x = nn.Conv(self.features, (3, 3), strides=2)(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for number in range(self.blocks):
            attention = Attention(f"block{number}", self.heads, self.features // self.heads)
            forward = FeedForward(f"block{number}", 2 * self.features)
            x = jaxnas.depth(f"block{number}.attention", [attention], (0, 1))(x)
            x = jaxnas.depth(f"block{number}.forward", [forward], (0, 1))(x)
        return nn.Dense(self.classes)(nn.LayerNorm()(x).mean(1))
