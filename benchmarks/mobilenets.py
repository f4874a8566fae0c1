"""What MobileNets of any width and resolution compute, from the tables of their papers (v1: table 1; v2: table 2)."""

from __future__ import annotations

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
            Layer("", "Conv", kind, per_output * written, read + written, per_output * out + out)
        )
        self.channels = out

    def other(self, moved: int) -> None:
        self.layers.append(Layer("", "Add", "other", 0, moved, 0))

    def head(self, classes: int) -> list[Layer]:
        self.other(self.size**2 * self.channels)
        count = self.channels * classes
        self.layers.append(Layer("", "Gemm", "fc", count, self.channels + classes, count))
        return self.layers


def v1(width: float, size: int, classes: int = 1000, channels: int = 3) -> list[Layer]:
    """MobileNet (Howard and others, 2017)."""
    stack = _Stack(size, channels)
    stack.conv("conv", 3, 2, int(32 * width))
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for out, stride in plan:
        stack.conv("depthwise", 3, stride, stack.channels)
        stack.conv("conv1x1", 1, 1, int(out * width))
    return stack.head(classes)


def v2(width: float, size: int, classes: int = 1000) -> list[Layer]:
    """MobileNetV2 (Sandler and others, 2018); channels are multiples of 8."""

    def scaled(channels: int) -> int:
        near = max(8, int(channels * width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * channels * width else near

    stack = _Stack(size)
    stack.conv("conv", 3, 2, scaled(32))
    plan = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for expand, out, repeats, first in plan:
        for i in range(repeats):
            before = stack.channels
            if expand > 1:
                stack.conv("conv1x1", 1, 1, before * expand)
            stack.conv("depthwise", 3, first if i == 0 else 1, stack.channels)
            stack.conv("conv1x1", 1, 1, scaled(out))
            if i:
                stack.other(3 * stack.size**2 * stack.channels)
    stack.conv("conv1x1", 1, 1, max(1280, scaled(1280)))
    return stack.head(classes)
