"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Operand, Site
from edgecc.ir import Array
from edgecc.quant.params import QuantParams
from edgecc.tflite import lower_spatial, lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.options import ACTIVATIONS
from edgecc.tflite.padding import VALID, Window, apply_padding, window
from edgecc.tflite.weights import stored_weight


@lowers("Conv", int8=True)
def conv(site: Site, b: Builder) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where each group has one input channel. One-dimensional ones run at height 1."""
    data, weight = site.inputs[0], site.inputs[1]
    assert data is not None and weight is not None
    if (
        any(o is not None and o.array is None for o in site.inputs[1:])
        or len(ir.static_dims(weight.value)) > 4
    ):
        lower_spatial.composed_conv(site, b)
        return
    assert weight.array is not None
    spatial = weight.array.ndim - 2
    shape = ir.static_dims(data.value)
    out_shape = ir.static_dims(site.outputs[0].value)
    groups, channels = int(site.attribute("group", 1)), shape[1]  # type: ignore[call-overload]
    win = window(site, weight.array.shape[2:], shape[2:], out_shape[2:])
    source = _as_image(b, b.input(0, channels_last(len(shape))))
    source, padding = apply_padding(b, source, win)
    depthwise = groups > 1 and groups == channels
    options = {
        "padding": padding,
        "strideH": win.strides[0],
        "strideW": win.strides[1],
        "dilationHFactor": win.dilations[0],
        "dilationWFactor": win.dilations[1],
        "fusedActivationFunction": ACTIVATIONS[site.activation],
    }
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    if depthwise:
        options["depthMultiplier"] = out_shape[1] // channels
    if padding == VALID and _is_product(b, weight, win, groups):
        code = "FULLY_CONNECTED"
        options = {"fusedActivationFunction": ACTIVATIONS[site.activation], "keepNumDims": True}
    filters = _kernel_weights(b, weight, code)
    bias = bias_tensor(b, site, data, weight, out_shape[1])
    target = b.output()
    image = target if spatial == 2 else b.temporary(target, "image", _lifted(b.shape(target)))
    if code == "FULLY_CONNECTED":
        fully_connected(b, [source, filters, bias], image, options)
    else:
        b.operator(code, [source, filters, bias], [image], options)
    if image != target:
        b.reshape(image, target)


def _lifted(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 1, *shape[1:])


def _as_image(b: Builder, tensor: int) -> int:
    """(batch, width, channels) as (batch, 1, width, channels)."""
    shape = b.shape(tensor)
    if len(shape) == 4:
        return tensor
    return b.reshape(tensor, b.temporary(tensor, "lifted", _lifted(shape)))


def _is_product(b: Builder, weight: Operand, win: Window, groups: int) -> bool:
    """Whether int4 weights meet each pixel alone, an even number of channels of it.

    Then FULLY_CONNECTED says the same, and XNNPACK has it: 5 times as fast as CONV_2D, which it leaves to a built-in
    kernel (14x14 pixels, 192 to 192 channels, LiteRT 2.3 on x86). The kernel takes even numbers.
    """
    assert weight.array is not None
    int4 = weight.quant is not None and weight.quant.dtype == "int4"
    alone = all(k == 1 for k in win.kernel) and all(s == 1 for s in win.strides)
    return int4 and alone and groups == 1 and weight.array.shape[1] % 2 == 0


def _along(
    b: Builder, weight: Operand, channels: int, stored: tuple[Array, QuantParams | None]
) -> tuple[Array, QuantParams | None]:
    """Stored weights if their scales lie along the axis of the output channels, as kernels read them; else real ones.

    Raises:
        NeedsFloat: they lie along another, and the site works on integers.
    """
    quant = stored[1]
    if quant is None or quant.block_size or quant.axis in (None, channels):
        return stored
    if b.quantized:
        raise NeedsFloat
    return weight.real(), None


def _kernel_weights(b: Builder, weight: Operand, code: str) -> int:
    """(out, in/groups, kh, kw) as (out, kh, kw, in/groups); depthwise (1, kh, kw, out); of a product (out, in)."""
    array, quant = _along(b, weight, 0, stored_weight(b, weight, code))
    if code == "FULLY_CONNECTED":
        return b.weight(array.reshape(array.shape[:2]), str(weight.value.name), quant)
    if array.ndim == 3:
        array = array[:, :, None, :]
    depthwise = code == "DEPTHWISE_CONV_2D"
    if quant is not None and quant.axis is not None:
        quant = replace(quant, axis=3 if depthwise else 0)
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    return b.weight(array.transpose(order), str(weight.value.name), quant)


def fully_connected(b: Builder, inputs: list[int], target: int, options: Mapping[str, object]) -> None:
    """FULLY_CONNECTED; behind weights in blocks the activation is an operator of its own (see weights.py)."""
    quant, activation = b.graph.tensors[inputs[1]].quant, options["fusedActivationFunction"]
    name = next(n for n, number in ACTIVATIONS.items() if number == activation)
    if quant is None or not quant.block_size or name == "NONE":
        b.operator("FULLY_CONNECTED", inputs, [target], options)
        return
    before = b.temporary(target, "before_activation", b.shape(target))
    b.operator(
        "FULLY_CONNECTED", inputs, [before], {**options, "fusedActivationFunction": ACTIVATIONS["NONE"]}
    )
    b.operator(name, [before], [target])


# A stored bias whose scale is further from s_in * s_w is stored anew (TFLite's kernels ask for 2 % of a step at most).
_SAME_SCALE = 1e-5


def bias_tensor(b: Builder, site: Site, data: Operand, weight: Operand, count: int) -> int:
    """The bias, (count,) float32 or int32 with scale s_in * s_w; zeros where the node has none.

    Raises:
        NeedsFloat: it does not fit into the integers of the kernel.
    """
    operand = site.inputs[2] if len(site.inputs) > 2 else None
    if operand is not None and operand.array is None:
        raise Unservable("the bias is computed at run time", "make it an initializer")
    name = f"{site.outputs[0].value.name}/bias" if operand is None else str(operand.value.name)
    real = np.zeros(count) if operand is None else np.broadcast_to(operand.real().reshape(-1), (count,))
    if not b.quantized:
        return b.constant(real.astype(np.float32), name)
    assert data.quant is not None and weight.quant is not None
    stored = _bias_type(b, data)
    quant = operand.quant if operand is not None else None
    scale = (data.quant.scale * weight.quant.scale).astype(np.float32)
    if operand is not None and quant is not None and _fits(quant, scale):
        assert operand.array is not None
        return b.constant(np.broadcast_to(operand.array.reshape(-1), (count,)).astype(stored), name, quant)
    if np.abs(real / scale.astype(np.float64)).max(initial=0) >= np.iinfo(stored).max:
        raise NeedsFloat
    zeros = np.zeros(scale.shape, np.int64)
    quant = QuantParams(scale=scale, zero_point=zeros, dtype="int32", axis=0 if scale.size > 1 else None)
    values = np.rint(real / scale.astype(np.float64)).astype(stored)
    return b.constant(values, name, quant)


def _fits(quant: QuantParams, scale: Array) -> bool:
    """Whether a bias is stored with the scale of the sums that it is added to."""
    if quant.dtype != "int32" or not quant.symmetric or quant.scale.size not in (1, scale.size):
        return False
    return bool(np.allclose(quant.scale, scale, rtol=_SAME_SCALE, atol=0))


def _bias_type(b: Builder, data: Operand) -> str:
    if not b.quantized or data.quant is None:
        return "float32"
    return "int64" if data.quant.dtype == "int16" else "int32"


@lowers("ConvTranspose", int8=True)
def conv_transpose(site: Site, b: Builder) -> None:
    """TRANSPOSE_CONV with VALID padding, then a crop where ONNX pads.

    Output padding is a kernel that goes on with zeros; groups are a kernel with zeros between them.
    """
    data, weight = site.inputs[0], site.inputs[1]
    assert data is not None and weight is not None
    extents = ir.static_dims(weight.value)[2:]
    spatial = len(extents)
    lift = 2 - spatial
    dilations = [int(d) for d in site.attribute("dilations", (1,) * spatial)]  # type: ignore[attr-defined]
    shape, out = ir.static_dims(data.value), ir.static_dims(site.outputs[0].value)
    strides = [int(s) for s in site.attribute("strides", (1,) * spatial)]  # type: ignore[attr-defined]
    kernel = [(k - 1) * d + 1 for k, d in zip(extents, dilations, strict=True)]
    reach = [(i - 1) * s + k for i, s, k in zip(shape[2:], strides, kernel, strict=True)]
    front = _front_crop(site, out[2:], reach)
    computed = any(o is not None and o.array is None for o in site.inputs[1:])
    if computed or spatial not in (1, 2) or max(dilations) > 1:
        lower_spatial.composed_transpose(site, b, front)
        return
    more = [max(f + o - r, 0) for f, o, r in zip(front, out[2:], reach, strict=True)]
    full = (*[1] * lift, *(r + m for r, m in zip(reach, more, strict=True)))
    source = _as_image(b, b.input(0, channels_last(len(shape))))
    filters, scales = _transposed_weights(b, weight, int(site.attribute("group", 1)), more)  # type: ignore[call-overload]
    bias = bias_tensor(b, site, data, scales, out[1])
    target = b.output()
    image = target if spatial == 2 else b.temporary(target, "image", _lifted(b.shape(target)))
    crop = full != b.shape(image)[1:3]
    whole = b.temporary(image, "whole", (out[0], *full, out[1])) if crop else image
    options = {"padding": VALID, "strideH": [1, *strides][-2], "strideW": strides[-1]}
    sizes = b.sizes(source, (*full, out[1]))
    b.operator("TRANSPOSE_CONV", [sizes, filters, source, bias], [whole], options)
    if crop:
        begin = b.ints((0, *[0] * lift, *front, 0))
        b.operator("SLICE", [whole, begin, b.ints((-1, *b.shape(image)[1:]))], [image])
    if image != target:
        b.reshape(image, target)


def _transposed_weights(b: Builder, weight: Operand, groups: int, more: list[int]) -> tuple[int, Operand]:
    """(in, out/groups, ...) as (out, kh, kw, in), with `more` zeros behind each spatial axis; and the scales used."""
    array, quant = _along(b, weight, 1, stored_weight(b, weight, "TRANSPOSE_CONV"))
    array = np.pad(array, ((0, 0), (0, 0), *((0, m) for m in more)))
    if array.ndim == 3:
        array = array[:, :, None, :]
    if groups > 1:
        inner, outer = array.shape[0] // groups, array.shape[1]
        dense = np.zeros((array.shape[0], outer * groups, *array.shape[2:]), array.dtype)
        for g in range(groups):
            part = slice(g * inner, (g + 1) * inner)
            dense[part, g * outer : (g + 1) * outer] = array[part]
        array = dense
    if quant is not None and quant.axis is not None:
        scale = np.tile(quant.scale, groups)
        quant = QuantParams(
            scale=scale, zero_point=np.tile(quant.zero_point, groups), dtype=quant.dtype, axis=0
        )
    moved = array.transpose(1, 2, 3, 0)
    return b.weight(moved, str(weight.value.name), quant), replace(weight, quant=quant)


def _front_crop(site: Site, out: tuple[int, ...], reach: list[int]) -> list[int]:
    """What is cut off in front of each spatial axis (onnx.ai/onnx/operators ConvTranspose: pads)."""
    auto = str(site.attribute("auto_pad", "NOTSET"))
    spatial = len(out)
    if auto.startswith("SAME") or site.attribute("output_shape") is not None:
        added = [int(p) for p in site.attribute("output_padding", (0,) * spatial)]  # type: ignore[attr-defined]
        total = [max(r + a - o, 0) for r, a, o in zip(reach, added, out, strict=True)]
        return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    if auto == "VALID":
        return [0] * spatial
    return [int(p) for p in site.attribute("pads", (0,) * 2 * spatial)][:spatial]  # type: ignore[attr-defined]
