"""What a compilation writes: bytes with the facts that describe them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Port:
    """An input or output of an artifact.

    Attributes:
        name: as in the ONNX model.
        onnx_shape: with -1 for a symbolic batch.
        shape: in the artifact, with -1 for a symbolic batch.
        permutation: axis i of the artifact is axis permutation[i] of the ONNX value; None: alike.
        dtype: numpy name of the artifact's element type.
        scale, zero_point: real value = scale * (stored - zero_point); None where the type is not quantized.
    """

    name: str
    onnx_shape: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    permutation: tuple[int, ...] | None = None
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Artifact:
    """One file to be shipped.

    Attributes:
        data: its bytes; empty while a large one waits in the file `path`.
        notes: what its maker has to say (remaining transposes, float islands).
        path: of its file, once there is one.
    """

    data: bytes = field(repr=False)
    format: str
    precision: str
    target: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def sha256(self) -> str:
        """Of the bytes, in hexadecimal."""
        if self.waits_in is None:
            return hashlib.sha256(self.data).hexdigest()
        with self.waits_in.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data) if self.waits_in is None else self.waits_in.stat().st_size

    @property
    def waits_in(self) -> Path | None:
        """The file that holds the bytes instead of memory; None: they are in `data`."""
        return None if self.data else self.path

    @property
    def companions(self) -> tuple[str, ...]:
        """Names of the files beside it that were made of it: packed, for an NPU, sources for firmware."""
        one = [self.notes[key] for key in ("packed", "vela") if key in self.notes]
        return tuple(str(made["file"]) for made in (*one, *self.notes.get("firmware", ())))

    def content(self) -> bytes:
        """The bytes, wherever they are."""
        return self.data if self.waits_in is None else self.waits_in.read_bytes()

    def set_aside(self, path: Path) -> Artifact:
        """The same, with its bytes in a file instead of memory."""
        path.write_bytes(self.data)
        return replace(self, data=b"", path=path)
