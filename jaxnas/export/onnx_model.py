"""Any function of a batch as a model of ONNX.

The function is traced in the forms of `supposing("plain")`, with a batch of any size. What can be computed now, such as
the scales of batch norms, is a constant; scans over equal cells are written out. ONNX is written with the package onnx;
converters of JAX programs as a whole exist (jax2onnx), but none that can be installed beside the library's Orbax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
import onnx
from jax import export as jax_export
from onnx import helper

from jaxnas.base import PyTree
from jaxnas.export.onnx_graph import Graph, Spread, Tensor, Value, in_order
from jaxnas.export.onnx_rules import RULES
from jaxnas.jaxprs import scan_counts
from jaxnas.kernels.platform import supposing

OPSET = 17
_IR_VERSION = 8
"""Of the file, as of the first releases that had the opset."""
_INLINED = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
}
"""Operations that call a function -> the parameter which that is."""


def to_onnx(
    function: Callable[[PyTree], Any],
    inputs: PyTree,
    *,
    int8: bool = False,
    about: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The model of a function from a batch of inputs to an array [B, …].

    inputs: one example, a pytree of arrays or of `jax.ShapeDtypeStruct`, without the axis of the batch. The model's
    inputs are named by their places in it, one alone "images"; its output is "outputs". int8: kernels are kept in 8
    bits (`jaxnas.export.int8`). about: is kept as the model's metadata.

    Raises: ValueError where the function has an operation that `jaxnas.export.onnx_rules` does not know.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(inputs)
    names = [_name(path) for path, _ in leaves]
    (size,) = jax_export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype) for _, leaf in leaves]
    with supposing("plain"):
        closed = jax.make_jaxpr(function)(jax.tree.unflatten(tree, shapes))
        graph = Graph(int8)
        given = [Tensor(name, in_order(s.shape), s.shape, s.dtype) for name, s in zip(names, shapes, strict=True)]
        first = graph.node("Shape", [names[0]], start=0, end=1)
        graph.size_name = first
        outputs = _write(graph, closed.jaxpr, closed.consts, given)
    if len(outputs) != 1:
        raise ValueError(f"the function must give one array, got {len(outputs)}")
    (output,) = (graph.whole(value) for value in outputs)
    last = helper.make_node("Identity", [graph.ordered(output, in_order(output.axes)).name], ["outputs"], "outputs")
    graph.nodes.append(last)
    graph.needed(["outputs"])
    proto = helper.make_graph(
        graph.nodes,
        "network",
        [_info(name, tensor) for name, tensor in zip(names, given, strict=True)],
        [_info("outputs", output)],
        list(graph.constants.values()),
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION,
        producer_name="jaxnas", producer_version=metadata.version("jaxnas"),
    )  # fmt: skip
    if about:
        helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return model


def _name(path: Sequence[Any]) -> str:
    return "_".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path) or "images"


def _info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    shape = [size if isinstance(size, int) else str(size) for size in tensor.shape]
    return helper.make_tensor_value_info(name, kind, shape)


def _write(graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """Writes the operations of a program; gives its outputs."""
    known: dict[Any, Value] = {}

    def read(atom: Any) -> Value:
        return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]

    known.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    for equation in _needed(jaxpr):
        outputs = _one(graph, equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """The operations on which outputs depend: statistics that nobody reads are not written."""
    wanted, kept = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}, []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            kept.append(equation)
            wanted.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return kept[::-1]


def _one(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    name, parameters = equation.primitive.name, equation.params
    shapes = [out.aval for out in equation.outvars]
    fixed = all(isinstance(size, int) for aval in shapes for size in aval.shape)
    arrays = [value for value in inputs if isinstance(value, np.ndarray)]
    if fixed and name != "dim_as_value" and len(arrays) == len(inputs):
        return _now(equation, arrays)
    if name in _INLINED:
        inner = parameters[_INLINED[name]]
        return _write(graph, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
    if name == "scan":
        return _scan(graph, shapes, inputs, **parameters)
    if name not in RULES:
        raise ValueError(
            f"the operation {name!r} of JAX has no form in ONNX here: add one to jaxnas.export.onnx_rules.RULES, or "
            "export StableHLO, which has all"
        )
    written = RULES[name](graph, shapes[0], inputs, **parameters)
    return list(written) if isinstance(written, list) else [written]


_BY_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "broadcast_in_dim": lambda x, *, shape, broadcast_dimensions, **_: np.broadcast_to(
        np.expand_dims(x, [axis for axis in range(len(shape)) if axis not in broadcast_dimensions]), shape
    ),
    "convert_element_type": lambda x, *, new_dtype, **_: x.astype(new_dtype),
    "div": np.divide,
    "iota": lambda *, shape, dimension, **_: np.indices(shape)[dimension],
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "squeeze": lambda x, *, dimensions, **_: x.squeeze(dimensions),
    "sub": np.subtract,
}
"""Of constants. By JAX each of them would be compiled for each shape, in minutes for a large network."""


def _now(equation: Any, inputs: Sequence[np.ndarray]) -> list[Value]:
    """The outputs of an operation on constants."""
    name, parameters = equation.primitive.name, equation.params
    (out, *_) = equation.outvars
    if name in _BY_NUMPY and not (name == "div" and np.issubdtype(out.aval.dtype, np.integer)):
        taken = {} if isinstance(_BY_NUMPY[name], np.ufunc) else parameters
        return [np.asarray(_BY_NUMPY[name](*inputs, **taken), out.aval.dtype)]
    found = equation.primitive.bind(*inputs, **parameters)
    return [np.asarray(value) for value in (found if equation.primitive.multiple_results else [found])]


def _scan(
    graph: Graph, shapes: Sequence[Any], inputs: list[Value], *, jaxpr: Any, length: int, reverse: bool,
    **counts: Any,
) -> list[Value]:  # fmt: skip
    """Written out. What is stacked must be known, as the parameters of equal cells are."""
    num_consts, num_carry = scan_counts(counts)
    consts, carry, stacked = inputs[:num_consts], inputs[num_consts:][:num_carry], inputs[num_consts + num_carry :]
    if not all(isinstance(value, np.ndarray) for value in stacked):
        raise ValueError("only a scan over constants is written, such as one over parameters")
    rows = []
    for turn in reversed(range(length)) if reverse else range(length):
        own = [value[turn] for value in stacked if isinstance(value, np.ndarray)]
        outputs = _write(graph, jaxpr.jaxpr, jaxpr.consts, [*consts, *carry, *own])
        carry, row = outputs[:num_carry], outputs[num_carry:]
        rows.append(row)
    rows = rows[::-1] if reverse else rows
    told = zip(shapes[num_carry:], zip(*rows, strict=True), strict=True)
    return [*carry, *(_stack(graph, shape, parts) for shape, parts in told)]


def _stack(graph: Graph, shape: Any, parts: Sequence[Value]) -> Value:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.stack([part for part in parts if isinstance(part, np.ndarray)])
    stacked = RULES["stack"](graph, shape, parts, axis=0)
    assert isinstance(stacked, Tensor | Spread)
    return stacked


def run_onnx(model: onnx.ModelProto | bytes, inputs: PyTree) -> np.ndarray:
    """The outputs of a model on a batch, by onnxruntime on this CPU."""
    import onnxruntime

    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    leaves, _ = jax.tree_util.tree_flatten_with_path(inputs)
    (found,) = session.run(["outputs"], {_name(path): np.asarray(leaf) for path, leaf in leaves})
    return np.asarray(found)
