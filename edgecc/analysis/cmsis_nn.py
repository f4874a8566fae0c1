"""Scratch buffers of CMSIS-NN's kernels, which no runtime on this machine can be asked for.

The formulas are those of the functions `arm_..._get_buffer_size` of ARM-software/CMSIS-NN (commit 99f736a), for what
the kernels of TFLite Micro (kernels/cmsis_nn, commit 90b983c) hand to them. Where the size depends on the compiler, the
larger one is taken: Arm's compiler asks for a buffer in 1x1 convolutions on cores with DSP instructions.
TFLite Micro is built for speed unless told otherwise (KERNELS_OPTIMIZED_FOR_SPEED), and so it is taken here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgecc.analysis.flat import FlatNetwork, FlatOperator, FlatTensor

_BLOCK_MVE = 124  # CH_IN_BLOCK_MVE
_SAME = 0  # Padding in the schema
_REVERSED_ABOVE = 16  # REVERSE_TCOL_EFFICIENT_THRESHOLD: input channels


@dataclass(frozen=True)
class _Window:
    """A convolution: NHWC shapes, (height, width) pairs."""

    data: tuple[int, ...]
    kernel: tuple[int, int]
    depth: int
    result: tuple[int, ...]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]


def _window(network: FlatNetwork, operator: FlatOperator) -> _Window:
    data, weights = network.operand(operator, 0), network.operand(operator, 1)
    assert data is not None and weights is not None
    result, options = network.tensors[operator.outputs[0]].shape, operator.options
    kernel = (weights.shape[1], weights.shape[2])
    stride = (int(options.get("strideH", 1)), int(options.get("strideW", 1)))
    dilation = (int(options.get("dilationHFactor", 1)), int(options.get("dilationWFactor", 1)))
    padding = [0, 0]
    if options.get("padding", _SAME) == _SAME:
        for axis in (0, 1):
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            total = (result[1 + axis] - 1) * stride[axis] + reach - data.shape[1 + axis]
            padding[axis] = max(total, 0) // 2
    return _Window(data.shape, kernel, weights.shape[3], result, stride, dilation, (padding[0], padding[1]))


def _columns(channels: int, kernel: tuple[int, int], *, mve: bool) -> int:
    """arm_convolve_s8_get_buffer_size."""
    columns = channels * kernel[0] * kernel[1]
    return 4 * -(-columns // 16) * 16 if mve else 4 * (-(-columns // 4) * 4)


def _conv(w: _Window, *, mve: bool) -> int:
    """arm_convolve_wrapper_s8_get_buffer_size."""
    channels = w.data[3]
    if w.padding == (0, 0) and w.kernel == (1, 1) and w.dilation == (1, 1) and channels == w.depth:
        return 4 * channels if not mve and w.stride == (1, 1) else 0
    flat = w.data[1] == 1 and w.dilation[1] == 1 and w.kernel[0] == 1 and channels == w.depth
    if mve and flat and w.stride[1] * channels % 4 == 0:
        return _flat_conv(w)
    return _columns(channels, w.kernel, mve=mve)


def _flat_conv(w: _Window) -> int:
    """arm_convolve_1_x_n_s8_get_buffer_size_mve."""
    channels, stride, pad, kernel = w.data[3], w.stride[1], w.padding[1], w.kernel[1]
    total = (w.result[2] - 1) * stride + kernel - w.data[2]
    odd = int(math.fmod(total, 2))
    right = max(1, int((pad + odd + stride - 1) / stride)) if pad + odd != 0 else 0
    left = max(1, (pad + stride - 1) // stride) if pad else 0
    if right + max(w.result[2] - right - left, 0) + left != w.result[2]:
        return _columns(channels, w.kernel, mve=True)
    on_left = pad * channels
    on_right = right * channels if odd else on_left
    return max(kernel * channels + on_left, (kernel - 1) * channels + on_right)


def _depthwise(w: _Window, kind: str, *, mve: bool) -> int:
    """arm_depthwise_conv_wrapper_s8_get_buffer_size, ..._s4_..."""
    channels, area = w.data[3], w.kernel[0] * w.kernel[1]
    if mve and channels == 1 and w.result[3] > 1 and kind == "int8":
        as_conv = _Window(w.data, w.kernel, 1, w.result, w.stride, w.dilation, w.padding)
        return _conv(as_conv, mve=True) + w.result[3] * area
    if channels != w.result[3] or w.data[0] != 1 or w.dilation != (1, 1):
        return 0
    if mve:
        return 4 * _BLOCK_MVE * area
    if kind == "int8" and w.kernel == (3, 3) and max(w.padding) <= 1:
        return 0
    return 2 * channels * area


def _kind(network: FlatNetwork, operator: FlatOperator, position: int) -> str:
    found = network.operand(operator, position)
    return "none" if found is None else found.kind


def _convolution(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    kind, bias = _kind(network, operator, 0), _kind(network, operator, 2)
    if kind == "int8":
        return [_conv(_window(network, operator), mve=mve)]
    if kind == "int16" and bias in ("int64", "none"):  # arm_convolve_s16_get_buffer_size
        w = _window(network, operator)
        columns = w.data[3] * w.kernel[0] * w.kernel[1]
        return [4 * -(-columns // 8) * 8 * 2 if mve else 2 * columns * 2]
    return []


def _depthwise_convolution(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    if _kind(network, operator, 0) != "int8":
        return []
    return [_depthwise(_window(network, operator), _kind(network, operator, 1), mve=mve)]


def _as_convolution(network: FlatNetwork, operator: FlatOperator) -> bool:
    weights, result = network.operand(operator, 1), network.tensors[operator.outputs[0]]
    return weights is not None and len(result.shape) > 2 and weights.shape[-1] % 4 == 0


def keeps_sums(network: FlatNetwork, operator: FlatOperator) -> bool:
    """Whether a FULLY_CONNECTED with MVE kernels keeps the sums of its weights (fully_connected.cc)."""
    weights, bias = network.operand(operator, 1), network.operand(operator, 2)
    integers = _kind(network, operator, 0) == "int8" and weights is not None and weights.kind == "int8"
    constant = weights is not None and weights.constant and (bias is None or bias.constant)
    return integers and constant and not _as_convolution(network, operator)


def _connected(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    weights, result = network.operand(operator, 1), network.tensors[operator.outputs[0]]
    if _kind(network, operator, 0) != "int8" or weights is None or weights.kind != "int8":
        return []
    if not _as_convolution(network, operator):
        return [4 * result.shape[-1]] if mve and not keeps_sums(network, operator) else []
    quantization = [] if weights.scales > 1 else [8 * result.shape[-1]]
    return [*quantization, 0 if mve else 4 * weights.shape[-1]]


def _pooled(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    """arm_avgpool_s8_get_buffer_size."""
    integers = _kind(network, operator, 0) in ("int8", "int16")
    return [4 * network.tensors[operator.outputs[0]].shape[3]] if integers and not mve else []


def _product(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    """batch_matmul.cc asks arm_fully_connected_s8_get_buffer_size for the shape of the result."""
    return (
        [4 * network.tensors[operator.outputs[0]].shape[-1]]
        if mve and _kind(network, operator, 0) == "int8"
        else []
    )


def _transposed(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    """arm_transpose_conv_s8_get_buffer_size and ..._get_reverse_conv_buffer_size."""
    data, weights = network.operand(operator, 2), network.operand(operator, 1)
    result: FlatTensor = network.tensors[operator.outputs[0]]
    assert data is not None and weights is not None
    if data.kind == "int16":
        return [8 * result.elements]
    if data.kind != "int8":
        return []
    stride = (int(operator.options.get("strideH", 1)), int(operator.options.get("strideW", 1)))
    channels, (height, width) = data.shape[3], weights.shape[1:3]
    if max(stride) <= 2 and channels > _REVERSED_ABOVE:
        return [_columns(channels, (height, width), mve=mve), channels * height * width * weights.shape[0]]
    across = ((data.shape[2] - 1) * stride[1] + max(width, stride[0])) * result.shape[3]
    return [4 * across * max(height, stride[0]), 0]


def _svdf(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    data, weights = network.operand(operator, 0), network.operand(operator, 1)
    assert data is not None and weights is not None
    rank = max(1, int(operator.options.get("rank", 1)))
    rows, filters = data.shape[0], weights.shape[0]
    return [4 * rows * filters, *([4 * rows * (filters // rank)] if data.kind == "int8" else [])]


SCRATCH: Mapping[str, Callable[..., list[int]]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise_convolution,
    "FULLY_CONNECTED": _connected,
    "AVERAGE_POOL_2D": _pooled,
    "BATCH_MATMUL": _product,
    "TRANSPOSE_CONV": _transposed,
    "SVDF": _svdf,
}


def scratch(network: FlatNetwork, operator: FlatOperator, *, mve: bool) -> list[int]:
    """Bytes of the scratch buffers that CMSIS-NN's kernel of an operator asks for.

    Args:
        network, operator: with NHWC shapes.
        mve: for a core with the MVE (Helium) instructions instead of the DSP ones.
    """
    return [size for size in SCRATCH[operator.code](network, operator, mve=mve) if size > 0]
