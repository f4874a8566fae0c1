"""What MobileNets of any width and resolution compute, from the tables of their papers (v1: table 1; v2: table 2)."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.analysis.workload import Layer


class _Stack:
    """Layers one after the other, on a square picture."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.size, self.channels, self.layers = size, channels, list[Layer]()

    def conv(self, kind: str, kernel: int, stride: int, out: int) -> None:
        read = self.size**2 * self.channels
        self.size = -(-self.size // stride)
        per_output = kernel**2 * (1 if kind == "depthwise" else self.channels)
        written = self.size**2 * out
        self.layers.append(
            Layer("", "Conv", kind, per_output * written, read + written, per_output * out + out, written)
        )
        self.channels = out

    def other(self, moved: int, written: int) -> None:
        self.layers.append(Layer("", "Add", "other", 0, moved, 0, written))

    def head(self, classes: int) -> list[Layer]:
        self.other(self.size**2 * self.channels, self.channels)
        count = self.channels * classes
        self.layers.append(Layer("", "Gemm", "fc", count, self.channels + classes, count, classes))
        return self.layers


_V1 = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_V1_HALVING = frozenset({1, 3, 5, 11})  # the blocks of stride 2

VWW_LIVE = (16, 32, 32, 64, 60, 107, 57, 30, 19, 19, 27, 32, 22)
"""Channels that the 1x1 convolutions of MLPerf Tiny's visual wake words network compute: the filters of the others are
zero in the published int8 file (vww_96_int8.tflite of mlcommons/tiny), so that what they give is constant."""


def v1(
    width: float, size: int, classes: int = 1000, channels: int = 3, outs: Sequence[int] | None = None
) -> list[Layer]:
    """MobileNet (Howard and others, 2017); `outs` replaces the channels of the 13 blocks."""
    stack = _Stack(size, channels)
    stack.conv("conv", 3, 2, int(32 * width))
    for i, out in enumerate(outs or [int(out * width) for out in _V1]):
        stack.conv("depthwise", 3, 2 if i in _V1_HALVING else 1, stack.channels)
        stack.conv("conv1x1", 1, 1, out)
    return stack.head(classes)


# Blocks of MobileNetV2: factor of expansion, output channels, repeats, stride of the first.
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def v2(width: float, size: int, classes: int = 1000) -> list[Layer]:
    """MobileNetV2 (Sandler and others, 2018); channels are multiples of 8."""

    def scaled(channels: int) -> int:
        near = max(8, int(channels * width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * channels * width else near

    stack = _Stack(size)
    stack.conv("conv", 3, 2, scaled(32))
    for expand, out, repeats, first in V2:
        for i in range(repeats):
            before = stack.channels
            if expand > 1:
                stack.conv("conv1x1", 1, 1, before * expand)
            stack.conv("depthwise", 3, first if i == 0 else 1, stack.channels)
            stack.conv("conv1x1", 1, 1, scaled(out))
            if i:
                stack.other(3 * stack.size**2 * stack.channels, stack.size**2 * stack.channels)
    stack.conv("conv1x1", 1, 1, max(1280, scaled(1280)))
    return stack.head(classes)
