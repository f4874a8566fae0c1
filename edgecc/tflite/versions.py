"""The lowest operator version that serves (DESIGN §3): tables after LiteRT's `op_version.cc`.

tests/test_tflite_runtimes.py loads and runs files with them in the current LiteRT and in tflite-runtime 2.14.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.quant.params import QuantParams
from edgecc.tflite.graph import Operator, Tensor

# Operator -> version for (int8, int16) data; float data is version 1 unless `_FLOAT` says otherwise.
_QUANTIZED = {
    "ADD": (2, 4), "SUB": (2, 5), "MUL": (2, 4), "DIV": (2, 2), "CONV_2D": (3, 4), "DEPTHWISE_CONV_2D": (3, 5),
    "FULLY_CONNECTED": (4, 7), "AVERAGE_POOL_2D": (2, 3), "MAX_POOL_2D": (2, 3), "MEAN": (2, 3), "SUM": (2, 2),
    "REDUCE_MAX": (2, 3), "REDUCE_MIN": (2, 3), "SOFTMAX": (2, 3), "LOG_SOFTMAX": (2, 2), "LOGISTIC": (2, 3),
    "TANH": (2, 3), "RELU": (2, 3), "RELU6": (2, 3), "LEAKY_RELU": (2, 2), "PAD": (2, 3),
    "PADV2": (2, 3), "CONCATENATION": (2, 3), "SPLIT": (2, 4), "SPLIT_V": (2, 2), "STRIDED_SLICE": (2, 4),
    "SLICE": (2, 4), "GATHER": (2, 4), "TRANSPOSE": (2, 4), "RESIZE_BILINEAR": (2, 4),
    "RESIZE_NEAREST_NEIGHBOR": (2, 4), "TRANSPOSE_CONV": (2, 4), "BATCH_MATMUL": (2, 3), "MAXIMUM": (2, 4),
    "MINIMUM": (2, 4), "EXP": (2, 2), "RSQRT": (2, 3), "ABS": (2, 3), "GELU": (2, 2), "DEQUANTIZE": (2, 3),
    "SPACE_TO_DEPTH": (2, 2), "DEPTH_TO_SPACE": (2, 2), "L2_NORMALIZATION": (2, 2), "TILE": (2, 3), "PACK": (2, 3),
    "UNPACK": (2, 4), "EQUAL": (2, 2), "GREATER": (2, 2), "LESS": (2, 2), "SQUEEZE": (2, 2),
}  # fmt: skip

# int8 weights under float32 data (dynamic range): one scale a tensor, one a channel. As version 3, tflite-runtime 2.14
# loads a FULLY_CONNECTED with one scale a channel and answers wrongly; as version 12 it says that it cannot.
_HYBRID = {"CONV_2D": (2, 5), "DEPTHWISE_CONV_2D": (6, 6), "FULLY_CONNECTED": (3, 12)}

# int4 weights: version by type of the data, for one scale a tensor and one a channel. tflite-runtime 2.14 takes some
# and answers wrongly to others: these have a version that it refuses when it loads the file (8, 12, 13). So do blocks.
_INT4 = {
    ("FULLY_CONNECTED", "float32"): (10, 10), ("FULLY_CONNECTED", "int8"): (10, 12),
    ("FULLY_CONNECTED", "int16"): (13, 13), ("CONV_2D", "float32"): (8, 8), ("CONV_2D", "int8"): (7, 7),
    ("CONV_2D", "int16"): (8, 8), ("DEPTHWISE_CONV_2D", "int8"): (7, 7),
}  # fmt: skip
_BLOCKS = 12

# int16 data and a scale a channel: likewise, as version 7 tflite-runtime 2.14 reads beyond the scales or stops.
_CHANNELS_INT16 = {"FULLY_CONNECTED": 12}

# Operators whose data is not their first input.
_DATA_INPUT = {"SPLIT": 1, "TRANSPOSE_CONV": 2}


def version_of(op: Operator, tensors: Sequence[Tensor]) -> int:
    """The lowest version of `op` that the types and options of its tensors allow."""
    data = tensors[op.inputs[_DATA_INPUT.get(op.code, 0)]]
    kinds = _QUANTIZED.get(op.code, (1, 1))
    version = {"int8": kinds[0], "int16": kinds[1]}.get(data.dtype, 1)
    if op.code == "QUANTIZE":
        version = 2 if data.dtype in ("int16",) or tensors[op.outputs[0]].dtype == "int16" else 1
    return max(version, _by_options(op, tensors))


def _int4_version(code: str, data: Tensor, weights: Tensor, quant: QuantParams) -> int:
    whole, per_channel = _INT4.get((code, data.dtype), (1, 1))
    if quant.block_size:
        return _BLOCKS
    if quant.axis is None:
        return whole
    outputs, inputs = weights.shape[0], weights.shape[-1]
    if (code, data.dtype) == ("FULLY_CONNECTED", "float32") and (outputs < 4 or inputs < 32 or inputs % 2):
        return _BLOCKS  # smaller than a tile of 2.14's int4 kernel, which leaves it to one that reads one scale only
    return per_channel


def _by_options(op: Operator, tensors: Sequence[Tensor]) -> int:
    options = op.options
    data = tensors[op.inputs[0]]
    stored = tensors[op.inputs[1]] if len(op.inputs) > 1 and op.inputs[1] >= 0 else None
    if stored is not None and stored.dtype == "int4" and stored.quant is not None:
        return _int4_version(op.code, data, stored, stored.quant)
    if (
        op.code in _CHANNELS_INT16
        and data.dtype == "int16"
        and stored is not None
        and stored.quant is not None
    ):
        return 1 if stored.quant.axis is None else _CHANNELS_INT16[op.code]
    if op.code in _HYBRID and data.dtype == "float32" and tensors[op.inputs[1]].dtype == "int8":
        quant = tensors[op.inputs[1]].quant
        return _HYBRID[op.code][quant is not None and quant.axis is not None]
    if op.code == "CONV_2D":
        weights = tensors[op.inputs[1]]
        return 6 if weights.shape[-1] != data.shape[-1] else 1
    if op.code == "DEPTHWISE_CONV_2D":
        return 2 if options.get("dilationWFactor", 1) != 1 or options.get("dilationHFactor", 1) != 1 else 1
    if op.code == "FULLY_CONNECTED":
        if len(op.inputs) == 2 or op.inputs[2] == -1:
            return 6
        return 5 if options.get("keepNumDims") else 1
    if op.code in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        return (
            3 if options.get("halfPixelCenters") or (op.code[7] == "N" and options.get("alignCorners")) else 1
        )
    if op.code == "TRANSPOSE_CONV":
        fused = options.get("fusedActivationFunction", 0)
        return 4 if fused else 3 if len(op.inputs) == 4 and op.inputs[3] != -1 else 1
    if op.code == "BROADCAST_TO":
        return 2
    if op.code == "TRANSPOSE":
        return 4 if len(data.shape) > 5 else 1
    return 1
