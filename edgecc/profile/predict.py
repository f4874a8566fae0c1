"""Predicts the latency of a network on a device that is not here, by a target's rates, with error bar and grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import ir
from edgecc.analysis.workload import Layer, amounts, layers_of
from edgecc.errors import EdgeccError, Finding, ModelError, UnsupportedError, UsageError
from edgecc.profile.rates import CALIBRATED, CLOCK_ONLY, FACTOR_OF_TWO, SCALED, choose
from edgecc.target import LatencySpec, Target

if TYPE_CHECKING:
    from edgecc.artifact import Artifact

PREDICTED = "predicted"

# Mean error on a device of a known core class from its clock alone (benchmarks/README.md); of ncnn in float, elsewhere.
_OTHER_CLOCK = 0.25
_OTHER_BOARD: Mapping[tuple[str, str] | None, float] = {
    ("ncnn", "int8"): 0.42, ("LiteRT", "fp32"): 0.74, ("LiteRT", "int8"): 0.39,
}  # fmt: skip


@dataclass(frozen=True)
class OperatorPrediction:
    """One operator.

    Attributes:
        index: in the order of the graph.
        name, type: of the node.
        ms: predicted.
        share: of the sum, 0 to 1.
        macs: multiply-accumulates.
        moved: elements of activations read and written.
        weights: elements of constants.
        bytes: of both, in the types of the precision.
        bound: what takes most of its time: "compute", "memory" or "overhead".
    """

    index: int
    name: str
    type: str
    ms: float
    share: float
    macs: int
    moved: int
    weights: int
    bytes: int
    bound: str


@dataclass(frozen=True)
class Prediction:
    """The latency of a network on a target.

    Attributes:
        target: and the board on it, if one was asked for.
        runtime, precision: of the artifact.
        ms: of the whole network, with one inference of batch 1.
        low_ms, high_ms: ms less and more the error bar.
        error: the bar as a part of ms: a mean relative error, so that two in five cases lie outside.
        grade: how far the figure can be trusted, in words.
        tier: that it is predicted.
        threads, ghz: of the figures that the rates are from, and of the board.
        board: that the rates are from.
        source: of the rates.
        operators: in the order of the graph.
        notes: what else to know.
    """

    target: str
    runtime: str
    precision: str
    ms: float
    low_ms: float
    high_ms: float
    error: float
    grade: str
    threads: int
    ghz: float
    board: str
    source: str
    operators: tuple[OperatorPrediction, ...]
    notes: tuple[str, ...] = ()
    tier: str = PREDICTED

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self)


def predict(
    model: ir.Model, device: Target, *, runtime: str | None = None, precision: str = "int8"
) -> Prediction:
    """Predicts what a network takes.

    Args:
        model: with known shapes: the float network, or an ONNX artifact.
        device: with at least one latency table, or a clock.
        runtime: of the artifact; None: of the target's first format.
        precision: that it is or will be compiled to.

    Raises:
        UsageError: a size of the network is not known.
        UnsupportedError: the target has neither a latency table nor a clock; or a node computes in steps or in a
            graph of its own, which nobody counts.
    """
    unknown = [v for node in model.graph for v in node.outputs if ir.dims(v) is None]
    if unknown:
        raise UsageError(
            f"the shape of {unknown[0].name} is not known",
            remedy="bind symbolic dimensions with --input-shape",
        )
    inner = [n for n in model.graph if n.op_type in _WITHIN or ir.holds_graph(n)]
    if inner:
        raise UnsupportedError(
            "what nodes compute in steps or in graphs of their own cannot be counted",
            [Finding(ir.label(node), node.op_type, "unrolled or inlined when compiled") for node in inner],
            remedy="compile the network, which unrolls or inlines it, and give the file that was made",
        )
    runtime = runtime or device.runtimes.get(device.formats[0], "LiteRT")
    return predict_layers(layers_of(model), device, runtime=runtime, precision=precision)


# Layers that compute many steps.
_WITHIN = frozenset({"LSTM", "GRU", "RNN"})


def predict_layers(layers: Sequence[Layer], device: Target, *, runtime: str, precision: str) -> Prediction:
    """As `predict`, of layers that were counted already."""
    spec, grade, error, notes = choose(device, runtime, precision)
    board = spec.board if device.board is None else device.boards[device.board].description
    ghz = device.clock or spec.ghz
    if (ghz, board) != (spec.ghz, spec.board):
        notes = (*notes, f"scaled from {spec.ghz:g} GHz ({spec.board}) to {ghz:g} GHz by the clock")
        kind = (spec.runtime, spec.precision) if board != spec.board else None
        error = max(error, _OTHER_BOARD.get(kind, _OTHER_CLOCK))
        grade = CLOCK_ONLY if grade in (CALIBRATED, SCALED) else grade
    rows = _operators(layers, spec, ghz, precision)
    ms = sum(row.ms for row in rows)
    low = ms / 2 if error >= FACTOR_OF_TWO else ms * (1 - error)
    return Prediction(
        target=device.board or device.name, runtime=runtime, precision=precision, ms=ms, low_ms=low,
        high_ms=ms * (1 + error), error=error, grade=grade, threads=spec.threads, ghz=ghz,
        board=spec.board, source=spec.source, operators=rows, notes=notes,
    )  # fmt: skip


def predict_file(
    path: Path,
    device: Target,
    *,
    precision: str | None = None,
    input_shape: dict[str, tuple[int, ...]] | None = None,
) -> Prediction:
    """Predicts for an ONNX or TFLite file.

    Args:
        path: of the file.
        device: with at least one latency table.
        precision: None: that of a TFLite or quantized ONNX file; of a float ONNX file int8, where the target has it.
        input_shape: sizes of symbolic dimensions (ONNX only).

    Raises:
        UsageError: there is no such file, or it is of another kind.
        ModelError: it cannot be read, or is damaged.
        UnsupportedError: as `predict`.
    """
    if not path.is_file():
        raise UsageError("there is no such file", node=str(path))
    if path.suffix == ".tflite":
        return _predict_tflite(path.read_bytes(), device, precision)
    if path.suffix != ".onnx":
        raise UsageError("predictions are for .onnx and .tflite files", node=str(path))
    from edgecc.importer import load

    model = load(path, input_shape=input_shape)
    if precision is None:
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph)
        precision = "int8" if quantized or "int8" in device.precisions else device.precisions[0]
    return predict(model, device, precision=precision)


def predict_artifact(artifact: Artifact, device: Target) -> Prediction:
    """Predicts for a file that was compiled; errors as `predict`."""
    if artifact.format == "tflite":
        return _predict_tflite(artifact.content(), device, artifact.precision)
    from edgecc.importer import load

    runtime = device.runtimes.get("onnx", "ONNX Runtime")
    return predict(load(artifact.content()), device, runtime=runtime, precision=artifact.precision)


def before_and_after(
    original: ir.Model, artifacts: Mapping[str, Artifact], device: Target
) -> dict[str, Prediction]:
    """What the float original ("original") and each artifact (by its key) take on a target.

    Empty where the target has neither rates nor a clock; an artifact whose bytes are not in memory is left out, as is
    what cannot be counted.
    """
    if not device.latency and device.clock is None:
        return {}
    found = {}
    runtime = device.runtimes.get("onnx") or device.runtimes.get(device.formats[0], "LiteRT")
    with suppress(EdgeccError):
        found["original"] = predict(original, device, runtime=runtime, precision="fp32")
    for key, artifact in artifacts.items():
        if artifact.waits_in is None:
            with suppress(EdgeccError):
                found[key] = predict_artifact(artifact, device)
    return found


def _predict_tflite(data: bytes, device: Target, precision: str | None) -> Prediction:
    from edgecc.analysis.tflite_workload import layers_of_graph, precision_of_graph
    from edgecc.tflite.reader import read_graph

    graph = read_graph(data)
    runtime = device.runtimes.get("tflite", "LiteRT")
    try:
        layers, own = layers_of_graph(graph), precision_of_graph(graph)
    except (IndexError, ZeroDivisionError) as error:
        raise ModelError(
            "the TFLite file is damaged: an operator has not the operands of its kind"
        ) from error
    return predict_layers(layers, device, runtime=runtime, precision=precision or own)


# Bytes of an activation and of an element of a constant; `mixed` counts as int8, which most of it is.
_WIDTHS: Mapping[str, tuple[float, float]] = {
    "fp32": (4, 4), "fp16": (4, 2), "dynamic": (4, 1), "int8": (1, 1), "int16x8": (2, 1), "int4": (1, 0.5),
    "mixed": (1, 1),
}  # fmt: skip
_COMPUTE = frozenset({"conv1x1", "conv3x3", "conv3x3_odd", "conv", "depthwise", "grouped", "fc", "written"})


def _operators(
    layers: Sequence[Layer], spec: LatencySpec, ghz: float, precision: str
) -> tuple[OperatorPrediction, ...]:
    moved, weights = _WIDTHS.get(precision, (1, 1))
    costs = []
    for layer in layers:
        parts = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
        for rate, amount in amounts(layer).items():
            part = "overhead" if rate == "layers" else "compute" if rate in _COMPUTE else "memory"
            parts[part] += spec.rates.get(rate, 0.0) * amount / (ghz * 1e6)
        costs.append(parts)
    total = sum(sum(parts.values()) for parts in costs) or 1.0
    return tuple(
        OperatorPrediction(
            i, layer.name, layer.op_type, sum(parts.values()), sum(parts.values()) / total, layer.macs, layer.moved,
            layer.weights, round(layer.moved * moved + layer.weights * weights), max(parts, key=lambda p: parts[p]),
        )
        for i, (layer, parts) in enumerate(zip(layers, costs, strict=True))
    )  # fmt: skip
