"""What the kernels of each TFLite runtime take: `kernels.json`, made by running one-operator files in all of them.

A kind names how the data of an operator is stored: "float32" or another numpy type, "qint8" where it is quantized,
"float32*qint8/channel" with such weights (one scale a channel; "/blocks": one a block), "int32>float32" where the type
of the result is free, "... grouped" for a convolution of channel groups. A row gives the ranks that are served
("0-8"), with b and the highest rank where the operands have different shapes ("0-8 b6").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgecc.errors import ModelError
from edgecc.tflite.graph import Operator, Tensor

TABLE = Path(__file__).with_name("kernels.json")

# Runtime, as a target's file names it -> the columns of the table that must serve an operator, and those that should.
# LiteRT has kernels of its own beside XNNPACK's, which serve where intermediate tensors are wanted.
RUNTIMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "litert": (("litert", "litert-builtin"), ("tflite-runtime-2.14",)),
    "tflite-runtime-2.14": (("litert", "litert-builtin", "tflite-runtime-2.14"), ()),
    "tflite-micro": (("tflite-micro",), ()),
}
MICRO = "tflite-micro"

# Position of the data where it is not the first operand.
DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2, "SELECT_V2": 1, "SCATTER_ND": 1}
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "CONV_3D"})
_CONVERTS = frozenset({"CAST", "QUANTIZE", "BITCAST"})


@dataclass(frozen=True)
class Reach:
    """Lowest and highest rank that a kernel serves, and the highest where operands broadcast (None: never tried)."""

    low: int
    high: int
    broadcast: int | None = None

    def meet(self, other: Reach) -> Reach | None:
        """What both serve."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        both = [b for b in (self.broadcast, other.broadcast) if b is not None]
        return Reach(low, high, min(both, default=None)) if low <= high else None


class Kernels:
    """What all of some runtimes serve.

    Args:
        columns: of the table.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._found: dict[tuple[str, str], Reach | None] = {}

    def knows(self, code: str) -> bool:
        """Whether the operator was ever tried."""
        return code in table()["kernels"]

    def reach(self, code: str, kind: str) -> Reach | None:
        """The ranks that all of them serve; None where one has no kernel."""
        key = (code, kind)
        if key not in self._found:
            rows = table()["kernels"].get(code, {})
            cells = [rows.get(column, {}).get(kind) for column in self.columns]
            found = None if None in cells else _reach(cells[0])
            for cell in cells[1:]:
                found = None if found is None else found.meet(_reach(cell))
            self._found[key] = found
        return self._found[key]

    def kinds(self, code: str) -> dict[str, Reach]:
        """Every kind of data that all of them serve."""
        rows = table()["kernels"].get(code, {})
        named = [kind for kind in rows.get(self.columns[0], {}) if kind != "versions"]
        return {kind: found for kind in named if (found := self.reach(code, kind)) is not None}

    def takes(self, code: str, dtype: str) -> bool:
        """Whether there is a kernel for data that is not quantized; operators that were never tried take float32."""
        return self.reach(code, dtype) is not None if self.knows(code) else dtype == "float32"

    def broadcast_rank(self, code: str, dtype: str) -> int:
        """The highest rank of operands with different shapes; 0 where there is no kernel."""
        found = self.reach(code, dtype)
        return 0 if found is None else found.high if found.broadcast is None else found.broadcast

    def version(self, code: str) -> int:
        """The highest version of the operator that all of them load."""
        rows = table()["kernels"].get(code, {})
        return min((int(rows.get(column, {}).get("versions", 0)) for column in self.columns), default=0)


@cache
def kernels(*columns: str) -> Kernels:
    """Those of some columns of the table, read once."""
    return Kernels(columns)


def demanded(runtime: str) -> Kernels:
    """What an operator must have for a target's runtime."""
    return kernels(*RUNTIMES[runtime_id(runtime)][0])


def wanted(runtime: str) -> Kernels:
    """What it should have besides: runtimes that the files are for, too, wherever that costs nothing."""
    return kernels(*(column for part in RUNTIMES[runtime_id(runtime)] for column in part))


def runtime_id(name: str) -> str:
    """The runtime that a target's file names, however it is spelt.

    Raises:
        ModelError: there is no table for it.
    """
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    if slug not in RUNTIMES:
        raise ModelError(
            f"there is no kernel table for the runtime {name!r}", remedy=f"name one of {', '.join(RUNTIMES)}"
        )
    return slug


@cache
def table() -> dict[str, Any]:
    """The whole of `kernels.json`."""
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


@cache
def _reach(cell: str) -> Reach:
    ranks, _, broadcast = cell.partition(" b")
    low, _, high = ranks.partition("-")
    return Reach(int(low), int(high or low), int(broadcast) if broadcast else None)


def kind_of(op: Operator, tensors: Sequence[Tensor]) -> str:
    """How the data of an operator is stored, in the table's words."""
    data = tensors[op.inputs[DATA.get(op.code, 0)]]
    kind = stored_as(data)
    if op.code in _CONVERTS:
        return f"{kind}>{stored_as(tensors[op.outputs[0]])}"
    if op.code not in WEIGHTED:
        return kind
    weights = tensors[op.inputs[1]]
    if weights.quant is not None:
        cut = "/blocks" if weights.quant.block_size else "" if weights.quant.axis is None else "/channel"
        kind = f"{kind}*{stored_as(weights)}{cut}"
    grouped = op.code == "CONV_2D" and weights.shape[-1] != data.shape[-1]
    return f"{kind} grouped" if grouped else kind


def stored_as(tensor: Tensor) -> str:
    """A type in the table's words."""
    return tensor.dtype if tensor.quant is None else f"q{tensor.dtype}"


def in_words(kind: str) -> str:
    """A kind of the table for people: "qint8*qint8/channel" is int8 with int8 weights (a scale a channel)."""
    plain, _, grouped = kind.partition(" ")
    source, _, target = plain.partition(">")
    data, _, weights = source.partition("*")
    text = _stored(data)
    if weights:
        stored, _, cut = weights.partition("/")
        text += f" with {_stored(stored)} weights (a scale a {cut.removesuffix('s') or 'tensor'})"
    if target:
        text += f" to {_stored(target)}"
    return f"{text} in groups of channels" if grouped else text


def _stored(name: str) -> str:
    return f"quantized {name[1:]}" if name.startswith("q") else name
