"""The contents of a report: plain dataclasses, from which JSON, HTML and terminal tables are made.

`report.schema.json` beside this file documents the JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecc import ir
from edgecc.analysis.cost import total_parameters
from edgecc.artifact import Artifact, Port
from edgecc.fidelity import Fidelity
from edgecc.micro import MemoryFacts
from edgecc.pipeline import PassRecord
from edgecc.profile import Profile
from edgecc.profile.npu import NpuFigures
from edgecc.profile.predict import Prediction

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelFacts:
    """The model that was compiled, as imported.

    Attributes:
        name: file stem, or the graph's name.
        sha256: of the file, in hexadecimal.
        size_bytes: of the file with its external data; None where there was no file.
        operators: how many nodes of each type.
        parameters: elements of all floating-point constants.
        macs: multiply-accumulates of one inference; None where not counted.
        inputs, outputs: name and shape, "?" for a symbolic dimension.
    """

    name: str
    sha256: str
    size_bytes: int | None
    operators: Mapping[str, int]
    parameters: int
    macs: int | None
    inputs: Mapping[str, Sequence[int | str]]
    outputs: Mapping[str, Sequence[int | str]]


@dataclass(frozen=True)
class Transpose:
    """A Transpose that is left in an artifact: of which value, the bytes that it moves, and why."""

    value: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class Island:
    """An operator that runs in float inside an integer artifact, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class ArtifactFacts:
    """One file that was compiled, what it answers and what it takes.

    Attributes:
        file: its name in the output folder.
        format, precision, sha256, size_bytes: of the file.
        operators: how many of each kind it has.
        inputs, outputs: with shape, layout, type and quantization.
        transposes, float_islands: what stands in the way of speed, with reasons.
        conversions: operators inside the network that only turn one type of activations into another.
        fidelity: against the original; None where it was not verified.
        profile: on this machine; None where it was not measured.
        packed_bytes: of the packed file beside it; None where there is none.
        arena_bytes: RAM that TFLite Micro takes for tensors and its own structures, read back from it on this
            machine; None for other runtimes.
        memory: RAM and flash on the device, predicted; None for other runtimes.
        npu: what the compiler of the target's NPU computes; None where it has none, or the compiler is missing.
    """

    file: str
    format: str
    precision: str
    sha256: str
    size_bytes: int
    operators: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    transposes: tuple[Transpose, ...] = ()
    float_islands: tuple[Island, ...] = ()
    conversions: int = 0
    fidelity: Fidelity | None = None
    profile: Profile | None = None
    arena_bytes: int | None = None
    packed_bytes: int | None = None
    memory: MemoryFacts | None = None
    npu: NpuFigures | None = None

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{ {'tflite': 'TFLite', 'onnx': 'ONNX'}.get(self.format, self.format) } {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one compilation has to say.

    Attributes:
        model: what was compiled.
        target: name of the device.
        artifacts: what came out.
        passes: what each pass did and refused, in order.
        original_profile: latency of the float original in ONNX Runtime.
        predictions: latency on the target, of "original" and of each artifact by its file's name.
        options: the resolved configuration.
        warnings: for the user to read.
        failure: why nothing was put into the output folder; None: all went well.
        seconds: what each stage of the compilation took.
        edgecc_version, created: of this report; ISO 8601, UTC.
    """

    model: ModelFacts
    target: str
    artifacts: tuple[ArtifactFacts, ...]
    passes: tuple[PassRecord, ...] = ()
    original_profile: Profile | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    failure: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    edgecc_version: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """As `report.schema.json` describes it."""
        plain: dict[str, Any] = jsonable(self)
        for facts, artifact in zip(plain["artifacts"], self.artifacts, strict=True):
            if artifact.fidelity is not None:
                facts["fidelity"] = jsonable(artifact.fidelity.to_dict())
        return {"schema_version": SCHEMA_VERSION, **plain}

    def to_json(self) -> str:
        """The text of `report.json`."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"


def model_facts(
    model: ir.Model, *, name: str, sha256: str, size_bytes: int | None = None, macs: int | None = None
) -> ModelFacts:
    """Counts what the report says about a model."""
    operators: dict[str, int] = {}
    for node in model.graph.all_nodes():
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return ModelFacts(
        name=name,
        sha256=sha256,
        size_bytes=size_bytes,
        operators=_by_count(operators),
        parameters=total_parameters(model),
        macs=macs,
        inputs={str(v.name): _shape(v) for v in model.graph.inputs if v.name not in model.graph.initializers},
        outputs={str(v.name): _shape(v) for v in model.graph.outputs},
    )


def artifact_facts(
    artifact: Artifact,
    *,
    file: str,
    fidelity: Fidelity | None = None,
    profile: Profile | None = None,
    arena_bytes: int | None = None,
    memory: MemoryFacts | None = None,
) -> ArtifactFacts:
    """What the report says about an artifact.

    `artifact.notes` may hold `operators` (counts by name), `transposes` (objects with value, bytes, reason),
    `float_islands` (objects with node, op_type, reason), `conversions` (a count) and `npu` (`NpuFigures`).
    """
    notes = artifact.notes
    return ArtifactFacts(
        file=file,
        format=artifact.format,
        precision=artifact.precision,
        sha256=artifact.sha256,
        size_bytes=artifact.size,
        operators=_by_count(notes.get("operators", {})),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        transposes=tuple(
            Transpose(str(t["value"]), int(t["bytes"]), str(t["reason"])) for t in notes.get("transposes", ())
        ),
        float_islands=tuple(
            Island(str(i["node"]), str(i["op_type"]), str(i["reason"]))
            for i in notes.get("float_islands", ())
        ),
        conversions=int(notes.get("conversions", 0)),
        fidelity=fidelity,
        profile=profile,
        arena_bytes=arena_bytes,
        memory=memory,
        packed_bytes=None if "packed" not in notes else int(notes["packed"]["bytes"]),
        npu=notes.get("npu"),
    )


def jsonable(value: Any) -> Any:
    """`value` as JSON takes it: NaN and infinities become null, what JSON does not know becomes text."""
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a numpy number
        return jsonable(value.item())
    return value.as_posix() if isinstance(value, Path) else str(value)


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _shape(value: ir.Value) -> tuple[int | str, ...]:
    return tuple("?" if d is None else d for d in ir.dims(value) or ())
