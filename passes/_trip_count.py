"""How often a Loop runs, found by computing its condition alone from what is constant."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecc import ir
from edgecc.analysis.evaluate import EVALUATION_ERRORS, evaluate
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._result_size import BOUNDS

# Iterations looked at before a Loop counts as endless, and elements that one value of a condition may have: more
# than any loop that is worth unrolling needs.
_LONGEST = 10_000
_ELEMENTS = 10_000
_COMPUTED = "its condition is computed while running"

Known = dict[ir.Value, Array]


def loop_steps(node: ir.Node, version: int) -> int | str:
    """The iterations of a Loop whose condition depends on constants alone; the reason if it depends on more."""
    body: ir.Graph = ir.attribute(node, "body")
    trips, start = node.inputs[0], node.inputs[1]
    count, first = ir.constant(trips), ir.constant(start)
    if trips is not None and count is None:
        return "the number of its iterations is computed while running"
    if start is not None and first is None:
        return _COMPUTED
    if first is not None and not bool(first.reshape(-1)[0]):
        return 0
    most = None if count is None else max(int(count.reshape(-1)[0]), 0)
    goes_on = body.outputs[0]
    fixed = ir.constant(goes_on)
    if goes_on is body.inputs[1] or (fixed is not None and bool(fixed.reshape(-1)[0])):
        return "it never ends" if most is None else most
    pairs = list(zip(body.inputs[2:], node.inputs[2:], strict=True))
    return _simulated(body, {i: a for i, o in pairs if (a := ir.constant(o)) is not None}, most, version)


def _simulated(body: ir.Graph, known: Known, most: int | None, version: int) -> int | str:
    needed = _needed(body)
    step = 0
    while most is None or step < most:
        if step == _LONGEST:
            return f"it takes more than {_LONGEST} iterations"
        known |= {body.inputs[0]: np.asarray(step, np.int64), body.inputs[1]: np.asarray(True)}
        for node in body:
            if node in needed:
                _evaluate(node, known, version)
        going = _lookup(body.outputs[0], known)
        if going is None:
            return _COMPUTED
        step += 1
        if not bool(going.reshape(-1)[0]):
            break
        carried = zip(body.inputs[2:], body.outputs[1:], strict=False)
        known = {i: array for i, o in carried if (array := _lookup(o, known)) is not None}
    return step


def _needed(body: ir.Graph) -> set[ir.Node]:
    """The nodes that the condition depends on, in the iteration before too."""
    carried = dict(zip(body.inputs[2:], body.outputs[1:], strict=False))
    pending, seen, nodes = [body.outputs[0]], set(), set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in carried:
            pending.append(carried[value])
        node = value.producer()
        if node is not None and node.graph is body:
            nodes.add(node)
            pending += [v for v in node.inputs if v is not None]
    return nodes


def _lookup(value: ir.Value, known: Mapping[ir.Value, Array]) -> Array | None:
    return known[value] if value in known else ir.constant(value)


def _evaluate(node: ir.Node, known: Known, version: int) -> None:
    """Adds the results of a node to what is known, if they can be computed."""
    inputs = [None if v is None else _lookup(v, known) for v in node.inputs]
    bound = BOUNDS.get(node.op_type) if node.domain in rw.MAIN_DOMAINS else None
    missing = any(v is not None and a is None for v, a in zip(node.inputs, inputs, strict=True))
    if bound is None or missing:
        return
    try:
        if bound(node, inputs) <= _ELEMENTS:
            known.update(zip(node.outputs, evaluate(node, inputs, version), strict=False))
    except EVALUATION_ERRORS:  # its operands do not fit: the runtime says so when it gets there
        return
