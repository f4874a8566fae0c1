"""ONNX's explicit paddings as TFLite's SAME or VALID where they are equal to it, else as a PAD before the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite.builder import Builder, Unservable

SAME, VALID = 0, 1  # schema.fbs: enum Padding


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes, two of them.

    Attributes:
        kernel, strides, dilations: (height, width).
        before, after: padding in front of and behind each axis; `after` includes what ceil_mode adds.
        size: input (height, width).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return any(self.before) or any(self.after)

    def kind(self) -> int | None:
        """SAME or VALID if the window's padding is equal to it, else None."""
        if not self.padded:
            return VALID
        return SAME if (self.before, self.after) == self._same() else None

    def _same(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        # TensorFlow's SAME: out = ceil(in / stride), the odd cell goes behind.
        before, after = [], []
        for size, kernel, stride, dilation in zip(
            self.size, self.kernel, self.strides, self.dilations, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return tuple(before), tuple(after)


def window(site: Site, kernel: Sequence[int], size: Sequence[int], out: Sequence[int]) -> Window:
    """The window of a Conv or pooling site.

    Args:
        site: with ONNX's attributes strides, dilations, pads, auto_pad, ceil_mode.
        kernel, size, out: extent of the kernel, the input and the output along each spatial axis (1 or 2).
    """
    rank = len(kernel)

    def ints(name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(i) for i in site.attribute(name, default))  # type: ignore[attr-defined]

    strides, dilations = ints("strides", [1] * rank), ints("dilations", [1] * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    needed = [max((o - 1) * s + r - i, 0) for o, s, r, i in zip(out, strides, reach, size, strict=True)]
    auto = str(site.attribute("auto_pad", "NOTSET"))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        less, more = [n // 2 for n in needed], [n - n // 2 for n in needed]
        before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
    elif auto == "VALID":
        before, after = [0] * rank, [0] * rank
    else:
        pads = ints("pads", [0] * (2 * rank))
        before, after = list(pads[:rank]), list(pads[rank:])
    if site.attribute("ceil_mode", 0):
        if any((o - 1) * s >= i + b for o, s, i, b in zip(out, strides, size, before, strict=True)):
            raise Unservable("a window starts behind the input", "set the pads so that none does")
        after = [max(a, n - b) for a, b, n in zip(after, before, needed, strict=True)]
    elif any((o - 1) * s + r > i + b + a for o, s, r, i, b, a in
             zip(out, strides, reach, size, before, after, strict=True)):  # fmt: skip
        raise Unservable(
            "its window is longer than its padded input", "set pads that leave room for the window"
        )
    lift = 2 - rank  # a one-dimensional window slides along the width of an image of height 1
    return Window(
        (*[1] * lift, *kernel), (*[1] * lift, *strides), (*[1] * lift, *dilations),
        (*[0] * lift, *before), (*[0] * lift, *after), (*[1] * lift, *size),
    )  # fmt: skip


def apply_padding(b: Builder, tensor: int, win: Window, *, lowest: bool = False) -> tuple[int, int]:
    """The tensor to read and SAME or VALID; a PAD (PADV2 with the lowest value, for maxima) where neither fits.

    Args:
        b: the builder.
        tensor: (batch, height, width, channels).
        win: the window.
        lowest: pad with the type's lowest value instead of zero.
    """
    kind = win.kind()
    if kind is not None:
        return tensor, kind
    return explicit_padding(b, tensor, win, lowest=lowest), VALID


def explicit_padding(b: Builder, tensor: int, win: Window, *, lowest: bool = False) -> int:
    """As `apply_padding`, but always with a PAD."""
    if min(*win.before, *win.after) < 0:
        raise Unservable("negative padding", "crop with a Slice instead")
    (top, left), (bottom, right) = win.before, win.after
    n, h, w, c = b.shape(tensor)
    target = b.temporary(tensor, "padded", (n, h + top + bottom, w + left + right, c))
    paddings = b.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32), "paddings")
    if not lowest:
        return b.operator("PAD", [tensor, paddings], [target])
    facts = b.graph.tensors[tensor]
    integers = np.dtype(facts.dtype).kind == "i"
    least = np.iinfo(facts.dtype).min if integers else np.finfo(np.float32).min
    value = np.array(least, facts.dtype)
    return b.operator("PADV2", [tensor, paddings, b.constant(value, "lowest", facts.quant)], [target])


def repeated_padding(b: Builder, source: int, table: Array, mode: str) -> None:
    """The result of a Pad that repeats its operand: the border cells ("edge"), or from the other end ("wrap").

    Args:
        b: the builder.
        source: the operand.
        table: (axes, 2), cells in front of and behind each axis.
        mode: ONNX's.
    """
    if mode not in ("edge", "wrap"):
        raise Unservable(f"padding mode {mode!r} has no kernel")
    padded = [int(axis) for axis in np.flatnonzero(table.any(1))]
    if not padded:
        b.alias(source)
    for axis in padded:
        size = b.shape(source)[axis]
        places = np.arange(-int(table[axis, 0]), size + int(table[axis, 1]))
        places = np.clip(places, 0, size - 1) if mode == "edge" else places % size
        shape = [places.size if a == axis else d for a, d in enumerate(b.shape(source))]
        target = b.output() if axis == padded[-1] else b.temporary(source, f"padded_{axis}", shape)
        b.operator("GATHER", [source, b.ints(places)], [target], {"axis": axis, "batchDims": 0})
        source = target
