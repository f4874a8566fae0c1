"""The contents of constants, written behind the tables of a flatbuffer: each byte is copied once, into the file.

A flatbuffer refers forward, so the vector of a `Buffer` may lie anywhere behind it. The builder of the flatbuffers
package, which grows its memory by doubling and copies it once more when it ends, sees the tables alone.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence

from edgecc.ir import Array, byte_pieces

_ALIGNMENT = 16  # `force_align: 16` of `Buffer.data`, so that the runtime maps constants in place
# A vector's length before its elements, and an offset from its own place forward.
_LENGTH = struct.Struct("<I")


class Buffers:
    """The buffer table; equal contents are stored once. Buffer 0 is empty by convention.

    Attributes:
        contents: of buffer 1 and those that follow.
    """

    def __init__(self) -> None:
        self.contents: list[Array] = []
        self._seen: dict[bytes, int] = {}

    def add(self, data: Array) -> int:
        """The index of the buffer with the bytes of `data`, which stays as it is and is not copied."""
        if data.size == 0:
            return 0
        key = _digest(data)
        if key not in self._seen:
            self.contents.append(data)
            self._seen[key] = len(self.contents)
        return self._seen[key]

    def behind(self, tables: bytearray, places: Sequence[int]) -> bytes:
        """The whole file.

        Args:
            tables: the finished flatbuffer without the contents of its buffers.
            places: where it refers to those of buffer 1 and following, in bytes from its end.
        """
        head, end, starts = bytearray(tables), len(tables), []
        for data, back in zip(self.contents, places, strict=True):
            start = -(-(end + _LENGTH.size) // _ALIGNMENT) * _ALIGNMENT
            place = len(head) - back
            _LENGTH.pack_into(head, place, start - _LENGTH.size - place)
            starts.append(start)
            end = start + data.nbytes
        # BytesIO grows without a second copy of what it holds, and gives it away without one.
        file = io.BytesIO()
        file.write(head)
        for start, data in zip(starts, self.contents, strict=True):
            file.write(bytes(start - _LENGTH.size - file.tell()) + _LENGTH.pack(data.nbytes))
            for piece in byte_pieces(data):
                file.write(piece)
        return file.getvalue()


def _digest(data: Array) -> bytes:
    """What tells contents apart: themselves where they are short."""
    if data.nbytes <= 64:
        return data.tobytes()
    found = hashlib.sha256()
    for piece in byte_pieces(data):
        found.update(piece)
    return found.digest() + data.nbytes.to_bytes(8, "little")
