"""The packed file: header, one record a stretch of the original file, their codebooks and streams.

All numbers are little-endian. Header (20 bytes): "ECZ1", size of the original, its CRC-32, number of stretches,
working memory in bytes that a decoder needs beside the output. Then each stretch, in order of the original file:
length (4 bytes), form (1), width (1), fill (1), codebook entries less one (1; 0 without a codebook), pairs (4),
length of the first and of the second stream (4 each), codebook, streams. See `codec` for the forms, and `ecz.h` for a
decoder in C without any dependency.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgecc.errors import ModelError, UsageError
from edgecc.pack.codec import PALETTE, SPARSE, Stretch, decode, encode
from edgecc.pack.weights import weight_ranges

MAGIC = b"ECZ1"
_HEADER = struct.Struct("<4sIIII")
_RECORD = struct.Struct("<IBBBBIII")
_FORMS = (0, 1, 2, SPARSE, SPARSE | PALETTE)
LARGEST = 2**31
"""Bytes of the largest file that is packed or unpacked."""


@dataclass(frozen=True)
class Packed:
    """A packed file.

    Attributes:
        data: its bytes.
        size: of the original.
        weights: bytes of weights in the original; the rest is structure.
        packed_weights: bytes that they take in `data`.
    """

    data: bytes
    size: int
    weights: int
    packed_weights: int

    @property
    def ratio(self) -> float:
        """How many times smaller."""
        return self.size / len(self.data)


def pack(data: bytes) -> Packed:
    """Packs a .tflite or .onnx file; any other bytes are packed as a whole.

    Raises:
        UsageError: it is empty or larger than `LARGEST`.
    """
    if not 0 < len(data) <= LARGEST:
        raise UsageError(
            f"a file of {len(data)} bytes cannot be packed", remedy=f"at most {LARGEST}, at least 1"
        )
    stretches: list[tuple[Stretch, bool]] = []
    at = 0
    for start, end, width in weight_ranges(data):
        if start > at:
            stretches.append((encode(data[at:start], 1), False))
        stretches.append((encode(data[start:end], width), True))
        at = end
    if at < len(data):
        stretches.append((encode(data[at:], 1), False))
    memory = max(_memory(s) for s, _ in stretches)
    parts = [_HEADER.pack(MAGIC, len(data), zlib.crc32(data), len(stretches), memory)]
    parts += [_record(s) for s, _ in stretches]
    weights = [s for s, is_weight in stretches if is_weight]
    return Packed(b"".join(parts), len(data), sum(s.length for s in weights), sum(s.size for s in weights))


def _memory(stretch: Stretch) -> int:
    """Bytes beside the output that a decoder needs: indices or pairs before they are expanded."""
    if stretch.form & SPARSE:
        return 2 * stretch.pairs
    return stretch.length // (stretch.width if stretch.form & PALETTE else 1) if stretch.form else 0


def _record(stretch: Stretch) -> bytes:
    entries = len(stretch.codebook) // stretch.width
    lengths = [len(s) for s in stretch.streams] + [0] * (2 - len(stretch.streams))
    head = _RECORD.pack(
        stretch.length,
        stretch.form,
        stretch.width,
        stretch.fill,
        max(entries - 1, 0),
        stretch.pairs,
        *lengths,
    )
    return head + stretch.codebook + b"".join(stretch.streams)


def unpack(data: bytes) -> bytes:
    """The file that was packed, byte for byte.

    Raises:
        ModelError: it is no packed file, or a damaged one.
    """
    if data[:4] != MAGIC or len(data) < _HEADER.size:
        raise ModelError("this is no packed file", remedy="edgecc pack makes one")
    _, size, checksum, count, _ = _HEADER.unpack_from(data)
    stretches = _read(data, count)
    if size > LARGEST or sum(s.length for s in stretches) != size:
        raise ModelError("the packed file is damaged: its lengths do not add up")
    found = b"".join(decode(s) for s in stretches)
    if len(found) != size or zlib.crc32(found) != checksum:
        raise ModelError("the packed file is damaged: its checksum differs")
    return found


def _read(data: bytes, count: int) -> Sequence[Stretch]:
    found, at = [], _HEADER.size
    for _ in range(count):
        if at + _RECORD.size > len(data):
            raise ModelError("the packed file is cut off")
        length, form, width, fill, last, pairs, one, two = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        book = width * (last + 1) if form & PALETTE else 0
        if form not in _FORMS or not 1 <= width <= 8 or at + book + one + two > len(data) or pairs > length:
            raise ModelError("the packed file is damaged or was made by a newer version")
        streams = [data[at + book : at + book + one], data[at + book + one : at + book + one + two]]
        found.append(
            Stretch(
                length,
                form,
                width,
                data[at : at + book],
                fill,
                pairs,
                tuple(streams[: 2 if form & SPARSE else 1]),
            )
        )
        at += book + one + two
    if at != len(data):
        raise ModelError("the packed file is damaged: bytes follow its end")
    return found
