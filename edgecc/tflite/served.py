"""Which operators of a TFLite file, whoever made it, have a kernel in a runtime: by `kernels.json`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecc.errors import Finding, ModelError
from edgecc.quant.params import LIMITS, QuantParams
from edgecc.tflite import graph as written
from edgecc.tflite.kernels import DATA, Kernels, in_words, kind_of
from edgecc.tflite.legality import objection
from edgecc.tflite.reader import CUSTOM, Graph, Operator, Tensor


def unserved(graph: Graph, known: Kernels) -> tuple[Finding, ...]:
    """The operators that no kernel is known to serve, and why.

    Args:
        graph: of a file.
        known: the kernels of the runtimes that must serve it.

    Raises:
        ModelError: an operator has not the operands of its kind.
    """
    tensors = _tensors(graph)
    reasons = ((op, _reason(op, tensors, known)) for op in graph.operators)
    return tuple(Finding(_name(op), op.code, reason) for op, reason in reasons if reason is not None)


def stored_in_words(graph: Graph) -> list[str]:
    """How each operator's data is stored: "quantized int8 with quantized int8 weights (a scale a channel)".

    Raises:
        ModelError: an operator has not the operands of its kind.
    """
    tensors = _tensors(graph)
    return [_stored(op, tensors) for op in graph.operators]


def _reason(op: Operator, tensors: Sequence[written.Tensor], known: Kernels) -> str | None:
    if op.code.startswith(CUSTOM):
        return "a custom operator: the application must bring its kernel"
    if not known.knows(op.code):
        return "whether there is a kernel is not known: edgecc's table has no such operator"
    try:
        op.given(DATA.get(op.code, 0))
        return objection(_operator(op), tensors, known, written=True)
    except IndexError as error:
        raise _damaged(op) from error


def _stored(op: Operator, tensors: Sequence[written.Tensor]) -> str:
    place = DATA.get(op.code, 0)
    if not op.outputs or len(op.inputs) <= place or op.inputs[place] is None:
        return ""  # as VAR_HANDLE, which takes nothing
    try:
        return in_words(kind_of(_operator(op), tensors))
    except IndexError as error:
        raise _damaged(op) from error


def _damaged(op: Operator) -> ModelError:
    return ModelError(
        "the TFLite file is damaged: an operator has not the operands of its kind", node=op.label
    )


def _name(op: Operator) -> str:
    return op.outputs[0].name if op.outputs else ""


def _operator(op: Operator) -> written.Operator:
    """As the tables' readers take it."""
    inputs = tuple(-1 if t is None else t.index for t in op.inputs)
    return written.Operator(op.code, inputs, tuple(t.index for t in op.outputs), version=op.version)


def _tensors(graph: Graph) -> list[written.Tensor]:
    return [
        written.Tensor(
            t.name, t.shape, "int4" if t.kind == "INT4" else t.dtype or t.kind.lower(), quant=_quant(t)
        )
        for t in graph.tensors
    ]


def _quant(tensor: Tensor) -> QuantParams | None:
    """Whether it is quantized, and by channel: the tables ask no more, and a file may hold any scale."""
    dtype, count = "int4" if tensor.kind == "INT4" else tensor.dtype, len(tensor.scales)
    if dtype not in LIMITS or not count:
        return None
    axis = None if count == 1 else 0
    return QuantParams(np.ones(count), np.zeros(count), dtype, axis)  # type: ignore[arg-type]
