"""Milliseconds of a target predicted from the instructions that a file executes on an emulated core of its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecc.errors import UsageError
from edgecc.profile.emulated import Emulated
from edgecc.profile.predict import PREDICTED
from edgecc.target import InstructionSpec, Target

BY_INSTRUCTIONS = "instructions counted on an emulated core, at the instructions a cycle of published figures"


@dataclass(frozen=True)
class CountedPrediction:
    """The latency of a file on a target, one inference of batch 1 by one thread.

    Attributes:
        target: and the board on it, if one was asked for.
        level: on which the instructions were counted.
        runtime, precision: of the file.
        instructions: of one inference.
        per_cycle: instructions a cycle, of published figures.
        ghz: of the board.
        ms: instructions / per_cycle / clock.
        low_ms, high_ms: ms less and more the error bar.
        error: the bar as a part of ms: mean relative error on devices and networks that `per_cycle` was not made of.
        grade: how far the figure can be trusted, in words.
        source: of `per_cycle`.
        tier: that it is predicted.
    """

    target: str
    level: str
    runtime: str
    precision: str
    instructions: int
    per_cycle: float
    ghz: float
    ms: float
    low_ms: float
    high_ms: float
    error: float
    grade: str
    source: str
    tier: str = PREDICTED


def with_predictions(found: Emulated, path: Path, devices: Sequence[Target]) -> Emulated:
    """What was counted, with what it predicts for targets; a note for each target that has no prediction.

    Args:
        found: of the file.
        path: of the file.
        devices: the targets.
    """
    precision = _precision(path)
    predictions, notes = [], list(found.notes)
    for device in devices:
        try:
            predictions.append(predict_counted(found, precision, device))
        except UsageError as error:
            notes.append(f"{device.board or device.name}: no milliseconds: {error.message}")
    return replace(found, predictions=tuple(predictions), notes=tuple(notes))


def predict_counted(found: Emulated, precision: str, device: Target) -> CountedPrediction:
    """Predicts for one target.

    Args:
        found: with a count on the level of the target.
        precision: of the file.
        device: with `instructions` for the runtime and the precision.

    Raises:
        UsageError: it has none, was counted on another level, or the clock is not known.
    """
    specs = [s for s in device.instructions if (s.runtime, s.precision) == (found.runtime, precision)]
    if not specs:
        raise UsageError(
            f"no published figures tell how many instructions a cycle {found.runtime} executes in {precision}"
        )
    spec = specs[0]
    count = next((each.count for each in found.levels if each.level == spec.level), None)
    if count is None:
        raise UsageError(f"its instructions are counted on {spec.level}")
    ghz = device.clock or next((s.ghz for s in device.latency), None)
    if ghz is None:
        raise UsageError("its clock is not known")
    return _predicted(spec, count.instructions, device, ghz)


def _predicted(spec: InstructionSpec, instructions: int, device: Target, ghz: float) -> CountedPrediction:
    ms = instructions / spec.per_cycle / (ghz * 1e6)
    return CountedPrediction(
        target=device.board or device.name, level=spec.level, runtime=spec.runtime, precision=spec.precision,
        instructions=instructions, per_cycle=spec.per_cycle, ghz=ghz, ms=ms, low_ms=ms * (1 - spec.error),
        high_ms=ms * (1 + spec.error), error=spec.error, grade=BY_INSTRUCTIONS, source=spec.source,
    )  # fmt: skip


def _precision(path: Path) -> str:
    """Of a .tflite file; of others, whose runtime has no figures, unknown."""
    if path.suffix != ".tflite":
        return "any precision"
    from edgecc.analysis.tflite_workload import precision_of_graph
    from edgecc.tflite.reader import read_graph

    return precision_of_graph(read_graph(path.read_bytes()))
