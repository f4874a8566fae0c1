"""Two layers with nothing nonlinear between become one, where that is faster on the target."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import ClassVar, Literal

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import cycles, layer_cycles
from edgecc.calibration import moments as mo
from edgecc.calibration.columns import groups
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._factors import SPLIT, Factor, conv_attributes, elements, layer_of, replace_layers, rows_of
from edgecc.passes._linear_layer import Layer, layer_that_computes
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.target import CostSpec

# Elements of the composed weights, beyond which they are not looked at.
_MOST = 1 << 24
_BOTH: tuple[str, ...] = ("int8", "fp32")


@dataclass(frozen=True, kw_only=True)
class FuseDepthwisePointwise(Pass):
    """Makes depthwise and pointwise Convs in a row one Conv, and two Gemms or MatMuls one, where it pays.

    W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2): a kernel after or before a pointwise Conv (1 x 1), of any groups.
    Where the second pads with zeros, the first may have no bias: the padding would not be what it gives for zeros.
    Whether one layer is faster than two is asked of the target's cost model; where it is not, the refusal
    says what both take. Computed in float64, stored in the type of the weights.

    Attributes:
        precision: in which the one must be predicted to be faster: int8, fp32 or both.
    """

    name: ClassVar[str] = "fuse_depthwise_pointwise"
    precision: Literal["both", "int8", "fp32"] = "both"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        rates = CostSpec() if ctx.target is None else ctx.target.cost
        total = 0
        while True:  # what was fused may now be worth fusing with what stands before it
            tally = rw.Tally()
            for node in list(model.graph):
                if node.graph is not None and rw.is_op(node, *SPLIT):
                    self._fuse(node, rates, tally)
            total += tally.rewritten
            if not tally.rewritten:
                return PassResult(total, tally.result().refused)

    def _fuse(self, node: ir.Node, rates: CostSpec, tally: rw.Tally) -> None:
        source = node.inputs[0]
        first = None if source is None else layer_that_computes(source)
        second = layer_of(node)
        if not isinstance(first, Layer) or not isinstance(second, Layer):
            return
        reason = _objection(first, second)
        if reason is None:
            reason = self._slower(first, second, rates)
        if reason:
            tally.refuse(node, reason)
        elif reason is None:
            _write(first, second)
            tally.rewritten += 1

    def _slower(self, first: Layer, second: Layer, rates: CostSpec) -> str | None:
        """Why one layer would not be faster, in cycles."""
        assert first.node.inputs[0] is not None
        weights = prod(_shape(first, second))
        places = elements(second.out) // second.outputs
        seen = elements(first.node.inputs[0]) + elements(second.out)
        told = []
        for precision in _BOTH if self.precision == "both" else (self.precision,):
            one = layer_cycles(weights * places, seen, weights, precision, rates)
            two = sum(cycles(layer.node, [layer.out], precision, rates) for layer in (first, second))
            if one >= two:
                told.append(f"{one:.0f} cycles in {precision}, the two {two:.0f}")
        return f"one layer with {ir.label(first.node)} would take {', '.join(told)}" if told else None


def _objection(first: Layer, second: Layer) -> str | None:
    """Why two layers cannot be one; "" where they are no such pair."""
    kinds = {"Conv" if layer.node.op_type == "Conv" else "Gemm" for layer in (first, second)}
    if len(kinds) > 1 or "ConvTranspose" in (first.node.op_type, second.node.op_type):
        return ""
    if not _pointwise(first) and not _pointwise(second):
        return ""
    if second.node.inputs[0] is not first.out or second.inputs != first.outputs:
        return ""
    before = ir.label(first.node)
    if ir.single_consumer(first.out) is not second.node:
        return f"others read what {before} computes, too"
    for layer in (first, second):
        if layer.node.op_type == "Conv" and (reason := mo.objection(layer.node)) is not None:
            return f"{ir.label(layer.node)}: {reason}"
    if kinds == {"Conv"}:
        if any(ir.attribute(second.node, "pads", ())):
            if first.bias is not None and first.bias.any():
                return f"it pads with zeros, but where {before} reads zeros it gives its bias"
            if _pointwise(second):
                return "a pointwise Conv that pads is not composed"
        if (
            _pointwise(first)
            and (
                any(ir.attribute(first.node, "pads", ()))
                or prod(ir.attribute(first.node, "strides", (1,))) > 1
            )
            and not _pointwise(second)
        ):
            return f"{before} is pointwise, but pads or leaves places out"
        if _pointwise(second) and _pointwise(first) and any(ir.attribute(first.node, "pads", ())):
            return f"{before} is pointwise, but pads"
    values = (first.node.inputs[0], first.out, second.out)
    if any(v is None or ir.dims(v) is None or not ir.is_static(v) for v in values):
        return "the shapes of what they read and write are not known"
    if prod(_shape(first, second)) > _MOST:
        return f"one layer with {before} would have more than {_MOST} weights"
    return None


def _pointwise(layer: Layer) -> bool:
    return layer.node.op_type != "Conv" or prod(layer.weight.shape[2:]) == 1


def _groups(first: Layer, second: Layer) -> int:
    """Blocks of channels that neither layer mixes."""
    return gcd(groups(first.node), groups(second.node))


def _shape(first: Layer, second: Layer) -> tuple[int, ...]:
    """Of the composed weights: (out, in / group, kernel)."""
    kernel = second if _pointwise(first) else first
    sizes = kernel.weight.shape[2:] if kernel.node.op_type == "Conv" else ()
    return (second.outputs, first.inputs // _groups(first, second), *sizes)


def _dense(layer: Layer, block: int, blocks: int) -> Array:
    """The weights of one block of channels as if it had one group: (out, in, taps) float64."""
    group = groups(layer.node)
    if layer.node.op_type != "Conv":
        return rows_of(layer)[:, :, None]
    weight = layer.weight.astype(np.float64).reshape(group, layer.outputs // group, layer.inputs // group, -1)
    parts = weight[block * group // blocks : (block + 1) * group // blocks]
    count, out, into, taps = parts.shape
    dense = np.zeros((count, out, count, into, taps))
    dense[np.arange(count), :, np.arange(count)] = parts
    return dense.reshape(count * out, count * into, taps)


def _composed(first: Layer, second: Layer) -> tuple[Array, Array | None]:
    """W2 W1 as (out, in / group, ...), and W2 b1 + b2."""
    blocks = _groups(first, second)
    weights, added = [], []
    shift = np.zeros(first.outputs) if first.bias is None else first.bias
    for block, part in enumerate(np.split(shift, blocks)):
        a, b = _dense(first, block, blocks), _dense(second, block, blocks)
        # One of the two has a single tap.
        weights.append(
            np.tensordot(b.sum(axis=2), a, 1)
            if _pointwise(second)
            else np.einsum("opk,pi->oik", b, a[:, :, 0])
        )
        added.append(b.sum(axis=2) @ part)
    weight = np.concatenate(weights).reshape(_shape(first, second))
    if first.bias is None and second.bias is None:
        return weight, None
    return weight, np.concatenate(added) + (0 if second.bias is None else second.bias)


def _write(first: Layer, second: Layer) -> None:
    weight, bias = _composed(first, second)
    attributes: dict[str, object] = {}
    if first.node.op_type == "Conv":
        both = [conv_attributes(layer.node) for layer in (first, second)]
        attributes = {
            **both[1 if _pointwise(first) else 0],
            "strides": [a * b for a, b in zip(both[0]["strides"], both[1]["strides"], strict=True)],
            "group": _groups(first, second),
        }
    replace_layers([first, second], [Factor(weight, bias, attributes)])
