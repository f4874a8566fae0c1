"""MobileNets as ONNX files with random weights: their instructions are counted, which weights do not change.

Layers: the tables of the papers (v1: table 1; v2: table 2; v3: tables 1 and 2). BatchNorm is folded, as in files for
devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from mobilenets import V2
from onnx import TensorProto, helper, numpy_helper


class _Net:
    """Operators one after the other, on a square picture of three channels."""

    def __init__(self, size: int) -> None:
        self.random = np.random.default_rng(0)
        self.input, self.size, self.channels, self.value = size, size, 3, "x"
        self.nodes, self.weights = list[onnx.NodeProto](), list[onnx.TensorProto]()

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.value = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [self.value], **attributes))
        return self.value

    def weight(self, *shape: int) -> str:
        values = self.random.standard_normal(shape) / float(np.prod(shape[1:])) ** 0.5
        return self.constant(values)

    def constant(self, values: object) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def conv(self, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "") -> None:
        before, self.size = self.size, -(-self.size // stride)
        pad = max((self.size - 1) * stride + kernel - before, 0)
        pads = [pad // 2] * 2 + [pad - pad // 2] * 2  # as TensorFlow's SAME
        weights = self.weight(out, self.channels // groups, kernel, kernel), self.weight(out)
        self.op("Conv", self.value, *weights, strides=[stride] * 2, pads=pads, group=groups)
        self.channels = out
        if act == "Clip":
            self.op("Clip", self.value, self.constant(0), self.constant(6))
        elif act:
            self.op(act, self.value)

    def depthwise(self, kernel: int, stride: int, act: str) -> None:
        self.conv(self.channels, kernel, stride, self.channels, act)

    def squeeze(self, channels: int) -> None:
        """Squeeze and excitation."""
        value, size, all_channels = self.value, self.size, self.channels
        self.op("GlobalAveragePool", value)
        self.size = 1
        self.conv(channels, act="Relu")
        self.conv(all_channels)
        self.op("Mul", value, self.op("HardSigmoid", self.value, alpha=1 / 6, beta=0.5))
        self.size = size

    def pool(self) -> None:
        self.op("GlobalAveragePool", self.value)
        self.size = 1

    def model(self, classes: int = 1000) -> onnx.ModelProto:
        flat = self.op("Flatten", self.value)
        self.op("Gemm", flat, self.weight(self.channels, classes), self.weight(classes))
        shape = [1, 3, self.input, self.input]
        ends = (
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.value, TensorProto.FLOAT, [1, classes])],
        )
        graph = helper.make_graph(self.nodes, "mobilenet", *ends, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def v1() -> onnx.ModelProto:
    net = _Net(224)
    net.conv(32, 3, 2, act="Clip")
    for i, out in enumerate((64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)):
        net.depthwise(3, 2 if i in (1, 3, 5, 11) else 1, "Clip")
        net.conv(out, act="Clip")
    net.pool()
    return net.model()


def v2() -> onnx.ModelProto:
    net = _Net(224)
    net.conv(32, 3, 2, act="Clip")
    for expand, out, repeats, first in V2:
        for i in range(repeats):
            _block(net, 3, net.channels * expand, out, 0, "Clip", 1 if i else first)
    net.conv(1280, act="Clip")
    net.pool()
    return net.model()


def _block(net: _Net, kernel: int, wide: int, out: int, squeezed: int, act: str, stride: int) -> None:
    value, channels = net.value, net.channels
    if wide != channels:
        net.conv(wide, act=act)
    net.depthwise(kernel, stride, act)
    if squeezed:
        net.squeeze(squeezed)
    net.conv(out)
    if stride == 1 and out == channels:
        net.op("Add", net.value, value)


# Kernel, expanded channels, output channels, of squeeze and excitation, HardSwish, stride.
_LARGE = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 24, 0, 2),
    (5, 120, 40, 32, 0, 1), (5, 120, 40, 32, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 120, 1, 1), (3, 672, 112, 168, 1, 1),
    (5, 672, 160, 168, 1, 2), (5, 960, 160, 240, 1, 1), (5, 960, 160, 240, 1, 1),
)  # fmt: skip
_SMALL = (
    (3, 16, 16, 8, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 24, 1, 2),
    (5, 240, 40, 64, 1, 1), (5, 240, 40, 64, 1, 1), (5, 120, 48, 32, 1, 1), (5, 144, 48, 40, 1, 1),
    (5, 288, 96, 72, 1, 2), (5, 576, 96, 144, 1, 1), (5, 576, 96, 144, 1, 1),
)  # fmt: skip


def _v3(rows: tuple[tuple[int, ...], ...], last: int, features: int) -> onnx.ModelProto:
    net = _Net(224)
    net.conv(16, 3, 2, act="HardSwish")
    for kernel, wide, out, squeezed, hard, stride in rows:
        _block(net, kernel, wide, out, squeezed, "HardSwish" if hard else "Relu", stride)
    net.conv(last, act="HardSwish")
    net.pool()
    net.conv(features, act="HardSwish")
    return net.model()


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobilenet_v1_1.0": v1,
    "mobilenet_v2_1.0": v2,
    "mobilenet_v3_large_1.0": lambda: _v3(_LARGE, 960, 1280),
    "mobilenet_v3_small_1.0": lambda: _v3(_SMALL, 576, 1024),
}
"""By the names of the published figures."""
