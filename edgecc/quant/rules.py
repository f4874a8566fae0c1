"""What each runtime demands of each quantized operator: one table, a row an operator, a column a runtime.

Sources of the numbers:
  TFLite: "TensorFlow Lite 8-bit quantization specification" (fixed output scales, same-scale restrictions,
  weights); int16 fixed scales: the kernels' Prepare functions (activations.cc: 2^-15, zero point 0).
  ONNX Runtime: `benchmarks/onnxrt_kernels.py` reads back one-operator models (1.31, CPU provider).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgecc import ir
from edgecc.quant import conditions
from edgecc.quant.conditions import channel_axis

__all__ = [
    "FUSED_ACTIVATIONS", "RULES", "TFLITE_INT16", "Column", "Rule", "Runtime", "activation_kind", "bias_of",
    "channel_axis", "clip_limits", "column", "data_inputs", "fused_activation", "weight_of",
]  # fmt: skip

Runtime = Literal["tflite", "onnx"]


@dataclass(frozen=True)
class Column:
    """How a runtime computes an operator in integers.

    Attributes:
        scale: "own": any output scale; "same": the inputs' scale; "fixed": the one in `fixed`.
        fixed: (scale, zero point) by type of the activations.
        unless: says why a node cannot be served, or None.
    """

    scale: Literal["own", "same", "fixed"]
    fixed: Mapping[str, tuple[float, int]] | None = None
    unless: Callable[[ir.Node], str | None] | None = None


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Attributes:
        tflite, onnx: the columns; None: the runtime has no integer kernel, the operator stays float.
        data: which inputs are quantized as activations; None: all of them.
        weight: input of the constant weights.
        bias: input of the constant bias, int32 with scale s_in * s_w.
        hull: every output value is an input value (or zero), so the range needs no observing.
    """

    tflite: Column | None
    onnx: Column | None
    data: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    hull: bool = False


OWN, SAME = Column("own"), Column("same")
_SIGMOID = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (2.0**-15, 0)}
_TANH = {"int8": (1 / 128, 0), "uint8": (1 / 128, 128), "int16": (2.0**-15, 0)}
_LOG_SOFTMAX = {"int8": (16 / 256, 127), "uint8": (16 / 256, 255)}
_WEIGHTED = Column("own", unless=conditions.constant_weight)
_MOVE = Rule(SAME, SAME, hull=True)  # moves values and computes nothing

RULES: Mapping[str, Rule] = {
    # with weights
    "Conv": Rule(_WEIGHTED, _WEIGHTED, weight=1, bias=2),
    "ConvTranspose": Rule(_WEIGHTED, None, weight=1, bias=2),
    "Gemm": Rule(
        Column("own", unless=conditions.gemm), Column("own", unless=conditions.gemm), weight=1, bias=2
    ),
    "MatMul": Rule(
        Column("own", unless=conditions.matmul), Column("own", unless=conditions.matmul), data=None, weight=1
    ),
    # arithmetic
    "Add": Rule(OWN, OWN, data=None),
    "Mul": Rule(Column("own", unless=conditions.broadcast_rank), OWN, data=None),
    "Sub": Rule(OWN, None, data=None),
    "Max": Rule(SAME, None, data=None, hull=True),
    "Min": Rule(SAME, None, data=None, hull=True),
    # activations
    "Relu": Rule(
        OWN, None
    ),  # ONNX Runtime: only where the operator before takes it over, see FUSED_ACTIVATIONS
    "Clip": Rule(OWN, None),
    "LeakyRelu": Rule(OWN, OWN),
    "PRelu": Rule(OWN, None, data=None),
    "HardSwish": Rule(OWN, None),
    "Elu": Rule(OWN, None),
    "Gelu": Rule(OWN, None),
    "Exp": Rule(OWN, None),
    "Sigmoid": Rule(Column("fixed", _SIGMOID), Column("fixed", _SIGMOID)),
    "Tanh": Rule(Column("fixed", _TANH), None),
    "Softmax": Rule(
        Column("fixed", _SIGMOID), Column("fixed", _SIGMOID)
    ),  # TFLite: the layout puts the axis last
    "LogSoftmax": Rule(Column("fixed", _LOG_SOFTMAX, conditions.last_axis), None),
    "LpNormalization": Rule(Column("fixed", _TANH, conditions.last_axis), None),
    # pooling and reductions
    "MaxPool": _MOVE,
    "GlobalMaxPool": Rule(SAME, None, hull=True),
    "AveragePool": Rule(SAME, Column("own", unless=conditions.counts_beyond_padding)),
    "GlobalAveragePool": Rule(OWN, OWN),  # TFLite: MEAN, which has its own output scale
    "ReduceMean": Rule(OWN, Column("own", unless=conditions.spatial_mean)),
    "ReduceSum": Rule(OWN, None),
    "ReduceMax": Rule(SAME, SAME, hull=True),
    "ReduceMin": Rule(SAME, SAME, hull=True),
    # moving values
    "Concat": Rule(SAME, OWN, data=None, hull=True),
    "DepthToSpace": _MOVE,
    "Expand": _MOVE,
    "Flatten": _MOVE,
    "Gather": _MOVE,
    "Identity": _MOVE,
    "Pad": Rule(
        Column("same", unless=conditions.pad_zero), Column("same", unless=conditions.pad_zero), hull=True
    ),
    "Reshape": _MOVE,
    "Resize": Rule(
        Column("same", unless=conditions.linear_or_nearest),
        Column("same", unless=conditions.nearest),
        hull=True,
    ),
    "Slice": _MOVE,
    "SpaceToDepth": Rule(SAME, None, hull=True),
    "Split": _MOVE,
    "Squeeze": _MOVE,
    "Tile": Rule(None, SAME, hull=True),
    "Transpose": _MOVE,
    "Unsqueeze": _MOVE,
}


# Where int16 activations differ from the column `tflite`: found by running one-operator files in LiteRT 2.3 and
# tflite-runtime 2.14 (no kernel in either or in one; PRELU answers wrongly; SUM demands equal scales).
TFLITE_INT16: Mapping[str, Column | None] = {
    "PRelu": Column("own", unless=conditions.one_slope),  # LEAKY_RELU
    **dict.fromkeys(
        (
            "HardSwish",
            "Elu",
            "Gelu",
            "LogSoftmax",
            "LpNormalization",
            "ReduceSum",
            "DepthToSpace",
            "SpaceToDepth",
        )
    ),
}

# An activation straight after one of these is computed by it: nothing is quantized in between. TFLite: the
# fused_activation_function of these operators; ONNX Runtime: the range of the output.
FUSED_ACTIVATIONS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("Conv", "Gemm", "Add", "Mul", "Sub"), ("relu", "relu6", "relu_n1_to_1")
)
_CLIPS = {(0.0, 6.0): "relu6", (-1.0, 1.0): "relu_n1_to_1"}


def activation_kind(node: ir.Node) -> str | None:
    """The name of a Relu or Clip in TFLite's terms; None for other limits and other operators."""
    if node.op_type == "Relu":
        return "relu"
    if node.op_type != "Clip":
        return None
    low, high = clip_limits(node)
    if low == 0.0 and high >= 3e38:
        return "relu"
    return _CLIPS.get((low, high))


def clip_limits(node: ir.Node) -> tuple[float, float]:
    """Lowest and highest output of a Relu or Clip; infinite where computed or absent."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    limits = [-float("inf"), float("inf")]
    for i, value in enumerate(node.inputs[1:3]):
        array = ir.constant(value)
        if array is not None and array.size == 1:
            limits[i] = float(array.reshape(-1)[0])
    return limits[0], limits[1]


def fused_activation(node: ir.Node) -> ir.Node | None:
    """The Relu or Clip that `node` computes on its way, if there is one."""
    kinds = FUSED_ACTIVATIONS.get(node.op_type)
    if kinds is None or len(node.outputs) != 1:
        return None
    after = ir.single_consumer(node.outputs[0])
    return after if after is not None and activation_kind(after) in kinds else None


def data_inputs(node: ir.Node) -> list[int]:
    """Which inputs of a node are activations or constants quantized as such: no weights, axes, shapes."""
    rule = RULES[node.op_type]
    wanted = range(len(node.inputs)) if rule.data is None else rule.data
    skipped = rule.weight if weight_of(node) is not None else None
    return [i for i in wanted if i < len(node.inputs) and node.inputs[i] is not None and i != skipped]


def weight_of(node: ir.Node) -> ir.Value | None:
    """The constant weights of a node whose rule has some."""
    rule = RULES.get(node.op_type)
    if rule is None or rule.weight is None:
        return None
    value = node.inputs[rule.weight]
    return value if ir.constant(value) is not None else None


def bias_of(node: ir.Node) -> ir.Value | None:
    """The constant bias of a node whose rule has one."""
    rule = RULES.get(node.op_type)
    if rule is None or rule.bias is None or len(node.inputs) <= rule.bias:
        return None
    value = node.inputs[rule.bias]
    return value if ir.constant(value) is not None else None


def column(node: ir.Node, runtime: Runtime, dtype: Literal["int8", "int16"] = "int8") -> Column | str:
    """The column that serves a node on activations of a width, or the reason why it stays float."""
    if node.domain not in ("", "ai.onnx"):
        return f"operators of the domain {node.domain} have no rule"
    rule = RULES.get(node.op_type)
    found = getattr(rule, runtime) if rule is not None else None
    name = {"tflite": "TFLite", "onnx": "ONNX Runtime"}[runtime]
    if dtype == "int16" and runtime == "onnx":
        return "ONNX Runtime has no kernels for int16 activations"
    if found is not None and dtype == "int16" and node.op_type in TFLITE_INT16:
        found = TFLITE_INT16[node.op_type]
        if found is None:
            return f"{name} has no int16 kernel for it"
    if found is None:
        return f"{name} has no integer kernel for it"
    assert isinstance(found, Column)
    for value in (*node.outputs, *(node.inputs[i] for i in data_inputs(node))):
        if value is not None and value.dtype not in (None, ir.DataType.FLOAT):
            return f"{value.name} is {value.dtype.name.lower() if value.dtype else ''}, not float32"
    reason = found.unless(node) if found.unless is not None else None
    return found if reason is None else reason
