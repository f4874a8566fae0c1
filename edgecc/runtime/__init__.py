"""Runs an artifact: the only part of edgecc that imports a runtime.

Every runner takes and gives arrays keyed by the ONNX names, in the ONNX layout and as real (dequantized) values, so
that whatever compares two of them need not know what they run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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
