"""What each measured operator computes and moves, as far as the file and the runtime's names tell.

A runtime does not execute the operators of the file but what it made of them. A row gets figures only where its name
or the order of execution says which operator it is; all others keep none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecc import ir
from edgecc.errors import EdgeccError
from edgecc.profile import MEASURED_HERE, OperatorTime, Profile

# Clocks of the runtimes count whole microseconds: the rate of what takes less is noise. (A guess.)
_LEAST_US = 5.0
_UNTOLD = (
    "bound by: not told: no two operators of 5 µs and more have the highest rates of computing and of moving"
)
_NEAR = 0.25  # of an operator's time: what takes less does not bound it (likewise)
# What ONNX Runtime adds to a node's name when it fuses it or changes its layout.
_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant|/fused|_fused)+$")


@dataclass(frozen=True)
class Work:
    """What an operator of the file does in one inference with batch 1.

    Attributes:
        name: of it in the file.
        macs: multiply-accumulates.
        bytes: that it reads and writes, constants included.
    """

    name: str
    macs: int
    bytes: int


def with_work(
    profile: Profile, path: Path, input_shape: Mapping[str, Sequence[int]] | None = None
) -> Profile:
    """The profile with multiply-accumulates, bytes and bound of the operators that can be told in the file.

    An ONNX file with int8 activations, as Arm wants them, gets the note that tells what x86 makes of these.

    Args:
        profile: measured.
        path: of the .tflite or .onnx file that it is of; one that cannot be read leaves the profile as it is.
        input_shape: sizes of symbolic dimensions (ONNX only); those not given count as 1.
    """
    if not profile.operators:
        return profile
    try:
        if path.suffix == ".tflite":
            from edgecc.profile.xnnpack_rows import matched

            found = matched(profile.operators, path.read_bytes())
        else:
            model = _loaded(path, input_shape)
            found = _by_name(profile.operators, model)
            profile = replace(profile, notes=(*profile.notes, *_other_processor(profile, model)))
    except (EdgeccError, OSError):  # the runtime ran it all the same
        return profile
    rows = [
        row if work is None else replace(row, name=_name(row, work), macs=work.macs, bytes=work.bytes)
        for row, work in zip(profile.operators, found, strict=True)
    ]
    roofs = _roofs(rows)
    if roofs is None:
        notes = (*profile.notes, _UNTOLD) if any(row.macs for row in rows) else profile.notes
        return replace(profile, operators=tuple(rows), notes=notes)
    macs, moved = roofs
    note = (
        f"bound by: what would take longer at the highest rates that operators of this file reach, {macs / 1e3:.3g}"
        f" GMAC/s and {moved / 1e3:.3g} GB/s; neither: both would take less than a quarter of the time"
    )
    return replace(
        profile, operators=tuple(_bounded(row, macs, moved) for row in rows), notes=(*profile.notes, note)
    )


def _name(row: OperatorTime, work: Work) -> str:
    return row.name if row.source == "ort" else work.name


def _roofs(rows: Sequence[OperatorTime]) -> tuple[float, float] | None:
    """The highest rates, multiply-accumulates and bytes a microsecond; None where one operator has both.

    Nothing would tell then whether it was bound by the one or the other.
    """
    timed = [row for row in rows if row.us >= _LEAST_US and row.bytes]
    fastest = max(timed, key=lambda row: (row.macs or 0) / row.us, default=None)
    widest = max(timed, key=lambda row: (row.bytes or 0) / row.us, default=None)
    if fastest is None or widest is None or fastest is widest or not fastest.macs:
        return None
    return fastest.macs / fastest.us, (widest.bytes or 0) / widest.us


def _bounded(row: OperatorTime, macs: float, moved: float) -> OperatorTime:
    if row.macs is None or row.bytes is None:
        return row
    computing, moving = row.macs / macs, row.bytes / moved
    if max(computing, moving) < _NEAR * row.us:
        return replace(row, bound="neither")
    return replace(row, bound="compute" if computing > moving else "memory")


def _loaded(path: Path, input_shape: Mapping[str, Sequence[int]] | None) -> ir.Model:
    from edgecc.importer import load

    shapes = None if input_shape is None else {k: tuple(v) for k, v in input_shape.items()}
    return load(path, input_shape=shapes)


def _other_processor(profile: Profile, model: ir.Model) -> tuple[str, ...]:
    from edgecc.onnxrt.readback import stores_int8, x86_notes

    return x86_notes() if profile.tier == MEASURED_HERE and stores_int8(model) else ()


def _by_name(rows: Sequence[OperatorTime], model: ir.Model) -> list[Work | None]:
    known = dict(_works(model))
    return [known.get(_ADDED.sub("", row.name)) for row in rows]


def _works(model: ir.Model) -> Iterator[tuple[str, Work]]:
    """By each name that ONNX Runtime may give it: the node's, or that of a value it makes in its fused form."""
    from edgecc.analysis.cost import macs
    from edgecc.analysis.workload import absorbed, past_qdq

    owners: dict[ir.Node, ir.Node] = {}
    for node in model.graph:
        if any(ir.dims(v) is None for v in node.outputs):
            continue
        first = node.inputs[0] if node.inputs else None
        maker = None if first is None or not absorbed(node) else past_qdq(first)
        owner = node if maker is None else owners.get(maker, maker)
        owners[node] = owner
        work = Work(ir.label(owner), macs(owner), _bytes(owner))
        if owner is node and node.name:
            yield node.name, work
        for value in node.outputs:
            yield value.name or "", work


def _bytes(node: ir.Node) -> int:
    from edgecc.analysis.cost import elements

    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return sum(elements(v) * _width(v) for v in values)


def _width(value: ir.Value) -> int:
    """Bytes of an element as it is stored: of the integers where the value is quantized."""
    maker = value.producer()
    stored: ir.Value | None = value
    if maker is not None and maker.op_type == "DequantizeLinear":
        stored = maker.inputs[0]
    else:
        users = [use.node for use in value.uses()]
        if users and all(user.op_type == "QuantizeLinear" for user in users):
            stored = users[0].outputs[0]
    kind = None if stored is None else stored.dtype
    return 4 if kind is None else max(1, round(kind.itemsize))
