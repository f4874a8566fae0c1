"""The contents of constants, written behind the tables of a flatbuffer: each byte is copied once, into the file.

A flatbuffer refers forward, so the vector of a `Buffer` may lie anywhere behind it. The builder of the flatbuffers
package, which grows its memory by doubling and copies it once more when it ends, sees the tables alone.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecc.ir import Array

_ALIGNMENT = 16  # `force_align: 16` of `Buffer.data`, so that the runtime maps constants in place
# A vector's length before its elements, and an offset from its own place forward.
_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 24


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose reference to its data is filled in later.

    Attributes:
        place: of that reference, in bytes from the end of the tables.
    """

    place = 0

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the name is the schema's
        schema.BufferStart(builder)
        if self.data is not None:
            builder.PrependUint32Slot(0, 1, 0)
            self.place = builder.Offset()
        return int(schema.BufferEnd(builder))


class Buffers:
    """The buffer table; equal contents are stored once. Buffer 0 is empty by convention.

    Attributes:
        items: for the schema's `ModelT.buffers`.
    """

    def __init__(self) -> None:
        self.items: list[Any] = [_Buffer()]
        self._seen: dict[bytes, int] = {}

    @property
    def size(self) -> int:
        """Bytes of all contents."""
        return sum(b.data.nbytes for b in self.items[1:])

    def add(self, data: Array) -> int:
        """The index of the buffer with the bytes of `data`, which stays as it is and is not copied."""
        if data.size == 0:
            return 0
        key = _digest(data)
        if key not in self._seen:
            self._seen[key] = len(self.items)
            self.items.append(_Buffer(data=data))
        return self._seen[key]

    def behind(self, tables: Array | bytearray) -> bytes:
        """The whole file.

        Args:
            tables: the finished flatbuffer without the contents of its buffers.
        """
        head, end, starts = bytearray(tables), len(tables), []
        for item in self.items[1:]:
            start = -(-(end + _LENGTH.size) // _ALIGNMENT) * _ALIGNMENT
            place = len(head) - item.place
            _LENGTH.pack_into(head, place, start - _LENGTH.size - place)
            starts.append(start)
            end = start + item.data.nbytes
        # BytesIO grows without a second copy of what it holds, and gives it away without one.
        file = io.BytesIO()
        file.write(head)
        for start, item in zip(starts, self.items[1:], strict=True):
            file.write(bytes(start - _LENGTH.size - file.tell()) + _LENGTH.pack(item.data.nbytes))
            for piece in _pieces(item.data):
                file.write(piece)
        return file.getvalue()


def _digest(data: Array) -> bytes:
    """What tells contents apart: themselves where they are short."""
    if data.nbytes <= 64:
        return data.tobytes()
    found = hashlib.sha256()
    for piece in _pieces(data):
        found.update(piece)
    return found.digest() + data.nbytes.to_bytes(8, "little")


def _pieces(data: Array) -> Iterator[memoryview]:
    """The bytes of an array in order; one that is not contiguous is made so a piece at a time."""
    if data.flags.c_contiguous or data.nbytes <= _CHUNK:
        yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        return
    rows = max(1, _CHUNK * len(data) // data.nbytes)
    for start in range(0, len(data), rows):
        part = data[start : start + rows]
        if rows == 1 and part.ndim > 1:
            yield from _pieces(part[0])
        else:
            yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
