"""Operators that move values and change none: any type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgecc.errors import UnsupportedError
from edgecc.ir import Array
from edgecc.simulate.common import Kernel
from edgecc.tflite.reader import Operator


def _ints(values: Array) -> tuple[int, ...]:
    return tuple(int(v) for v in np.atleast_1d(values))


def reshape(op: Operator, values: Sequence[Array]) -> list[Array]:
    """RESHAPE to the second input, else to the option."""
    if len(values) > 1 and (values[1].size or not op.outputs[0].shape):
        shape = _ints(values[1])
    else:
        shape = _ints(op.options.newShape)
    return [values[0].reshape(shape)]


def squeeze(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SQUEEZE."""
    dims = () if op.options.squeezeDims is None else _ints(op.options.squeezeDims)
    return [np.squeeze(values[0], axis=dims or None)]


def expand_dims(op: Operator, values: Sequence[Array]) -> list[Array]:
    """EXPAND_DIMS."""
    return [np.expand_dims(values[0], _ints(values[1]))]


def transpose(op: Operator, values: Sequence[Array]) -> list[Array]:
    """TRANSPOSE."""
    return [values[0].transpose(_ints(values[1]))]


def concatenation(op: Operator, values: Sequence[Array]) -> list[Array]:
    """CONCATENATION: int8 operands have the scale of the result, so they are copied."""
    return [np.concatenate(list(values), axis=op.options.axis)]


def pack(op: Operator, values: Sequence[Array]) -> list[Array]:
    """PACK."""
    return [np.stack(list(values), axis=op.options.axis)]


def unpack(op: Operator, values: Sequence[Array]) -> list[Array]:
    """UNPACK."""
    return list(np.moveaxis(values[0], op.options.axis, 0))


def split(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SPLIT: axis, then the value, in equal parts."""
    return np.split(values[1], op.options.numSplits, axis=int(values[0].reshape(())))


def split_v(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SPLIT_V: value, sizes (one may be -1), axis."""
    data, axis = values[0], int(values[2].reshape(()))
    sizes = list(_ints(values[1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = data.shape[axis] - sum(sizes) - 1
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


def slices(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SLICE: begins and sizes, -1 to the end."""
    found = tuple(
        slice(begin, None if size < 0 else begin + size)
        for begin, size in zip(_ints(values[1]), _ints(values[2]), strict=True)
    )
    return [values[0][found]]


def strided_slice(op: Operator, values: Sequence[Array]) -> list[Array]:
    """STRIDED_SLICE, as numpy slices with the masks' meaning."""
    options = op.options
    found: list[slice | int | None] = []
    for i, (begin, end, step) in enumerate(zip(*map(_ints, values[1:4]), strict=True)):
        bit = 1 << i
        if (options.ellipsisMask | options.newAxisMask) & bit or (options.offset and end):
            raise UnsupportedError(f"masks of ellipses and new axes are not simulated: {op.label}")
        if options.shrinkAxisMask & bit:
            found.append(begin)
            continue
        first, last = options.beginMask & bit, options.endMask & bit
        found.append(slice(None if first else begin, None if last else end, step))
    return [values[0][tuple(found)]]


def gather(op: Operator, values: Sequence[Array]) -> list[Array]:
    """GATHER without batch dimensions."""
    if op.options.batchDims:
        raise UnsupportedError(f"batch dimensions are not simulated: {op.label}")
    return [np.take(values[0], values[1].astype(np.int64), axis=op.options.axis)]


def tile(op: Operator, values: Sequence[Array]) -> list[Array]:
    """TILE."""
    return [np.tile(values[0], _ints(values[1]))]


def broadcast_to(op: Operator, values: Sequence[Array]) -> list[Array]:
    """BROADCAST_TO."""
    return [np.broadcast_to(values[0], _ints(values[1]))]


def reverse(op: Operator, values: Sequence[Array]) -> list[Array]:
    """REVERSE_V2."""
    return [np.flip(values[0], _ints(values[1]))]


def pad(op: Operator, values: Sequence[Array]) -> list[Array]:
    """PAD with the real value 0, PADV2 with a given one of the output's scale."""
    output = op.outputs[0]
    fill = values[2].reshape(()) if len(values) > 2 and values[2].size else output.zero_point
    return [np.pad(values[0], values[1].astype(np.int64), constant_values=fill)]


def mirror_pad(op: Operator, values: Sequence[Array]) -> list[Array]:
    """MIRROR_PAD: without (REFLECT) or with (SYMMETRIC) the edge."""
    mode = ("reflect", "symmetric")[op.options.mode]
    return [np.pad(values[0], values[1].astype(np.int64), mode=mode)]  # type: ignore[call-overload]


def depth_to_space(op: Operator, values: Sequence[Array]) -> list[Array]:
    """DEPTH_TO_SPACE of (n, h, w, c)."""
    n, h, w, c = values[0].shape
    b = op.options.blockSize
    blocks = values[0].reshape(n, h, w, b, b, c // b // b).transpose(0, 1, 3, 2, 4, 5)
    return [blocks.reshape(n, h * b, w * b, c // b // b)]


def space_to_depth(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SPACE_TO_DEPTH of (n, h, w, c)."""
    n, h, w, c = values[0].shape
    b = op.options.blockSize
    blocks = values[0].reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5)
    return [blocks.reshape(n, h // b, w // b, c * b * b)]


def shape(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SHAPE."""
    return [np.array(values[0].shape, op.outputs[0].dtype)]


ANY: Mapping[str, Kernel] = {
    "RESHAPE": reshape, "SQUEEZE": squeeze, "EXPAND_DIMS": expand_dims, "TRANSPOSE": transpose,
    "CONCATENATION": concatenation, "PACK": pack, "UNPACK": unpack, "SPLIT": split, "SPLIT_V": split_v,
    "SLICE": slices, "STRIDED_SLICE": strided_slice, "GATHER": gather, "TILE": tile, "BROADCAST_TO": broadcast_to,
    "REVERSE_V2": reverse, "PAD": pad, "PADV2": pad, "MIRROR_PAD": mirror_pad, "DEPTH_TO_SPACE": depth_to_space,
    "SPACE_TO_DEPTH": space_to_depth, "SHAPE": shape,
}  # fmt: skip
