"""Known traps of integer arithmetic: why a layer loses precision, and what helps.

Each is told from the float graph and from the values that were seen in it, never guessed from a name. They are
what users of other tools meet and debug for days: Concat of boxes and scores, squeeze-excite branches, hard-swish,
residual sums of unlike operands, Softmax and Sigmoid heads, depthwise channels of unlike range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgecc import ir

UNLIKE = 8.0
"""Ranges that differ by more than this share no int8 scale: the smaller keeps fewer than 5 of its 8 bits."""

OUTLYING = 24.0
"""A largest magnitude of this many times the root mean square: int8 steps are a tenth of a typical value."""


@dataclass(frozen=True)
class Spread:
    """What was seen of one value.

    Attributes:
        limit: largest magnitude.
        rms: root of the mean square.
        channels: largest magnitude of each channel (axis 1, the last one of rank 2); empty for rank 0 and 1.
    """

    limit: float
    rms: float
    channels: ir.Array


Spreads = Mapping[str, Spread]


def trap(value: ir.Value, spreads: Spreads) -> str | None:
    """Why int8 loses much of `value`, and the remedy; None where no known trap explains it.

    Args:
        value: computed by a node of the float graph.
        spreads: of the values that were seen, by name.
    """
    node = value.producer()
    while node is not None and node.op_type in _FUSED and node.inputs[0] is not None:
        before = node.inputs[0].producer()
        if before is None:
            break
        node = before
    if node is None:
        return None
    for ask in (*_TRAPS.get(node.op_type, ()), _outlying):
        said = ask(node, value, spreads)
        if said is not None:
            return said
    return None


def _concat(node: ir.Node, value: ir.Value, spreads: Spreads) -> str | None:
    found = _unlike(node, spreads)
    if found is None:
        return None
    return f"joins values of unlike range ({found}) on one scale; keep it float, or let the network return them apart"


def _sum(node: ir.Node, value: ir.Value, spreads: Spreads) -> str | None:
    found = _unlike(node, spreads)
    if found is None:
        return None
    return f"sums operands of unlike range ({found}); int16 activations for the larger one and the sum"


def _product(node: ir.Node, value: ir.Value, spreads: Spreads) -> str | None:
    makers = {p.op_type for v in node.inputs if v is not None and (p := v.producer()) is not None}
    if makers & {"HardSigmoid", "Sigmoid"} and _one_source(node):
        return _swish(node, value, spreads)
    shapes = [ir.dims(v) or () for v in node.inputs if v is not None]
    gates = [s for s in shapes if len(s) > 2 and all(d == 1 for d in s[2:])]
    if gates and len(gates) < len(shapes):
        return "is scaled by a squeeze-excite branch: an error of the gate hits a whole channel; int16 for the branch"
    return None


def _swish(node: ir.Node, value: ir.Value, spreads: Spreads) -> str:
    return "is a hard-swish or SiLU: its small negative part shares a scale with a long positive one; int16 for it"


def _one_source(node: ir.Node) -> bool:
    """Whether one operand of a product is an activation of the other."""
    first, second = node.inputs[:2]
    for gate, data in ((first, second), (second, first)):
        maker = gate.producer() if gate is not None else None
        if maker is not None and maker.inputs[0] is data:
            return True
    return False


def _probability(node: ir.Node, value: ir.Value, spreads: Spreads) -> str | None:
    return (
        "is a probability in steps of 1/256: smaller ones vanish; keep it float, or read the scores before it"
    )


def _depthwise(node: ir.Node, value: ir.Value, spreads: Spreads) -> str | None:
    given = spreads.get(str(value.name))
    if given is None or ir.attribute(node, "group", 1) == 1 or given.channels.size < 2:
        return None
    middle = float(np.median(given.channels))
    if given.limit <= UNLIKE * middle:
        return None
    ratio = given.limit / max(middle, 1e-30)
    return f"has channels of unlike range (the widest is {ratio:.0f} times the middle one); equalize, or int16 for it"


def _outlying(node: ir.Node, value: ir.Value, spreads: Spreads) -> str | None:
    given = spreads.get(str(value.name))
    if given is None or not given.rms or given.limit <= OUTLYING * given.rms:
        return None
    times = given.limit / given.rms
    return f"has a few values {times:.0f} times its root mean square: another --observer, or int16 for it"


def _unlike(node: ir.Node, spreads: Spreads) -> str | None:
    """The ranges of the operands in words, where they differ too much."""
    limits = {}
    for operand in node.inputs:
        seen = spreads.get(str(operand.name)) if operand is not None else None
        if seen is not None and seen.limit:
            limits[str(operand.name if operand is not None else "")] = seen.limit
    if len(limits) < 2:
        return None
    (low, least), (high, most) = min(limits.items(), key=_second), max(limits.items(), key=_second)
    return f"{low} to {least:.3g}, {high} to {most:.3g}" if most > UNLIKE * least else None


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


# Part of the layer that computes their input.
_FUSED = frozenset({"Relu", "Clip", "BatchNormalization"})

_Question = Callable[[ir.Node, ir.Value, Spreads], str | None]
_TRAPS: Mapping[str, tuple[_Question, ...]] = {
    "Concat": (_concat,),
    "Add": (_sum,),
    "Sub": (_sum,),
    "Mul": (_product,),
    "HardSwish": (_swish,),
    "Swish": (_swish,),
    "Softmax": (_probability,),
    "Sigmoid": (_probability,),
    "Conv": (_depthwise,),
}
