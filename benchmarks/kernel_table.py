"""The operators that `kernels.py` tries: name -> (kinds, ranks, function from rank to variants)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import kernel_cases as c
import kernel_moves as m
import kernel_reference as ref
import numpy as np
from kernel_cases import ALL, NUMBERS, QUANT, RANKS, REAL, Entry, Variants
from kernel_files import Bias, Data, Fixed, Sparse, Variant, Weight
from kernel_reference import Array

_STORED = tuple(f"q{dtype}{scales}" for dtype in ("int8", "int4") for scales in ("", "/channel"))
WEIGHTED = (
    "float32",
    *(f"{d}*{w}" for d in ("float32", "qint8", "qint16") for w in _STORED),
    "quint8*quint8",
)
VALID = {"padding": 1, "strideH": 1, "strideW": 1}
POOL = {**VALID, "filterHeight": 2, "filterWidth": 2}
IMAGE = (2, 5, 4, 8)


def fixed(
    items: list[Any], function: Callable[..., Any], options: dict[str, Any] | None = None, **more: Any
) -> Variant:
    """A variant with its options."""
    return Variant(items, function, options or {}, **more)


def these(*variants: Variant) -> Variants:
    """The same variants, whatever the rank."""
    return lambda rank: variants


def convolution(rank: int) -> Iterator[Variant]:
    for stride in (1, 2):

        def apply(x: Array, w: Array, b: Array, stride: int = stride) -> Array:
            return ref.conv(x, w, b, stride)  # fmt: skip

        options = {**VALID, "strideH": stride, "strideW": stride, "dilationHFactor": 1, "dilationWFactor": 1}
        yield fixed([Data(IMAGE), Weight((6, 3, 2, 8)), Bias(6)], apply, options)
        yield fixed([Data(IMAGE), Weight((6, 1, 1, 8)), Bias(6)], apply, options)


def depthwise(rank: int) -> Iterator[Variant]:
    for multiplier, dilation in ((1, 1), (2, 1), (1, 2)):

        def apply(x: Array, w: Array, b: Array, dilation: int = dilation) -> Array:
            return ref.depthwise(x, w, b, dilation)  # fmt: skip

        factors = {"dilationHFactor": dilation, "dilationWFactor": dilation}
        weights = Weight((1, 3, 2, 8 * multiplier), 3)
        options = {**VALID, **factors, "depthMultiplier": multiplier}
        yield fixed([Data(IMAGE), weights, Bias(8 * multiplier)], apply, options)


def transposed(rank: int) -> Iterator[Variant]:
    for stride in (1, 2):
        shape = (2, 4 * stride + 3, 3 * stride + 2, 6)

        def apply(s: Array, w: Array, x: Array, b: Array, stride: int = stride) -> Array:
            return ref.transposed_conv(x, w, b, stride)  # fmt: skip

        items = [c.ints(*shape), Weight((6, 3, 2, 8)), Data(IMAGE), Bias(6)]
        yield fixed(items, apply, {**VALID, "strideH": stride, "strideW": stride})


def volume(rank: int) -> Iterator[Variant]:
    def apply(x: Array, w: Array, b: Array) -> Array:
        return ref.conv(x, w.transpose(4, 0, 1, 2, 3), b)

    options = {"padding": 1, "strideD": 1, "strideH": 1, "strideW": 1}
    yield fixed([Data((2, 3, 4, 3, 2)), Weight((2, 2, 2, 2, 5), 4), Bias(5)], apply, options)


def connected(rank: int) -> Iterator[Variant]:
    lead = c.FULL[9 - rank :]
    items = [Data((*lead, 8)), Weight((6, 8)), Bias(6)]
    yield fixed(items, lambda x, w, b: x @ w.T + b, {"keepNumDims": rank != 2})
    bare = [*items[:2], None] if rank == 2 else items
    yield fixed(bare, lambda x, w, b=0: x @ w.T + b, {"keepNumDims": rank != 2})


def wide(rank: int) -> Iterator[Variant]:
    """As many inputs as the tile of a kernel on int4 weights (those with fewer get a version of their own)."""
    items = [Data((*c.FULL[9 - rank :], 64)), Weight((6, 64), block=32), Bias(6)]
    yield fixed(items, lambda x, w, b: x @ w.T + b, {"keepNumDims": rank != 2})


def product(rank: int) -> Iterator[Variant]:
    lead, odd = c.FULL[10 - rank :], tuple(d if i % 2 else 1 for i, d in enumerate(c.FULL[10 - rank :]))
    for adj in (False, True):

        def apply(a: Array, b: Array, adj: bool = adj) -> Array:
            return a @ (b.swapaxes(-1, -2) if adj else b)  # fmt: skip

        tail = (5, 4) if adj else (4, 5)
        options = {"adjX": False, "adjY": adj}
        yield fixed([Data((*lead, 3, 4)), Data((*lead, *tail))], apply, options)
        yield fixed([Data((*lead, 3, 4)), Data((*lead, *tail), constant=True)], apply, options)
        for one, two in ((lead, odd), (odd, lead), (lead, ())):
            items = [Data((*one, 3, 4)), Data((*two, *tail))]
            yield fixed(items, apply, options, broadcast=True)


def resize(function: Callable[..., Array], **options: bool) -> list[Variant]:
    words = {"half": options.get("halfPixelCenters", False)}
    if "alignCorners" in options:
        words["corners"] = options["alignCorners"]
    return [
        fixed(
            [Data((2, 4, 3, 5)), c.ints(*size)],
            lambda x, s: function(x, int(s[0]), int(s[1]), **words),
            options,
            scale="same",
            steps=1,
        )
        for size in ((8, 9), (2, 3), (7, 5))
    ]


def cast_kinds() -> tuple[str, ...]:
    kinds = ("float32", "float16", "bool", *c.INTS, "uint16", "uint64")
    return tuple(f"{a}>{b}" for a in kinds for b in kinds if a != b)


def cast(rank: int) -> Iterator[Variant]:
    for shape in c.shapes(rank):
        yield fixed([Data(shape, 0)], lambda x: x)


def requantized(rank: int) -> Iterator[Variant]:
    for shape in c.shapes(rank):
        yield fixed([Data(shape)], lambda x: x, steps=1.01)


def identity(rank: int) -> Iterator[Variant]:
    for shape in c.shapes(rank):
        yield fixed([Data(shape)], lambda x: x, out=("float32",))


def last(function: Callable[[Array], Array], **more: Any) -> Variants:
    """Functions along the last axis."""
    return lambda rank: [fixed([Data(s)], function, **more) for s in c.shapes(rank)] if rank else []


SAME: dict[str, Any] = {"scale": "same", "steps": 0}
TRUTH: dict[str, Any] = {"out": ("bool",)}
BOOLEAN = ("bool",)
FLOATS = ("float32",)


def densified(rank: int) -> Iterator[Variant]:
    """Weights that XNNPACK takes only where an operator reads them."""
    data = Fixed(np.random.default_rng(rank).uniform(-3, 3, (1, 4, 5, 16)).astype(np.float32), False)
    bias = Fixed(np.linspace(-1, 1, 32, dtype=np.float32))
    if rank < 4:
        rows = replace(data, array=data.array.reshape((20, 16) if rank == 2 else (4, 5, 16)))
        yield Variant(
            [rows, Sparse((32, 16)), bias], lambda x, w, b: x @ w.T + b, {"keepNumDims": rank == 3},
            ("float32",), reader="FULLY_CONNECTED",
        )  # fmt: skip
    for size in (1, 3) if rank == 4 else ():
        yield Variant(
            [data, Sparse((32, size, size, 16)), bias], ref.conv, VALID, reader="CONV_2D", out=("float32",)
        )


UNARY: dict[str, Entry] = {
    "ABS": (NUMBERS, RANKS, c.unary(np.abs)),
    "NEG": (NUMBERS, RANKS, c.unary(np.negative)),
    "SIGN": (NUMBERS, RANKS, c.unary(np.sign)),
    "SQUARE": (NUMBERS, RANKS, c.unary(np.square)),
    "SQRT": (REAL, RANKS, c.unary(np.sqrt, 0.1)),
    "RSQRT": (REAL, RANKS, c.unary(lambda x: 1 / np.sqrt(np.maximum(x, 1e-2)), 0.3)),
    "EXP": (REAL, RANKS, c.unary(np.exp)),
    "LOG": (REAL, RANKS, c.unary(lambda x: np.log(np.maximum(x, 1e-2)), 0.5)),
    "SIN": (REAL, RANKS, c.unary(np.sin)),
    "COS": (REAL, RANKS, c.unary(np.cos)),
    "FLOOR": (REAL, RANKS, c.unary(np.floor)),
    "CEIL": (REAL, RANKS, c.unary(np.ceil)),
    "ROUND": (REAL, RANKS, c.unary(np.rint)),
    "LOGISTIC": (REAL, RANKS, c.unary(ref.sigmoid, scale=c.SIGMOID)),
    "TANH": (REAL, RANKS, c.unary(np.tanh, scale=c.TANH)),
    "RELU": (NUMBERS, RANKS, c.unary(lambda x: np.maximum(x, 0))),
    "RELU6": (REAL, RANKS, c.unary(lambda x: np.clip(x, 0, 6), -3, 8)),
    "RELU_N1_TO_1": (REAL, RANKS, c.unary(lambda x: np.clip(x, -1, 1))),
    "RELU_0_TO_1": (REAL, RANKS, c.unary(lambda x: np.clip(x, 0, 1))),
    "ELU": (REAL, RANKS, c.unary(lambda x: np.where(x > 0, x, np.expm1(x)))),
    "GELU": (REAL, RANKS, c.unary(ref.gelu, options={"approximate": False})),
    "HARD_SWISH": (REAL, RANKS, c.unary(lambda x: x * np.clip(x + 3, 0, 6) / 6, -5, 5)),
    "LEAKY_RELU": (REAL, RANKS, c.unary(lambda x: np.where(x > 0, x, 0.1 * x), options={"alpha": 0.1})),
    "LOGICAL_NOT": (BOOLEAN, RANKS, c.unary(np.logical_not)),
    "ZEROS_LIKE": (("float32", "int32", "int64"), RANKS, c.unary(np.zeros_like)),
    "BITCAST": (
        ("float32>int32", "int32>float32"), RANKS,
        c.unary(lambda x: x.view(np.int32 if x.dtype == np.float32 else np.float32), 1_000_000_000, 1_070_000_000),
    ),
    "WHERE": (BOOLEAN, range(1, 7), c.unary(np.argwhere, out=("int64",))),
    "SHAPE": (ALL, range(1, 7), c.unary(lambda x: np.array(x.shape, np.int32), options={"outType": 2}, out=("int32",))),
    "CAST": (cast_kinds(), RANKS, cast),
    "QUANTIZE": (
        (*(f"float32>{q}" for q in QUANT), *(f"{a}>{b}" for a in QUANT for b in QUANT)), RANKS, requantized,
    ),
    "DEQUANTIZE": (("float16", *QUANT), RANKS, identity),
    "DENSIFY": (("float32", "float16"), range(2, 5), densified),
}  # fmt: skip

BINARY: dict[str, Entry] = {
    "ADD": (NUMBERS, RANKS, c.binary(np.add, second=-1)),
    "SUB": (NUMBERS, RANKS, c.binary(np.subtract, second=-1)),
    "MUL": (NUMBERS, RANKS, c.binary(np.multiply, second=-1)),
    "DIV": (NUMBERS, RANKS, c.binary(np.divide, 1, 5)),
    "FLOOR_DIV": (NUMBERS, RANKS, c.binary(np.floor_divide, 1, 5)),
    "FLOOR_MOD": (NUMBERS, RANKS, c.binary(np.mod, 1, 5)),
    "POW": (NUMBERS, RANKS, c.binary(np.power, 1, 3)),
    "SQUARED_DIFFERENCE": (NUMBERS, RANKS, c.binary(lambda a, b: (a - b) * (a - b))),
    "MAXIMUM": (NUMBERS, RANKS, c.binary(np.maximum, **SAME)),
    "MINIMUM": (NUMBERS, RANKS, c.binary(np.minimum, **SAME)),
    "EQUAL": ((*NUMBERS, "bool"), RANKS, c.binary(np.equal, **TRUTH)),
    "NOT_EQUAL": ((*NUMBERS, "bool"), RANKS, c.binary(np.not_equal, **TRUTH)),
    "GREATER": (NUMBERS, RANKS, c.binary(np.greater, **TRUTH)),
    "GREATER_EQUAL": (NUMBERS, RANKS, c.binary(np.greater_equal, **TRUTH)),
    "LESS": (NUMBERS, RANKS, c.binary(np.less, **TRUTH)),
    "LESS_EQUAL": (NUMBERS, RANKS, c.binary(np.less_equal, **TRUTH)),
    "LOGICAL_AND": (BOOLEAN, RANKS, c.binary(np.logical_and)),
    "LOGICAL_OR": (BOOLEAN, RANKS, c.binary(np.logical_or)),
    "BITWISE_XOR": ((*c.INTS, "bool"), RANKS, c.binary(np.bitwise_xor)),
    "RIGHT_SHIFT": (c.INTS, RANKS, c.binary(np.right_shift, 0, 4)),
    "PRELU": (REAL, RANKS, c.slopes),
    "ATAN2": (FLOATS, RANKS, c.binary(np.arctan2, 0.5)),
    "SELECT_V2": (ALL, RANKS, c.select),
}

REDUCED: dict[str, Entry] = {
    "MEAN": (NUMBERS, RANKS, c.reduce(np.mean, 0)),
    "SUM": (NUMBERS, RANKS, c.reduce(np.sum)),
    "REDUCE_PROD": (NUMBERS, RANKS, c.reduce(np.prod, 0.5, 1.5)),
    "REDUCE_MAX": (NUMBERS, RANKS, c.reduce(np.max, **SAME)),
    "REDUCE_MIN": (NUMBERS, RANKS, c.reduce(np.min, **SAME)),
    "REDUCE_ANY": (BOOLEAN, RANKS, c.reduce(np.any)),
    "REDUCE_ALL": (BOOLEAN, RANKS, c.reduce(np.all)),
    "ARG_MAX": ((*NUMBERS, "bool"), RANKS, c.extremum(np.argmax)),
    "ARG_MIN": ((*NUMBERS, "bool"), RANKS, c.extremum(np.argmin)),
    "CUMSUM": (NUMBERS, RANKS, c.cumulated),
    "TOPK_V2": (NUMBERS, RANKS, c.top_k),
    "SOFTMAX": (REAL, RANKS, last(ref.softmax, options={"beta": 1.0}, scale=c.SIGMOID)),
    "LOG_SOFTMAX": (REAL, RANKS, last(lambda x: np.log(ref.softmax(x)), scale=c.LOG_SOFTMAX)),
    "L2_NORMALIZATION": (
        REAL, RANKS, last(lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)), scale=c.TANH),
    ),
}  # fmt: skip

MOVED: dict[str, Entry] = {
    name: (ALL, RANKS, m.moved(build))
    for name, build in {
        "CONCATENATION": m.concat, "SPLIT": m.split, "SPLIT_V": m.split_v, "SLICE": m.part, "STRIDED_SLICE": m.strided,
        "PAD": m.pad, "PADV2": m.pad_value, "MIRROR_PAD": m.mirror, "GATHER": m.gather, "GATHER_ND": m.gather_nd,
        "TILE": m.tile, "BROADCAST_TO": m.expand, "TRANSPOSE": m.transpose, "RESHAPE": m.reshape,
        "SQUEEZE": m.squeeze, "EXPAND_DIMS": m.expand_dims, "PACK": m.pack, "UNPACK": m.unpack, "REVERSE_V2": m.reverse,
    }.items()
}  # fmt: skip
MOVED["SCATTER_ND"] = (ALL, RANKS, c.scatter)
MOVED["RESHAPE"] = (ALL, range(9), m.moved(m.reshape))

BLOCKS = (2, 4, 6, 8)
SPATIAL: dict[str, Entry] = {
    "NON_MAX_SUPPRESSION_V4": (FLOATS, (2,), m.suppression),
    "CONV_2D": (WEIGHTED, (4,), convolution),
    "DEPTHWISE_CONV_2D": (WEIGHTED, (4,), depthwise),
    "TRANSPOSE_CONV": (WEIGHTED, (4,), transposed),
    "CONV_3D": (("float32", "float32*qint8/channel"), (5,), volume),
    "FULLY_CONNECTED": (tuple(k for k in WEIGHTED if "int4" not in k), range(1, 7), connected),
    "BATCH_MATMUL": (REAL, range(2, 7), product),
    "AVERAGE_POOL_2D": (REAL, (4,), these(fixed([Data(IMAGE)], ref.average_pool, POOL, scale="same"))),
    "MAX_POOL_2D": (REAL, (4,), these(fixed([Data(IMAGE)], ref.max_pool, POOL, **SAME))),
    "L2_POOL_2D": (REAL, (4,), these(fixed([Data(IMAGE)], ref.l2_pool, POOL))),
    "LOCAL_RESPONSE_NORMALIZATION": (
        REAL, (4,),
        these(fixed([Data(IMAGE)], lambda x: ref.lrn(x, 2, 1.0, 0.5, 0.75),
                    {"radius": 2, "bias": 1.0, "alpha": 0.5, "beta": 0.75})),
    ),
    "RESIZE_BILINEAR": (
        (*REAL, "int8", "uint8"), (4,),
        these(*resize(ref.resize_linear), *resize(ref.resize_linear, halfPixelCenters=True),
              *resize(ref.resize_linear, alignCorners=True)),
    ),
    "RESIZE_NEAREST_NEIGHBOR": (
        ("float32", "int32", "int64", "int8", "uint8", "int16", *QUANT), (4,),
        these(*resize(ref.resize_nearest), *resize(ref.resize_nearest, halfPixelCenters=True)),
    ),
    "DEPTH_TO_SPACE": (
        ALL, (4,), these(fixed([Data(BLOCKS)], lambda x: ref.depth_to_space(x, 2), {"blockSize": 2}, **SAME)),
    ),
    "SPACE_TO_DEPTH": (
        ALL, (4,), these(fixed([Data(BLOCKS)], lambda x: ref.space_to_depth(x, 2), {"blockSize": 2}, **SAME)),
    ),
    "SPACE_TO_BATCH_ND": (
        ALL, (4,),
        these(fixed([Data((1, 4, 6, 3)), c.ints(2, 2), Fixed(np.zeros((2, 2), np.int32))],
                    lambda x, b, p: ref.space_to_batch(x, 2), **SAME)),
    ),
    "BATCH_TO_SPACE_ND": (
        ALL, (4,),
        these(fixed([Data((4, 2, 3, 3)), c.ints(2, 2), Fixed(np.zeros((2, 2), np.int32))],
                    lambda x, b, p: ref.batch_to_space(x, 2), **SAME)),
    ),
}  # fmt: skip

# Kinds with operands of their own.
SPECIAL: dict[str, tuple[Entry, ...]] = {
    "BITCAST": ((("int64>int32",), range(6), m.halves), (("int32>int64",), range(1, 7), m.wholes)),
    "FULLY_CONNECTED": (
        ((*(k for k in WEIGHTED if "int4" in k), "float32*qint4/blocks", "qint8*qint4/blocks"), range(1, 7), wide),
    ),
    "CONV_2D": (
        (tuple(f"{kind} grouped" for kind in WEIGHTED), (4,),
         these(fixed([Data(IMAGE), Weight((6, 3, 2, 4)), Bias(6)], ref.grouped_conv, VALID))),
    ),
}  # fmt: skip

OPERATORS: dict[str, Entry] = UNARY | BINARY | REDUCED | MOVED | SPATIAL
