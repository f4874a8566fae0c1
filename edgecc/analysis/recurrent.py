"""What an LSTM, GRU or RNN node computes, read from its attributes, and why it cannot be unrolled if so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.analysis.refusals import UNKNOWN_BATCH

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Blocks of `hidden_size` rows in the weights of each operator."""

_DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
# Activation -> default alpha and beta, in the order in which it takes them (ONNX operator specification, RNN;
# None where it states none).
_PARAMETERS: dict[str, tuple[float | None, ...]] = {
    "relu": (),
    "tanh": (),
    "sigmoid": (),
    "softsign": (),
    "softplus": (),
    "leakyrelu": (0.01,),
    "thresholdedrelu": (1.0,),
    "elu": (1.0,),
    "hardsigmoid": (0.2, 0.5),
    "affine": (None, None),
    "scaledtanh": (None, None),
}


@dataclass(frozen=True)
class Activation:
    """A function of the gates: lower-case name, alpha and beta where it has them."""

    name: str
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer.

    Attributes:
        kind: LSTM, GRU or RNN.
        steps, hidden: sequence length and size of the state.
        batch: None where it is symbolic; then `time_axis` is 1.
        time_axis: of X: 0, or 1 with layout 1.
        reverse: for each direction, whether it runs from the last step to the first.
        activations: of each direction.
        clip: bound of what goes into the activations; None: none.
        linear_before_reset, input_forget: as in ONNX.
    """

    kind: str
    steps: int
    hidden: int
    batch: int | None
    time_axis: int
    reverse: tuple[bool, ...]
    activations: tuple[tuple[Activation, ...], ...]
    clip: float | None
    linear_before_reset: bool
    input_forget: bool


def read(node: ir.Node) -> Recurrent | str:
    """The layer that a node of `GATES` is; the reason if it is none whose steps are known."""
    x, recurrence = node.inputs[0], node.inputs[2]
    shape = None if x is None else ir.dims(x)
    inner = None if recurrence is None else ir.dims(recurrence)
    layout = int(ir.attribute(node, "layout", 0))
    if shape is None or len(shape) != 3 or shape[2] is None:
        return "the shape of its input is not known when compiling"
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    if steps is None:
        return "the length of its sequence is not known when compiling"
    if batch is None and not layout:
        return UNKNOWN_BATCH
    hidden = ir.attribute(node, "hidden_size") or (None if inner is None else inner[2])
    if hidden is None:
        return "the size of its state is not known when compiling"
    if reason := _lengths(node, steps):
        return reason
    direction = str(ir.attribute(node, "direction", "forward"))
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if reverse is None:
        return f"it has the direction {direction!r}, which ONNX does not know"
    activations = _activations(node, len(reverse))
    if isinstance(activations, str):
        return activations
    clip = ir.attribute(node, "clip")
    return Recurrent(
        node.op_type, steps, int(hidden), batch, layout, reverse, activations,
        clip=float(clip) if clip else None,
        linear_before_reset=bool(ir.attribute(node, "linear_before_reset", 0)),
        input_forget=bool(ir.attribute(node, "input_forget", 0)),
    )  # fmt: skip


def _lengths(node: ir.Node, steps: int) -> str | None:
    value = node.inputs[4] if len(node.inputs) > 4 else None
    if value is None:
        return None
    lengths = ir.constant(value)
    if lengths is None:
        return "the lengths of its sequences are computed while running"
    if np.any(lengths != steps):
        return f"its sequences have the lengths {sorted({int(n) for n in lengths})}, not all {steps} steps"
    return None


def _activations(node: ir.Node, directions: int) -> tuple[tuple[Activation, ...], ...] | str:
    names = ir.attribute(node, "activations") or _DEFAULTS[node.op_type] * directions
    each = len(_DEFAULTS[node.op_type])
    if len(names) != each * directions:
        return f"it names {len(names)} activations where it takes {each * directions}"
    given: dict[str, list[Any]] = {
        kind: list(ir.attribute(node, f"activation_{kind}") or ()) for kind in ("alpha", "beta")
    }
    found = []
    for text in names:
        name = str(text.decode() if isinstance(text, bytes) else text).lower()
        if name not in _PARAMETERS:
            return f"the activation {name!r} is none of ONNX's"
        values = []
        for kind, default in zip(("alpha", "beta"), _PARAMETERS[name], strict=False):
            value = given[kind].pop(0) if given[kind] else default
            if value is None:
                return f"its activation {name!r} has no {kind}, for which ONNX states no default"
            values.append(float(value))
        found.append(Activation(name, tuple(values)))
    return tuple(tuple(found[i * each : (i + 1) * each]) for i in range(directions))
