"""How each operator hands derivatives back: one rule an operator."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.analysis.evaluate import EVALUATION_ERRORS, evaluate
from edgecc.analysis.gradient_tape import Step
from edgecc.errors import UsageError

# Of central differences; float32 leaves an error of about 1e-4 of a function's size.
_STEP = 1e-3


def _conv(s: Step) -> None:
    if not s.wants(0) or s.wants(1):
        raise UsageError("weights that are computed cannot be differentiated", node=ir.label(s.node))
    if ir.attribute(s.node, "auto_pad", "NOTSET") != "NOTSET":
        raise UsageError("padding by auto_pad cannot be differentiated", node=ir.label(s.node))
    x, y, kernel = (ir.static_dims(v)[2:] for v in (s.read(0), s.out, s.read(1)))
    rank = len(x)
    strides = ir.attribute(s.node, "strides", (1,) * rank)
    dilations = ir.attribute(s.node, "dilations", (1,) * rank)
    pads = ir.attribute(s.node, "pads", (0,) * 2 * rank)
    group = ir.attribute(s.node, "group", 1)
    extra = [
        x[i] - ((y[i] - 1) * strides[i] - pads[i] - pads[i + rank] + dilations[i] * (kernel[i] - 1) + 1)
        for i in range(rank)
    ]
    shared = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    s.give(0, s.op("ConvTranspose", s.grad, s.read(1), output_padding=extra, **shared))


def _gemm(s: Step) -> None:
    alpha, beta = ir.attribute(s.node, "alpha", 1.0), ir.attribute(s.node, "beta", 1.0)
    ta, tb = ir.attribute(s.node, "transA", 0), ir.attribute(s.node, "transB", 0)
    if s.wants(0):
        pair = (s.read(1), s.grad) if ta else (s.grad, s.read(1))
        s.give(0, s.op("Gemm", *pair, alpha=alpha, transA=tb if ta else 0, transB=1 if ta else 1 - tb))
    if s.wants(1):
        pair = (s.grad, s.read(0)) if tb else (s.read(0), s.grad)
        s.give(1, s.op("Gemm", *pair, alpha=alpha, transA=1 if tb else 1 - ta, transB=ta if tb else 0))
    if s.wants(2):
        s.give_broadcast(2, s.op("Mul", s.grad, s.number(beta)))


def _matmul(s: Step) -> None:
    ranks = [len(ir.static_dims(s.read(i))) for i in (0, 1)]
    if min(ranks) < 2:
        raise UsageError("a product with a vector cannot be differentiated", node=ir.label(s.node))
    turned = [s.op("Transpose", s.read(i), perm=[*range(r - 2), r - 1, r - 2]) for i, r in enumerate(ranks)]
    for i, grad in ((0, (s.grad, turned[1])), (1, (turned[0], s.grad))):
        if s.wants(i):
            _sum_batches(s, i, s.op("MatMul", *grad))


def _sum_batches(s: Step, i: int, grad: ir.Value) -> None:
    own, shape = ir.static_dims(s.read(i)), ir.static_dims(s.out)
    lead = len(shape) - len(own)
    axes = [a for a in range(len(shape) - 2) if a < lead or (own[a - lead] == 1 and shape[a] != 1)]
    if axes:
        grad = s.op("ReduceSum", grad, s.tape.constant(np.asarray(axes)), keepdims=1)
    s.give(i, s.reshape(grad, own) if axes else grad)


def _add(s: Step) -> None:
    for i in range(len(s.node.inputs)):
        if s.wants(i):
            negative = s.node.op_type == "Sub" and i == 1
            s.give_broadcast(i, s.op("Neg", s.grad) if negative else s.grad)


def _neg(s: Step) -> None:
    s.give(0, s.op("Neg", s.grad))


def _mul(s: Step) -> None:
    for i in (0, 1):
        if s.wants(i):
            s.give_broadcast(i, s.op("Mul", s.grad, s.read(1 - i)))


def _div(s: Step) -> None:
    share = s.op("Div", s.grad, s.read(1))
    if s.wants(0):
        s.give_broadcast(0, share)
    if s.wants(1):
        s.give_broadcast(1, s.op("Neg", s.op("Mul", share, s.out)))


def _chosen(s: Step) -> None:
    """Max and Min: the first operand that equals the result has the derivative."""
    left = s.grad
    for i in range(len(s.node.inputs)):
        equal = s.op("Equal", s.read(i), s.out)
        if s.wants(i):
            s.give_broadcast(i, s.op("Where", equal, left, s.number(0)))
        left = s.op("Where", equal, s.number(0), left)


def _inside(s: Step) -> None:
    """Relu and Clip: where the result is what was read."""
    if s.node.op_type == "Relu":
        same = s.op("Greater", s.read(0), s.number(0))
    else:
        same = s.op("Equal", s.read(0), s.out)
    s.give(0, s.op("Mul", s.grad, s.op("Cast", same, to=int(ir.DataType.FLOAT))))


def _slopes(s: Step) -> None:
    """Any function of each element (of the first operand): central differences."""
    if any(s.wants(i) for i in range(1, len(s.node.inputs))):
        raise UsageError(
            f"{s.node.op_type} is differentiated by its first operand only", node=ir.label(s.node)
        )
    attributes = dict(s.node.attributes)
    ends = []
    for sign in ("Add", "Sub"):
        moved = ir.Node(
            "", s.node.op_type, [s.op(sign, s.read(0), s.number(_STEP)), *s.node.inputs[1:]],
            attributes=attributes.values(),
        )  # fmt: skip
        moved.outputs[0].name = ir.fresh_name(s.tape.graph, f"gradient_{len(s.tape.nodes)}")
        s.tape.nodes.append(moved)
        ends.append(moved.outputs[0])
    slope = s.op("Mul", s.op("Sub", *ends), s.number(0.5 / _STEP))
    s.give(0, s.op("Mul", s.grad, slope))


def _pass_on(s: Step) -> None:
    s.give(0, s.grad)


def _softmax(s: Step) -> None:
    axis = int(ir.attribute(s.node, "axis", -1)) % len(ir.static_dims(s.out))
    axes = s.tape.constant(np.asarray([axis]))
    if s.node.op_type == "Softmax":
        mean = s.op("ReduceSum", s.op("Mul", s.grad, s.out), axes, keepdims=1)
        s.give(0, s.op("Mul", s.out, s.op("Sub", s.grad, mean)))
    else:
        total = s.op("ReduceSum", s.grad, axes, keepdims=1)
        s.give(0, s.op("Sub", s.grad, s.op("Mul", s.op("Exp", s.out), total)))


def _global_pool(s: Step) -> None:
    shape = ir.static_dims(s.read(0))
    if s.node.op_type == "GlobalMaxPool":
        mask = s.op("Cast", s.op("Equal", s.read(0), s.out), to=int(ir.DataType.FLOAT))
        s.give(0, s.op("Mul", mask, s.grad))
    else:
        s.give(0, s.op("Mul", s.tape.constant(np.full(shape, 1 / prod(shape[2:]), np.float32)), s.grad))


def _max_pool(s: Step) -> None:
    """The place that was taken gets the derivative."""
    pool = ir.Node("", "MaxPool", [s.read(0)], attributes=dict(s.node.attributes).values(), num_outputs=2)
    for out in pool.outputs:
        out.name = ir.fresh_name(s.tape.graph, f"gradient_{len(s.tape.nodes)}_pool")
    s.tape.nodes.append(pool)
    _scatter(s, 0, s.op("Reshape", pool.outputs[1], s.tape.constant(np.array([-1]))), s.grad, 0)


def _average_pool(s: Step) -> None:
    """Each result spreads over its window, divided as the operator divides: what it makes of unit pulses' sums."""
    shape, out = ir.static_dims(s.read(0)), ir.static_dims(s.out)
    kernel = ir.attribute(s.node, "kernel_shape")
    rank = len(kernel)
    if ir.attribute(s.node, "ceil_mode", 0) or ir.attribute(s.node, "auto_pad", "NOTSET") != "NOTSET":
        raise UsageError("its padding cannot be differentiated", node=ir.label(s.node))
    strides = ir.attribute(s.node, "strides", (1,) * rank)
    dilations = ir.attribute(s.node, "dilations", (1,) * rank)
    pads = ir.attribute(s.node, "pads", (0,) * 2 * rank)
    grad = s.grad
    if any(pads) and not ir.attribute(s.node, "count_include_pad", 0):
        counted = evaluate(
            ir.Node("", "AveragePool", [ir.Value()],
                    attributes=[*ir.convenience.convert_attributes({"count_include_pad": 1}),
                                *(a for k, a in s.node.attributes.items() if k != "count_include_pad")]),
            [np.ones((1, 1, *shape[2:]), np.float32)], s.tape.version,
        )[0]  # fmt: skip
        grad = s.op("Div", grad, s.tape.constant(counted.astype(np.float32)))
    extra = [
        shape[2 + i]
        - ((out[2 + i] - 1) * strides[i] - pads[i] - pads[i + rank] + dilations[i] * (kernel[i] - 1) + 1)
        for i in range(rank)
    ]
    spread = s.tape.constant(np.full((shape[1], 1, *kernel), 1 / prod(kernel), np.float32))
    s.give(0, s.op("ConvTranspose", grad, spread, strides=strides, dilations=dilations, pads=pads, group=shape[1],
                   output_padding=extra))  # fmt: skip


def _reduce(s: Step) -> None:
    data = ir.static_dims(s.read(0))
    given = ir.constant(s.node.inputs[1]) if len(s.node.inputs) > 1 else ir.attribute(s.node, "axes")
    axes = range(len(data)) if given is None else {int(a) % len(data) for a in np.asarray(given).reshape(-1)}
    kept = s.reshape(s.grad, [1 if a in axes else d for a, d in enumerate(data)])
    share = 1 / prod(data[a] for a in axes) if s.node.op_type == "ReduceMean" else 1.0
    s.give(0, s.op("Mul", s.tape.constant(np.full(data, share, np.float32)), kept))


def _scale(s: Step) -> None:
    """BatchNormalization with its stored statistics."""
    scale, _, _, var = (ir.constant(v) for v in s.node.inputs[1:5])
    if scale is None or var is None:
        raise UsageError("statistics that are computed cannot be differentiated", node=ir.label(s.node))
    factor = scale / np.sqrt(var + ir.attribute(s.node, "epsilon", 1e-5))
    rank = len(ir.static_dims(s.out))
    s.give(0, s.op("Mul", s.grad, s.tape.constant(factor.reshape(-1, *(1,) * (rank - 2)).astype(np.float32))))


def _layer_norm(s: Step) -> None:
    """With h the normalised operand and g the derivative times the scale: (g - mean g - h mean(g h)) / deviation."""
    rank = len(ir.static_dims(s.read(0)))
    axis = int(ir.attribute(s.node, "axis", -1)) % rank
    axes, epsilon = s.tape.constant(np.arange(axis, rank)), ir.attribute(s.node, "epsilon", 1e-5)

    def mean(value: ir.Value) -> ir.Value:
        return s.op("ReduceMean", value, axes, keepdims=1)

    centred = s.op("Sub", s.read(0), mean(s.read(0)))
    deviation = s.op("Sqrt", s.op("Add", mean(s.op("Mul", centred, centred)), s.number(epsilon)))
    normal, scaled = s.op("Div", centred, deviation), s.op("Mul", s.grad, s.read(1))
    along = s.op("Mul", normal, mean(s.op("Mul", scaled, normal)))
    s.give(0, s.op("Div", s.op("Sub", s.op("Sub", scaled, mean(scaled)), along), deviation))


def _reshape(s: Step) -> None:
    s.give(0, s.reshape(s.grad, ir.static_dims(s.read(0))))


def _transpose(s: Step) -> None:
    perm = ir.attribute(s.node, "perm") or tuple(reversed(range(len(ir.static_dims(s.out)))))
    s.give(0, s.op("Transpose", s.grad, perm=[int(i) for i in np.argsort(perm)]))


def _movement(s: Step) -> None:
    """What only moves elements sends each derivative back to where its element came from."""
    data = range(len(s.node.inputs)) if s.node.op_type == "Concat" else range(1)
    for at in data:
        if not s.wants(at):
            continue
        if s.node.op_type == "Resize" and ir.attribute(s.node, "mode", "nearest") != "nearest":
            raise UsageError("interpolation cannot be differentiated", node=ir.label(s.node))
        inputs: list[Any] = [None if i in data else ir.constant(v) for i, v in enumerate(s.node.inputs)]
        for i in data:
            shape = ir.static_dims(s.read(i))
            inputs[i] = np.arange(1, prod(shape) + 1).reshape(shape) if i == at else np.zeros(shape, np.int64)
        if s.node.op_type == "Pad" and len(inputs) > 2:
            inputs[2] = np.zeros((), np.int64)
        try:
            moved = evaluate(s.node, inputs, s.tape.version)
        except EVALUATION_ERRORS as error:
            raise UsageError(f"{s.node.op_type} cannot be differentiated", node=ir.label(s.node)) from error
        for grad, places in zip(s.grads, moved, strict=False):
            if grad is not None:
                _scatter(s, at, s.tape.constant(places.reshape(-1).astype(np.int64)), grad, 1)


def _scatter(s: Step, i: int, places: ir.Value, grad: ir.Value, lead: int) -> None:
    """Adds elements at flat places; with `lead` 1 place 0 is nowhere."""
    shape = ir.static_dims(s.read(i))
    zeros = s.tape.constant(np.zeros(prod(shape) + lead, np.float32))
    flat = s.op("Reshape", grad, s.tape.constant(np.array([-1])))
    found = s.op("ScatterElements", zeros, places, flat, axis=0, reduction="add")
    if lead:
        found = s.op(
            "Slice", found, s.tape.constant(np.array([1])), s.tape.constant(np.array([prod(shape) + 1]))
        )
    s.give(i, s.reshape(found, shape))


RULES: dict[str, Callable[[Step], None]] = {
    **dict.fromkeys(("Add", "Sub", "Sum"), _add),
    **dict.fromkeys(
        ("Concat", "DepthToSpace", "Expand", "Gather", "Pad", "Resize", "Slice", "SpaceToDepth", "Split", "Tile"),
        _movement,
    ),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("Max", "Min"), _chosen),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduce),
    **dict.fromkeys(("Relu", "Clip"), _inside),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Identity", "Dropout"), _pass_on),
    **dict.fromkeys(
        ("Abs", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "PRelu",
         "Pow", "Reciprocal", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
        _slopes,
    ),
    "AveragePool": _average_pool,
    "BatchNormalization": _scale,
    "Conv": _conv,
    "Div": _div,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "Neg": _neg,
    "Transpose": _transpose,
}  # fmt: skip
