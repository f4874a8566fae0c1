"""Runs a network in ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecc import ir
from edgecc.errors import ModelError, UsageError
from edgecc.ir import Array
from edgecc.runtime import TensorSpec
from edgecc.runtime.stopwatch import FOLDER_KEY, readable

if TYPE_CHECKING:
    import onnxruntime as ort

# Initializers of at least this many bytes are handed over as arrays beside the protobuf: nothing is copied
# into one message, so the 2 GB limit of protobuf does not apply. (onnx too keeps smaller ones in the file.)
_BESIDE_BYTES = 1024
# What was copied of larger ones is not kept in memory as well.
_RELEASED_BYTES = 1 << 24

# ONNX Runtime's names of element types, and numpy's.
_NUMPY_NAMES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "string": "object",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (4, 8, 16, 32, 64)},
}


@dataclass(frozen=True)
class _Serialized:
    """A model, arrays of initializers that it declares as external, and the folder of its external data."""

    data: bytes
    beside: Mapping[str, Array]
    folder: str | None
    large: bool = False


class OrtRunner:
    """A network loaded in ONNX Runtime's CPU provider.

    Attributes:
        inputs: name, shape and type of every input.
        outputs: the same of every output, `extra_outputs` last.
    """

    def __init__(
        self,
        model: str | bytes | _Serialized,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: str | None = None,
        optimized: Path | str | None = None,
    ) -> None:
        """Loads a model: see `from_model`, `from_file` and `from_bytes`, which most callers want.

        Args:
            model: path or serialised ModelProto.
            optimize: every graph optimisation of the runtime, or none.
            threads: threads of one operator; None: one a core.
            profile: prefix of the JSON file with one event an operator that `end_profiling` writes.
            optimized: file that receives the graph as the runtime optimised it.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4  # fatal only: errors arrive as exceptions
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        options.inter_op_num_threads = 1
        if threads is not None:
            options.intra_op_num_threads = threads
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
            options.add_session_config_entry("session.disable_prepacking", "1")  # it is read, not run
        if isinstance(model, _Serialized):
            beside = self._beside = model.beside  # the runtime refers to these arrays
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in beside.values()]
            if beside:
                options.add_external_initializers(list(beside), values)
            # Kernels read rearranged copies of weights faster: prepacked ones, and the blocked layout of convolutions
            # that the highest level of optimisation chooses. Two copies of large weights cost too much.
            if model.large:
                options.add_session_config_entry("session.disable_prepacking", "1")
            if model.large and optimize:
                options.graph_optimization_level = level.ORT_ENABLE_EXTENDED
            if model.folder is not None:
                options.add_session_config_entry(FOLDER_KEY, model.folder)
            model = model.data
        self._errors = _errors()
        name = model if isinstance(model, str) else None
        held = readable(model, options)
        self._session: ort.InferenceSession = self._guard(
            lambda: ort.InferenceSession(held, options, providers=["CPUExecutionProvider"]), "load", name
        )
        self.inputs = tuple(_spec(arg) for arg in self._session.get_inputs())
        self.outputs = tuple(_spec(arg) for arg in self._session.get_outputs())

    @classmethod
    def from_model(
        cls,
        model: ir.Model,
        *,
        optimize: bool = True,
        threads: int | None = None,
        extra_outputs: Sequence[str] = (),
        profile: str | None = None,
        optimized: Path | str | None = None,
    ) -> OrtRunner:
        """Loads an IR model without changing it. Weights are shared with the runtime, not serialised.

        Args:
            model: any valid model.
            optimize: every graph optimisation of the runtime, or none.
            threads: threads of one operator; None: one a core.
            extra_outputs: names of inner values that `run` returns too.
            profile, optimized: as in the constructor.

        Raises:
            ModelError: the runtime cannot load the model.
            UsageError: the graph has no value of such a name.
        """
        data = _serialize(model, extra_outputs)
        try:
            return cls(data, optimize=optimize, threads=threads, profile=profile, optimized=optimized)
        except ModelError:
            if not optimize or optimized is not None:
                raise  # else once more: the optimiser fails on branches never taken whose shapes do not fit
        return cls(data, optimize=False, threads=threads, profile=profile)

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: str | None = None,
    ) -> OrtRunner:
        """Loads a file, and the external data beside it.

        Raises:
            ModelError: the file is missing or the runtime cannot load it.
        """
        if not Path(path).is_file():
            raise ModelError("there is no such file", node=str(path))
        return cls(str(path), optimize=optimize, threads=threads, profile=profile)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, optimize: bool = True, threads: int | None = None, profile: str | None = None
    ) -> OrtRunner:
        """Loads a serialised ModelProto.

        Raises:
            ModelError: the runtime cannot load it.
        """
        held = data if len(data) < ir.LARGE_BYTES else _without_weights(data)
        return cls(held, optimize=optimize, threads=threads, profile=profile)

    def run(self, feeds: Mapping[str, Array], only: Sequence[str] = ()) -> dict[str, Array]:
        """Runs once; nothing is cast, sliced or broadcast.

        Args:
            feeds: for every input an array of its type and shape (any size where the shape is symbolic).
            only: outputs to return; empty: all. ONNX Runtime 1.31 computes the others all the same.

        Returns:
            An array for every output asked for.

        Raises:
            UsageError: an input is missing, unknown, or of another type or shape.
            ModelError: the runtime failed.
        """
        check_feeds(self.inputs, feeds)
        names = list(only) or [spec.name for spec in self.outputs]
        arrays = self._guard(lambda: self._session.run(names, dict(feeds)), "run")
        return dict(zip(names, arrays, strict=True))

    def end_profiling(self) -> Path:
        """Stops the profiler and returns the file with its events. Only after loading with `profile`."""
        return Path(self._session.end_profiling())

    def _guard(self, action: Callable[[], Any], verb: str, name: str | None = None) -> Any:
        try:
            return action()
        except self._errors as error:
            cause = " ".join(str(error).split())[:1000]
            raise ModelError(f"ONNX Runtime cannot {verb} the model: {cause}", node=name) from error


def check_feeds(inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Compares what is fed with what a network takes.

    Raises:
        UsageError: an input is missing, unknown, or of another type or shape.
    """
    listed = ", ".join(f"{s.name} {s.dtype}{_shown(s.shape)}" for s in inputs)
    for name in feeds:
        if name not in {spec.name for spec in inputs}:
            raise UsageError(f"the model has no such input; it has: {listed}", node=name)
    for spec in inputs:
        if spec.name not in feeds:
            raise UsageError(f"no data for this input; the model has: {listed}", node=spec.name)
        array = np.asarray(feeds[spec.name])
        if spec.dtype == "object" and array.dtype.kind in "OUS":
            pass
        elif array.dtype.name != spec.dtype:
            raise UsageError(f"expected {spec.dtype}, got {array.dtype.name}", node=spec.name)
        fits = len(array.shape) == len(spec.shape) and all(
            want is None or want == got for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"expected shape {_shown(spec.shape)}, got {_shown(array.shape)}", node=spec.name
            )


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _spec(arg: Any) -> TensorSpec:
    kind = str(arg.type)
    inner = kind.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in arg.shape)
    return TensorSpec(str(arg.name), shape, _NUMPY_NAMES.get(inner, kind))


def _errors() -> tuple[type[BaseException], ...]:
    """The exceptions of ONNX Runtime, which share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)


def _serialize(model: ir.Model, extra_outputs: Sequence[str]) -> _Serialized:
    """The protobuf without its large initializers, and where these are."""
    copy, beside = model.clone(), {}
    if extra_outputs:
        _add_outputs(copy.graph, extra_outputs)
    folder: str | None = None
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            raise ModelError("an initializer has no data", node=name)
        if isinstance(tensor, ir.ExternalTensor) and folder in (None, str(tensor.base_dir)):
            folder = str(tensor.base_dir)  # the runtime maps the file
            continue
        if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8 or tensor.nbytes < _BESIDE_BYTES:
            continue
        if not value.uses() and not value.is_graph_output():
            continue  # the runtime drops it before it asks for the array
        array = tensor.numpy()
        if array.dtype.isbuiltin == 2:  # bfloat16, float8: stay in the protobuf
            continue
        beside[name] = np.require(array, requirements=["C", "ALIGNED"])
        if beside[name] is not array and array.nbytes > _RELEASED_BYTES:
            ir.release_source(array)
        value.const_value = ir.ExternalTensor(
            "beside", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=name
        )
    large = ir.weight_bytes(copy) >= ir.LARGE_BYTES
    return _Serialized(ir.serde.serialize_model(copy).SerializeToString(), beside, folder, large)


def _without_weights(data: bytes) -> _Serialized:
    """A serialised model whose large weights the runtime reads where they are."""
    from edgecc.onnxfile import weights_aside

    small, weights = weights_aside(data, "beside")
    beside = {}
    for tensor, content in weights:
        array = np.frombuffer(content, ir.DataType(tensor.data_type).numpy()).reshape(tensor.dims)
        beside[tensor.name] = np.require(array, requirements=["ALIGNED"])
    return _Serialized(small, beside, None, large=True)


def _add_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    inner = itertools.chain(graph.inputs, graph.initializers.values(), *(node.outputs for node in graph))
    values, present = {v.name: v for v in inner}, {v.name for v in graph.outputs}
    for name in dict.fromkeys(names):
        if name not in values:
            raise UsageError("the graph has no value of this name", node=name)
        if name not in present:
            graph.outputs.append(values[name])
