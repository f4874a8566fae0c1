"""What lies between a file's tensors and real values in the ONNX layout, for runs that are not this process's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import UsageError
from edgecc.ir import Array
from edgecc.runtime import Runner
from edgecc.runtime.litert_ports import bind, checked_feeds, read_metadata

_KINDS = {".tflite": "litert", ".onnx": "ort"}


@dataclass(frozen=True)
class ModelFile:
    """A file.

    Attributes:
        kind: "litert" or "ort".
        data: the file; empty for ONNX.
        runner: of this machine.
        scales: the step of each output, by name; None where it has none.
    """

    kind: str
    data: bytes
    runner: Runner
    scales: Mapping[str, float | None]

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """Loads a file.

        Raises:
            UsageError: it is neither .tflite nor .onnx.
            ModelError: its runtime does not load it.
        """
        kind = _KINDS.get(path.suffix)
        if kind is None:
            raise UsageError("emulated are .onnx and .tflite files", node=str(path))
        if kind == "litert":
            from edgecc.runtime.litert import LiteRtRunner

            data = path.read_bytes()
            return cls(kind, data, LiteRtRunner(data, threads=1), _tflite_scales(data))
        from edgecc.runtime.ort import OrtRunner

        return cls(kind, b"", OrtRunner.from_file(path), _onnx_scales(path))

    def here(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The answers of the runtime on this machine."""
        return each(self.runner, feeds)

    def stored(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What the input tensors hold, by position."""
        count = len(next(iter(feeds.values())))
        rows = [{name: array[i] for name, array in feeds.items()} for i in range(count)]
        if self.kind == "litert":
            bound = self._bound("inputs")
            columns = zip(*(map(_store, bound, checked_feeds(bound, row)) for row in rows), strict=True)
        else:
            columns = zip(*([row[spec.name] for spec in self.runner.inputs] for row in rows), strict=True)
        return {str(i): np.stack(column) for i, column in enumerate(columns)}

    def real(self, raw: Mapping[str, Array]) -> dict[str, Array]:
        """Real values in the ONNX layout, by name, from what the output tensors hold."""
        if self.kind == "ort":
            return {spec.name: raw[str(i)] for i, spec in enumerate(self.runner.outputs)}
        bound = self._bound("outputs")
        return {b.port.name: np.stack([b.real(one) for one in raw[str(i)]]) for i, b in enumerate(bound)}

    def _bound(self, side: str) -> Any:
        from edgecc.tflite.reader import read_graph

        graph = read_graph(self.data)
        tensors = graph.inputs if side == "inputs" else graph.outputs
        return bind([t.detail() for t in tensors], side, read_metadata(self.data), None)


def _store(bound: Any, array: Array) -> Array:
    stored: Array = bound.store(array)
    return stored


def each(runner: Runner, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The answers to samples, one after the other."""
    rows = [
        runner.run({name: array[i] for name, array in feeds.items()})
        for i in range(len(next(iter(feeds.values()))))
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _tflite_scales(data: bytes) -> dict[str, float | None]:
    """The step of each output: its own scale, or that of the integers of which it is the real value."""
    from edgecc.tflite.reader import read_graph

    graph = read_graph(data)
    scales = {t.index: float(t.scales[0]) for t in graph.tensors if len(t.scales) == 1}
    for op in graph.operators:
        if op.code == "DEQUANTIZE" and op.given(0).index in scales:
            scales[op.outputs[0].index] = scales[op.given(0).index]
    bound = bind([t.detail() for t in graph.outputs], "outputs", read_metadata(data), None)
    return {b.port.name: scales.get(b.index) for b in bound}


def _onnx_scales(path: Path) -> dict[str, float | None]:
    """The step of each output that a DequantizeLinear gives."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {t.name: t for t in graph.initializer}
    found: dict[str, float | None] = {}
    for node in graph.node:
        scale = constants.get(node.input[1]) if node.op_type == "DequantizeLinear" else None
        if scale is not None and not list(scale.dims) and scale.data_location != onnx.TensorProto.EXTERNAL:
            found[node.output[0]] = float(onnx.numpy_helper.to_array(scale))
    return {o.name: found.get(o.name) for o in graph.output}
