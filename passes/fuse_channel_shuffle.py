"""Writes a channel shuffle (Reshape, Transpose, Reshape) as the choice of channels that it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_SAMPLE_BATCH = 2  # stands for a symbolic batch while indices are followed through the reshapes


@dataclass(frozen=True, kw_only=True)
class FuseChannelShuffle(Pass):
    """Turns Reshape-Transpose-Reshape that only permutes channels into one Gather on axis 1.

    Where Gathers of axis 0 follow (ShuffleNetV2 splits the shuffled channels in halves), each of them becomes
    the choice of its own channels. Channels at equal distances become a Slice with a step. (ShuffleNet:
    Zhang et al. 2017, section 3.1; ShuffleNetV2: Ma et al. 2018, figure 3)
    """

    name: ClassVar[str] = "fuse_channel_shuffle"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            shuffle = _match(node) if rw.is_op(node, "Reshape") else None
            if isinstance(shuffle, str):
                tally.refuse(node, shuffle)
            elif shuffle is not None:
                for last, channels in shuffle.choices:
                    _choose(model.graph, shuffle.source, last, channels)
                rw.drop_dead([node.outputs[0]])
                tally.rewritten += 1
        return tally.result()


@dataclass(frozen=True)
class _Shuffle:
    """The value that is shuffled, and for each node that ends the pattern the channels that it takes."""

    source: ir.Value
    choices: tuple[tuple[ir.Node, tuple[int, ...]], ...]


def _match(last: ir.Node) -> _Shuffle | str | None:
    """The shuffle that ends in the Reshape `last`; a reason if it is none; None if nothing resembles one."""
    transpose = None if last.inputs[0] is None else last.inputs[0].producer()
    middle = transpose.inputs[0] if transpose is not None and rw.is_op(transpose, "Transpose") else None
    first = None if middle is None else middle.producer()
    source = first.inputs[0] if first is not None and rw.is_op(first, "Reshape") else None
    if transpose is None or middle is None or source is None:
        return None
    shapes = [_sizes(v) for v in (source, middle, last.outputs[0])]
    perm = ir.attribute(transpose, "perm", tuple(reversed(range(rw.rank(middle) or 0))))
    if any(shape is None for shape in shapes) or len(shapes[0] or ()) < 3:
        return "a shape is not known"
    before, split, after = (shape or () for shape in shapes)
    spatial = math.prod(before[2:])
    kept, ending = _trailing(split, spatial), _trailing(after, spatial)
    if kept is None or ending is None or after[len(after) - ending :] != before[2:]:
        return "the reshapes cut through the spatial axes"
    lead = len(split) - kept
    whole = math.prod(before[:2])
    if math.prod(split[:lead]) != whole or math.prod(after[: len(after) - ending]) != whole:
        return "the reshapes fix the size of a batch that is free"
    if perm[lead:] != tuple(range(lead, len(split))):
        return "the transpose moves spatial axes"
    index = np.arange(before[0] * before[1]).reshape(split[:lead]).transpose(perm[:lead])
    index = index.reshape(after[: len(after) - ending])
    direct = _channels(index, before)
    if direct is not None:
        return _Shuffle(source, ((last, direct),))
    choices = [(node, _gathered(node, index, before)) for node in ir.consumers(last.outputs[0])]
    found = tuple((node, channels) for node, channels in choices if channels is not None)
    if not found or len(found) < len(choices) or last.outputs[0].is_graph_output():
        return "the result is no choice of channels for each sample"
    return _Shuffle(source, found)


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    shape = ir.dims(value)
    if shape is None or None in shape[1:]:
        return None
    return tuple(_SAMPLE_BATCH if d is None else d for d in shape)


def _trailing(shape: tuple[int, ...], size: int) -> int | None:
    """How many of the last axes make up `size` elements; None if no cut does."""
    for count in range(1, len(shape) + 1):
        if math.prod(shape[len(shape) - count :]) == size:
            return count
    return None


def _channels(index: Array, before: tuple[int, ...]) -> tuple[int, ...] | None:
    """The channels that `index` (sample, channel) takes; None unless they are the same for every sample."""
    if index.ndim != 2 or index.shape[0] != before[0]:
        return None
    own = index - np.arange(before[0])[:, None] * before[1]
    if own.min() < 0 or own.max() >= before[1] or (own != own[0]).any():
        return None
    return tuple(int(c) for c in own[0])


def _gathered(node: ir.Node, index: Array, before: tuple[int, ...]) -> tuple[int, ...] | None:
    if not rw.is_op(node, "Gather") or ir.attribute(node, "axis", 0) != 0 or node.outputs[0].shape is None:
        return None
    choice = ir.constant(node.inputs[1])
    if choice is None or choice.ndim or not -len(index) <= int(choice) < len(index):
        return None
    return _channels(index[int(choice)], before)


def _choose(graph: ir.Graph, source: ir.Value, last: ir.Node, channels: tuple[int, ...]) -> None:
    out = last.outputs[0]
    steps = {b - a for a, b in pairwise(channels)} or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        bounds = {"starts": channels[0], "ends": channels[-1] + 1, "axes": 1, "steps": step}
        inputs = [rw.integers(graph, [value], f"{out.name}_{part}") for part, value in bounds.items()]
        new = rw.new_node("Slice", [source, *inputs], out, name=last.name)
    else:
        indices = rw.integers(graph, channels, f"{out.name}_channels")
        new = rw.new_node("Gather", [source, indices], out, {"axis": 1}, name=last.name)
    unread = list(last.inputs)
    ir.replace([last], [new], {out: new.outputs[0]})
    rw.drop_dead(unread)
