"""Many depthwise convolutions in one kernel: what an accelerator runs, also for a single one.

A GPU waits for the start of a small kernel longer than for its work, so that convolutions of one shape are computed
together. Arrays have two leading axes, S inputs and K convolutions of each; a 3x3 kernel among 5x5 ones gets a border
of zeros. On a GPU a convolution is one reduction over taps that are looked up. On a TPU it is XLA's grouped one.

The CPU has another form, in `jaxnas.kernels.depthwise`: the gradient of a kernel by lookup takes it several times as
long.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxnas.base import Array
from jaxnas.kernels.norm import widened
from jaxnas.kernels.platform import by_platform
from jaxnas.kernels.windows import output_size, pairwise, spread, windows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def many_depthwise(
    x: Array, kernels: Array, stride: int, dilation: int, relu: bool = True, each: Array | None = None
) -> Array:
    """Depthwise convolutions of relu(x), or of x: x [S, J, B, H, W, C], kernels [S, K, k, k, C] -> [S, K, B, h, w, C].

    J is 1, where all K read the same, or K. Rows and padding are those of `jaxnas.kernels.windows`. each: int32 [S, K],
    their dilations where they are not all the same; `dilation` is then the largest.
    """
    return _forward(x, kernels, stride, dilation, relu, each)[0]


def _forward(
    x: Array, kernels: Array, stride: int, dilation: int, relu: bool, each: Array | None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    read, weights = jax.nn.relu(x) if relu else x, kernels.astype(x.dtype)
    if each is None:
        return correlate(read, weights, stride, dilation), (x, kernels, each)
    return taps_looked_up(read, weights, stride, dilation, each), (x, kernels, each)


def _backward(
    stride: int, dilation: int, relu: bool, residuals: tuple[Array, Array, Array | None], g: Array
) -> tuple[Array, Array, None]:
    x, kernels, each = residuals
    read, size = jax.nn.relu(x) if relu else x, kernels.shape[2]
    spread_g, flipped = spread(g, x.shape[3], x.shape[4], stride), kernels[:, :, ::-1, ::-1].astype(g.dtype)
    if each is None:
        dx = correlate(spread_g, flipped, 1, dilation)
        dkernels = kernel_gradients(read, g, size, stride, dilation)
    else:
        dx = taps_looked_up(spread_g, flipped, 1, dilation, each)
        dkernels = sums_looked_up(read, g, size, stride, dilation, each)
    # A GPU would compute the reduction again in what reads it. A TPU joins its convolution with what reads it.
    dx = by_platform(dx, tpu=lambda dx: dx, default=lax.optimization_barrier)
    if x.shape[1] == 1:
        dx = jnp.sum(dx, 1, keepdims=True)
    if relu:
        dx = jnp.where(x > 0, dx, 0)
    return dx.astype(x.dtype), dkernels.astype(kernels.dtype), None


many_depthwise.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=(2, 3))
def correlate(x: Array, kernels: Array, stride: int, dilation: int) -> Array:
    """Depthwise convolutions: x [S, J, B, H, W, C], kernels [S, K, k, k, C] -> [S, K, B, h, w, C]."""
    forms = [functools.partial(f, stride=stride, dilation=dilation) for f in (_grouped, taps_looked_up)]
    return by_platform(x, kernels, tpu=forms[0], default=forms[1])


def grouped(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """A depthwise convolution as XLA has it, which a TPU has for its own: x [B, H, W, C], kernel [k, k, C] or [k, k, 1]
    -> [B, h, w, C]. In the precision of all convolutions there, by default of bfloat16 factors."""
    border, channels = dilation * (kernel.shape[0] // 2), x.shape[3]
    return lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel, (*kernel.shape[:2], channels))[:, :, None],
        (stride, stride),
        ((border, border), (border, border)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _grouped(x: Array, kernels: Array, stride: int, dilation: int) -> Array:
    return pairwise(functools.partial(grouped, stride=stride, dilation=dilation), x, kernels)


def taps_looked_up(x: Array, kernels: Array, stride: int, dilation: int, each: Array | None = None) -> Array:
    """`correlate` as one reduction over the taps, whose inputs are looked up inside its kernel.

    25 sums written out are twenty times the program, which XLA fuses, assembles and recomputes for every reader. each:
    as of `many_depthwise`.
    """
    size = kernels.shape[2]
    met = windows(x, output_size(x, stride), size, stride, dilation, each)
    weights = jnp.moveaxis(kernels.reshape(*kernels.shape[:2], size * size, -1), 2, 0)
    return jnp.sum(met * weights[:, :, :, None, None, None], 0)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def kernel_gradients(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """Sums over images and positions of shifted input x output gradient, [S, K, k, k, C] in float32.

    x: [S, J, B, H, W, C]. g: [S, K, B, h, w, C].
    """
    forms = [functools.partial(f, size=size, stride=stride, dilation=dilation) for f in (_transposed, sums_looked_up)]
    return by_platform(x, g, tpu=forms[0], default=forms[1])


def _transposed(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    def one(x: Array, g: Array) -> Array:
        kernel = jnp.zeros((size, size, x.shape[3]), g.dtype)
        return jax.vjp(lambda kernel: grouped(x, kernel, stride, dilation), kernel)[1](g)[0]

    return widened(pairwise(one, x, g))


def sums_looked_up(x: Array, g: Array, size: int, stride: int, dilation: int, each: Array | None = None) -> Array:
    """`kernel_gradients` as one reduction. each: as of `many_depthwise`."""
    met = windows(x, (g.shape[3], g.shape[4]), size, stride, dilation, each)
    products = widened(met) * widened(g)[None]
    # Left to itself, XLA would sum along rows, and transpose the gradient for that.
    products = with_layout_constraint(products, Layout(major_to_minor=tuple(range(products.ndim))))
    sums = jnp.sum(products, (3, 4, 5))
    return jnp.moveaxis(sums, 0, 2).reshape(*g.shape[:2], size, size, -1)
