"""What becomes of each operation of JAX in a graph of ONNX (opset 17): a function for each, by the operation's name.

Those are the operations of the library's networks in the forms of `supposing("plain")`, and the usual ones beside.
An operation of your own networks that is not here is one more entry of `RULES`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from jaxnas.export.onnx_graph import Graph, Spread, Tensor, Value, in_order

Rule = Callable[..., "Value | list[Value]"]
"""(graph, shape and type of the first output, inputs, **parameters of the operation) -> its output or outputs."""


def _first_tensor(inputs: Sequence[Value]) -> Tensor | None:
    return next((value for value in inputs if isinstance(value, Tensor)), None)


def _elementwise(operation: str, graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    """Of inputs of one shape. A constant that is repeated is repeated by ONNX's broadcasting."""
    like = _first_tensor(inputs)
    if like is None:
        like = graph.whole(inputs[0])
        inputs = [like, *inputs[1:]]
    names = [value.name if value is like else graph.beside(value, like) for value in inputs]
    return graph.tensor(operation, names, like)._replace(dtype=out.dtype)


def _subtract(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    """Of a constant as an addition, which runtimes join with the convolution before it."""
    left, right = inputs
    if isinstance(right, Tensor) or not isinstance(left, Tensor):
        return _elementwise("Sub", graph, out, inputs)
    negative = right._replace(array=-right.array) if isinstance(right, Spread) else -right
    return _elementwise("Add", graph, out, [left, negative])


def _maximum(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    left, right = inputs
    array = right.array if isinstance(right, Spread) else right
    if isinstance(left, Tensor) and isinstance(array, np.ndarray) and not array.any():
        return _elementwise("Relu", graph, out, [left])
    return _elementwise("Max", graph, out, inputs)


def _comparison(operation: str, negated: bool, graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    found = _elementwise(operation, graph, out, inputs)
    return graph.tensor("Not", [found.name], found) if negated else found


def _rsqrt(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    root = _elementwise("Sqrt", graph, out, inputs)
    return graph.tensor("Reciprocal", [root.name], root)


def _square(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    return _elementwise("Mul", graph, out, [inputs[0], inputs[0]])


def _power(graph: Graph, out: Any, inputs: Sequence[Value], *, y: int, **_: Any) -> Tensor:
    return _elementwise("Pow", graph, out, [inputs[0], np.array(y, out.dtype)])


def _select(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    """JAX takes the second where the condition is false, ONNX the third."""
    condition, otherwise, then = inputs
    return _elementwise("Where", graph, out, [condition, then, otherwise])


def _clamp(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    low, value, high = inputs
    return _elementwise("Min", graph, out, [_elementwise("Max", graph, out, [value, low]), high])


def _cast(graph: Graph, out: Any, inputs: Sequence[Value], *, new_dtype: Any, **_: Any) -> Value:
    (value,) = inputs
    if isinstance(value, Spread):
        return value._replace(array=value.array.astype(new_dtype))
    value = graph.whole(value)
    target = helper.np_dtype_to_tensor_dtype(np.dtype(new_dtype))
    return graph.tensor("Cast", [value.name], value, to=target)._replace(dtype=np.dtype(new_dtype))


def _same(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Value:
    return inputs[0]


def _convolution(
    graph: Graph, out: Any, inputs: Sequence[Value], *, window_strides: Any, padding: Any, lhs_dilation: Any,
    rhs_dilation: Any, dimension_numbers: Any, feature_group_count: int, batch_group_count: int, **_: Any,
) -> Tensor:  # fmt: skip
    image, kernel = inputs
    if any(step != 1 for step in lhs_dilation) or batch_group_count != 1 or min(map(min, padding)) < 0:
        raise ValueError("ONNX has no convolution that spreads its input, groups a batch or cuts an edge off")
    image = graph.ordered(graph.whole(image), dimension_numbers.lhs_spec)
    if isinstance(kernel, np.ndarray):
        weights = kernel.transpose(dimension_numbers.rhs_spec)
        name, size = graph.kernel(weights, 0), weights.shape[2:]
    else:
        whole = graph.ordered(graph.whole(kernel), dimension_numbers.rhs_spec)
        name, size = whole.name, tuple(whole.shape[axis] for axis in whole.axes[2:])
    output = graph.node(
        "Conv", [image.name, name], kernel_shape=size, strides=window_strides, dilations=rhs_dilation,
        group=feature_group_count, pads=[low for low, _ in padding] + [high for _, high in padding],
    )  # fmt: skip
    return Tensor(output, tuple(dimension_numbers.out_spec), out.shape, out.dtype)


def _window(
    operation: str, graph: Graph, out: Any, inputs: Sequence[Value], *, window_dimensions: Any, window_strides: Any,
    padding: Any, base_dilation: Any, window_dilation: Any, **_: Any,
) -> Tensor:  # fmt: skip
    """A maximum, or a sum, which is a mean times the size of the window, in the last dimensions of the tensor."""
    image = graph.whole(inputs[0])
    sliding = [axis for axis, size in enumerate(window_dimensions) if size > 1 or window_strides[axis] > 1]
    still = [axis for axis in range(len(image.shape)) if axis not in sliding]
    if len(still) != 2 or any(step != 1 for step in base_dilation):
        raise ValueError("ONNX has windows over all axes but two, of inputs that are not spread")
    image = graph.ordered(image, (*still, *sliding))
    given = {"kernel_shape": window_dimensions, "strides": window_strides, "dilations": window_dilation}
    taken = {name: [values[axis] for axis in sliding] for name, values in given.items()}
    taken["pads"] = [padding[axis][0] for axis in sliding] + [padding[axis][1] for axis in sliding]
    like = image._replace(shape=out.shape)
    if operation == "MaxPool":
        return graph.tensor("MaxPool", [image.name], like, **taken)
    if any(step != 1 for step in taken.pop("dilations")):
        raise ValueError("ONNX of this opset has no means of windows with gaps")
    mean = graph.tensor("AveragePool", [image.name], like, count_include_pad=1, **taken)
    size = np.array(math.prod(window_dimensions), out.dtype)
    return graph.tensor("Mul", [mean.name, graph.constant(size)], like)


def _reduce(operation: str, graph: Graph, out: Any, inputs: Sequence[Value], *, axes: Any, **_: Any) -> Tensor:
    value = graph.whole(inputs[0])
    places = sorted(value.place(axis) for axis in axes)
    left = [axis for axis in value.axes if axis not in axes]
    numbers = tuple(sum(other < axis for other in left) for axis in left)
    if operation == "ReduceSum":  # whose axes are an input since opset 13, those of the others since 18
        name = graph.node(operation, [value.name, graph.constant(np.array(places, np.int64))], keepdims=0)
    else:
        name = graph.node(operation, [value.name], axes=places, keepdims=0)
    return Tensor(name, numbers, out.shape, out.dtype)


def _product(graph: Graph, out: Any, inputs: Sequence[Value], *, dimension_numbers: Any, **_: Any) -> Tensor:
    ((left_axis,), (right_axis,)), batch = dimension_numbers
    left, right = inputs
    if batch != ((), ()) or len(left.shape) != 2 or len(right.shape) != 2:
        raise ValueError("only products of two matrices are written")
    left = graph.ordered(graph.whole(left), (1 - left_axis, left_axis))
    if isinstance(right, np.ndarray):
        name = graph.kernel(right if right_axis == 0 else right.T, 1)
    else:
        name = graph.ordered(graph.whole(right), (right_axis, 1 - right_axis)).name
    return Tensor(graph.node("MatMul", [left.name, name]), (0, 1), out.shape, out.dtype)


def _joined(graph: Graph, out: Any, inputs: Sequence[Value], *, dimension: int, **_: Any) -> Tensor:
    like = _first_tensor(inputs) or graph.whole(inputs[0])
    names = [graph.ordered(graph.whole(value), like.axes).name for value in inputs]
    return graph.tensor("Concat", names, like, axis=like.place(dimension))._replace(shape=out.shape)


def _stacked(graph: Graph, out: Any, inputs: Sequence[Value], *, axis: int, **_: Any) -> Tensor:
    at = graph.constant(np.array([axis], np.int64))
    parts = [graph.whole(value) for value in inputs]
    names = [graph.node("Unsqueeze", [graph.ordered(part, in_order(part.axes)).name, at]) for part in parts]
    return Tensor(graph.node("Concat", names, axis=axis), in_order(out.shape), out.shape, out.dtype)


def _padded(graph: Graph, out: Any, inputs: Sequence[Value], *, padding_config: Any, **_: Any) -> Tensor:
    value, filling = inputs
    if any(inner for *_, inner in padding_config) or not isinstance(filling, np.ndarray):
        raise ValueError("ONNX pads only around a tensor, with a constant")
    value = graph.whole(value)
    ends = [int(padding_config[axis][end]) for end in (0, 1) for axis in value.axes]
    names = [value.name, graph.constant(np.array(ends, np.int64)), graph.constant(filling)]
    return graph.tensor("Pad", names, value)._replace(shape=out.shape)


def _cut(value: Tensor, out: Any, graph: Graph, cuts: Sequence[tuple[int, int, int, int]]) -> Tensor:
    """cuts: (axis, start, end, step) where something is cut off."""
    if not cuts:
        return value
    placed = [(value.place(axis), start, end, step) for axis, start, end, step in cuts]
    axes, starts, ends, steps = (graph.constant(np.array(column, np.int64)) for column in zip(*placed, strict=True))
    return graph.tensor("Slice", [value.name, starts, ends, axes, steps], value)._replace(shape=out.shape)


def _slice(
    graph: Graph, out: Any, inputs: Sequence[Value], *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any
) -> Tensor:
    value = graph.whole(inputs[0])
    steps = strides or (1,) * len(value.shape)
    rows = zip(value.shape, start_indices, limit_indices, steps, strict=True)
    cuts = [(axis, start, end, step) for axis, (size, start, end, step) in enumerate(rows)
            if not (start == 0 and end == size and step == 1)]  # fmt: skip
    return _cut(value, out, graph, cuts)


def _one_window(
    graph: Graph, out: Any, inputs: Sequence[Value], *, dimension_numbers: Any, slice_sizes: Any, **_: Any
) -> Value:
    """What indexing by slices is where the batch may be of any size: a lookup of one window, whose place is known."""
    value, start = inputs
    collapsed = dimension_numbers.collapsed_slice_dims
    if not isinstance(start, np.ndarray) or start.ndim != 1:
        raise ValueError("only one window, at a known place, is looked up")
    value = graph.whole(value)
    starts = dict(zip(dimension_numbers.start_index_map, start.tolist(), strict=True))
    cuts = [(axis, starts.get(axis, 0), starts.get(axis, 0) + size, 1) for axis, size in enumerate(slice_sizes)
            if size != value.shape[axis]]  # fmt: skip
    value = _cut(value, value._replace(shape=tuple(slice_sizes)), graph, cuts)
    return _squeezed(graph, out, [value], dimensions=collapsed) if collapsed else value


def _split(graph: Graph, out: Any, inputs: Sequence[Value], *, sizes: Any, axis: int) -> list[Value]:
    value, parts, start = graph.whole(inputs[0]), [], 0
    for size in sizes:
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        parts.append(_cut(value, value._replace(shape=shape), graph, [(axis, start, start + size, 1)]))
        start += size
    return list(parts)


def _reshaped(graph: Graph, out: Any, inputs: Sequence[Value], **_: Any) -> Tensor:
    value = graph.whole(inputs[0])
    value = graph.ordered(value, in_order(value.axes))
    unknown = [size for size in out.shape if not isinstance(size, int)]
    if len(unknown) > 1:
        raise ValueError(f"a shape with the batch in several axes cannot be written, got {out.shape}")
    shape = [size if isinstance(size, int) else -1 for size in out.shape]
    name = graph.node("Reshape", [value.name, graph.constant(np.array(shape, np.int64))])
    return Tensor(name, in_order(shape), out.shape, out.dtype)


def _squeezed(graph: Graph, out: Any, inputs: Sequence[Value], *, dimensions: Any, **_: Any) -> Value:
    (value,) = inputs
    if isinstance(value, Spread):
        return Spread(value.array.squeeze(dimensions), out.shape)
    value = graph.whole(value)
    places = graph.constant(np.array(sorted(value.place(axis) for axis in dimensions), np.int64))
    left = [axis for axis in value.axes if axis not in dimensions]
    numbers = tuple(sum(other < axis for other in left) for axis in left)
    return Tensor(graph.node("Squeeze", [value.name, places]), numbers, out.shape, out.dtype)


def _transposed(graph: Graph, out: Any, inputs: Sequence[Value], *, permutation: Any) -> Value:
    """Nothing is moved: the axes get other numbers."""
    (value,) = inputs
    if isinstance(value, Spread):
        return Spread(value.array.transpose(permutation), out.shape)
    value = graph.whole(value)
    return value._replace(axes=tuple(permutation.index(axis) for axis in value.axes), shape=out.shape)


def _broadcast(graph: Graph, out: Any, inputs: Sequence[Value], *, broadcast_dimensions: Any, **_: Any) -> Value:
    value = inputs[0]
    there = dict(zip(broadcast_dimensions, value.shape, strict=True))
    ones = [there.get(axis, 1) for axis in range(len(out.shape))]
    if not isinstance(value, Tensor):
        array = value.array if isinstance(value, Spread) else value
        sizes = dict(zip(broadcast_dimensions, array.shape, strict=True))
        return Spread(array.reshape([sizes.get(axis, 1) for axis in range(len(out.shape))]), out.shape)
    value = graph.ordered(value, in_order(value.axes))
    if new := [axis for axis in range(len(out.shape)) if axis not in broadcast_dimensions]:
        value = value._replace(name=graph.node("Unsqueeze", [value.name, graph.constant(np.array(new, np.int64))]))
    if ones != list(out.shape):
        value = value._replace(name=graph.node("Expand", [value.name, graph.sizes(out.shape)]))
    return Tensor(value.name, in_order(out.shape), out.shape, out.dtype)


def _argmax(graph: Graph, out: Any, inputs: Sequence[Value], *, axes: Any, **_: Any) -> Value:
    value = graph.whole(inputs[0])
    value = graph.ordered(value, in_order(value.axes))
    name = graph.node("ArgMax", [value.name], axis=axes[0], keepdims=0)
    return _cast(graph, out, [Tensor(name, in_order(out.shape), out.shape, np.dtype(np.int64))], new_dtype=out.dtype)


def _batch_size(graph: Graph, out: Any, inputs: Sequence[Value], *, dim: Any) -> Value:
    if str(dim) != "batch":
        raise ValueError(f"a number that depends on the batch cannot be written, got {dim}")
    zero = graph.constant(np.array([0], np.int64))
    scalar = Tensor(graph.node("Squeeze", [graph.size_name, zero]), (), (), np.dtype(np.int64))
    return _cast(graph, out, [scalar], new_dtype=out.dtype)


_SAME_NAMES = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And", "ceil": "Ceil", "cos": "Cos", "div": "Div",
    "erf": "Erf", "exp": "Exp", "floor": "Floor", "log": "Log", "logistic": "Sigmoid", "min": "Min", "mul": "Mul",
    "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "tan": "Tan",
    "tanh": "Tanh",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **{name: functools.partial(_elementwise, operation) for name, operation in _SAME_NAMES.items()},
    "argmax": _argmax,
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _joined,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "copy": _same,
    "dim_as_value": _batch_size,
    "dot_general": _product,
    "eq": functools.partial(_comparison, "Equal", False),
    "gather": _one_window,
    "ge": functools.partial(_comparison, "GreaterOrEqual", False),
    "gt": functools.partial(_comparison, "Greater", False),
    "integer_pow": _power,
    "le": functools.partial(_comparison, "LessOrEqual", False),
    "lt": functools.partial(_comparison, "Less", False),
    "max": _maximum,
    "ne": functools.partial(_comparison, "Equal", True),
    "name": _same,
    "optimization_barrier": _same,
    "pad": _padded,
    "reduce_max": functools.partial(_reduce, "ReduceMax"),
    "reduce_min": functools.partial(_reduce, "ReduceMin"),
    "reduce_sum": functools.partial(_reduce, "ReduceSum"),
    "reduce_window_max": functools.partial(_window, "MaxPool"),
    "reduce_window_sum": functools.partial(_window, "AveragePool"),
    "reshape": _reshaped,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _squeezed,
    "stack": _stacked,
    "stop_gradient": _same,
    "sub": _subtract,
    "transpose": _transposed,
}
"""Name of an operation of JAX -> what writes it."""
