"""Runs TFLite files in TensorFlow Lite for Microcontrollers, with the names, layout and real values of the ONNX model.

The package `tflite-micro` interprets on this machine what the same C++ code computes on a microcontroller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgecc.errors import EdgeccError, Finding, ModelError, UnsupportedError, UsageError
from edgecc.ir import Array
from edgecc.runtime import Runner, TensorSpec
from edgecc.runtime.litert_ports import (
    Bound,
    bind,
    check_identifier,
    checked_feeds,
    own_port,
    read_metadata,
    spec_of,
)
from edgecc.runtime.stderr import held_stderr

_ARENAS = (1 << 22, 1 << 26, 1 << 30)
"""Bytes of the arenas that are tried: memory that is not touched costs nothing."""

_MISSING = re.compile(r"Failed to get registration from op code (\w+)")
_FAILED = re.compile(r"Node (\w+) \(number [0-9a-f]+\) failed")
_TOO_SMALL = re.compile(r"missing: \d+|Failed to allocate")
_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")


@dataclass
class MicroRunner:
    """A TFLite file, loaded.

    Args:
        data: the file.
        layers: keep every intermediate tensor readable with `tensor` (`arena_bytes` is None then).
        like: the ONNX model, for files that edgecc did not make: see `LiteRtRunner`.

    Attributes:
        inputs, outputs: as the ONNX model has them.
        arena_bytes: of RAM that the interpreter takes for tensors and its own structures, as its recording
            allocator counts them; on a 32-bit microcontroller the structures are smaller.

    Raises:
        UnsupportedError: TFLite Micro lacks an operator of the file, or a kernel refuses it.
        ModelError: it does not load the file for another reason.
        UsageError: the package is not installed, or `like` does not fit.
    """

    data: bytes = field(repr=False)
    layers: bool = field(default=False, kw_only=True)
    like: Runner | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._runtime = _import()
        self._interpreter = self._load()
        self.arena_bytes: int | None = None if self.layers else self._measure()
        self._facts = read_metadata(self.data)
        self._in = bind(self._details("inputs"), "inputs", self._facts, self.like)
        self._out = bind(self._details("outputs"), "outputs", self._facts, self.like)
        self.inputs: tuple[TensorSpec, ...] = tuple(map(spec_of, self._in))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(spec_of, self._out))

    @property
    def precision(self) -> str | None:
        """What edgecc recorded in the file; None for files that it did not make."""
        found = self._facts.get("precision")
        return None if found is None else str(found)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; a batch goes through sample by sample, as TFLite Micro resizes nothing.

        Args:
            feeds: an array for every input, in the ONNX layout, real values.

        Returns:
            Every output by name, in the ONNX layout: float32, or the tensor's own type if an integer.

        Raises:
            UsageError: an input is missing or its shape does not fit.
            UnsupportedError: a kernel refuses to run.
        """
        checked = checked_feeds(self._in, feeds)
        arrays = {b.port.name: array for b, array in zip(self._in, checked, strict=True)}
        free = [b.port.name for b in self._in if b.port.onnx_shape[:1] == (-1,)]
        batches = {len(arrays[name]) for name in free}
        if not free or batches == {1}:
            return self._run(arrays)
        if len(batches) > 1:
            raise UsageError(f"the inputs have different batches: {sorted(batches)}")
        if any(b.port.onnx_shape[:1] != (-1,) for b in self._out):
            raise UsageError("an output has no batch, so TFLite Micro takes samples only one by one")
        rows = [
            self._run({name: a[i : i + 1] if name in free else a for name, a in arrays.items()})
            for i in range(batches.pop())
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        lines: list[str] = []
        try:
            with held_stderr() as lines:
                for bound in self._in:
                    self._interpreter.set_input(bound.store(arrays[bound.port.name]), bound.index)
                self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise _refusal("run", lines, error) from error
        return {b.port.name: b.real(self._interpreter.get_output(b.index)) for b in self._out}

    @property
    def tensor_names(self) -> frozenset[str]:
        """Names that `tensor` knows."""
        return frozenset(self._tensors())

    def tensor(self, name: str) -> Array:
        """A tensor as the last run left it: real values, ONNX layout where the file records it.

        Raises:
            UsageError: the runner was made without `layers=True`, or no tensor has that name.
        """
        if not self.layers:
            raise UsageError("intermediate tensors are kept only with layers=True", node=name)
        if name not in self._tensors():
            raise UsageError("the file has no such tensor", node=name)
        bound = self._tensors()[name]
        return bound.real(self._interpreter.GetTensor(bound.index, 0)["tensor_data"])

    def stored(self, index: int) -> Array:
        """What a tensor of the file holds after a run; only with `layers=True`."""
        return np.asarray(self._interpreter.GetTensor(index, 0)["tensor_data"])

    def _tensors(self) -> dict[str, Bound]:
        """Of the main graph, by name."""
        graph, orders = self._graph(), self._facts.get("layouts", {})
        found: dict[str, Bound] = {}
        for index in range(graph.TensorsLength()):
            detail = _detail(self._runtime, graph.Tensors(index), index)
            port = own_port(detail)
            order = orders.get(port.name)
            if order is not None:
                port = replace(port, permutation=tuple(order))
            found.setdefault(port.name, Bound(port, index, np.dtype(detail["dtype"])))
        sides = ((graph.Inputs, self._in), (graph.Outputs, self._out))
        for number, bounds in sides:
            found |= {b.port.name: replace(b, index=int(number(b.index))) for b in bounds}
        return found

    def _graph(self) -> Any:
        return self._runtime.schema_fb.Model.GetRootAsModel(self.data, 0).Subgraphs(0)

    def _details(self, side: str) -> list[dict[str, Any]]:
        """Of the inputs or outputs, as LiteRT's interpreter gives them; `index` is the position."""
        graph = self._graph()
        number, count = (
            (graph.Inputs, graph.InputsLength())
            if side == "inputs"
            else (graph.Outputs, graph.OutputsLength())
        )
        return [_detail(self._runtime, graph.Tensors(number(i)), i) for i in range(count)]

    def _load(self) -> Any:
        check_identifier(self.data)
        kinds = self._runtime.InterpreterConfig
        kind = kinds.kPreserveAllTensors if self.layers else kinds.kAllocationRecording
        for size in _ARENAS:
            lines: list[str] = []
            try:
                with held_stderr() as lines:
                    return self._runtime.Interpreter.from_bytes(
                        self.data, arena_size=size, intrepreter_config=kind
                    )
            except (RuntimeError, ValueError) as error:
                if size == _ARENAS[-1] or not any(map(_TOO_SMALL.search, lines)):
                    raise _refusal("load", lines, error) from error
        raise AssertionError("unreachable")

    def _measure(self) -> int:
        with held_stderr() as lines:
            self._interpreter.print_allocations()
        found = next((m for m in map(_TOTAL.search, lines) if m), None)
        if found is None:
            raise EdgeccError(
                f"TFLite Micro does not say how much memory it takes, but: {' '.join(lines)[:200]}",
                remedy="install the release of tflite-micro that edgecc is tested with",
            )
        return int(found[1])


def _import() -> Any:
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise UsageError(
            f"TFLite Micro is not installed ({error})",
            remedy="pip install 'edgecc[micro]' (tflite-micro has wheels for Linux on x86-64 only);"
            " or compile with --no-verify --no-profile",
        ) from error
    return runtime


def _detail(runtime: Any, tensor: Any, index: int) -> dict[str, Any]:
    """A tensor of the flatbuffer, described as LiteRT's interpreter does."""
    types = {number: name for name, number in vars(runtime.schema_fb.TensorType).items() if name.isupper()}
    shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
    signature = [tensor.ShapeSignature(i) for i in range(tensor.ShapeSignatureLength())]
    quant = tensor.Quantization()
    scales = [] if quant is None else [quant.Scale(i) for i in range(quant.ScaleLength())]
    zeros = [] if quant is None else [quant.ZeroPoint(i) for i in range(quant.ZeroPointLength())]
    name = types[tensor.Type()].lower()
    return {
        "name": tensor.Name().decode(),
        "index": index,
        "shape": np.array(shape, np.int32),
        "shape_signature": np.array(signature or shape, np.int32),
        "dtype": np.dtype("int8" if name == "int4" else name),
        "quantization_parameters": {"scales": scales, "zero_points": zeros},
    }


def _refusal(act: str, lines: list[str], error: Exception) -> EdgeccError:
    """What TFLite Micro wrote, as an error: of a missing operator, of a kernel that refuses, or of the file."""
    text = " ".join(" ".join([*lines, str(error)]).split())
    missing = _MISSING.search(text)
    if missing:
        found = Finding(missing[1], missing[1], "TFLite Micro has no such operator")
        return UnsupportedError(f"TFLite Micro cannot {act} the network:", [found])
    failed = _FAILED.search(text)
    if failed:
        return UnsupportedError(
            f"TFLite Micro cannot {act} the network:", [Finding(failed[1], failed[1], text)]
        )
    if any(map(_TOO_SMALL.search, lines)):
        return UnsupportedError(
            f"TFLite Micro needs more than {_ARENAS[-1]:,} bytes of memory for the network"
        )
    return ModelError(f"TFLite Micro does not {act} the file: {text}")
