"""Weights with many zeros, stored as the others and where these stand: DENSIFY makes them whole once, when loaded.

Format: `SparsityParameters` of TFLite's schema.fbs, all axes dense but the last, which is compressed sparse rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgecc.ir import Array
from edgecc.tflite.graph import Graph, Operator, Tensor
from edgecc.tflite.kernels import Kernels

# Operators that take weights behind DENSIFY at the speed of others, and where these stand. Only float32 is stored so:
# behind DENSIFY built-in kernels turn float16 to float32 at every run. See docs/adr/0010-sparse-storage.md.
_READERS = {"FULLY_CONNECTED": 1, "CONV_2D": 1}
# What a tensor, its sparsity and an operator take in the file besides numbers and indices.
_OVERHEAD = 512


@dataclass(frozen=True)
class Compressed:
    """A constant as compressed sparse rows along its last axis.

    Attributes:
        values: (non-zeros,) of the constant's type.
        segments: (rows + 1,) where each row begins in `values`: the narrowest of uint8, uint16 and int32.
        indices: (non-zeros,) the place in the row: likewise.
    """

    values: Array
    segments: Array
    indices: Array

    @property
    def nbytes(self) -> int:
        """In the file."""
        return int(self.values.nbytes + self.segments.nbytes + self.indices.nbytes)


def compressed(array: Array) -> Compressed:
    """A constant of any shape with at least one axis; -0.0 is no zero."""
    rows = array.reshape(-1, array.shape[-1])
    # What is not all zero bits is kept, so that the dense constant comes back to the last bit.
    kept = rows.view(f"u{array.dtype.itemsize}") != 0
    # A tensor without any number has an empty buffer, which TFLite takes for one that is computed.
    kept[:1, :1] |= not kept.any()
    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return Compressed(rows[kept], _narrow(segments), _narrow(np.nonzero(kept)[1]))


def _narrow(numbers: Array) -> Array:
    top = int(numbers.max(initial=0))
    return numbers.astype(np.uint8 if top < 2**8 else np.uint16 if top < 2**16 else np.int32)


def store_sparse(graph: Graph, known: Kernels) -> int:
    """Puts a DENSIFY behind each constant of weights that takes less room so, where all runtimes have its kernel.

    Returns:
        how many constants are stored sparsely.
    """
    readers = _readers(graph)
    made: list[Operator] = []
    for index, tensor in enumerate(list(graph.tensors)):
        if index not in readers or not all(readers[index]) or not _pays(tensor, known):
            continue
        assert tensor.data is not None
        held = np.ascontiguousarray(tensor.data)
        graph.tensors.append(replace(tensor, name=f"{tensor.name}_sparse", data=held, sparse=True))
        graph.tensors[index] = replace(tensor, data=None)
        made.append(Operator("DENSIFY", (len(graph.tensors) - 1,), (index,)))
    graph.operators[:0] = made
    return len(made)


def _readers(graph: Graph) -> dict[int, list[bool]]:
    """Of each tensor, whether those who read it take it as weights that may come from a DENSIFY."""
    found: dict[int, list[bool]] = {}
    for op in graph.operators:
        for position, index in enumerate(op.inputs):
            found.setdefault(index, []).append(_READERS.get(op.code) == position)
    for index in graph.outputs:
        found.setdefault(index, []).append(False)
    return found


def _pays(tensor: Tensor, known: Kernels) -> bool:
    if tensor.data is None or tensor.quant is not None or tensor.dtype != "float32":
        return False
    if known.reach("DENSIFY", tensor.dtype) is None:
        return False
    size = tensor.data.nbytes - _OVERHEAD
    if np.count_nonzero(tensor.data) * (tensor.data.itemsize + 1) > size:
        return False
    return compressed(np.ascontiguousarray(tensor.data)).nbytes < size
