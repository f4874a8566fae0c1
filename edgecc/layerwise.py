"""The error of every intermediate value that the original and the artifact have under one name.

Of each, two errors: that which arrived from all layers before it, and its own. The own error is found by running the
original's operators on the artifact's values: in a copy of the original every such value is cut, so that it is
computed from what the artifact says of the values before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgecc import ir
from edgecc.analysis.traps import Spread, trap
from edgecc.artifact import Artifact
from edgecc.errors import ModelError, UsageError
from edgecc.fidelity import Accumulator, LayerFidelity
from edgecc.ir import Array
from edgecc.runtime import Runner

if TYPE_CHECKING:
    from edgecc.calibration.dataset import Dataset
    from edgecc.runtime.litert import LiteRtRunner
    from edgecc.runtime.tflm import MicroRunner

DEFAULT_SAMPLES = 16
"""How many samples are compared: every value of the network is computed and held once a sample."""

_CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}


class LayerSource(Protocol):
    """A network whose intermediate values can be read, by the names of the original model."""

    def names(self) -> Collection[str]:
        """Of the values it has."""

    def values(self, feeds: Mapping[str, Array], names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Runs once and gives these values one by one, where it kept them."""


class TfliteLayers:
    """A TFLite file, run so that every tensor is kept (in LiteRT: without XNNPACK)."""

    def __init__(self, data: bytes, *, like: Runner, threads: int | None = None) -> None:
        self._runner = open_tflite(data, like=like, threads=threads, layers=True)

    def names(self) -> Collection[str]:
        """Of all tensors."""
        return self._runner.tensor_names

    def values(self, feeds: Mapping[str, Array], names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Tensors, dequantized."""
        self._runner.run(feeds)
        for name in names:
            yield name, self._runner.tensor(name)


def open_tflite(
    data: bytes, *, like: Runner, threads: int | None = None, layers: bool = False
) -> LiteRtRunner | MicroRunner:
    """A TFLite file in the runtime that it was compiled for: TFLite Micro where it says so, else LiteRT.

    Raises:
        UsageError: its inputs and outputs are not those of `like`, or TFLite Micro is not installed.
        ModelError, UnsupportedError: the runtime cannot load it.
    """
    from edgecc.runtime.litert_ports import read_metadata

    if data[4:8] == b"TFL3" and read_metadata(data).get("runtime") == "tflite-micro":
        from edgecc.runtime.tflm import MicroRunner

        return MicroRunner(data, layers=layers, like=like)
    from edgecc.runtime.litert import LiteRtRunner

    return LiteRtRunner(data, threads=threads, layers=layers, like=like)


class OnnxLayers:
    """An ONNX file, run without graph optimisation so that every value is computed.

    Where the graph holds the quantized form of a value (`<value>_dequantized`), that is what is read.
    """

    def __init__(self, data: bytes, *, threads: int | None = None) -> None:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            self._model = ir.serde.deserialize_model(onnx.load_from_string(data))
        except (DecodeError, ir.serde.SerdeError) as error:
            raise ModelError(f"the ONNX file cannot be read: {error}") from error
        self._threads = threads
        self._runners: dict[tuple[str, ...], Runner] = {}
        produced = {out.name for node in self._model.graph for out in node.outputs if out.name}
        suffix = "_dequantized"
        self._source = {name: name for name in produced} | {
            name.removesuffix(suffix): name for name in produced if name.endswith(suffix)
        }

    def names(self) -> Collection[str]:
        """Of all values of the main graph."""
        return self._source.keys()

    def values(self, feeds: Mapping[str, Array], names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Values of the graph."""
        key = tuple(names)
        if key not in self._runners:
            self._runners[key] = _exposed(self._model, [self._source[n] for n in names], self._threads)
        got = self._runners[key].run(feeds)
        for name in names:
            yield name, got[self._source[name]]


def compare_layers(
    original: ir.Model,
    compiled: str | Path | Artifact,
    dataset: Dataset,
    *,
    like: Runner,
    samples: int = DEFAULT_SAMPLES,
    threads: int | None = None,
) -> tuple[LayerFidelity, ...]:
    """The error of each float value that both have, in the order of the original graph.

    Args:
        original: the float model.
        compiled: the file.
        dataset: samples in the ONNX layout; evenly spaced ones are used.
        like: a runner of the original: names and layouts for files that edgecc did not make.
        samples: how many to use at most.
        threads: of both runtimes.

    Raises:
        ModelError: the file cannot be read.
        UsageError: the file is neither .onnx nor .tflite, or the data does not fit.
    """
    data, form = read_compiled(compiled)
    source: LayerSource
    if form == "tflite":
        source = TfliteLayers(data, like=like, threads=threads)
    else:
        source = OnnxLayers(data, threads=threads)
    known = set(source.names())
    kinds = {
        str(out.name): node.op_type
        for node in original.graph
        for out in node.outputs
        if out.name in known and out.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    }
    names = list(kinds)
    if not names:
        return ()
    reference = _exposed(original, names, threads)
    pieces = _Pieces(original, names, threads)
    sums = {name: Accumulator(name) for name in names}
    own = {name: Accumulator(name) for name in names}
    seen = {name: _Seen() for name in names}
    for feeds in evenly(dataset, samples):
        wanted = reference.run(feeds)
        given: dict[str, Array] = {}
        for name, got in source.values(feeds, names):
            seen[name].add(wanted[name])
            fitted = _fitted(got, wanted[name].shape)
            if fitted is not None:
                sums[name].add(wanted[name], fitted)
                given[name] = np.ascontiguousarray(fitted, wanted[name].dtype)
        for name, expected in pieces.run(feeds, {n: given.get(n, wanted[n]) for n in names}).items():
            if name in given:
                own[name].add(expected, given[name])
    spreads = {name: s.spread for name, s in seen.items()}
    values = {str(out.name): out for node in original.graph for out in node.outputs}
    return tuple(
        LayerFidelity(
            name, kinds[name], s.sqnr_db, s.max_error, s.relative_error, own[name].sqnr_db,
            trap(values[name], spreads) if own[name].noise else None,
        )
        for name, s in sums.items()
        if s.samples
    )  # fmt: skip


class _Pieces:
    """The original cut at named values: each is computed from what is given for the ones before it."""

    def __init__(self, original: ir.Model, names: Sequence[str], threads: int | None) -> None:
        from edgecc.runtime.ort import OrtRunner

        copy = original.clone()
        graph = copy.graph
        wanted = set(names)
        cut = [out for node in graph for out in node.outputs if out.name in wanted]
        self._computed: dict[str, str] = {}
        for value in cut:
            name = str(value.name)
            value.name = ir.fresh_name(graph, f"{name}_computed")
            self._computed[value.name] = name
            entry = ir.Value(name=name, shape=value.shape, type=value.type)
            value.replace_all_uses_with(entry, replace_graph_outputs=True)
            graph.inputs.append(entry)
        graph.outputs[:] = cut
        self._runner = OrtRunner.from_model(copy, optimize=False, threads=threads)
        self._needed = {spec.name for spec in self._runner.inputs}

    def run(self, feeds: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """The values computed from `given`, by their names in the original."""
        every = {**feeds, **given}
        found = self._runner.run({name: every[name] for name in self._needed})
        return {self._computed[name]: array for name, array in found.items()}


@dataclass
class _Seen:
    """Running extremes and energy of one value."""

    energy: float = 0.0
    count: int = 0
    channels: Array = field(default_factory=lambda: np.zeros(0))

    def add(self, array: Array) -> None:
        """Takes one sample."""
        self.energy += float(np.square(array, dtype=np.float64).sum())
        self.count += array.size
        axis = 1 if array.ndim > 1 else 0
        others = tuple(i for i in range(array.ndim) if i != axis)
        limits = (
            np.abs(array).max(others, initial=0)
            if array.ndim > 1
            else np.abs(array).max(initial=0).reshape(1)
        )
        same = limits.shape == self.channels.shape
        self.channels = np.maximum(self.channels, limits) if same else limits

    @property
    def spread(self) -> Spread:
        """What was seen."""
        limit = float(self.channels.max(initial=0))
        return Spread(limit, (self.energy / max(self.count, 1)) ** 0.5, self.channels)


def evenly(dataset: Dataset, samples: int) -> Iterator[dict[str, Array]]:
    """At most `samples`, evenly spaced (data is often sorted by class); the first ones if unsized."""
    try:
        step = max(1, len(dataset) // samples)
    except TypeError:
        step = 1
    return itertools.islice(iter(dataset), 0, step * samples, step)


def _exposed(model: ir.Model, names: Sequence[str], threads: int | None) -> Runner:
    from edgecc.runtime.ort import OrtRunner

    outputs = {value.name for value in model.graph.outputs}
    extra = [name for name in dict.fromkeys(names) if name not in outputs]
    return OrtRunner.from_model(model, optimize=False, threads=threads, extra_outputs=extra)


def _fitted(array: Array, shape: tuple[int, ...]) -> Array | None:
    """`array` in the layout of the original; None where it is another value under the same name."""
    if array.shape == shape:
        return array
    order = _CHANNELS_LAST.get(array.ndim)
    if order is None or array.ndim != len(shape) or array.shape != tuple(shape[i] for i in order):
        return None
    return array.transpose(np.argsort(order))


def read_compiled(compiled: str | Path | Artifact) -> tuple[bytes, str]:
    """The bytes of a compiled file and their format, "tflite" or "onnx", told by the content.

    Raises:
        UsageError: there is no such file.
    """
    if isinstance(compiled, Artifact):
        return compiled.content(), compiled.format
    path = Path(compiled)
    if not path.is_file():
        raise UsageError("there is no such file", node=str(path))
    data = path.read_bytes()
    return data, "tflite" if data[4:8] == b"TFL3" else "onnx"
