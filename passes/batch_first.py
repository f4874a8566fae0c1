"""Puts the symbolic batch first in every value, where exporters moved it elsewhere or joined it with other axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from edgecc import ir
from edgecc.analysis.batch_axis import (
    ELEMENTWISE,
    LAST,
    RESHAPES,
    Batch,
    Sample,
    Samples,
    axes_along,
    batch_axes,
    sample_of,
)
from edgecc.analysis.layout import REDUCE
from edgecc.passes import _rewrite as rw
from edgecc.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True, kw_only=True)
class BatchFirst(Pass):
    """Rewrites values whose batch is free and not their first axis: (sequence, batch, width), (3, batch, heads, ...).

    Such a value becomes (batch, ...) of what it is for one sample; an axis that the batch shares, as in
    (sequence, batch * heads, width), stays for the rest, also where it is in front already if no operator minds. Every
    runtime then sees a batch that it can leave free, and the Transposes that only moved it are gone. Nothing happens
    where an operator concerned mixes samples.
    """

    name: ClassVar[str] = "batch_first"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        found = batch_axes(model.graph)
        for apart in (True, False):
            concerned = [
                n for n in model.graph if any(_moved(v, found, apart) for v in (*n.inputs, *n.outputs))
            ]
            reasons = [(node, reason) for node in concerned if (reason := _objection(node, found, apart))]
            if concerned and not reasons:
                mover = _Mover(model.graph, found, apart)
                for node in concerned:
                    mover.rewrite(node)
                    tally.rewritten += 1
                rw.remove_unused(model)
                break
        else:
            for node, reason in reasons:
                tally.refuse(node, reason)
        return tally.result()


_MOST_AXES = 6  # that every kernel takes which moves data


def _moved(value: ir.Value | None, found: Samples, apart: bool) -> bool:
    """Whether the batch is somewhere else than in front, or (`apart`) joined with other axes there."""
    sample = found.get(value) if value is not None else None
    if value is None or sample is None or sample.batch is None:
        return False
    apart = apart and not value.is_graph_output()
    return not sample.batch.leads or (apart and not sample.batch.alone)


def _objection(node: ir.Node, found: Samples, apart: bool) -> str | None:
    if node.op_type not in _RULES or node.domain not in rw.MAIN_DOMAINS:
        return "it works only where the batch is the first axis"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and sample_of(value, found) is None:
            return f"the batch is not to be found in {value.name}"
    if any(found[out].batch is None for out in node.outputs if out.name):
        return "its result does not have the batch"
    if any(len(_size(found[out])) > _MOST_AXES for out in node.outputs if not found[out].batch.alone):  # type: ignore[union-attr]
        return (
            f"the batch apart from what it is joined with, its result would have more than {_MOST_AXES} axes"
        )
    if any(_moved(out, found, apart) and out.is_graph_output() for out in node.outputs):
        return "the network returns its result with the batch elsewhere than in front"
    if node.op_type == "Gemm" and (ir.attribute(node, "alpha", 1.0), ir.attribute(node, "beta", 1.0)) != (
        1.0,
        1.0,
    ):
        return "its alpha or beta is not 1"
    if node.op_type == "Gather" and found.get(node.inputs[0], Sample(())).batch is None:  # type: ignore[arg-type]
        return None if ir.attribute(node, "axis", 0) == 0 else "it looks up along another axis than the first"
    return None


def _size(sample: Sample) -> list[int]:
    """The shape of the batch-first form, -1 for the batch."""
    batch = sample.batch
    assert batch is not None
    return [-1, *(d for a, d in enumerate(sample.shape) if not (batch.alone and a == batch.axis))]


def _place(batch: Batch, axis: int) -> int:
    """Which axis of the form `axis` is."""
    return axis + 1 if not batch.alone or axis < batch.axis else axis


class _Mover:
    """Makes batch-first forms beside the values; whoever reads none of these is left as it is."""

    def __init__(self, graph: ir.Graph, found: Samples, apart: bool) -> None:
        self.graph, self.found, self.apart = graph, found, apart
        self.forms: dict[ir.Value, ir.Value] = {}
        first = next(v for v in graph.inputs if (s := found.get(v)) is not None and s.batch is not None)
        assert first.shape is not None
        self.symbol = first.shape[0]
        self.node: ir.Node = next(iter(graph))

    def rewrite(self, node: ir.Node) -> None:
        """Adds the nodes that make the forms of the results; results whose batch leads are replaced."""
        self.node = node
        made = _RULES[node.op_type](self, node)
        for out, form in zip(node.outputs, made, strict=True):
            sample = self.found[out]
            assert sample.batch is not None
            if _moved(out, self.found, self.apart):
                self.forms[out] = form
                continue
            if not sample.batch.alone:
                form = self.reshape(form, [-1, *sample.shape[1:]])
            self._give(out, form)

    def _give(self, out: ir.Value, form: ir.Value) -> None:
        if not ir.can_bypass(out, form):
            form = self.make("Identity", [form], self.sizes(form), out)
        if out.is_graph_output():
            name, out.name = out.name, None
            form.name = name
        ir.convenience.replace_all_uses_with(out, form, replace_graph_outputs=True)
        self.found[form] = self.found[out]

    def sizes(self, value: ir.Value) -> list[int]:
        """Its shape, -1 for what is open."""
        return [-1 if d is None else d for d in ir.dims(value) or ()]

    def sample(self, position: int) -> Sample:
        """Of an operand."""
        found = sample_of(self.node.inputs[position], self.found)
        assert found is not None
        return found

    def form(self, value: ir.Value) -> ir.Value:
        """The batch-first form; a value without the batch is its own."""
        sample = sample_of(value, self.found)
        if value in self.forms or sample is None or sample.batch is None or sample.batch.alone:
            return self.forms.get(value, value)
        self.forms[value] = self.reshape(value, _size(sample))
        return self.forms[value]

    def data(self) -> ir.Value:
        """The form of the first operand."""
        assert self.node.inputs[0] is not None
        return self.form(self.node.inputs[0])

    def make(self, op_type: str, inputs: Sequence[ir.Value | None], size: Sequence[int], like: ir.Value,
             attributes: Sequence[ir.Attr] | None = None) -> ir.Value:  # fmt: skip
        """A node before the one being rewritten; its result has the type of `like`."""
        shape = ir.Shape([self.symbol if d == -1 else d for d in size])
        name = ir.fresh_name(self.graph, f"{self.node.outputs[0].name}_batch_first")
        out = ir.Value(name=name, shape=shape, type=like.type)
        node = ir.Node("", op_type, inputs, attributes=attributes or (), outputs=[out], name=name)
        self.graph.insert_before(self.node, node)
        return out

    def reshape(self, value: ir.Value, size: Sequence[int]) -> ir.Value:
        """The same sequence in another shape."""
        if self.sizes(value) == list(size):
            return value
        array = ir.constant(value)
        if array is not None:
            return ir.add_initializer(
                self.graph, array.reshape(size), ir.fresh_name(self.graph, f"{value.name}_r")
            )
        return self.make(
            "Reshape", [value, rw.integers(self.graph, size, f"{value.name}_shape")], size, value
        )

    def again(self, inputs: Sequence[ir.Value | None], **changes: Any) -> list[ir.Value]:
        """The node being rewritten on other operands, with some attributes changed."""
        node = self.node
        kept = [a for name, a in node.attributes.items() if name not in changes]
        attributes = [*kept, *ir.convenience.convert_attributes(changes)]
        outs = []
        for out in node.outputs:
            shape = ir.Shape([self.symbol if d == -1 else d for d in _size(self.found[out])])
            name = ir.fresh_name(self.graph, f"{out.name}_batch_first")
            outs.append(ir.Value(name=name, shape=shape, type=out.type))
        new = ir.Node("", node.op_type, inputs, attributes=attributes, outputs=outs, name=node.name)
        self.graph.insert_before(node, new)
        return outs

    def aligned(self, *, matrices: bool = False) -> list[ir.Value | None]:
        """The forms of all operands, with as many axes as the result has; without the batch's where they lack it.

        `matrices`: the last two axes of the operands do not broadcast.
        """
        target = self.found[self.node.outputs[0]]
        batch, rank = target.batch, len(target.shape)
        assert batch is not None
        operands: list[ir.Value | None] = []
        for value in self.node.inputs:
            sample = sample_of(value, self.found)
            if value is None or sample is None:
                operands.append(None)
                continue
            offset = rank - len(sample.shape)
            if sample.batch is not None:
                moved = replace(sample.batch, axis=sample.batch.axis + offset)
                size = _size(Sample((1,) * offset + sample.shape, moved))
                operands.append(self.reshape(self.form(value), size))
            elif batch.alone and offset <= batch.axis < rank - 2 * matrices:
                kept = [d for a, d in enumerate(sample.shape) if a + offset != batch.axis]
                operands.append(self.reshape(value, kept))
            else:
                operands.append(value)
        return operands


def _transpose(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    sample = mover.sample(0)
    batch = sample.batch
    assert batch is not None
    given = ir.attribute(node, "perm", tuple(reversed(range(len(sample.shape)))))
    perm = [0, *(_place(batch, a) for a in given if not (batch.alone and a == batch.axis))]
    data = mover.data()
    return [data] if perm == sorted(perm) else mover.again([data], perm=perm)


def _reshape(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    return [mover.reshape(mover.data(), _size(mover.found[node.outputs[0]]))]


def _elementwise(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    return mover.again(mover.aligned())


def _matmul(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    return mover.again(mover.aligned(matrices=True))


def _gemm(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    weight, out = node.inputs[1], node.outputs[0]
    assert weight is not None
    size = _size(mover.found[out])
    if ir.attribute(node, "transB", 0):
        array = ir.constant(weight)
        if array is None:
            shape = list(reversed(mover.sizes(weight)))
            perm = ir.convenience.convert_attributes({"perm": [1, 0]})
            weight = mover.make("Transpose", [weight], shape, weight, perm)
        else:
            name = ir.fresh_name(mover.graph, f"{weight.name}_transposed")
            weight = ir.add_initializer(mover.graph, array.T, name)
    product = mover.make("MatMul", [mover.data(), weight], size, out)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return [product if bias is None else mover.make("Add", [product, bias], size, out)]


def _along(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    """Operators with an attribute that names the axis."""
    batch, rank = mover.sample(0).batch, len(mover.sample(0).shape)
    assert batch is not None
    along = axes_along(node, rank)
    assert along is not None
    operands = [mover.form(v) if v is not None else None for v in node.inputs]
    return mover.again(operands, axis=_place(batch, along[0]))


def _listed(position: int) -> Callable[[_Mover, ir.Node], list[ir.Value]]:
    """Operators with an operand that lists the axes."""

    def rewrite(mover: _Mover, node: ir.Node) -> list[ir.Value]:
        batch, rank = mover.sample(0).batch, len(mover.sample(0).shape)
        along = axes_along(node, rank)
        assert batch is not None
        assert along is not None
        axes = rw.integers(mover.graph, [_place(batch, a) for a in along], f"{node.outputs[0].name}_axes")
        inputs = [*node.inputs, *[None] * position][: max(len(node.inputs), position + 1)]
        inputs[0], inputs[position] = mover.data(), axes
        return mover.again(inputs)

    return rewrite


def _pad(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    """Of every axis, or of those that an operand lists."""
    sample, stem = mover.sample(0), node.outputs[0].name
    pads = ir.constant(node.inputs[1])
    along = axes_along(node, len(sample.shape))
    assert sample.batch is not None
    assert along is not None
    if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return _listed(3)(mover, node)
    if not along:
        return [mover.data()]
    few = rw.integers(mover.graph, pads.reshape(2, -1)[:, along].reshape(-1), f"{stem}_pads")
    axes = rw.integers(mover.graph, [_place(sample.batch, a) for a in along], f"{stem}_axes")
    return mover.again([mover.data(), few, node.inputs[2] if len(node.inputs) > 2 else None, axes])


def _gather(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    sample, places = mover.sample(0), node.inputs[1]
    assert places is not None
    if sample.batch is None:  # a look-up in a table
        return mover.again([node.inputs[0], mover.form(places)])
    axis = int(ir.attribute(node, "axis", 0)) % len(sample.shape)
    return mover.again([mover.data(), places], axis=_place(sample.batch, axis))


def _expand(mover: _Mover, node: ir.Node) -> list[ir.Value]:
    result, sample, out = mover.found[node.outputs[0]], mover.sample(0), node.outputs[0]
    size, offset = _size(result), len(result.shape) - len(sample.shape)
    assert result.batch is not None
    padded = Sample((1,) * offset + sample.shape, result.batch)
    if sample.batch is not None:
        target = rw.integers(mover.graph, [1, *size[1:]], f"{out.name}_shape")
        return mover.again([mover.reshape(mover.data(), _size(padded)), target])
    join = node.inputs[1].producer() if node.inputs[1] is not None else None
    assert join is not None
    batch = next(v for v in join.inputs if ir.constant(v) is None)
    assert batch is not None
    rest = rw.integers(mover.graph, size[1:], f"{out.name}_rest")
    axis = ir.convenience.convert_attributes({"axis": 0})
    target = mover.make("Concat", [batch, rest], [len(size)], batch, axis)
    operand = mover.reshape(mover.data(), _size(padded)[1:]) if mover.sample(0).shape else mover.data()
    return mover.again([operand, target])


_RULES: dict[str, Callable[[_Mover, ir.Node], list[ir.Value]]] = {
    "Transpose": _transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Gather": _gather,
    "Concat": _along,
    "Split": _along,
    "Expand": _expand,
    "Slice": _listed(3),
    "Pad": _pad,
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(LAST, _along),
    **dict.fromkeys(REDUCE, _listed(1)),
}
