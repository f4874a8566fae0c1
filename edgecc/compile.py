"""The straight line: model in, passes, plan, one artifact a format, measured, reported (DESIGN §1)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.collection import rare_collections
from edgecc.importer import load
from edgecc.limits import FLOAT32
from edgecc.options import CompileOptions, make_options
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes, unquantizing_passes
from edgecc.quant import constants
from edgecc.stages.emit import finish, lower_all
from edgecc.stages.job import Job, start
from edgecc.stages.judge import judge
from edgecc.stages.planning import equalized, planned, rounded
from edgecc.stages.publish import publish, report_of
from edgecc.target import target as find_target

if TYPE_CHECKING:
    import onnx

    from edgecc.fidelity import Fidelity
    from edgecc.profile import Profile
    from edgecc.report.schema import Report

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class CompileResult:
    """What a compilation made.

    Attributes:
        artifacts: by format; `.path` is where each was written.
        fidelities, profiles: by format; empty where not verified or not measured.
        report: everything, as in report.json.
        output: the folder.
    """

    artifacts: Mapping[str, Artifact]
    fidelities: Mapping[str, Fidelity]
    profiles: Mapping[str, Profile]
    report: Report
    output: Path

    @property
    def fidelity(self) -> Fidelity | None:
        """Of the artifact with the lowest SQNR; None where nothing was verified."""
        return min(self.fidelities.values(), key=lambda f: f.sqnr_db, default=None)

    @property
    def profile(self) -> Profile | None:
        """Of the fastest artifact; None where nothing was measured."""
        return min(self.profiles.values(), key=lambda p: p.typical_ms, default=None)


def _words_of(_: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Gives a function the keywords of another, for type checkers: options are declared once."""
    return lambda function: function


@_words_of(CompileOptions)
def compile(model: Path | str | bytes | onnx.ModelProto | ir.Model, **words: Any) -> CompileResult:
    """Compiles a trained ONNX network for a device. The keywords are the fields of `CompileOptions`.

    Args:
        model: path, bytes, or a model in memory, which stays as it is.
        **words: see `CompileOptions`; texts are read as on the command line.

    Raises:
        UsageError, ModelError: wrong use or unreadable input (exit code 2).
        UnsupportedError: operators or types that the target cannot run (3).
        FidelityError: an answer is less faithful than allowed (4); report and artifacts are in DIR.failed.
        BudgetError: a budget is exceeded (5); likewise.
    """
    return compile_with(model, make_options(words))


def compile_with(
    model: Path | str | bytes | onnx.ModelProto | ir.Model,
    options: CompileOptions,
    progress: Callable[[str], None] | None = None,
) -> CompileResult:
    """As `compile`; `progress` is called with the name of each stage when it begins."""
    with (
        rare_collections(),
        tempfile.TemporaryDirectory(prefix="edgecc-", ignore_cleanup_errors=True) as scratch,
    ):
        return _compiled(start(model, options, progress or (lambda stage: None)), Path(scratch))


def _compiled(job: Job, scratch: Path) -> CompileResult:
    with job.diary.stage("passes"):
        if job.carried is not None and not job.kept:  # from here on, that is the original
            job = replace(job, original=job.run(Pipeline(unquantizing_passes()), job.original))
        made_float = len(job.diary.passes)
        floats = job.run(job.shaping, job.original)
    planned_from = floats
    if job.compressing.passes and job.given_plan is None:  # a plan holds what they made
        with job.stage("compress"):
            floats = job.run(job.compressing, floats)
    # What approximate passes left is what a float32 artifact must equal.
    approximate = any(r.rewritten and not r.exact for r in job.diary.passes[made_float:])
    left = floats if approximate and job.precision in FLOAT32 else None
    if job.planned_here:
        floats = equalized(job, floats)
    plan = planned(job, floats)
    if plan is not None and job.given_plan is not None:
        floats = constants.restore(floats, plan.constants, plan.tensors)
    if plan is not None and job.planned_here:
        plan, floats = rounded(job, plan, floats)
        plan = replace(plan, constants=constants.changed(planned_from, floats, plan))
    emitted = finish(job, lower_all(job, floats, plan, scratch))
    judged = judge(job, emitted, floats, left)
    del floats, planned_from  # writing needs memory, too
    ir.release(job.original)
    report = report_of(job, emitted, judged)
    folder = publish(job, emitted, report, plan)
    if judged.failure is not None:
        raise judged.failure
    placed = {
        f: replace(a, data=a.content(), path=folder / job.file(f)) for f, a in emitted.artifacts.items()
    }
    return CompileResult(placed, judged.answers.fidelities, judged.profiles, report, folder)


def lower_float(
    model: Path | str | bytes | onnx.ModelProto | ir.Model, *, target: str = "arm", io_layout: str = "auto"
) -> Artifact:
    """The float32 TFLite artifact of a model after the target's passes, neither verified nor written.

    Raises:
        ModelError, UnsupportedError: as `compile`.
    """
    from edgecc.tflite.lower import lower

    options = CompileOptions(target=target, io_layout=io_layout)  # type: ignore[arg-type]
    device = find_target(target)
    pipeline = Pipeline(float_passes(device, options))
    floats, _ = pipeline.run(load(model), PassContext(target=device, check=False))
    return lower(floats, precision="fp32", target=device.name, io_layout=options.io_layout)
