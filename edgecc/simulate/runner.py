"""The simulator with the interface of a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgecc.ir import Array
from edgecc.runtime import Runner, TensorSpec
from edgecc.runtime.litert_ports import bind, checked_feeds, read_metadata, spec_of
from edgecc.simulate.network import Network, Observer
from edgecc.tflite.reader import read_graph


@dataclass
class SimulatedRunner:
    """A TFLite file, computed in numpy as LiteRT's reference kernels or TFLite Micro do: the runtime it is for.

    Args:
        data: the file.
        like: the ONNX model, for files that edgecc did not make: see `LiteRtRunner`.

    Attributes:
        inputs, outputs: as the ONNX model has them.
        micro: whether the file is for TFLite Micro.

    Raises:
        ModelError: the file cannot be read.
        UnsupportedError: an operator is not simulated; all of them are named.
        UsageError: `like` does not fit.
    """

    data: bytes = field(repr=False)
    like: Runner | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self.graph = read_graph(self.data)
        facts = read_metadata(self.data)
        self.micro = facts.get("runtime") == "tflite-micro"
        self._network = Network(self.graph, self.micro)
        self._in = bind([t.detail() for t in self.graph.inputs], "inputs", facts, self.like)
        self._out = bind([t.detail() for t in self.graph.outputs], "outputs", facts, self.like)
        self.inputs: tuple[TensorSpec, ...] = tuple(map(spec_of, self._in))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(spec_of, self._out))
        self.output_tensors = {b.port.name: b.index for b in self._out}

    def run(self, feeds: Mapping[str, Array], observe: Observer | None = None) -> dict[str, Array]:
        """Runs once.

        Args:
            feeds: an array for every input, in the ONNX layout, real values.
            observe: called with each operator and what its output tensors hold.

        Returns:
            Every output by name, in the ONNX layout: float32, or the tensor's own type if an integer.

        Raises:
            UsageError: an input is missing or its shape does not fit.
        """
        found = self._network.run(self.stored(feeds), observe)
        held = dict(zip((t.index for t in self.graph.outputs), found, strict=True))
        return {b.port.name: b.real(held[b.index]) for b in self._out}

    def stored(self, feeds: Mapping[str, Array]) -> dict[int, Array]:
        """What the input tensors hold, by their index.

        Raises:
            UsageError: an input is missing or its shape does not fit.
        """
        arrays = checked_feeds(self._in, feeds)
        return {b.index: b.store(array) for b, array in zip(self._in, arrays, strict=True)}
