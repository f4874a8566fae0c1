"""Reductions and Softmax."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import reduced_axes
from edgecc.analysis.sites import Operand, Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.compose import Composer
from edgecc.tflite.lower_scan import constant_result

_REDUCE = {"ReduceProd": "REDUCE_PROD"}
_REDUCE_INT8 = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
    "ReduceMin": "REDUCE_MIN",
}


_MOST = 6  # axes of the kernels
_OF_BOOLS = {"REDUCE_MAX": "REDUCE_ANY", "REDUCE_MIN": "REDUCE_ALL"}


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
    shape = ir.static_dims(operand.value)
    if 0 in shape and 0 not in ir.static_dims(site.outputs[0].value):
        _reduce_nothing(site, b)
        return
    if b.dtype(operand.value) == "bool":
        code = _OF_BOOLS.get(code, code)
    if len(site.inputs) > 1 and site.inputs[1] is not None and _computed(site.inputs[1]):
        _reduce_computed(site, b, code)
        return
    rank = len(shape)
    if rank > _MOST and not b.quantized:
        _reduce_joined(site, b, code)
        return
    axes, keep = reduced_axes(site, rank), bool(site.attribute("keepdims", 1))
    order = _source_order(b.permutation(site.outputs[0].value), axes, rank, keep)
    if b.layout.of(operand.value) != order and operand.array is None and not keep:
        # With removed axes several orders of the operand give the same result: take the one that it has.
        stored = b.permutation(operand.value)
        order = stored if tuple(a for a in stored if a not in axes) == _kept(order, axes) else order
    source = b.input(0, order)
    b.operator(code, [source, b.ints(sorted(order.index(a) for a in axes))], [b.output()], {"keepDims": keep})


def _reduce_joined(site: Site, b: Builder, code: str) -> None:
    """More axes than kernels take: neighbours that are all removed, or all kept, are one axis for the kernel."""
    k = Composer(site, b, batch=True)
    x = k.input(0)
    gone = reduced_axes(site, len(x.shape))
    lengths: list[int] = []
    removed: list[int] = []
    for axis, length in enumerate(x.shape):
        alike = axis > 1 and (
            (axis in gone) == (axis - 1 in gone)
        )  # the first axis, the batch, stays by itself
        if alike:
            lengths[-1] *= length
            continue
        if axis in gone:
            removed.append(len(lengths))
        lengths.append(length)
    k.finish(k.reshape(k.reduce(code, k.reshape(x, lengths), removed), k.out_shape()))


def _computed(axes: Operand) -> bool:
    return axes.array is None and ir.static_dims(axes.value) != (0,)


def _reduce_computed(site: Site, b: Builder, code: str) -> None:
    """Axes that are computed: the kernels read them; how many there are is in the model's shapes."""
    if b.quantized:
        raise NeedsFloat
    k = Composer(site, b)
    x, axes = k.input(0), k.cast(k.input(1), "int32")
    options = {"keepDims": bool(site.attribute("keepdims", 1))}
    k.finish(k.apply(code, [x, axes], k.out_shape(), options))


def _reduce_nothing(site: Site, b: Builder) -> None:
    """What each operator makes of no elements, as the ONNX specification says."""
    dtype = np.dtype(b.dtype(site.outputs[0].value))
    neutral: float | int = {"ReduceSum": 0, "ReduceProd": 1, "ReduceMean": np.nan}.get(site.op_type, 0)
    if site.op_type in ("ReduceMax", "ReduceMin"):
        highest = site.op_type == "ReduceMin"
        if dtype.kind == "f":
            neutral = np.inf if highest else -np.inf
        elif dtype.kind == "b":
            neutral = int(highest)
        else:
            neutral = int(np.iinfo(dtype).max if highest else np.iinfo(dtype).min)
    elif dtype.kind != "f" and site.op_type == "ReduceMean":
        raise Unservable("the mean of no integers has no value")
    constant_result(site, b, np.full(ir.static_dims(site.outputs[0].value), neutral, dtype))


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
