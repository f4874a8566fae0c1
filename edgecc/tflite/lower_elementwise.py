"""Operators that work element by element, and BatchNormalization where nothing could absorb it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecc import ir
from edgecc.analysis.bounds import fits
from edgecc.analysis.layout import Flattened, channels_last
from edgecc.analysis.sites import Operand, Site, fused_activation
from edgecc.tflite import long_integers, lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.elementwise import Elementwise, served
from edgecc.tflite.options import ACTIVATIONS

# ONNX operator -> TFLite operator of one operand, by whether the kernel takes int8.
_UNARY_INT8 = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU", "HardSwish": "HARD_SWISH", "Exp": "EXP"}
_UNARY = {
    "Abs": "ABS", "Ceil": "CEIL", "Cos": "COS", "Floor": "FLOOR", "Log": "LOG", "Neg": "NEG",
    "Not": "LOGICAL_NOT", "Round": "ROUND", "Sign": "SIGN", "Sin": "SIN", "Sqrt": "SQRT",
}  # fmt: skip

# Result scale and zero point that an int8 kernel demands (TFLite quantization specification).
_FIXED_INT8 = {"Sigmoid": (1 / 256, -128), "Tanh": (1 / 128, 0)}

# ONNX operator -> (TFLite operator, has a fused activation), by whether the kernel takes int8.
_BINARY_INT8 = {"Add": ("ADD", True), "Sub": ("SUB", True), "Mul": ("MUL", True)}
_BINARY = {
    "And": ("LOGICAL_AND", False), "Equal": ("EQUAL", False), "Greater": ("GREATER", False),
    "GreaterOrEqual": ("GREATER_EQUAL", False), "Less": ("LESS", False), "LessOrEqual": ("LESS_EQUAL", False),
    "Or": ("LOGICAL_OR", False),
}  # fmt: skip
_VARIADIC_INT8 = {"Max": "MAXIMUM", "Min": "MINIMUM"}


@lowers(*_UNARY_INT8, int8=True)
def unary_int8(site: Site, b: Builder) -> None:
    """One kernel, in whatever order its operand has."""
    if site.op_type in _FIXED_INT8:
        b.demand_scale(*_FIXED_INT8[site.op_type])
    _unary(site, b, _UNARY_INT8[site.op_type])


@lowers(*_UNARY)
def unary(site: Site, b: Builder) -> None:
    """One kernel, in whatever order its operand has."""
    _unary(site, b, _UNARY[site.op_type])


def _unary(site: Site, b: Builder, code: str, options: dict[str, object] | None = None) -> None:
    if not b.quantized and not options and not served(site, b, code):
        make = Elementwise(site, b)
        make.give(make.unary(code, make.terms[0]))
        return
    b.operator(code, [b.input(0, b.order(site.outputs[0].value))], [b.output()], options)


@lowers("LeakyRelu", int8=True)
def leaky_relu(site: Site, b: Builder) -> None:
    """LEAKY_RELU."""
    _unary(site, b, "LEAKY_RELU", {"alpha": float(site.attribute("alpha", 0.01))})  # type: ignore[arg-type]


@lowers("Elu", int8=True)
def elu(site: Site, b: Builder) -> None:
    """ELU, whose kernel has alpha 1; composed with it for another."""
    alpha = float(site.attribute("alpha", 1.0))  # type: ignore[arg-type]
    if alpha == 1.0:
        _unary(site, b, "ELU")
        return
    if b.quantized:
        raise NeedsFloat
    make = Elementwise(site, b)
    make.give(make.exponential_below(make.terms[0], alpha))


@lowers("Reciprocal")
def reciprocal(site: Site, b: Builder) -> None:
    """1 / x."""
    one = b.constant(np.array(1, np.float32), "one")
    b.operator("DIV", [one, b.input(0, b.order(site.outputs[0].value))], [b.output()], {})


@lowers("Clip", int8=True)
def clip(site: Site, b: Builder) -> None:
    """RELU, RELU6 or RELU_N1_TO_1 where the bounds are theirs, else MAXIMUM and MINIMUM."""
    code = fused_activation(site.node)
    data = site.inputs[0]
    if code is not None and data is not None and b.dtype(data.value) == "float32":
        _unary(site, b, code)
        return
    if b.quantized:
        _clip_stored(site, b)
        return
    bounds = [site.inputs[i] if len(site.inputs) > i else None for i in (1, 2)]
    if any(o is not None and o.array is not None and np.isnan(o.real()).any() for o in bounds):
        raise Unservable("its bound is not a number", "give a number, or leave the bound away")
    steps = [(c, o) for c, o in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True) if o is not None]
    source = b.input(0, b.order(site.outputs[0].value))
    if not steps:
        b.alias(source)
        return
    for position, (name, operand) in enumerate(steps):
        target = b.output() if position == len(steps) - 1 else b.temporary(source, "at_least")
        source = b.operator(name, [source, b.read(operand)], [target])


def _clip_stored(site: Site, b: Builder) -> None:
    """On integers: the bounds are constants of the result's scale; those that nothing stored lies beyond fall away."""
    b.scale = quant = site.outputs[0].quant
    assert quant is not None
    source, steps = b.input(0, b.order(site.outputs[0].value)), []
    for position, code, limit in ((1, "MAXIMUM", quant.limits[0]), (2, "MINIMUM", quant.limits[1])):
        operand = site.inputs[position] if len(site.inputs) > position else None
        if operand is None:
            continue
        if operand.array is None:
            raise NeedsFloat
        stored = quant.quantize(operand.real().reshape(()))
        if int(stored) != limit:
            steps.append((code, b.constant(stored, f"{site.name}/limit", quant)))
    if not steps:
        b.alias(source)
    for number, (code, bound) in enumerate(steps, 1):
        target = b.output() if number == len(steps) else b.temporary(source, "at_least")
        source = b.operator(code, [source, bound], [target])


@lowers("PRelu", int8=True)
def prelu(site: Site, b: Builder) -> None:
    """PRELU, its slopes broadcast to the operand's rank; LEAKY_RELU for one constant slope.

    XNNPACK of tflite-runtime 2.14 reads past a single slope.
    """
    slope = site.inputs[1]
    if slope is not None and slope.array is not None and slope.array.size == 1:
        _unary(site, b, "LEAKY_RELU", {"alpha": float(slope.real().reshape(-1)[0])})
        return
    if not b.quantized and not served(site, b, "PRELU"):
        make = Elementwise(site, b)
        x, slopes = make.terms
        make.give(make.binary("MAXIMUM", x, 0.0) + slopes * make.binary("MINIMUM", x, 0.0))
        return
    _broadcast(site, b, "PRELU", fused=False)


@lowers("HardSigmoid")
def hard_sigmoid(site: Site, b: Builder) -> None:
    """max(0, min(1, a x + b)) as ReLU6(6 (a x + b)) / 6."""
    alpha, beta = float(site.attribute("alpha", 0.2)), float(site.attribute("beta", 0.5))  # type: ignore[arg-type]
    source = b.input(0, b.order(site.outputs[0].value))

    def number(value: float) -> int:
        return b.constant(np.array(value, np.float32), f"{site.name}/const")

    if not np.isclose(6 * alpha, 1):
        source = b.operator("MUL", [source, number(6 * alpha)], [b.temporary(source, "scaled")], {})
    shifted = b.temporary(source, "shifted")
    b.operator(
        "ADD", [source, number(6 * beta)], [shifted], {"fusedActivationFunction": ACTIVATIONS["RELU6"]}
    )
    b.operator("MUL", [shifted, number(1 / 6)], [b.output()], {})


@lowers(*_BINARY_INT8, int8=True)
def binary_int8(site: Site, b: Builder) -> None:
    """One kernel with two operands."""
    code, fused = _BINARY_INT8[site.op_type]
    _broadcast(site, b, code, fused=fused)


@lowers(*_BINARY)
def binary(site: Site, b: Builder) -> None:
    """One kernel with two operands."""
    code, fused = _BINARY[site.op_type]
    _broadcast(site, b, code, fused=fused)


@lowers("Div")
def quotient(site: Site, b: Builder) -> None:
    """DIV, of 64-bit integers as int32 where they are known to fit, else composed."""
    result = site.outputs[0].value
    if b.dtype(result) != "int64":
        _broadcast(site, b, "DIV", fused=True)
        return
    make = Elementwise(site, b)
    if all(fits(o.value) for o in site.inputs if o is not None):
        x, y = (make.cast(t, "int32") for t in make.terms)
        make.give(x / y)
    else:
        make.give(long_integers.divide(make, *make.terms))


def _broadcast(site: Site, b: Builder, code: str, *, fused: bool) -> None:
    if not b.quantized and not served(site, b, code):
        make = Elementwise(site, b)
        make.give(make.chained(code, make.terms))
        return
    sources = [_operand(b, operand, site) for operand in site.inputs if operand is not None]
    if not fused:
        b.emit(code, sources)
        return
    b.operator(code, sources, [b.output()], {"fusedActivationFunction": ACTIVATIONS[site.activation]})


def _operand(b: Builder, operand: Operand, site: Site) -> int:
    """An operand in the order of the result; a constant of lower rank gets leading axes of length 1 first."""
    if b.quantized and operand.array is not None and operand.quant is None:
        raise NeedsFloat  # a node that the plan keeps in float between integer ones
    result = site.outputs[0].value
    order = b.order(result)
    if isinstance(order, Flattened):
        return b.read(operand, order)
    rank = len(ir.dims(operand.value) or ())
    if rank == len(order):
        return b.read(operand, order)
    if operand.array is not None and operand.array.size > 1 and order != tuple(range(len(order))):
        array = operand.array if b.quantized and operand.quant else operand.real()
        lifted = array.reshape((1,) * (len(order) - rank) + array.shape).transpose(order)
        quant = operand.quant if b.quantized else None
        if quant is not None and quant.axis is not None:
            raise NeedsFloat
        return b.constant(lifted, str(operand.value.name), quant)
    return b.read(operand)


@lowers(*_VARIADIC_INT8, int8=True)
def extremum(site: Site, b: Builder) -> None:
    """MAXIMUM or MINIMUM of two operands, a chain of them for more."""
    _chain(site, b, _VARIADIC_INT8[site.op_type])


@lowers("Sum")
def total(site: Site, b: Builder) -> None:
    """A chain of ADD."""
    _chain(site, b, "ADD")


def _chain(site: Site, b: Builder, code: str) -> None:
    sources = [_operand(b, operand, site) for operand in site.inputs if operand is not None]
    if len(sources) == 1:
        b.alias(sources[0])
        return
    if len(sources) > 2 and b.quantized:
        raise NeedsFloat
    if not b.quantized and not served(site, b, code):
        make = Elementwise(site, b)
        make.give(make.chained(code, make.terms))
        return
    target, partial = b.output(), sources[0]
    for position, source in enumerate(sources[1:], 2):
        shape = np.broadcast_shapes(b.shape(partial), b.shape(source))
        step = target if position == len(sources) else b.temporary(target, "partial", shape)
        partial = b.operator(code, [partial, source], [step])


@lowers("Where")
def where(site: Site, b: Builder) -> None:
    """SELECT_V2."""
    if served(site, b, "SELECT_V2", 1):
        _broadcast(site, b, "SELECT_V2", fused=False)
        return
    make = Elementwise(site, b)
    make.give(make.select(*make.terms))


@lowers("Identity", "Dropout", int8=True)
def identity(site: Site, b: Builder) -> None:
    """Nothing: the operand under another name."""
    training = site.inputs[2] if len(site.inputs) > 2 else None
    ratio = site.inputs[1] if len(site.inputs) > 1 else None
    drops = ratio is None or ratio.array is None or bool(ratio.array.any())
    if training is not None and (training.array is None or training.array.any()) and drops:
        raise Unservable("Dropout that drops has no kernel", "export the network in evaluation mode")
    operand = site.inputs[0]
    if operand is not None and operand.array is not None and not b.quantized:
        # As real numbers: XNNPACK computes no DEQUANTIZE of a float16 constant that is a result of the network.
        operand = replace(operand, array=operand.real(), quant=None)
    assert operand is not None
    source = b.read(operand, b.order(site.outputs[0].value))
    b.alias(source)
    mask = site.outputs[1].value if len(site.outputs) > 1 else None
    if mask is not None and (mask.uses() or mask.is_graph_output()):
        if b.graph.tensors[source].batched:
            raise Unservable("the mask of Dropout has no kernel", "use its first output only")
        b.alias(b.constant(np.ones(b.shape(source), np.bool_), str(mask.name)), 1)


@lowers("BatchNormalization")
def batch_normalization(site: Site, b: Builder) -> None:
    """x * g/sqrt(v + eps) + (beta - m g/sqrt(v + eps)), channels last."""
    operands = [
        o.real().astype(np.float64) for o in site.inputs[1:5] if o is not None and o.array is not None
    ]
    if len(operands) != 4:
        raise Unservable("its parameters are computed at run time")
    if site.attribute("training_mode", 0):
        raise Unservable("statistics of the batch have no kernel", "export the network in evaluation mode")
    gamma, beta, mean, variance = operands
    factor = gamma / np.sqrt(variance + float(site.attribute("epsilon", 1e-5)))  # type: ignore[arg-type]
    value = site.outputs[0].value
    rank = len(ir.static_dims(value))
    source = b.input(0, channels_last(rank))
    scaled = b.temporary(source, "scaled")
    b.operator("MUL", [source, b.constant(factor.astype(np.float32), f"{site.name}/factor")], [scaled], {})
    shift = b.constant((beta - mean * factor).astype(np.float32), f"{site.name}/shift")
    b.operator("ADD", [scaled, shift], [b.output()], {})
