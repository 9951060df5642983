"""A graph of ONNX that is being written: its nodes, its constants, and in which order each tensor lies in memory.

JAX's images are [B, H, W, C] and ONNX's convolutions take [B, C, H, W]. A tensor therefore carries the order of its
axes, and is transposed only where an operation needs another order: a network of convolutions is transposed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxnas.export.int8 import quantized

_SMALL = 64
"""Constants of up to so many entries are kept once, however often they are used."""


class Tensor(NamedTuple):
    """What a node computes. axes: its dimension i in the graph is the axis axes[i] of JAX's array. shape: JAX's."""

    name: str
    axes: tuple[int, ...]
    shape: tuple[Any, ...]
    dtype: np.dtype

    def place(self, axis: int) -> int:
        """The dimension in the graph of an axis of JAX's array."""
        return self.axes.index(axis)


class Spread(NamedTuple):
    """A constant that JAX broadcasts to a shape with the batch in it. array: of the rank, 1 where it is repeated."""

    array: np.ndarray
    shape: tuple[Any, ...]


Value = np.ndarray | Tensor | Spread
"""Known now, computed in the graph, or known and repeated."""


def in_order(axes: Sequence[int]) -> tuple[int, ...]:
    """The order of JAX's own array."""
    return tuple(range(len(axes)))


class Graph:
    """Nodes and constants. int8: kernels of convolutions and matrix products are kept in 8 bits, with a scale each."""

    def __init__(self, int8: bool = False) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.size_name = ""
        """Of the int64 tensor [1] with the size of the batch."""
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def name(self, kind: str) -> str:
        """A name that no other tensor has."""
        self._count += 1
        return f"{kind}_{self._count}"

    def node(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node; gives the name of its output."""
        output = self.name(operation)
        self.nodes.append(helper.make_node(operation, list(inputs), [output], output, **attributes))
        return output

    def constant(self, array: Any) -> str:
        """The name of a constant."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= _SMALL else None
        if key is not None and key in self._known:
            return self._known[key]
        name = self.name("constant")
        self.constants[name] = numpy_helper.from_array(array, name)
        if key is not None:
            self._known[key] = name
        return name

    def kernel(self, array: np.ndarray, channel: int) -> str:
        """The name of a kernel. channel: the dimension of its output channels, each of which has a scale in int8."""
        if not self.int8:
            return self.constant(array)
        values, scale = quantized(array, tuple(axis for axis in range(array.ndim) if axis != channel))
        return self.node("DequantizeLinear", [self.constant(values), self.constant(scale.ravel())], axis=channel)

    def tensor(self, operation: str, inputs: Sequence[str], like: Tensor, **attributes: Any) -> Tensor:
        """Adds a node whose output is as `like` in all but its values."""
        return like._replace(name=self.node(operation, inputs, **attributes))

    def ordered(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        """The tensor with its dimensions in this order."""
        axes = tuple(axes)
        if tensor.axes == axes:
            return tensor
        perm = [tensor.place(axis) for axis in axes]
        return tensor._replace(name=self.node("Transpose", [tensor.name], perm=perm), axes=axes)

    def sizes(self, shape: Sequence[Any]) -> str:
        """The int64 tensor of a shape, of whose numbers at most some are the batch's."""
        if all(isinstance(size, int) for size in shape):
            return self.constant(np.array(shape, np.int64))
        parts = [self.constant(np.array([n], np.int64)) if isinstance(n, int) else self.size_name for n in shape]
        return self.node("Concat", parts, axis=0)

    def whole(self, value: Value) -> Tensor:
        """Any value as a tensor of its full shape."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Spread):
            name = self.node("Expand", [self.constant(value.array), self.sizes(value.shape)])
            return Tensor(name, in_order(value.shape), value.shape, value.array.dtype)
        return Tensor(self.constant(value), in_order(value.shape), value.shape, value.dtype)

    def beside(self, value: Value, like: Tensor) -> str:
        """The name of what an elementwise operation takes beside `like`, whose order and shape it then has."""
        if isinstance(value, Tensor):
            return self.ordered(value, like.axes).name
        array = value.array if isinstance(value, Spread) else value
        return self.constant(array if array.ndim == 0 else array.transpose(like.axes))

    def needed(self, outputs: Sequence[str]) -> None:
        """Drops nodes and constants on which none of the outputs depends."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]
        self.constants = {name: proto for name, proto in self.constants.items() if name in wanted}
