"""`--device emulated://a53|a72|a76|i8mm|all`: an artifact in the real Arm runtimes, without a device.

What it shows: whether the answers are the same, bit for bit, on every level of Arm's instruction sets and here; which
kernels the runtime picks on a level; how many instructions one inference takes. It says nothing about time; what counts
predict for a target that is named, with which error, is `by_instructions`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecc.errors import UnsupportedError, UsageError
from edgecc.ir import Array
from edgecc.profile.emulation import LEVELS, machine, versions
from edgecc.profile.guest import Count, Guest
from edgecc.profile.tensors import ModelFile, each
from edgecc.runtime import TensorSpec

if TYPE_CHECKING:
    from edgecc.profile.by_instructions import CountedPrediction
    from edgecc.report.terminal import Table

TIER = "emulated: answers and instructions, no time"
SAMPLES = 4
"""Compared where the user does not say with `--runs`."""

_NAMES = {"litert": ("LiteRT", "ai-edge-litert"), "ort": ("ONNX Runtime", "onnxruntime")}


@dataclass(frozen=True)
class Difference:
    """Answers against others.

    Attributes:
        against: whose they are.
        compared, differing: elements of all outputs; NaN equals NaN.
        largest: difference of two real values.
        steps: the same in units of the output's scale; None where an output that differs has none.
    """

    against: str
    compared: int
    differing: int
    largest: float
    steps: int | None


@dataclass(frozen=True)
class LevelFound:
    """What one level showed.

    Attributes:
        level, cpu: as edgecc and as qemu call it.
        digest: SHA-256 of the answers: equal ones are bit-identical.
        differences: from the same runtime on this machine, and from the integer simulator.
        count: of instructions; None where it was not asked for.
        operators: what ONNX Runtime executes once it has optimised the graph, by type; empty for LiteRT.
    """

    level: str
    cpu: str
    digest: str
    differences: tuple[Difference, ...]
    count: Count | None
    operators: Mapping[str, int]


@dataclass(frozen=True)
class Emulated:
    """What the levels showed.

    Attributes:
        runtime, runtime_version: the same there and here.
        samples: compared, of seeded random inputs.
        levels: in the order in which they were asked for.
        bit_identical: whether all levels gave the same answers; None for one level.
        tier: what the figures are.
        notes: what is missing, and why.
        predictions: for the targets that were named, from these counts.
    """

    runtime: str
    runtime_version: str
    samples: int
    levels: tuple[LevelFound, ...]
    bit_identical: bool | None
    tier: str = TIER
    notes: tuple[str, ...] = ()
    predictions: tuple[CountedPrediction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self)

    def tables(self, limit: int | None = 20, title: str = "") -> list[Table | str]:
        """A line a level, then the functions that execute most."""
        from edgecc.report.emulated import emulated_tables

        return emulated_tables(self, limit, title)

    def page(self, title: str) -> str:
        """One self-contained HTML page."""
        from edgecc.report.page import emulated_page

        return emulated_page(self, title)


def profile(
    path: Path,
    place: str,
    *,
    runs: int | None = None,
    threads: int = 1,
    input_shape: Mapping[str, Sequence[int]] | None = None,
) -> Emulated:
    """Runs a file on one level, or on all of them.

    Args:
        path: of a .tflite or .onnx file.
        place: a level, several with commas between them, or `all`.
        runs: samples that are compared.
        threads: 1; the order of several is not repeatable.
        input_shape: sizes of inputs with symbolic dimensions; those not given count as 1.

    Raises:
        UsageError: there is no such level, or more than one thread is asked for.
        EmulatorUnavailableError: the emulated machine cannot be made here.
        EdgeccError: the runtime cannot run the file.
    """
    levels = list(LEVELS) if place == "all" else place.split(",")
    if unknown := [name for name in levels if name not in LEVELS]:
        known = ", ".join([*LEVELS, "all"])
        raise UsageError(f"{unknown[0]!r} is not emulated", node="--device", remedy=f"known: {known}")
    if threads != 1 or (runs is not None and runs < 1):
        raise UsageError("an emulated run has one thread, and one sample at least", node="--threads, --runs")
    file = ModelFile.read(path)
    names = [spec.name for spec in file.runner.inputs]
    if strange := [name for name in input_shape or {} if name not in names]:
        raise UsageError(f"the network has no input {strange[0]!r}", node="--input-shape")
    if not names:
        raise UsageError("the network has no inputs: it answers the same everywhere", node=str(path))
    feeds = seeded(file.runner.inputs, runs or SAMPLES, input_shape or {})
    return compare(path, levels, feeds)


def compare(path: Path, levels: Sequence[str], feeds: Mapping[str, Array], *, count: bool = True) -> Emulated:
    """Runs samples on levels, here and in the simulator; see `profile`.

    Args:
        feeds: by ONNX name, (samples, *shape), real values.
        count: also count instructions, which takes most of the time.
    """
    file = ModelFile.read(path)
    emulator = machine()
    notes: list[str] = []
    wanted = {"this machine": file.here(feeds)}
    if file.kind == "litert":
        try:
            wanted["simulator"] = _simulated(file.data, feeds)
        except UnsupportedError as error:
            notes.append(f"no integer simulator: {error.message.splitlines()[0]}")
    found = []
    for level in levels:
        guest = Guest(emulator, level, file.kind, path)
        stored = file.stored(feeds)
        raw = guest.run(stored)
        answers = file.real(raw)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(raw[k]).tobytes() for k in sorted(raw)))
        gaps = tuple(differences(who, answers, theirs, file.scales) for who, theirs in wanted.items())
        counted = guest.count(stored) if count else None
        if counted is not None and not counted.repeatable:
            notes.append(f"{level}: no two inferences of the same sample take as many instructions")
        found.append(LevelFound(level, LEVELS[level].cpu, digest.hexdigest(), gaps, counted, guest.operators))
    name, package = _NAMES[file.kind]
    same = len({one.digest for one in found}) == 1 if len(found) > 1 else None
    samples = len(next(iter(feeds.values())))
    return Emulated(name, versions()[package], samples, tuple(found), same, notes=tuple(notes))


def run_many(path: Path, level: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The answers of the Arm runtime to samples.

    Args:
        path: of a .tflite or .onnx file.
        level: one of `LEVELS`.
        feeds: by ONNX name, (samples, *shape), real values in the ONNX layout.

    Returns:
        By ONNX name, (samples, *shape), real values in the ONNX layout.
    """
    file = ModelFile.read(path)
    return file.real(Guest(machine(), level, file.kind, path).run(file.stored(feeds)))


def seeded(
    inputs: Sequence[TensorSpec], samples: int, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Array]:
    """Inputs from a seeded generator: normal floats, integers 0 and 1."""
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = (samples, *(shapes.get(spec.name) or [d or 1 for d in spec.shape]))
        floating = np.dtype(spec.dtype).kind == "f"
        values = random.standard_normal(shape) if floating else random.integers(0, 2, shape)
        feeds[spec.name] = np.asarray(values).astype(spec.dtype)
    return feeds


def _simulated(data: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    from edgecc.simulate.runner import SimulatedRunner

    return each(SimulatedRunner(data), feeds)


def differences(
    who: str, got: Mapping[str, Array], wanted: Mapping[str, Array], scales: Mapping[str, float | None]
) -> Difference:
    """Of the answers of both; `scales`: of the outputs by name, None where there is none."""
    compared = differing = 0
    largest, steps = 0.0, 0.0
    known = True
    for name, array in wanted.items():
        other = got[name].reshape(array.shape)
        differ = ~((array == other) | ((array != array) & (other != other)))  # noqa: PLR0124 - NaN
        compared += array.size
        count = int(np.count_nonzero(differ))
        differing += count
        if not count:
            continue
        gap = float(np.max(np.abs(array[differ].astype(np.float64) - other[differ].astype(np.float64))))
        scale = scales.get(name)
        largest, known = max(largest, gap), known and scale is not None
        steps = max(steps, gap / scale if scale else 0.0)
    return Difference(who, compared, differing, largest, round(steps) if known else None)
