"""Runs an artifact: the only part of edgecc that imports a runtime.

Every runner takes and gives arrays keyed by the ONNX names, in the ONNX layout and as real (dequantized) values, so
that whatever compares two of them need not know what they run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgecc.errors import UsageError
from edgecc.ir import Array


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None: symbolic) and numpy type name of an input or output, as the ONNX model has them."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Runner(Protocol):
    """A loaded network."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once.

        Args:
            feeds: an array for every input, in the ONNX layout.

        Returns:
            An array for every output, in the ONNX layout, dequantized.
        """
        ...


def open_runner(path: Path | str, *, threads: int | None = None, layers: bool = False) -> Runner:
    """The runtime that a file's suffix names. `layers` keeps intermediate tensors readable.

    Raises:
        UsageError: the file is missing or is neither .onnx nor .tflite.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("there is no such file", node=str(path))
    if path.suffix == ".onnx":
        from edgecc.runtime.ort import OrtRunner

        return OrtRunner.from_file(path, threads=threads)
    if path.suffix == ".tflite":
        from edgecc.runtime.litert import LiteRtRunner

        return LiteRtRunner(path.read_bytes(), threads=threads, layers=layers)
    raise UsageError("edgecc runs .onnx and .tflite files", node=str(path))
