"""Moves padding into the convolution or pooling that follows, and writes `auto_pad` out as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

Pads = tuple[int, ...]  # begins of every spatial axis, then ends, as ONNX has them


@dataclass(frozen=True, kw_only=True)
class FusePad(Pass):
    """Fuses a Pad into the Conv, AveragePool or MaxPool that reads it, where the answers stay the same.

    `auto_pad` of convolutions and pools becomes explicit `pads` first, where the shapes are static.
    """

    name: ClassVar[str] = "fuse_pad"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            mode = ir.attribute(node, "auto_pad", "NOTSET") if rw.is_op(node, *_PADDED) else "NOTSET"
            if mode != "NOTSET":
                _count(tally, node, _make_explicit(node, mode))
        for node in model.graph:
            if rw.is_op(node, "Pad"):
                _count(tally, node, _fuse(node))
        return tally.result()


_PADDED = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool")


def _count(tally: rw.Tally, node: ir.Node, reason: str | None) -> None:
    if reason:
        tally.refuse(node, reason)
    else:
        tally.rewritten += 1


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    """The extent of the kernel along every spatial axis, dilation included."""
    size = ir.attribute(node, "kernel_shape")
    if size is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        shape = ir.dims(node.inputs[1])
        size = None if shape is None or None in shape else shape[2:]
    if size is None:
        return None
    dilations = ir.attribute(node, "dilations", (1,) * len(size))
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilations, strict=True))


def _make_explicit(node: ir.Node, mode: str) -> str | None:
    """Replaces `auto_pad` by `pads` (ONNX operator Conv, attribute auto_pad); the reason if it does not."""
    kernel = _kernel(node)
    shape = None if node.inputs[0] is None else ir.dims(node.inputs[0])
    if kernel is None:
        return "the size of its kernel is not known"
    if mode == "VALID":
        pads: Pads = (0,) * (2 * len(kernel))
    elif rw.is_op(node, "ConvTranspose"):
        return f"auto_pad {mode} of a ConvTranspose depends on its output shape"
    elif shape is None or None in shape[2:]:
        return f"auto_pad {mode} depends on a size that is not static"
    else:
        strides = ir.attribute(node, "strides", (1,) * len(kernel))
        sizes = [d for d in shape[2:] if d is not None]
        total = [
            max((math.ceil(d / s) - 1) * s + k - d, 0) for d, s, k in zip(sizes, strides, kernel, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)
        node.attributes.pop("ceil_mode", None)  # the padding makes the division exact or rounds down
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.convenience.convert_attribute("pads", pads)
    return None


def _fuse(pad: ir.Node) -> str | None:
    """Fuses one Pad into all its readers; the reason if it does not."""
    out, source = pad.outputs[0], pad.inputs[0]
    added = _spatial_pads(pad)
    if isinstance(added, str):
        return added
    if out.is_graph_output():
        return "its result is a graph output"
    value = 0.0 if len(pad.inputs) < 3 or pad.inputs[2] is None else rw.scalar(pad.inputs[2])
    readers = ir.consumers(out)
    if value is None or source is None:
        return "what it pads with is computed while running"
    if not readers:
        return "nothing reads it"
    merged = [_absorb(reader, out, source, added, value) for reader in readers]
    reason = next((m for m in merged if isinstance(m, str)), None)
    if reason:
        return reason
    for reader, attributes in zip(readers, merged, strict=True):
        assert isinstance(attributes, dict)
        for name, numbers in attributes.items():
            reader.attributes[name] = ir.convenience.convert_attribute(name, numbers)
        reader.replace_input_with(0, source)
    rw.drop_dead([out])
    return None


def _spatial_pads(pad: ir.Node) -> Pads | str:
    """The padding of the spatial axes, or why it is something else."""
    count = None if pad.inputs[0] is None else rw.rank(pad.inputs[0])
    given = rw.integer_constant(pad.inputs[1])
    mode = ir.attribute(pad, "mode", "constant")
    if mode != "constant":
        return f"mode {mode} repeats values, which no convolution does"
    if given is None or count is None:
        return "how much it pads is computed while running"
    axes: Sequence[int] = range(count)
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        listed = rw.integer_constant(pad.inputs[3])
        if listed is None:
            return "which axes it pads is computed while running"
        axes = rw.axes_of(listed, count)
    pads = [0] * (2 * count)
    for position, axis in enumerate(axes):
        pads[axis], pads[axis + count] = given[position], given[position + len(axes)]
    if min(pads, default=0) < 0:
        return "a negative pad crops"
    beyond = [axis for axis in (0, 1) if axis < count and (pads[axis] or pads[axis + count])]
    if beyond:
        return f"it pads axis {beyond[0]}, which is not spatial"
    return (*pads[2:count], *pads[count + 2 :])


def _absorb(
    node: ir.Node, padded: ir.Value, source: ir.Value, added: Pads, value: float
) -> dict[str, Pads | int] | str:
    """The attributes of a reader that pads itself by `added` more; a reason where none are equal."""
    rule = _RULES.get(node.op_type) if node.domain in rw.MAIN_DOMAINS else None
    if rule is None or [use.idx for use in padded.uses() if use.node is node] != [0]:
        return f"{node.op_type}, which reads it, does not pad"
    if ir.attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return f"{ir.label(node)} pads by auto_pad"
    own = ir.attribute(node, "pads", (0,) * len(added))
    pads = tuple(a + b for a, b in zip(own, added, strict=True))
    return rule(node, source, own, pads, value)


def _conv(
    node: ir.Node, source: ir.Value, own: Pads, pads: Pads, value: float
) -> dict[str, Pads | int] | str:
    if value != 0:
        return f"it pads with {value:g}, a convolution with 0"
    return {"pads": pads}


def _pool_limit(node: ir.Node, pads: Pads) -> str | None:
    kernel = _kernel(node)
    if kernel is None or any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        return "a pool cannot pad by as much as its kernel or more"
    if ir.attribute(node, "ceil_mode", 0):
        return "with ceil_mode, windows beyond the padding differ"
    return None


def _average(
    node: ir.Node, source: ir.Value, own: Pads, pads: Pads, value: float
) -> dict[str, Pads | int] | str:
    if value != 0:
        return f"it pads with {value:g}, a pool with 0"
    if any(own) and not ir.attribute(node, "count_include_pad", 0):
        return "the pool counts the zeros of the Pad, but not its own"
    return _pool_limit(node, pads) or {"pads": pads, "count_include_pad": 1}


def _max(node: ir.Node, source: ir.Value, own: Pads, pads: Pads, value: float) -> dict[str, Pads | int] | str:
    if value > _lower_bound(source):
        return f"the pad value {value:g} can be the largest in a window"
    if len(node.outputs) > 1:
        return "the indices of the pool count the padding"
    return _pool_limit(node, pads) or {"pads": pads}


def _lower_bound(value: ir.Value) -> float:
    """A number that no element is below: the lowest float32, or the least its operator computes."""
    node = value.producer()
    lowest = float(np.finfo(np.float32).min)
    if node is None or not rw.is_op(node, "Relu", "Sigmoid", "HardSigmoid", "Softmax", "Clip"):
        return lowest
    if node.op_type != "Clip":
        return 0.0
    bound = rw.scalar(node.inputs[1]) if len(node.inputs) > 1 else None
    return lowest if bound is None else bound


_RULES: dict[str, Callable[[ir.Node, ir.Value, Pads, Pads, float], dict[str, Pads | int] | str]] = {
    "AveragePool": _average,
    "Conv": _conv,
    "MaxPool": _max,
}
