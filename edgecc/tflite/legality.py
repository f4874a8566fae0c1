"""Whether kernels serve an operator: its types, ranks and versions by `kernels.json`, and the scales of integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgecc.tflite.graph import Graph, Operator, Tensor
from edgecc.tflite.kernels import DATA, MICRO, Kernels, in_words, kernels, kind_of, wanted
from edgecc.tflite.versions import version_of

_UNTRIED = 6  # axes of operators that are not in the table: XNNPACK defines no tensor of more

# Lowest and highest scale of the operands over that of the result: XNNPACK (microkernel parameters of qs8 and qc8w)
# refuses the whole network beyond them. They are met only where a result hardly ever leaves zero.
SCALE_RATIOS: dict[str, tuple[float, float]] = {
    "ADD": (2**-10, 2**8), "SUB": (2**-10, 2**8), "MUL": (2**-16, 2**8), "CONV_2D": (0, 2**8),
    "DEPTHWISE_CONV_2D": (0, 2**8),
    "FULLY_CONNECTED": (0, 2**8), "TRANSPOSE_CONV": (0, 2**8), "BATCH_MATMUL": (0, 2**8), "LEAKY_RELU": (2**-8, 2**7),
    "MEAN": (2**-8, 2**7), "QUANTIZE": (2**-8, 2**7), "HARD_SWISH": (2**-8, 2**7), "RELU": (2**-8, 2**7),
    "RELU6": (2**-8, 2**7), "RELU_N1_TO_1": (2**-8, 2**7),
}  # fmt: skip
_PRODUCTS = frozenset(
    {"MUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}
)

# As SCALE_RATIOS for int16, which XNNPACK leaves to the kernels: the sums' multiplier must stay below 1 (add.cc).
INT16_RATIOS: dict[str, tuple[float, float]] = {"ADD": (0, 2**13), "SUB": (0, 2**13), "MUL": (0, 1)}


# Operators that give a result without elements, and those that join or pad operands without elements (found by
# running them in LiteRT and tflite-runtime 2.14): BATCH_MATMUL and others stop XNNPACK.
EMPTY = frozenset(
    """
    ADD SUB MUL DIV MAXIMUM MINIMUM POW LESS LESS_EQUAL GREATER GREATER_EQUAL EQUAL NOT_EQUAL FLOOR_MOD EXP LOG SQRT
    ABS NEG SIN COS FLOOR CEIL ROUND RELU RELU6 LOGISTIC TANH SIGN HARD_SWISH ELU GELU SOFTMAX LOG_SOFTMAX MEAN
    REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM TRANSPOSE CAST SELECT_V2 GATHER BROADCAST_TO TILE CUMSUM RESHAPE
    LOGICAL_AND LOGICAL_OR LOGICAL_NOT STRIDED_SLICE SLICE FULLY_CONNECTED
    """.split()  # noqa: SIM905 - a table reads better as words
)
EMPTY_PART = frozenset({"CONCATENATION", "PAD", "PADV2", "SPLIT_V"})


def objection(
    op: Operator, tensors: Sequence[Tensor], known: Kernels | None = None, *, written: bool = False
) -> str | None:
    """Why no kernel serves `op`, or None.

    Args:
        op: with any version: the one that it will be given counts, unless it is `written`.
        tensors: of its graph.
        known: the kernels of the runtimes that must serve it; None: of LiteRT and tflite-runtime 2.14.
        written: it stands in a file with its version.
    """
    known = wanted("litert") if known is None else known
    data, result = tensors[op.inputs[DATA.get(op.code, 0)]], tensors[op.outputs[0]]
    empty = next((t for t in (data, result) if 0 in t.shape), None)
    if empty is not None and not _takes_nothing(op.code, result, known):
        return f"{empty.name} has no elements: its shape is {list(empty.shape)}"
    kind, rank = kind_of(op, tensors), max(len(data.shape), len(result.shape))
    if not known.knows(op.code):
        return _untried(op.code, kind, rank)
    reach = known.reach(op.code, kind)
    if reach is None:
        return f"{op.code} has no kernel for {in_words(kind)}{_where(known)}"
    version, highest_version = op.version if written else version_of(op, tensors), known.version(op.code)
    if version > highest_version:
        return f"{op.code} version {version} is too new: at most {highest_version} is known{_where(known)}"
    if rank < reach.low and reach.low > 1:  # what scalars cannot be tried with serves them
        return f"{op.code} has a kernel for at least {reach.low} axes, here are {rank}{_where(known)}"
    highest = reach.high
    if reach.broadcast is not None:
        operands = [tensors[i] for i in op.inputs]
        if len({t.dtype for t in operands[DATA.get(op.code, 0) :]}) > 1:
            return f"{op.code} has no kernel for operands of different types"
        shapes = {_broadcast(op.code, t.shape) for t in operands}
        if len(shapes) > 1:
            highest, rank = reach.broadcast, max(len(t.shape) for t in operands)
    if rank > highest:
        return f"{op.code} has a kernel for at most {highest} axes, here are {rank}{_where(known)}"
    return None


def _takes_nothing(code: str, result: Tensor, known: Kernels) -> bool:
    """Whether the kernel was seen to take tensors without elements."""
    return known.columns != (MICRO,) and (code in EMPTY_PART or (code in EMPTY and 0 in result.shape))


def _broadcast(code: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The part of an operand's shape that broadcasts."""
    return shape[:-2] if code == "BATCH_MATMUL" else shape


def _untried(code: str, kind: str, rank: int) -> str | None:
    if kind != "float32":
        return f"{code} has no kernel for {in_words(kind)}"
    return f"{code} has a kernel for at most {_UNTRIED} axes, here are {rank}" if rank > _UNTRIED else None


def _where(known: Kernels) -> str:
    """The runtime, where it is not LiteRT alone that is asked."""
    return " in TFLite Micro" if known.columns == (MICRO,) else ""


def lacking(graph: Graph, column: str) -> list[str]:
    """What a runtime lacks to run a graph, each reason once."""
    known = kernels(column)
    return sorted(set(_reasons(graph, known)))


def _reasons(graph: Graph, known: Kernels) -> Iterable[str]:
    for op in graph.operators:
        reason = objection(op, graph.tensors, known)
        if reason is not None:
            yield reason


def scales_fit(op: Operator, tensors: Sequence[Tensor]) -> bool:
    """Whether integer kernels can compute `op` between the scales of its operands and of its result."""
    data, result = tensors[op.inputs[DATA.get(op.code, 0)]], tensors[op.outputs[0]]
    wide = any(t.quant is not None and t.dtype == "int16" for t in (data, result))
    limits = (INT16_RATIOS if wide else SCALE_RATIOS).get(op.code)
    operands = [
        t
        for i in op.inputs
        if i >= 0 and (t := tensors[i]).quant is not None and t.dtype in ("int8", "int16")
    ]
    if limits is None or result.quant is None or not operands:
        return True
    factors = [t.quant.scale.astype(np.float64) for t in operands if t.quant is not None]
    ratios = np.concatenate(
        [np.prod([f.max() for f in factors], keepdims=True)] if op.code in _PRODUCTS else factors
    )
    ratios = ratios / float(result.quant.scale[0])
    return bool(limits[0] <= ratios.min() and ratios.max() < limits[1])
