"""Which function an address of a 64-bit little-endian library belongs to (ELF specification, version 1.2)."""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

_PT_LOAD = 1
_SYMBOLS = {2: "SHT_SYMTAB", 11: "SHT_DYNSYM"}
_FUNCTION = 2  # STT_FUNC


@dataclass(frozen=True)
class Functions:
    """The functions of a library that its symbol tables name.

    Attributes:
        starts, ends, names: sorted by start, in virtual addresses of the file.
        loads: (offset in the file, virtual address, length) of what is mapped.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    names: tuple[str, ...]
    loads: tuple[tuple[int, int, int], ...]

    def name(self, offset: int) -> str | None:
        """The function at an offset of the file; None where no symbol covers it."""
        address = next((a + offset - o for o, a, size in self.loads if o <= offset < o + size), None)
        at = -1 if address is None else bisect_right(self.starts, address) - 1
        return self.names[at] if address is not None and at >= 0 and address < self.ends[at] else None


def functions(path: Path) -> Functions:
    """Reads the symbol tables of a library."""
    data = path.read_bytes()
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    phsize, phcount, shsize, shcount = struct.unpack_from("<HHHH", data, 54)
    loads = []
    for i in range(phcount):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, phoff + i * phsize)
        if kind == _PT_LOAD:
            loads.append((offset, address, size))
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * shsize) for i in range(shcount)]
    found: dict[int, tuple[int, str]] = {}
    for _, kind, _, _, offset, size, link, _, _, entry in sections:
        if kind not in _SYMBOLS or not entry:
            continue
        strings = sections[link][4]
        for at in range(offset, offset + size, entry):
            name, info, _, _, value, length = struct.unpack_from("<IBBHQQ", data, at)
            if info & 15 == _FUNCTION and value and length:
                end = data.index(b"\0", strings + name)
                found.setdefault(value, (value + length, data[strings + name : end].decode(errors="replace")))
    starts = sorted(found)
    return Functions(
        tuple(starts), tuple(found[s][0] for s in starts), tuple(found[s][1] for s in starts), tuple(loads)
    )
