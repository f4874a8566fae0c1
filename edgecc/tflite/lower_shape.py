"""Operators that move, cut and join data."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import (
    Flattened,
    flattened,
    flattens_for_gemm,
    identity,
    moves_nothing,
    reshaped,
    scalar_gather,
    without,
)
from edgecc.analysis.sites import Operand, Site
from edgecc.ir import Array
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable, is_batched
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.padding import repeated_padding


def _constant(site: Site, position: int) -> Array | None:
    """A constant operand, None where absent."""
    operand = site.inputs[position] if len(site.inputs) > position else None
    if operand is None:
        return None
    if operand.array is None:
        raise Unservable(f"operand {position} is computed at run time", "make it an initializer")
    return operand.real()


def _data(site: Site) -> Operand:
    operand = site.inputs[0]
    assert operand is not None
    return operand


_BATCH = ("it cuts the symbolic batch", "bind the batch with --input-shape")


def _stays(b: Builder, source: ir.Value, result: ir.Value) -> bool:
    """Whether a reshape of the bytes as they are stored makes the result in the order that the layout chose."""
    made = reshaped(source, result, b.order(source)) if ir.is_static(source) else None
    wanted = b.order(result)
    if made is None or isinstance(wanted, Flattened):
        return False
    return moves_nothing(ir.static_dims(result), made, wanted)


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", int8=True)
def reshape(site: Site, b: Builder) -> None:
    """RESHAPE; nothing where only FULLY_CONNECTED reads it, which flattens by itself."""
    value = _data(site).value
    if site.op_type == "Reshape" and flattens_for_gemm(b.sites, site):
        stored, result = b.permutation(value), site.outputs[0].value
        carried = stored[:1] == (0,) and flattened(ir.static_dims(value), stored) == b.order(result)
        b.alias(b.input(0, stored if carried else identity(value)))
        return
    order = b.order(value)
    kept = _stays(b, value, site.outputs[0].value)
    source = b.input(0, order if kept else identity(value))
    target = b.output()
    if b.graph.tensors[source].batched and not b.graph.tensors[target].batched:
        raise Unservable("it mixes the symbolic batch with other axes", "bind the batch with --input-shape")
    b.reshape(source, target)


@lowers("Transpose", int8=True)
def transpose(site: Site, b: Builder) -> None:
    """Nothing: axes get other names. Readers that need another order of bytes transpose (see analysis/layout.py)."""
    rank = len(ir.static_dims(_data(site).value))
    perm = [int(a) for a in site.attribute("perm", tuple(reversed(range(rank))))]  # type: ignore[attr-defined]
    order = b.permutation(site.outputs[0].value)
    b.alias(b.input(0, tuple(perm[axis] for axis in order)))


@lowers("Concat", int8=True)
def concat(site: Site, b: Builder) -> None:
    """CONCATENATION along the axis where the layout put it."""
    value = site.outputs[0].value
    order = b.permutation(value)
    axis = order.index(int(site.attribute("axis", 0)) % len(order))  # type: ignore[call-overload]
    sources = [b.read(operand, order) for operand in site.inputs if operand is not None]
    b.operator("CONCATENATION", sources, [b.output()], {"axis": axis})


@lowers("Split", int8=True)
def split(site: Site, b: Builder) -> None:
    """SPLIT into equal parts, else SPLIT_V."""
    order = b.permutation(site.outputs[0].value)
    axis = int(site.attribute("axis", 0)) % len(order)  # type: ignore[call-overload]
    sizes = [ir.static_dims(r.value)[axis] for r in site.outputs]
    if b.is_free(site.inputs[0], axis):
        raise Unservable(*_BATCH)
    source, place = b.input(0, order), b.constant(np.array(order.index(axis), np.int32), "axis")
    targets = [b.output(i) for i in range(len(site.outputs))]
    if len(set(sizes)) == 1:
        b.operator("SPLIT", [place, source], targets, {"numSplits": len(sizes)})
    else:
        b.operator("SPLIT_V", [source, b.ints(sizes), place], targets, {"numSplits": len(sizes)})


@lowers("Slice", int8=True)
def slice_(site: Site, b: Builder) -> None:
    """STRIDED_SLICE; axes that are not cut keep their whole extent by mask, so a symbolic batch stays free."""
    shape = ir.static_dims(_data(site).value)
    starts, ends, axes, steps = (_constant(site, i) for i in (1, 2, 3, 4))
    assert starts is not None and ends is not None
    order = b.permutation(site.outputs[0].value)
    rank = len(order)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    begin, end, stride = [0] * rank, [0] * rank, [1] * rank
    free = (1 << rank) - 1
    end_mask = begin_mask = free
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis, place = int(axis) % rank, order.index(int(axis) % rank)
        if b.is_free(site.inputs[0], axis):
            if start != 0 or step != 1 or stop < np.iinfo(np.int32).max:
                raise Unservable(*_BATCH)
            continue
        first, last, stride[place] = slice(int(start), int(stop), int(step)).indices(shape[axis])
        begin[place] = first
        begin_mask &= ~(1 << place)
        if last >= 0:
            end[place] = last
            end_mask &= ~(1 << place)
    vectors = [b.ints(v) for v in (begin, end, stride)]
    options = {"beginMask": begin_mask, "endMask": end_mask}
    b.operator("STRIDED_SLICE", [b.input(0, order), *vectors], [b.output()], options)


_MIRROR = {"reflect": 0}  # schema.fbs: enum MirrorPadMode


@lowers("Pad", int8=True)
def pad(site: Site, b: Builder) -> None:
    """PAD with zeros, PADV2 with another constant, MIRROR_PAD for reflection, else GATHER."""
    order = b.permutation(site.outputs[0].value)
    rank = len(order)
    amounts, value, axes = (_constant(site, i) for i in (1, 2, 3))
    assert amounts is not None
    axes = np.arange(rank) if axes is None else axes % rank
    table = np.zeros((rank, 2), np.int32)
    for position, axis in enumerate(axes):
        table[int(axis)] = amounts[position], amounts[position + len(axes)]
    if (table < 0).any():
        raise Unservable("negative padding has no kernel", "crop with a Slice instead")
    if table[0].any() and b.is_free(site.inputs[0], 0):
        raise Unservable(*_BATCH)
    paddings = b.constant(table[list(order)], f"{site.name}/paddings")
    mode = str(site.attribute("mode", "constant"))
    source = b.input(0, order)
    if mode in _MIRROR:
        b.operator("MIRROR_PAD", [source, paddings], [b.output()], {"mode": _MIRROR[mode]})
    elif mode != "constant":
        repeated_padding(b, source, table[list(order)], mode)
    elif value is None or not value.any():
        b.operator("PAD", [source, paddings], [b.output()])
    else:
        quant = site.outputs[0].quant if b.quantized else None
        filler = value.reshape(()) if quant is None else quant.quantize(value.reshape(()))
        scalar = b.constant(filler, f"{site.name}/value", quant)
        b.operator("PADV2", [source, paddings, scalar], [b.output()])


@lowers("Gather", int8=True)
def gather(site: Site, b: Builder) -> None:
    """GATHER; indices count from the front."""
    data, indices = site.inputs[0], site.inputs[1]
    assert data is not None and indices is not None
    rank = len(ir.static_dims(data.value))
    axis = int(site.attribute("axis", 0)) % rank  # type: ignore[call-overload]
    order = b.permutation(site.outputs[0].value)
    if scalar_gather(site, rank) is not None:
        stored, kept = b.permutation(data.value), order
        order = stored if without(stored, (axis,)) == kept else _inserted(kept, axis)
    elif len(order) != rank or (indices.array is not None and indices.array.ndim != 1):
        order = tuple(range(rank))
    if b.is_free(data, axis):
        raise Unservable(*_BATCH)
    if indices.array is not None:
        extent = ir.static_dims(data.value)[axis]
        places = b.constant(np.where(indices.array < 0, indices.array + extent, indices.array).astype(np.int32),
                            str(indices.value.name))  # fmt: skip
    else:
        places = b.read(indices)
        extent = np.array(ir.static_dims(data.value)[axis], b.graph.tensors[places].dtype)
        shape = b.shape(places)
        if len(shape) > 4:  # beyond which tflite-runtime 2.14 aborts
            places = b.reshape(places, b.temporary(places, "flat", (int(np.prod(shape)),)))
        counted = b.temporary(places, "counted")
        places = b.operator("FLOOR_MOD", [places, b.constant(extent, "extent")], [counted])
        if len(shape) > 4:
            places = b.reshape(places, b.temporary(places, "places", shape))
    b.operator(
        "GATHER", [b.input(0, order), places], [b.output()], {"axis": order.index(axis), "batchDims": 0}
    )


def _inserted(order: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """An order of one axis more that leaves `order` when `axis` goes."""
    return (*(a + (a >= axis) for a in order), axis)


@lowers("Expand", int8=True)
def expand(site: Site, b: Builder) -> None:
    """BROADCAST_TO; nothing where the shape is the operand's."""
    source, out = b.input(0), ir.static_dims(site.outputs[0].value)
    if b.shape(source) == out and b.graph.tensors[source].batched == is_batched(site.outputs[0].value):
        b.alias(source)
        return
    if is_batched(site.outputs[0].value) and not b.graph.tensors[source].batched:
        _spread(site, b, source, out)
        return
    if is_batched(site.outputs[0].value) and len(b.shape(source)) != len(out):
        raise Unservable("it spreads over the symbolic batch", "bind the batch with --input-shape")
    sizes = b.sizes(source, out[1:]) if is_batched(site.outputs[0].value) else b.ints(out)
    b.operator("BROADCAST_TO", [source, sizes], [b.output()])


def _spread(site: Site, b: Builder, source: int, out: tuple[int, ...]) -> None:
    """A constant for every sample: SELECT_V2 between it and itself, whose mask has the batch of a network input.

    BROADCAST_TO would do it, with a result whose shape is known only at run time: XNNPACK leaves all that follows.
    """
    value = _batch_of(site.inputs[1] if len(site.inputs) > 1 else None)
    if value is None:
        raise Unservable("it spreads over the symbolic batch", "bind the batch with --input-shape")
    k, quantized = Composer(site, b, batch=True), b.quantized
    b.quantized = False
    whole = Term(k, None, b.read(Operand(value), b.permutation(value)))
    b.quantized = quantized
    first = whole
    for axis in range(1, len(whole.shape)):
        first = k.cut(first, axis, 0, 1)
    few = len(out) <= 4  # beyond which 2.14 does not broadcast
    shape = out if few else (1, int(np.prod(out)))
    first = k.reshape(first, (1,) * len(shape))
    mask = k.binary("EQUAL", first, first)
    full = np.prod(b.shape(source)) == np.prod(out)
    if not full and not few:
        raise Unservable(
            "it spreads over the symbolic batch and along other axes", "bind the batch with --input-shape"
        )
    like = k.reshape(Term(k, None, source), shape) if full else Term(k, None, source)
    target = b.output()
    chosen = target if few else b.temporary(target, "spread", shape)
    b.operator("SELECT_V2", [k.tensor(mask), k.tensor(like), k.tensor(like)], [chosen])
    if not few:
        b.reshape(chosen, target)


def _batch_of(target: Operand | None) -> ir.Value | None:
    """The network input whose batch the target of an Expand begins with: Concat(Shape(input), constants)."""
    join = target.value.producer() if target is not None else None
    if join is None or join.op_type != "Concat" or join.inputs[0] is None:
        return None
    size = join.inputs[0].producer()
    source = size.inputs[0] if size is not None and size.op_type == "Shape" else None
    return source if source is not None and source.is_graph_input() else None


@lowers("Tile", int8=True)
def tile(site: Site, b: Builder) -> None:
    """TILE."""
    order, repeats = b.permutation(site.outputs[0].value), _constant(site, 1)
    assert repeats is not None
    b.operator("TILE", [b.input(0, order), b.ints(repeats[list(order)])], [b.output()])


_BLOCKS = {"SpaceToDepth": "SPACE_TO_DEPTH", "DepthToSpace": "DEPTH_TO_SPACE"}


@lowers("DepthToSpace", int8=True)
def depth_to_space(site: Site, b: Builder) -> None:
    """DEPTH_TO_SPACE: TFLite's channel order is ONNX's DCR; for CRD the channels are gathered first."""
    size = int(site.attribute("blocksize", 1))  # type: ignore[call-overload]
    source = b.input(0, (0, 2, 3, 1))
    if site.attribute("mode", "DCR") == "CRD":
        channels = np.arange(b.shape(source)[3]).reshape(-1, size * size).T.reshape(-1)
        ordered = b.temporary(source, "ordered")
        source = b.operator("GATHER", [source, b.ints(channels.tolist())], [ordered], {"axis": 3})
    b.operator("DEPTH_TO_SPACE", [source], [b.output()], {"blockSize": size})


@lowers("SpaceToDepth", int8=True)
def space_to_depth(site: Site, b: Builder) -> None:
    """SPACE_TO_DEPTH: TFLite's channel order is ONNX's DCR; for CRD the channels are gathered behind it."""
    size = int(site.attribute("blocksize", 1))  # type: ignore[call-overload]
    source, target = b.input(0, (0, 2, 3, 1)), b.output()
    if site.attribute("mode", "DCR") != "CRD":
        b.operator("SPACE_TO_DEPTH", [source], [target], {"blockSize": size})
        return
    blocks = b.operator("SPACE_TO_DEPTH", [source], [b.temporary(target, "blocks")], {"blockSize": size})
    channels = np.arange(b.shape(target)[3]).reshape(size * size, -1).T.reshape(-1)
    b.operator("GATHER", [blocks, b.ints(channels.tolist())], [target], {"axis": 3, "batchDims": 0})
