"""Gives every reshape one form: a Reshape with a constant target, read from the inferred shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, kw_only=True)
class SimplifyReshapes(Pass):
    """Makes constant Reshapes of computed targets (Shape, Gather, Concat), Flatten, Squeeze and Unsqueeze.

    A symbolic dimension becomes -1, so a batch that is free stays free. Consecutive reshapes are merged, and
    those without effect are removed together with the arithmetic on shapes that nothing reads any more.
    """

    name: ClassVar[str] = "simplify_reshapes"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for op_types in (
            _RESHAPES[:1],
            _RESHAPES,
        ):  # a target that becomes constant leaves its own reshapes dead
            for node in model.graph:
                if rw.is_op(node, *op_types):
                    _simplify(model.graph, node, tally)
        return tally.result()


def _simplify(graph: ir.Graph, node: ir.Node, tally: rw.Tally) -> None:
    source, out = node.inputs[0], node.outputs[0]
    assert source is not None
    if ir.constant(source) is not None:
        return tally.refuse(node, "reshapes a constant: fold_constants evaluates it")
    while _dies_with(producer := source.producer(), source):
        assert producer is not None
        source = producer.inputs[0]
        assert source is not None
    if rw.same_elements(source, out) and ir.can_bypass(out, source):
        unread = [v for v in node.inputs if v is not source]
        ir.replace([node], [], {out: source})
        rw.drop_dead(unread)
        tally.rewritten += 1
        return None
    target = _target(out)
    if target is None:
        return tally.refuse(node, f"its output shape {out.shape} leaves more than one dimension open")
    given = rw.integer_constant(node.inputs[1]) if rw.is_op(node, "Reshape") else None
    if given == target and source is node.inputs[0]:
        return None
    shape = rw.integers(graph, target, f"{out.name}_shape")
    unread = list(node.inputs)
    new = rw.new_node("Reshape", [source, shape], out, name=node.name)
    ir.replace([node], [new], {out: new.outputs[0]})
    rw.drop_dead(unread)
    tally.rewritten += 1
    return None


def _dies_with(producer: ir.Node | None, value: ir.Value) -> bool:
    """Whether a value comes from a reshape whose readers are all reshapes, which can pass it by."""
    if producer is None or not rw.is_op(producer, *_RESHAPES) or value.is_graph_output():
        return False
    return all(rw.is_op(use.node, *_RESHAPES) and use.idx == 0 for use in value.uses())


def _target(out: ir.Value) -> tuple[int, ...] | None:
    """The constant target of a Reshape to the shape of `out`; None if two dimensions are not numbers.

    A zero would mean "as in the input" there, so empty values are not served either.
    """
    shape = ir.dims(out)
    if shape is None or shape.count(None) > 1 or 0 in shape:
        return None
    return tuple(-1 if d is None else d for d in shape)
