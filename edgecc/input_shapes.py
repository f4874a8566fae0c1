"""The dimensions of a model's inputs: which are known, which are names, and what `--input-shape` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgecc import ir
from edgecc.analysis import shapes
from edgecc.errors import ModelError, UsageError


def bind(model: ir.Model, input_shape: Mapping[str, Sequence[int]]) -> None:
    """Gives every input its shape, in place; only the first dimension, the batch, may stay symbolic.

    Args:
        model: as read from the file.
        input_shape: a number for every dimension of the inputs named.

    Raises:
        UsageError: no such input, or another rank or number than the model's.
        ModelError: an input is no tensor, or a dimension after the first is neither known nor given.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    listed = ", ".join(f"{value.name}{_shown(value)}" for value in inputs.values())
    numbers: dict[str, int] = {}
    for name, shape in input_shape.items():
        if name not in inputs:
            raise UsageError(f"the model has no such input; it has: {listed}", node=name)
        _bind_one(inputs[name], [int(d) for d in shape], numbers)
    for value in (*inputs.values(), *model.graph.outputs, *shapes.node_outputs(model.graph)):
        if value.shape is not None:  # a symbol that got a number has it everywhere
            dims = [d if isinstance(d, int) else numbers.get(symbol_of(d) or "", d) for d in value.shape.dims]
            value.shape = ir.Shape(dims)
    empty = _without_elements(model)
    for name, value in inputs.items():
        if not isinstance(value.type, ir.TensorType):
            raise ModelError("the input is not a tensor, or has no type", node=name)
        unknown = value.shape is None or any(number_of(d) is None for d in value.shape.dims[1:])
        unknown = unknown and value not in empty
        if unknown:
            wish = "NxCxHxW" if value.shape is None else "x".join(_wish(d) for d in value.shape.dims)
            raise ModelError(
                f"the input has the shape {_shown(value)}: a dimension after the first must be a number",
                node=name,
                remedy=f"give numbers with --input-shape {name}={wish}",
            )
    _name_batch([value for value in inputs.values() if value not in empty])


def binding(model: ir.Model) -> str | None:
    """The options that bind a symbolic batch to 1, word for word; None where no input has one."""
    shapes = {value.name: ir.dims(value) for value in model.graph.inputs}
    free = {name: dims for name, dims in shapes.items() if dims and dims[0] is None and None not in dims[1:]}
    words = [f"--input-shape {name}=" + "x".join(str(d or 1) for d in dims) for name, dims in free.items()]
    return f"for a batch of 1, compile with {' '.join(words)}" if words else None


# Operators that compute nothing from an axis of length 0: where they are, a 0 means that the length is not known.
_WINDOWS = frozenset({"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool", "Resize", "Upsample"})


def _without_elements(model: ir.Model) -> set[ir.Value]:
    """Inputs whose 0 is meant: beside fixed lengths, as of a cache of keys before the first step or a list of axes."""
    if any(node.op_type in _WINDOWS for node in model.graph):
        return set()
    known = {value: value.shape.dims for value in model.graph.inputs if value.shape is not None}
    fixed = any(dims and number_of(dims[0]) is not None for dims in known.values())
    return {
        value
        for value, dims in known.items()
        if fixed and 0 in dims and all(isinstance(d, int) and d >= 0 for d in dims)
    }


def _bind_one(value: ir.Value, shape: list[int], numbers: dict[str, int]) -> None:
    name = value.name
    if any(d <= 0 for d in shape):
        raise UsageError(f"a dimension of {shape} is not positive", node=name)
    if value.shape is not None:
        if len(shape) != len(value.shape):
            raise UsageError(f"the input has the shape {_shown(value)}, not {shape}", node=name)
        for dim, given in zip(value.shape.dims, shape, strict=True):
            symbol = symbol_of(dim)
            if symbol is not None and numbers.setdefault(symbol, given) != given:
                raise UsageError(f"{symbol} cannot be both {numbers[symbol]} and {given}", node=name)
            if number_of(dim) not in (None, given):
                raise UsageError(f"the input has the fixed shape {_shown(value)}, not {shape}", node=name)
    value.shape = ir.Shape(shape)


def _name_batch(inputs: list[ir.Value]) -> None:
    """One symbol for all first dimensions that are unknown: the name that the file has, else `batch`."""
    first = {value: value.shape.dims[0] for value in inputs if value.shape}
    unknown = [value for value, dim in first.items() if number_of(dim) is None]
    names = {symbol for value in unknown if (symbol := symbol_of(first[value])) is not None}
    default = next(iter(names)) if len(names) == 1 else "batch"
    for value in unknown:
        assert value.shape is not None
        value.shape = ir.Shape([symbol_of(first[value]) or default, *value.shape.dims[1:]])


def number_of(dim: int | ir.SymbolicDim) -> int | None:
    """A fixed dimension. Some exporters write -1 or 0 for what they do not know (but see `_without_elements`)."""
    return dim if isinstance(dim, int) and dim > 0 else None


def symbol_of(dim: int | ir.SymbolicDim) -> str | None:
    """A name that means the same number wherever it stands, unlike `?` and tf2onnx's `unk__1`."""
    name = None if isinstance(dim, int) else dim.value
    return name if name and name[0].isidentifier() and not name.startswith("unk__") else None


def _shown(value: ir.Value) -> str:
    if value.shape is None:
        return "[unknown rank]"
    return f"[{', '.join(str(number_of(d) or symbol_of(d) or '?') for d in value.shape.dims)}]"


def _wish(dim: int | ir.SymbolicDim) -> str:
    return str(number_of(dim) or symbol_of(dim) or "?")
