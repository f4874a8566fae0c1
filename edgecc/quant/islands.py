"""Which connected regions of a network are worth computing in integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.rules import Column


def idle(units: Mapping[ir.Node, Column]) -> dict[ir.Node, str]:
    """Moving nodes in connected groups of moving nodes that touch no computing unit, with the reason."""
    fused = {after: node for node in units if (after := rules.fused_activation(node)) is not None}
    moving = [n for n in units if rules.RULES[n.op_type].hull]
    found: dict[ir.Node, str] = {}
    seen: set[ir.Node] = set()
    for start in moving:
        if start in seen:
            continue
        group, queue, useful = [], [start], False
        seen.add(start)
        while queue:
            node = queue.pop()
            group.append(node)
            for neighbour in _neighbours(node):
                other = fused.get(neighbour, neighbour)
                if other not in units:
                    continue
                if not rules.RULES[other.op_type].hull:
                    useful = True
                elif other not in seen:
                    seen.add(other)
                    queue.append(other)
        if not useful:
            found.update(dict.fromkeys(group, "it only moves values between float operators"))
    return found


def _neighbours(node: ir.Node) -> Iterable[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None:
            yield producer
    for out in node.outputs:
        yield from ir.consumers(out)
