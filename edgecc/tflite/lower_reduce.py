"""Reductions and Softmax."""

from __future__ import annotations

from edgecc import ir
from edgecc.analysis.layout import reduced_axes
from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable

_REDUCE = {"ReduceProd": "REDUCE_PROD"}
_REDUCE_INT8 = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
    "ReduceMin": "REDUCE_MIN",
}


@lowers(*_REDUCE_INT8, int8=True)
def reduce_int8(site: Site, b: Builder) -> None:
    """MEAN, SUM, REDUCE_MAX, REDUCE_MIN over the axes where the layout put them."""
    _reduce(site, b, _REDUCE_INT8[site.op_type])


@lowers(*_REDUCE)
def reduce(site: Site, b: Builder) -> None:
    """REDUCE_PROD over the axes where the layout put them."""
    _reduce(site, b, _REDUCE[site.op_type])


def _reduce(site: Site, b: Builder, code: str) -> None:
    operand = site.inputs[0]
    assert operand is not None
    if len(site.inputs) > 1 and site.inputs[1] is not None and site.inputs[1].array is None:
        raise Unservable("the axes are computed at run time", "make them an initializer")
    rank = len(ir.static_dims(operand.value))
    axes, keep = reduced_axes(site, rank), bool(site.attribute("keepdims", 1))
    order = _source_order(b.permutation(site.outputs[0].value), axes, rank, keep)
    if b.layout.of(operand.value) != order and operand.array is None and not keep:
        # With removed axes several orders of the operand give the same result: take the one that it has.
        stored = b.permutation(operand.value)
        order = stored if tuple(a for a in stored if a not in axes) == _kept(order, axes) else order
    source = b.input(0, order)
    b.operator(code, [source, b.ints(sorted(order.index(a) for a in axes))], [b.output()], {"keepDims": keep})


def _kept(order: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a for a in order if a not in axes)


def _source_order(result: tuple[int, ...], axes: tuple[int, ...], rank: int, keep: bool) -> tuple[int, ...]:
    """The order of the operand that gives `result`: its kept axes in that sequence, the removed ones behind them."""
    if keep:
        return result
    kept = [a for a in range(rank) if a not in axes]
    return (*(kept[a] for a in result), *axes)


@lowers("Softmax", int8=True)
def softmax(site: Site, b: Builder) -> None:
    """SOFTMAX along the last axis; along another one between two transposes."""
    b.demand_scale(1 / 256, -128)
    _along_last_axis(site, b, "SOFTMAX", {"beta": 1.0})


@lowers("LogSoftmax", int8=True)
def log_softmax(site: Site, b: Builder) -> None:
    """LOG_SOFTMAX along the last axis."""
    b.demand_scale(16 / 256, 127)
    _along_last_axis(site, b, "LOG_SOFTMAX", {})


def _along_last_axis(site: Site, b: Builder, code: str, options: dict[str, object]) -> None:
    order = b.permutation(site.outputs[0].value)
    axis = int(site.attribute("axis", -1)) % len(order)  # type: ignore[call-overload]
    if order[-1] == axis:
        b.operator(code, [b.input(0, order)], [b.output()], options)
        return
    last = (*(a for a in order if a != axis), axis)
    source, target = b.input(0, last), b.output()
    facts = b.graph.tensors[target]
    along = b.temporary(source, "along", quant=facts.quant, dtype=facts.dtype)
    b.operator(code, [source], [along], options)
    reason = f"{site.name} works along the last axis only"
    b.transpose(along, target, [last.index(a) for a in order], str(site.outputs[0].value.name), reason)
