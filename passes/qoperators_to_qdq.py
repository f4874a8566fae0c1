"""Operators on stored integers (QLinearConv, QGemm, ...) rewritten as operators between Q/DQ nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_MICROSOFT = "com.microsoft"
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class _Form:
    """Where an operator on integers has what (ONNX operator list; ONNX Runtime's ContribOperators.md).

    Attributes:
        op_type: the operator on real numbers that it stands for.
        operands: positions of each operand, its scale and its zero point; scale -1: the operand is no stored number.
        result: positions of the result's scale and zero point.
        weight: the operand with one scale a channel, and the axis of the channels (-1: of the columns).
        bias: position of the int32 bias, whose scale is the product of the operands' scales.
        drop: attributes that the operator on real numbers does not have.
    """

    op_type: str
    operands: tuple[Triple, ...]
    result: tuple[int, int]
    weight: tuple[int, int] | None = None
    bias: int | None = None
    drop: tuple[str, ...] = ()


_ONE: tuple[Triple, ...] = ((0, 1, 2),)
_TWO: tuple[Triple, ...] = ((0, 1, 2), (3, 4, 5))
_UNARY = ("LeakyRelu", "Sigmoid")
_FORMS: Mapping[tuple[str, str], _Form] = {
    ("", "QLinearConv"): _Form("Conv", _TWO, (6, 7), (1, 0), 8),
    (_MICROSOFT, "QLinearConv"): _Form("Conv", _TWO, (6, 7), (1, 0), 8, ("channels_last",)),
    ("", "QLinearMatMul"): _Form("MatMul", _TWO, (6, 7), (1, -1)),
    (_MICROSOFT, "QGemm"): _Form("Gemm", _TWO, (7, 8), (1, -1), 6, ("alpha",)),
    (_MICROSOFT, "QLinearAdd"): _Form("Add", _TWO, (6, 7)),
    (_MICROSOFT, "QLinearMul"): _Form("Mul", _TWO, (6, 7)),
    (_MICROSOFT, "QLinearWhere"): _Form("Where", ((0, -1, -1), (1, 2, 3), (4, 5, 6)), (7, 8)),
    (_MICROSOFT, "QLinearSoftmax"): _Form("Softmax", _ONE, (3, 4), drop=("opset",)),
    (_MICROSOFT, "QLinearAveragePool"): _Form("AveragePool", _ONE, (3, 4), drop=("channels_last",)),
    (_MICROSOFT, "QLinearGlobalAveragePool"): _Form("GlobalAveragePool", _ONE, (3, 4), drop=("channels_last",)),
    (_MICROSOFT, "QLinearReduceMean"): _Form("ReduceMean", _ONE, (3, 4), drop=("axes",)),
    **{(_MICROSOFT, f"QLinear{name}"): _Form(name, _ONE, (3, 4)) for name in _UNARY},
}  # fmt: skip
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_TYPES = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16}


@dataclass(frozen=True, kw_only=True)
class QOperatorsToQDQ(Pass):
    """Writes QLinearConv, QLinearMatMul, QGemm, QLinearAdd and their like as DQ -> operator -> Q.

    Scales, zero points and stored integers stay as they are. A kernel on integers and the same operator on real
    numbers may round a sum that lies between two steps to either, so the pass is not exact to the bit: answers move
    by a step here and there. QuantizeLinear and DequantizeLinear of ONNX Runtime's own domain become ONNX's.
    """

    name: ClassVar[str] = "qoperators_to_qdq"
    exact: ClassVar[bool] = False

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        writer = _Writer(model.graph)
        for node in list(model.graph):
            domain = "" if node.domain in rw.MAIN_DOMAINS else node.domain
            form = _FORMS.get((domain, node.op_type))
            if domain == _MICROSOFT and node.op_type in _CONVERSIONS:
                node.domain = ""
                tally.rewritten += 1
            elif (domain, node.op_type) == (_MICROSOFT, "QLinearConcat"):
                _count(tally, node, writer.rewrite(node, _concat_form(node)))
            elif form is not None:
                _count(tally, node, writer.rewrite(node, form))
        return tally.result()


def _count(tally: rw.Tally, node: ir.Node, reason: str | None) -> None:
    if reason is None:
        tally.rewritten += 1
    else:
        tally.refuse(node, reason)


def _concat_form(node: ir.Node) -> _Form:
    operands = tuple((i, i + 1, i + 2) for i in range(2, len(node.inputs), 3))
    return _Form("Concat", operands, (0, 1))


@dataclass
class _Writer:
    graph: ir.Graph
    real: dict[tuple[ir.Value, ir.Value, ir.Value | None, int | None], ir.Value] = field(default_factory=dict)

    def rewrite(self, node: ir.Node, form: _Form) -> str | None:
        """Puts DQ -> operator -> Q in the place of `node`; the reason where it does not."""
        reason = _objection(node, form)
        if reason is not None:
            return reason
        if form.op_type == "Softmax" and int(ir.attribute(node, "opset", 13)) < 13:
            shape = ir.dims(node.inputs[0]) if node.inputs[0] is not None else None
            if shape is None or int(ir.attribute(node, "axis", 1)) % len(shape) != len(shape) - 1:
                return "it is the Softmax of before opset 13, which flattens axes"
        made: list[ir.Node] = []
        alpha = float(ir.attribute(node, "alpha", 1.0)) if "alpha" in form.drop else 1.0
        operands: list[ir.Value | None] = []
        for position, triple in enumerate(form.operands):
            axis = form.weight[1] if form.weight is not None and form.weight[0] == position else None
            if form.op_type == "Gemm" and axis is not None and ir.attribute(node, "transB", 0):
                axis = 0
            factor = alpha if form.weight is not None and form.weight[0] == position else 1.0
            operands.append(self.operand(node, triple, axis, factor, made))
        if form.bias is not None and (bias := _input(node, form.bias)) is not None:
            operands.append(self.bias(node, form, bias, alpha, made))
        if form.op_type == "ReduceMean" and ir.attribute(node, "axes") is not None:
            name = f"{node.outputs[0].name}_axes"
            operands.append(rw.integers(self.graph, ir.attribute(node, "axes"), name))
        self.put(node, form, operands, made)
        return None

    def put(
        self, node: ir.Node, form: _Form, operands: Sequence[ir.Value | None], made: list[ir.Node]
    ) -> None:
        """Puts the operator on `operands` and the Q behind it in the place of `node`."""
        out = node.outputs[0]
        attributes = {k: v.value for k, v in node.attributes.items() if k not in form.drop}
        work = self.node(form.op_type, operands, attributes, name=node.name)
        result = work.outputs[0]
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), _shape(out)
        made.append(work)
        scale = _input(node, form.result[0])
        if scale is None:  # a QGemm may give real numbers
            ir.replace([node], made, {out: result})
            return
        result.name = ir.fresh_name(self.graph, _real_name(out))
        store = self.node(
            "QuantizeLinear", [result, scale, self.zero(node, form)], {}, f"{work.name}/quantize"
        )
        store.outputs[0].type, store.outputs[0].shape = out.type, _shape(out)
        ir.replace([node], [*made, store], {out: store.outputs[0]})

    def operand(
        self, node: ir.Node, triple: Triple, axis: int | None, factor: float, made: list[ir.Node]
    ) -> ir.Value | None:
        """The real values of an operand."""
        value, scale, zero = (None if i < 0 else _input(node, i) for i in triple)
        if value is None or scale is None:
            return value
        if factor != 1.0:
            array = ir.constant(scale)
            assert array is not None
            scale = self.constant(array * np.float32(factor), f"{scale.name}_times_alpha")
        key = value, scale, zero, axis
        if key not in self.real:
            rank = len(value.shape) if value.shape is not None else 0
            self.real[key] = self.dequantized(
                value, scale, zero, axis % rank if axis and rank else axis, made
            )
        return self.real[key]

    def bias(self, node: ir.Node, form: _Form, bias: ir.Value, alpha: float, made: list[ir.Node]) -> ir.Value:
        """The real values of a bias: scale s_in * s_w, zero point 0."""
        scales = [ir.constant(_input(node, triple[1])) for triple in form.operands]
        assert scales[0] is not None
        assert scales[1] is not None
        product = (scales[0].reshape(-1)[:1] * scales[1].reshape(-1) * np.float32(alpha)).astype(np.float32)
        scale = self.constant(product, f"{bias.name}_scale")
        rank = len(bias.shape) if bias.shape is not None else 1
        return self.dequantized(bias, scale, None, rank - 1, made)

    def dequantized(
        self, value: ir.Value, scale: ir.Value, zero: ir.Value | None, axis: int | None, made: list[ir.Node]
    ) -> ir.Value:
        """A DequantizeLinear; one scale is a scalar, as many files have it as a vector of one."""
        array = ir.constant(scale)
        attributes: dict[str, Any] = {}
        if array is not None and array.size > 1 and axis is not None:
            attributes["axis"] = axis
            points = ir.constant(zero)
            if zero is not None and points is not None and points.size == 1:
                spread = np.full(array.shape, points.reshape(-1)[0])
                zero = self.constant(spread, f"{zero.name}_a_channel")
        inputs = [value, scale, *([] if zero is None else [zero])]
        node = self.node("DequantizeLinear", inputs, attributes, f"{value.name}/dequantize")
        node.outputs[0].name = ir.fresh_name(self.graph, f"{value.name}_dequantized")
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), _shape(value)
        made.append(node)
        return node.outputs[0]

    def zero(self, node: ir.Node, form: _Form) -> ir.Value:
        """The zero point of the result; it tells the type, so a missing one is written out."""
        given = _input(node, form.result[1])
        if given is not None:
            return given
        source = _input(node, next(t[0] for t in form.operands if t[1] >= 0))
        kind = "uint8" if source is None or source.dtype is None else str(source.dtype.numpy())
        return self.constant(np.array(0, _TYPES.get(kind, np.uint8)), f"{node.outputs[0].name}_zero_point")

    def constant(self, array: ir.Array, stem: str) -> ir.Value:
        return ir.add_initializer(self.graph, array, ir.fresh_name(self.graph, stem))

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], name: str | None
    ) -> ir.Node:
        """A node of the default domain."""
        return ir.Node("", op_type, inputs, ir.convenience.convert_attributes(attributes), name=name)


def _objection(node: ir.Node, form: _Form) -> str | None:
    if int(ir.attribute(node, "channels_last", 0)):
        return "it is laid out channels last, which ONNX's own operators are not"
    positions = [i for triple in form.operands for i in triple[1:] if i >= 0] + list(form.result)
    if any((value := _input(node, i)) is not None and ir.constant(value) is None for i in positions):
        return "its scales or zero points are computed while running"
    for position, triple in enumerate(form.operands):
        scale = ir.constant(_input(node, triple[1])) if triple[1] >= 0 else None
        weight = form.weight is not None and form.weight[0] == position
        if scale is not None and scale.size > 1 and (not weight or scale.ndim > 1):
            return "it has more than one scale where no Q/DQ node has"
    return None


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _shape(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape(value.shape)


def _real_name(stored: ir.Value) -> str:
    """What the float network called the value: quantizers append `_quantized`."""
    name = str(stored.name)
    short = name.removesuffix("_quantized")
    return short if short != name else f"{name}_real"
