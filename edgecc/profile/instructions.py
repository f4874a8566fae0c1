"""Counts the Arm instructions of one inference from qemu's log of the blocks that it executes.

qemu translates code in blocks that always run to their end. It logs the instructions of a block where it translates it,
and a line where it executes one; the log is narrowed to the runtime's library and to the marker, a function that the
guest calls between inferences. The count so repeats to the instruction.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

CLASSES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "dot": ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000)),
    "mmla": ((0xDFE0F400, 0x4E80A400),),
    "mlal": ((0x9F20FC00, 0x0E208000), (0x9F00F400, 0x0F002000), (0x9F20FC00, 0x0E20C000)),
    "fmla": ((0xBFA0FC00, 0x0E20CC00), (0xBF80F400, 0x0F801000)),
}
"""Vector products by (mask, value) of their encodings (Arm Architecture Reference Manual, C4.1.96): SDOT and UDOT;
SMMLA, UMMLA and USMMLA; SMLAL, UMLAL and SMULL, UMULL; FMLA."""

# A block ends with an empty line. No `^`: a pattern that begins with plain text is searched ten times as fast.
_BLOCK = re.compile(rb"IN: [^\n]*\n((?:0x[^\n]*\n)+)\n")
_EXECUTED = re.compile(rb"Trace [^/\n]*/([0-9a-f]{16})/")


@dataclass
class BlockLog:
    """Reads the log piece by piece.

    Attributes:
        marker: address of the function that is called between inferences.
        blocks: instruction words of each block, by its address.
        inferences: how often each block was executed, for each stretch between two markers.
        translated: blocks that were translated after the first marker.
    """

    marker: int
    blocks: dict[int, list[int]] = field(default_factory=dict)
    inferences: list[Counter[bytes]] = field(default_factory=list)
    translated: set[int] = field(default_factory=set)
    _now: Counter[bytes] | None = None
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        """Takes the next piece."""
        data = self._rest + data
        end = _complete(data)
        data, self._rest = data[:end], data[end:]
        for text in _BLOCK.findall(data):
            self._block(text)
        key = b"%016x" % self.marker
        if self._now is None and key not in data:
            return  # the start executes a hundred times as many blocks as an inference
        pieces = _split(_EXECUTED.findall(data), key)
        for i, piece in enumerate(pieces):
            if i:
                if self._now is not None:
                    self.inferences.append(self._now)
                self._now = Counter()
            if self._now is not None:
                self._now.update(piece)

    def _block(self, text: bytes) -> None:
        """Takes the lines of a block: `ADDRESS:  WORD  what it says`."""
        lines = [line.split(maxsplit=2) for line in text.splitlines()]
        address = int(lines[0][0][:-1], 16)
        self.blocks[address] = [int(words[1], 16) for words in lines]
        if address == self.marker:
            self.translated.clear()
        else:
            self.translated.add(address)

    def totals(self) -> list[int]:
        """Instructions of each inference."""
        sizes = {b"%016x" % address: len(words) for address, words in self.blocks.items()}
        return [sum(sizes[key] * n for key, n in one.items()) for one in self.inferences]

    def usual(self) -> tuple[int, int]:
        """Place of an inference with the usual number of instructions, and how many have as many.

        The first may still warm up. Of the others some do more: ONNX Runtime looks at the clock in each and, seconds
        after the last time, does some accounting. What most have in common is usual; the least where none is.
        """
        totals = self.totals()
        counts = Counter(totals[1:] or totals)
        value = max(counts, key=lambda total: (counts[total], -total))
        return max(i for i, total in enumerate(totals) if total == value), counts[value]

    def executed(self, place: int) -> Iterable[tuple[int, int, Mapping[str, int]]]:
        """(address, instructions, instructions of each class) of every block of an inference."""
        for key, n in self.inferences[place].items():
            address = int(key, 16)
            words = self.blocks[address]
            kinds = {name: n * sum(is_class(word, name) for word in words) for name in CLASSES}
            yield address, n * len(words), kinds


def is_class(word: int, name: str) -> bool:
    """Whether an instruction word is a vector product of that class."""
    return any(word & mask == value for mask, value in CLASSES[name])


def _complete(data: bytes) -> int:
    """How many bytes hold nothing that the next piece continues."""
    opened = data.rfind(b"IN: ")
    if opened >= 0 and data.find(b"\n\n", opened) < 0:
        return opened
    return data.rfind(b"\n") + 1


def _split(items: list[bytes], key: bytes) -> list[list[bytes]]:
    """The pieces between occurrences of `key`."""
    pieces, start = [], 0
    for _ in range(items.count(key)):
        at = items.index(key, start)
        pieces.append(items[start:at])
        start = at + 1
    return [*pieces, items[start:]]


def ranges(blocks: Mapping[int, list[int]], chosen: Iterable[int], most: int) -> list[tuple[int, int]]:
    """At most `most` ranges of addresses (first, last) that cover the chosen blocks; the widest gaps stay out.

    qemu looks every block up in each of them, so a few wide ones are faster than many narrow ones.
    """
    spans = sorted((a, a + 4 * len(blocks[a]) - 1) for a in chosen)
    gaps = sorted((b[0] - a[1] for a, b in pairwise(spans)), reverse=True)
    least = max(1, gaps[most - 1]) if len(gaps) >= most else 1  # wider ones, `most - 1` of them, separate
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and first - joined[-1][1] <= least:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
