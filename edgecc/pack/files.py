"""Packing and unpacking files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError
from edgecc.output import write_file
from edgecc.pack.container import LARGEST, pack, unpack


@dataclass(frozen=True)
class PackedFile:
    """What was packed: paths, and sizes in bytes. The rest of a file beside its weights is structure."""

    source: str
    file: str
    size: int
    packed_size: int
    weights: int
    packed_weights: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self) | {"ratio": self.size / self.packed_size}


def pack_file(source: Path, output: Path | None = None) -> PackedFile:
    """Packs a file; `output` None: beside it, with the ending .ecz.

    Raises:
        UsageError: there is no such file, or it would overwrite itself.
    """
    output = source.with_suffix(".ecz") if output is None else output
    packed = pack(_read(source, output))
    write_file(output, packed.data)
    return PackedFile(
        str(source), str(output), packed.size, len(packed.data), packed.weights, packed.packed_weights
    )


def unpack_file(source: Path, output: Path | None = None) -> Path:
    """Unpacks a file; `output` None: beside it, with the ending of its content.

    Raises:
        UsageError: there is no such file, or it would overwrite itself.
        ModelError: it is damaged.
    """
    data = unpack(_read(source, output))
    if output is None:
        output = source.with_suffix(".tflite" if data[4:8] == b"TFL3" else ".onnx")
    write_file(output, data)
    return output


def _read(source: Path, output: Path | None) -> bytes:
    if not source.is_file():
        raise UsageError("there is no such file", node=str(source))
    if output is not None and output.exists() and output.samefile(source):
        raise UsageError("it would be overwritten", node=str(source), remedy="name another file with -o")
    if source.stat().st_size > LARGEST:
        raise UsageError("files above 2 GB are not packed", node=str(source))
    return source.read_bytes()
