"""What several passes need to rewrite a graph, and the one adapter to onnx-ir's own passes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.pipeline import PassResult, Refusal

MAIN_DOMAINS = ("", "ai.onnx")
# Above this many elements equal initializers are not looked for (what onnx-ir's own pass takes by default).
DEDUPLICATE_ELEMENTS = 1024


class Tally:
    """Counts rewrites and collects refusals while a pass runs."""

    def __init__(self) -> None:
        self.rewritten = 0
        self._refused: list[Refusal] = []

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Notes that `node` was looked at and left alone."""
        self._refused.append(Refusal(ir.label(node), reason))

    def result(self) -> PassResult:
        """What the pass returns; each refusal once."""
        return PassResult(self.rewritten, tuple(dict.fromkeys(self._refused)))


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these operators of the default domain."""
    return node is not None and node.op_type in op_types and node.domain in MAIN_DOMAINS


def opset(model: ir.Model) -> int:
    """The version of the default domain's operators."""
    return max(model.opset_imports.get(domain, 0) for domain in MAIN_DOMAINS)


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value,
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> ir.Node:
    """A node with one output of the shape and type of `like`; attributes as plain Python values."""
    shape = None if like.shape is None else ir.Shape(like.shape)
    return ir.Node(
        "",
        op_type,
        inputs,
        attributes=ir.convenience.convert_attributes(attributes or {}),
        outputs=[ir.Value(shape=shape, type=like.type)],
        name=name,
    )


def integers(graph: ir.Graph, values: Iterable[int], stem: str) -> ir.Value:
    """A new one-dimensional int64 constant."""
    return ir.add_initializer(graph, np.asarray(list(values), np.int64), ir.fresh_name(graph, stem))


def integer_constant(value: ir.Value | None) -> tuple[int, ...] | None:
    """The elements of a constant of integers, flat; None if it is computed, absent or not of integers."""
    array = ir.constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return tuple(int(v) for v in array.reshape(-1))


@dataclass(frozen=True)
class SliceSpec:
    """The constant inputs of a Slice, one element an axis; axes counted from the front."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]


def slice_spec(node: ir.Node) -> SliceSpec | None:
    """What a Slice takes; None where it is computed or the rank is unknown."""
    count = None if node.inputs[0] is None else rank(node.inputs[0])
    given = [None if v is None else (v, integer_constant(v)) for v in node.inputs[1:]]
    if count is None or len(given) < 2 or any(pair is not None and pair[1] is None for pair in given):
        return None
    starts, ends, axes, steps = [None if pair is None else pair[1] for pair in [*given, None, None][:4]]
    if starts is None or ends is None:
        return None
    return SliceSpec(
        starts,
        ends,
        axes_of(range(len(starts)) if axes is None else axes, count),
        (1,) * len(starts) if steps is None else steps,
    )


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element; None for anything else."""
    tensor = None if value is None else value.const_value
    if value is None or tensor is None or value.is_graph_input() or tensor.size != 1:
        return None
    array = tensor.numpy()
    return float(array.reshape(-1)[0]) if array.dtype.kind in "fiu" else None


def close(a: float | None, b: float, tolerance: float = 1e-4) -> bool:
    """Whether two numbers are equal within a relative tolerance (exporters round constants such as 1/6)."""
    return a is not None and math.isclose(a, b, rel_tol=tolerance)


def rank(value: ir.Value) -> int | None:
    """The number of dimensions, where it is known."""
    return None if value.shape is None else len(value.shape)


def axes_of(axes: Iterable[int], count: int) -> tuple[int, ...]:
    """Axes counted from the front, of a value with `count` dimensions."""
    return tuple(axis % count for axis in axes)


def same_elements(a: ir.Value, b: ir.Value) -> bool:
    """Whether a reshape from `a` to `b` changes nothing: all dimensions but at most one are equal numbers."""
    left, right = ir.dims(a), ir.dims(b)
    if left is None or right is None or len(left) != len(right) or 0 in left or 0 in right:
        return False
    different = sum(not (x == y and x is not None) for x, y in zip(left, right, strict=True))
    return different <= int(None in left + right)


def bypass(node: ir.Node) -> bool:
    """Removes a node that returns its first input; False where a graph output's name forbids it."""
    source, out = node.inputs[0], node.outputs[0]
    if source is None or not ir.can_bypass(out, source):
        return False
    ir.replace([node], [], {out: source})
    return True


def drop_dead(values: Iterable[ir.Value | None]) -> None:
    """Removes the producers of `values`, and theirs, as far as nothing reads them, and constants likewise."""
    pending = [value for value in values if value is not None]
    while pending:
        value = pending.pop()
        if value.uses() or value.is_graph_output():
            continue
        node = value.producer()
        if node is None:
            drop_unused(value)
        elif node.graph is not None and not any(out.uses() or out.is_graph_output() for out in node.outputs):
            pending += [v for v in node.inputs if v is not None]
            node.graph.remove(node, safe=True)


def forget_bodies(node: ir.Node) -> None:
    """Takes the inputs from the nodes inside a node that was removed: what they read counts as read otherwise."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                for position in range(len(inner.inputs)):
                    inner.replace_input_with(position, None)


def drop_unused(value: ir.Value | None) -> bool:
    """Removes an initializer that nothing reads; whether it did."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return False
    if value.uses() or not isinstance(value.graph, ir.Graph) or value.name is None:
        return False
    del value.graph.initializers[value.name]
    return True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silences one logger: onnx-ir warns of initializers that are graph outputs, which is no fault."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def remove_unused(model: ir.Model) -> int:
    """Removes nodes and initializers that no output needs; how many."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    before = _size(model)
    RemoveUnusedNodesPass()(model)
    return before - _size(model)


def share_equal(model: ir.Model) -> int:
    """Merges equal small initializers and equal nodes; how many fell away.

    Repeated until nothing changes: merging two graph outputs leaves an Identity, which may equal another.
    """
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass

    before = _size(model)
    with _quiet(DeduplicateInitializersPass.__module__):
        modified = DeduplicateInitializersPass(DEDUPLICATE_ELEMENTS)(model).modified
    merge = CommonSubexpressionEliminationPass()
    for _ in range(len(model.graph.outputs) + 1):
        if not merge(model).modified:
            break
        modified = True
    return max(before - _size(model), int(modified))


def _size(model: ir.Model) -> int:
    return model.graph.num_nodes() + len(model.graph.initializers)
