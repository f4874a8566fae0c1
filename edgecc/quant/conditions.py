"""Why a node of an operator that has an integer kernel cannot be served by it: the `unless` of the rules."""

from __future__ import annotations

from edgecc import ir


def channel_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weights."""
    if node.op_type == "Gemm":
        return 0 if ir.attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[node.op_type]


def constant_weight(node: ir.Node) -> str | None:
    """Kernels take constant weights and biases."""
    if ir.constant(node.inputs[1]) is None:
        return "its weights are computed"
    if len(node.inputs) > 2 and node.inputs[2] is not None and ir.constant(node.inputs[2]) is None:
        return "its bias is computed"
    return None


def gemm(node: ir.Node) -> str | None:
    """FULLY_CONNECTED is x W^T + b, b one number a column."""
    if ir.attribute(node, "transA", 0):
        return "its first operand is transposed (transA)"
    if ir.attribute(node, "alpha", 1.0) != 1.0 or ir.attribute(node, "beta", 1.0) != 1.0:
        return "alpha or beta is not 1"
    if (reason := constant_weight(node)) is not None:
        return reason
    weight, bias = ir.constant(node.inputs[1]), ir.constant(node.inputs[2] if len(node.inputs) > 2 else None)
    if bias is not None and weight is not None and bias.size != weight.shape[channel_axis(node)]:
        return "its bias is not one number a column"
    return None


def matmul(node: ir.Node) -> str | None:
    """A constant second operand must be a matrix."""
    weight = node.inputs[1]
    if ir.constant(node.inputs[0]) is not None:
        return "its first operand is constant"
    if ir.constant(weight) is not None and weight is not None and len(weight.shape or ()) != 2:
        return "its weights are not a matrix"
    return None


def last_axis(node: ir.Node) -> str | None:
    """The kernel works along the last axis."""
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    axis = ir.attribute(node, "axis", -1)
    return None if axis in (-1, rank - 1) else f"it works along axis {axis}, not the last"


def nearest(node: ir.Node) -> str | None:
    """ONNX Runtime resizes integers to the nearest only."""
    mode = ir.attribute(node, "mode", "nearest")
    return None if mode == "nearest" else f"ONNX Runtime has no integer kernel for mode {mode!r}"


def linear_or_nearest(node: ir.Node) -> str | None:
    """TFLite has two modes of resizing."""
    mode = ir.attribute(node, "mode", "nearest")
    return None if mode in ("nearest", "linear") else f"TFLite has no mode {mode!r}"


def spatial_mean(node: ir.Node) -> str | None:
    """A mean over height and width is a GlobalAveragePool, which has an integer kernel."""
    value, axes = node.inputs[0], ir.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    if rank == 4 and axes is not None and sorted(int(a) % rank for a in axes.reshape(-1)) == [2, 3]:
        return None
    return "ONNX Runtime has an integer kernel only for means over height and width"


def pad_zero(node: ir.Node) -> str | None:
    """Padding of integers is with what stands for 0."""
    if ir.attribute(node, "mode", "constant") != "constant":
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        value = ir.constant(node.inputs[2])
        if value is None or value.size != 1 or float(value.reshape(-1)[0]) != 0.0:
            return "it pads with another number than 0"
    return None


def counts_beyond_padding(node: ir.Node) -> str | None:
    """A defect of ONNX Runtime's integer average."""
    if ir.attribute(node, "ceil_mode", 0) and ir.attribute(node, "count_include_pad", 0):
        return "ONNX Runtime's integer kernel divides by what lies beyond the padding, too (ceil_mode)"
    return None


def broadcast_rank(node: ir.Node) -> str | None:
    """TFLite's int8 MUL aborts beyond 4 axes where the operands have different shapes."""
    shapes = {ir.dims(value) for value in node.inputs if value is not None}
    rank = max((len(shape) for shape in shapes if shape is not None), default=0)
    if len(shapes) > 1 and rank > 4:
        return f"TFLite multiplies integers of different shapes along at most 4 axes, here are {rank}"
    return None


def one_slope(node: ir.Node) -> str | None:
    """One slope is a LEAKY_RELU."""
    slope = ir.constant(node.inputs[1])
    return None if slope is not None and slope.size == 1 else "TFLite's int16 kernel takes one constant slope"
