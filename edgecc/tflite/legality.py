"""What the kernels take: element types and ranks, as both LiteRT 2.3 and tflite-runtime 2.14 do.

Found by running one-operator files of every type and rank in both: a type that is not listed stops the interpreter
(some abort the whole process), gives wrong numbers, or is not loaded. tests/test_tflite_runtimes.py runs the limits.
Quantized tensors are judged by rank only; their types follow from the rules of edgecc/quant/rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecc.tflite.graph import Operator, Tensor

_REAL = frozenset({"float32"})
_NUMBERS = frozenset({"float32", "int32", "int64"})
_MOVED = frozenset({"float32", "int32", "int64", "int8", "uint8", "int16"})
_ANY = _MOVED | {"bool"}

# Operator -> element types of its data where that is not quantized. Operators that are not listed take float32.
TYPES: dict[str, frozenset[str]] = {
    "ABS": frozenset({"float32", "int32", "int16"}),
    "NEG": _NUMBERS,
    "SIGN": frozenset({"float32", "int32"}),
    "LOGICAL_NOT": frozenset({"bool"}),
    "LOGICAL_AND": frozenset({"bool"}),
    "LOGICAL_OR": frozenset({"bool"}),
    "ADD": _NUMBERS | {"int16"},
    "SUB": _NUMBERS,
    "MUL": _NUMBERS,
    "DIV": frozenset({"float32", "int32"}),
    "POW": frozenset({"float32", "int32"}),
    "MAXIMUM": _MOVED,
    "MINIMUM": _MOVED,
    "EQUAL": _NUMBERS | {"bool"},
    "GREATER": _NUMBERS,
    "GREATER_EQUAL": _NUMBERS,
    "LESS": _NUMBERS,
    "LESS_EQUAL": _NUMBERS,
    "MEAN": _NUMBERS,
    "SUM": _NUMBERS,
    "WHERE": frozenset({"bool"}),
    "REDUCE_ANY": frozenset({"bool"}),
    "REDUCE_ALL": frozenset({"bool"}),
    "REDUCE_PROD": _MOVED,
    "REDUCE_MAX": _MOVED,
    "REDUCE_MIN": _MOVED,
    "CAST": _ANY | {"uint32", "float16"},
    "CONCATENATION": _ANY,
    "SPLIT": frozenset({"float32", "int32", "int8", "uint8", "int16"}),
    "SPLIT_V": _MOVED,
    "SLICE": _ANY,
    "STRIDED_SLICE": _ANY,
    "PAD": _MOVED,
    "PADV2": _MOVED,
    "MIRROR_PAD": _MOVED,
    "GATHER": _ANY,
    "ARG_MAX": frozenset({"float32", "int32", "int8", "uint8"}),
    "ARG_MIN": frozenset({"float32", "int32", "int8", "uint8"}),
    "TOPK_V2": frozenset({"float32", "int32", "int64", "int8", "uint8"}),
    "SCATTER_ND": frozenset({"int32"}),  # the type of its indices
    "CUMSUM": _NUMBERS,
    "FLOOR_MOD": _NUMBERS,
    "BITWISE_XOR": frozenset({"int32"}),
    "RIGHT_SHIFT": frozenset({"int32"}),
    "BITCAST": frozenset({"float32", "int32", "int64"}),
    "NOT_EQUAL": _NUMBERS | {"bool"},
    "TILE": _ANY - {"int16"},
    "BROADCAST_TO": _ANY,
    "TRANSPOSE": _ANY,
    "RESHAPE": _ANY | {"uint32", "uint64", "uint16", "float16"},
    "SELECT_V2": _ANY | {"uint32"},
    "DEPTH_TO_SPACE": frozenset({"float32", "int32", "int64", "int8", "uint8"}),
    "SPACE_TO_DEPTH": frozenset({"float32", "int32", "int64", "int8", "uint8"}),
    "RESIZE_NEAREST_NEIGHBOR": frozenset({"float32", "int8", "uint8", "int16"}),
    "DEQUANTIZE": frozenset({"float16", "int8", "uint8", "int16"}),
}

# Highest rank of the data (XNNPACK defines no tensor of more than 6 axes).
_RANK = 6
RANKS: dict[str, int] = {
    "RESHAPE": 8, "BATCH_MATMUL": 5, "PAD": 5, "PADV2": 5, "SLICE": 5, "STRIDED_SLICE": 5,
}  # fmt: skip

# Highest rank where the operands have different shapes, for float32 and for integers; beyond it 2.14 aborts.
BROADCAST_RANKS: dict[str, tuple[int, int]] = {
    "ADD": (6, 6), "SUB": (6, 5), "MUL": (6, 4), "DIV": (6, 5), "MAXIMUM": (6, 5), "MINIMUM": (6, 5),
    "SELECT_V2": (5, 5), "POW": (4, 4), "EQUAL": (4, 4), "GREATER": (4, 4), "GREATER_EQUAL": (4, 4),
    "LESS": (4, 4), "LESS_EQUAL": (4, 4), "LOGICAL_AND": (4, 4), "LOGICAL_OR": (4, 4), "PRELU": (4, 4),
    "NOT_EQUAL": (4, 4), "FLOOR_MOD": (4, 4), "BITWISE_XOR": (4, 4), "RIGHT_SHIFT": (4, 4),
}  # fmt: skip

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

# Operators that both runtimes compute on int16 (found by running them; int8 has a kernel for all that the rules
# let through). ReduceSum: 2.14 demands equal scales; PRELU: LiteRT answers wrongly.
NO_INT16 = frozenset(
    {"PRELU", "HARD_SWISH", "ELU", "GELU", "LOG_SOFTMAX", "SUM", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
     "L2_NORMALIZATION"}
)  # fmt: skip
# As SCALE_RATIOS for int16, which XNNPACK leaves to the kernels: the sums' multiplier must stay below 1 (add.cc).
INT16_RATIOS: dict[str, tuple[float, float]] = {"ADD": (0, 2**13), "SUB": (0, 2**13), "MUL": (0, 1)}

# Operators that give a result without elements, and those that join or pad operands without elements (found by
# running them): BATCH_MATMUL and others stop XNNPACK.
EMPTY = frozenset(
    """
    ADD SUB MUL DIV MAXIMUM MINIMUM POW LESS LESS_EQUAL GREATER GREATER_EQUAL EQUAL NOT_EQUAL FLOOR_MOD EXP LOG SQRT
    ABS NEG SIN COS FLOOR CEIL ROUND RELU RELU6 LOGISTIC TANH SIGN HARD_SWISH ELU GELU SOFTMAX LOG_SOFTMAX MEAN
    REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM TRANSPOSE CAST SELECT_V2 GATHER BROADCAST_TO TILE CUMSUM RESHAPE
    LOGICAL_AND LOGICAL_OR LOGICAL_NOT STRIDED_SLICE SLICE FULLY_CONNECTED
    """.split()  # noqa: SIM905 - a table reads better as words
)
EMPTY_PART = frozenset({"CONCATENATION", "PAD", "PADV2", "SPLIT_V"})

# Position of the data where it is not the first operand.
_DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2, "SELECT_V2": 1}


def objection(op: Operator, tensors: Sequence[Tensor]) -> str | None:
    """Why no kernel serves `op`, or None."""
    data = tensors[op.inputs[_DATA.get(op.code, 0)]]
    if data.quant is None and data.dtype not in TYPES.get(op.code, _REAL):
        return f"{op.code} has no kernel for {data.dtype}"
    result = tensors[op.outputs[0]]
    if op.code == "CAST" and result.dtype not in TYPES["CAST"]:
        return f"CAST has no kernel for {result.dtype}"
    empty = next((t for t in (data, result) if 0 in t.shape), None)
    if empty is not None and (0 not in result.shape or op.code not in EMPTY) and op.code not in EMPTY_PART:
        return f"{empty.name} has no elements: its shape is {list(empty.shape)}"
    rank = max(len(data.shape), len(result.shape))
    highest = RANKS.get(op.code, _RANK)
    if op.code in BROADCAST_RANKS:
        operands = [tensors[i] for i in op.inputs]
        if len({t.dtype for t in operands[_DATA.get(op.code, 0) :]}) > 1:
            return f"{op.code} has no kernel for operands of different types"
        if len({t.shape for t in operands}) > 1:
            highest = BROADCAST_RANKS[op.code][data.dtype != "float32"]
            rank = max(len(t.shape) for t in operands)
    return f"{op.code} has a kernel for at most {highest} axes, here are {rank}" if rank > highest else None


def scales_fit(op: Operator, tensors: Sequence[Tensor]) -> bool:
    """Whether there is an integer kernel that computes `op` between the scales of operands and result."""
    result = tensors[op.outputs[0]]
    data = tensors[op.inputs[_DATA.get(op.code, 0)]]
    wide = any(t.quant is not None and t.dtype == "int16" for t in (data, result))
    if wide and op.code in NO_INT16:
        return False
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
