"""What the artifacts are worth: their answers, their times, and the first limit that they miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecc import ir, micro, vendor
from edgecc.artifact import Artifact
from edgecc.errors import EdgeccError
from edgecc.onnxfile import serialize
from edgecc.stages.emit import Emitted
from edgecc.stages.job import Job
from edgecc.verdict import verdict

if TYPE_CHECKING:
    from edgecc.fidelity import Fidelity
    from edgecc.profile import Profile


@dataclass(frozen=True)
class Answers:
    """How faithful artifacts are, by format.

    Attributes:
        fidelities: against the original.
        lowered: against what approximate passes left of it, where that must be equal.
        arenas: bytes that TFLite Micro took of its arena; None for other runtimes.
    """

    fidelities: Mapping[str, Fidelity] = field(default_factory=dict)
    lowered: Mapping[str, Fidelity] = field(default_factory=dict)
    arenas: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """Verified, measured, and the limit that is missed, if one is.

    Attributes:
        answers: empty where nothing was verified.
        profiles: by format; empty where nothing was measured.
        before: the original's times.
        failure: None where all limits are kept.
    """

    answers: Answers
    profiles: Mapping[str, Profile]
    before: Profile | None
    failure: EdgeccError | None


def judge(job: Job, emitted: Emitted, floats: ir.Model, left: ir.Model | None) -> Judgement:
    """Verifies and measures; what does not fit the device is neither.

    Args:
        job: with the limits.
        emitted: what was made.
        floats: the float network after the passes.
        left: what approximate passes left of the network, where the artifacts must equal that.

    Raises:
        EdgeccError: the latency is limited and cannot be measured.
    """
    artifacts = emitted.artifacts
    failure = micro.refusal(artifacts, emitted.memories, job.target, job.source.name)
    failure = failure or vendor.excess(job.options, job.target, job.named(artifacts))
    if failure is not None:
        return Judgement(Answers(), {}, None, failure)
    answers = Answers() if job.options.no_verify else _verified(job, artifacts, left)
    profiles, before = ({}, None) if job.options.no_profile else _profiled(job, artifacts)
    missed = verdict(
        job.options, job.precision, floats,
        {job.file(f): (a, answers.fidelities.get(f), profiles.get(f)) for f, a in artifacts.items()},
        {job.file(f): fidelity for f, fidelity in answers.lowered.items()},
    )  # fmt: skip
    return Judgement(answers, profiles, before, missed)


def _verified(job: Job, artifacts: Mapping[str, Artifact], left: ir.Model | None) -> Answers:
    from edgecc.turns import Recorded, reference_runner
    from edgecc.verify import class_outputs, compare_all, compare_layers, open_candidate, weigh_rounding

    threads = job.options.threads or 1  # the networks run side by side
    data, precision = job.eval_data, job.precision
    compared: dict[str, Fidelity] = {}
    lowered: dict[str, Fidelity] = {}
    arenas: dict[str, int | None] = {}
    with job.stage("verify"):
        # As it is written: the runtime's own integer kernels may saturate (x86 without VNNI).
        reference = reference_runner(job.original, data, threads=threads, optimize=not job.kept)
        classes = class_outputs(job.original)
        alone = [{form: artifact} for form, artifact in artifacts.items()]
        for group in alone if isinstance(reference, Recorded) else [artifacts]:
            runners = {f: open_candidate(a, like=reference, threads=threads) for f, a in group.items()}
            arenas |= {f: getattr(runner, "arena_bytes", None) for f, runner in runners.items()}
            compared |= compare_all(reference, runners, data, classes=classes)
            if left is not None:
                again = reference_runner(left, data, threads=threads)
                lowered |= compare_all(again, runners, data, classes=classes)
            del runners
        found = {
            form: weigh_rounding(f, precision, job.original, data, threads=threads)
            for form, f in compared.items()
        }
        if job.options.debug_quant:
            for form, artifact in artifacts.items():
                layers = compare_layers(job.original, artifact, data, like=reference, threads=threads)
                found[form] = replace(found[form], layers=layers)
        if left is not None:
            for form, f in lowered.items():
                lowered[form] = weigh_rounding(f, precision, left, data, threads=threads)
    return Answers(found, lowered, arenas)


def _profiled(job: Job, artifacts: Mapping[str, Artifact]) -> tuple[dict[str, Profile], Profile | None]:
    """The times of the artifacts and of the original."""
    from edgecc.onnxrt.readback import x86_notes
    from edgecc.profile.local import Job as Timed
    from edgecc.profile.local import profile_all

    with job.stage("profile"):
        timed = {f: Timed(a) for f, a in artifacts.items() if not micro.is_micro(job.target, f)}
        timed["original"] = Timed(_original(job), operators=False)
        failed: dict[str, EdgeccError] = {}
        found = profile_all(timed, threads=job.options.threads or 1, failed=failed)
    for key, error in failed.items():
        if key in artifacts and job.options.max_latency is not None:
            raise error
        of = job.file(key) if key in artifacts else "the original"
        job.diary.warnings.append(f"{of} was not timed: {error.message}")
    if "onnx" in found and job.precision == "int8" and job.target.activation_dtype == "int8":
        found["onnx"] = replace(found["onnx"], notes=(*found["onnx"].notes, *x86_notes()))
    return {form: found[form] for form in artifacts if form in found}, found.get("original")


def _original(job: Job) -> Artifact | Path:
    """What is timed beside the artifacts: the file itself where its shapes are what was compiled."""
    if job.source.file is not None and not job.options.input_shape:
        return job.source.file
    return Artifact(serialize(job.original), "onnx", "fp32", "original", (), ())
