"""What TFLite Micro's own structures take: sizes follow from their fields and the width of a pointer.

Fields are written as counts and letters in the order of the C++ declaration: p pointer or size_t, i 4 bytes (int,
float, enum), h 2 bytes, b 1 byte, d 8 bytes (double, int64: aligned to 8 on Arm and x86-64). Source: the headers and
kernels of tensorflow/tflite-micro (commit 90b983c); each table says where.
"""

from __future__ import annotations

import re

_FIELD = re.compile(r"(\d*)([pihbd])")
_BYTES = {"i": 4, "h": 2, "b": 1, "d": 8}


def size_of(fields: str, pointer: int) -> int:
    """Bytes of a structure, padded as C++ does.

    Args:
        fields: see above.
        pointer: bytes of a pointer.
    """
    size = 0
    for count, letter in _FIELD.findall(fields):
        one = _BYTES.get(letter, pointer)
        size = -(-size // one) * one + one * int(count or 1)
    align = align_of(fields, pointer)
    return -(-size // align) * align


def align_of(fields: str, pointer: int) -> int:
    """Bytes to which the structure is aligned."""
    return max((_BYTES.get(letter, pointer) for _, letter in _FIELD.findall(fields)), default=1)


# arena_allocator/single_arena_buffer_allocator.h (two tables of virtual functions), micro_allocator.h,
# memory_planner/greedy_memory_planner.h. Those of the recording allocator are what runs here.
SINGLE_ARENA = "2p6pi"
GREEDY_PLANNER = "p2i4p2ipb"
MICRO_ALLOCATOR = "5pb3p"
RECORDING_ARENA = "2p6pi4p"
RECORDING_ALLOCATOR = "5pb3pp24p"
BUILTIN_DATA_ALLOCATOR = "2p"
SUBGRAPH = "2p"
COMPRESSED_SUBGRAPH = "3p"
# lite/c/common.h with TF_LITE_STATIC_MEMORY
EVAL_TENSOR = "2pi"
NODE_AND_REGISTRATION = "6pip"
TENSOR = "ip2i3p2ib"
AFFINE_QUANTIZATION = "2pi"
# Only while memory is planned: micro_allocator.h, micro_allocation_info.h, greedy_memory_planner.h
SCRATCH_REQUEST = "p2i"
ALLOCATION_INFO = "2p3ib"
PLANNED_BUFFER = "10i"
SCRATCH_REQUESTS_PER_OPERATOR = 12

# lite/core/c/builtin_op_data.h: what the parsers of flatbuffer_conversions.cc allocate; operators that are not listed
# have no options. In the package that was measured (0.dev20261023182759), FULLY_CONNECTED takes 16 bytes more than by
# the header of that commit, aligned to 8: so it is taken for two pointers.
BUILTIN: dict[str, str] = {
    "ADD": "ib", "SUB": "ib", "MUL": "i", "DIV": "i", "CONV_2D": "7i", "DEPTHWISE_CONV_2D": "7i",
    "AVERAGE_POOL_2D": "10i", "MAX_POOL_2D": "10i", "L2_POOL_2D": "10i", "FULLY_CONNECTED": "2i2bi2p",
    "SOFTMAX": "i", "CONCATENATION": "2i", "BATCH_MATMUL": "3b", "L2_NORMALIZATION": "i",
    "RESIZE_BILINEAR": "2b", "RESIZE_NEAREST_NEIGHBOR": "2b", "RESHAPE": "9i", "DEPTH_TO_SPACE": "i",
    "SPACE_TO_DEPTH": "i", "CAST": "2i", "GATHER": "2i", "MEAN": "b", "SUM": "b", "REDUCE_MAX": "b",
    "REDUCE_MIN": "b", "REDUCE_ALL": "b", "SPLIT": "i", "SPLIT_V": "i", "SQUEEZE": "9i", "STRIDED_SLICE": "5ib",
    "ARG_MAX": "i", "ARG_MIN": "i", "PACK": "2i", "UNPACK": "2i", "LEAKY_RELU": "i", "MIRROR_PAD": "i",
    "CUMSUM": "2b", "SHAPE": "i", "TRANSPOSE_CONV": "5i", "SVDF": "2ib", "VAR_HANDLE": "2p",
}  # fmt: skip

_REDUCE, _COMPARE, _CONV, _PAD = "11i", "7ib", "9i2p3i", "b5ib5ibi"

# Structures that the reference kernels allocate when they are initialised, with lite/kernels/internal/types.h;
# operators that are not listed have none.
OP_DATA: dict[str, str] = {
    "ADD": "b14i", "SUB": "b12i", "MUL": "9i", "DIV": "7i", "CONV_2D": _CONV, "DEPTHWISE_CONV_2D": _CONV,
    "FULLY_CONNECTED": "9i2pb", "AVERAGE_POOL_2D": "8i", "MAX_POOL_2D": "8i", "SOFTMAX": "d7i5p",
    "CONCATENATION": "i2p3i", "PAD": _PAD, "PADV2": _PAD, "MIRROR_PAD": "5i", "PRELU": "7i", "QUANTIZE": "id3i",
    "DEQUANTIZE": "d2i3i", "HARD_SWISH": "3hihi", "LOGISTIC": "4i", "TANH": "4i", "RELU": "b6i", "RELU6": "2i",
    "LEAKY_RELU": "6i", "ELU": "256b", "ABS": "4ib2i", "RSQRT": "4ib2i", "EQUAL": _COMPARE,
    "NOT_EQUAL": _COMPARE, "GREATER": _COMPARE, "GREATER_EQUAL": _COMPARE, "LESS": _COMPARE,
    "LESS_EQUAL": _COMPARE, "L2_NORMALIZATION": "i", "SPACE_TO_BATCH_ND": "i", "STRIDED_SLICE": "b5ib5ib5i5hb",
    "SELECT_V2": "b", "SQUARED_DIFFERENCE": "8bb14i2d2h5i", "MEAN": _REDUCE, "SUM": _REDUCE,
    "REDUCE_MAX": _REDUCE, "REDUCE_MIN": _REDUCE, "REDUCE_ALL": _REDUCE, "TRANSPOSE_CONV": "b8h11i2p",
    "BATCH_MATMUL": "3p3b", "SVDF": "9i", "VAR_HANDLE": "i",
}  # fmt: skip

# kernels/cmsis_nn: where it differs.
CMSIS_OP_DATA: dict[str, str] = {
    "CONV_2D": _CONV + "i", "DEPTHWISE_CONV_2D": _CONV + "i", "FULLY_CONNECTED": "9i2pb2ip3i",
    "AVERAGE_POOL_2D": "9i", "MAX_POOL_2D": "9i", "SOFTMAX": "d7i5p2i", "TRANSPOSE_CONV": "b8h12i2p",
    "BATCH_MATMUL": "3p3b5i", "SVDF": "9ip",
}  # fmt: skip

# The Python package is built with USE_TFLM_COMPRESSION, which lengthens these.
COMPRESSED_OP_DATA: dict[str, str] = {
    "CONV_2D": "9i2p5i", "DEPTHWISE_CONV_2D": "9i2p5i", "FULLY_CONNECTED": "9i2pb2i", "CONCATENATION": "i2p13i",
    "TRANSPOSE_CONV": "b8h13i2p",
}  # fmt: skip

# Allocated when they are prepared, and only where the data are int8.
INT8_DATA: dict[str, str] = {"ADD_N": "10i", "LOG_SOFTMAX": "5i2p", "CUMSUM": "9i"}
MATMUL_QUANTIZATION = "7i"
# Elements of each of the two tables of an int16 softmax (lite/kernels/internal/common.h, LUTSize<int16_t>).
SOFTMAX_TABLE = 513
