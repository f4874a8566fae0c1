"""The report of a compilation, and the files that it leaves on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecc import __version__, output
from edgecc.stages.emit import Emitted
from edgecc.stages.job import Job
from edgecc.stages.judge import Judgement

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan
    from edgecc.report.schema import Report

# Options that say where and how, not what: they do not belong to the artifact's identity.
_ASIDE = frozenset({"output", "dump-ir", "threads", "no-verify", "no-profile", "debug-quant", "max-latency"})


def report_of(job: Job, emitted: Emitted, judged: Judgement) -> Report:
    """Everything that is known of a compilation."""
    from edgecc.analysis.cost import total_macs
    from edgecc.profile.predict import before_and_after
    from edgecc.report.schema import Report, artifact_facts, model_facts

    source, diary, artifacts = job.source, job.diary, emitted.artifacts
    facts = model_facts(
        job.original,
        name=source.name,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        macs=total_macs(job.original),
    )
    rows = tuple(
        artifact_facts(
            a,
            file=job.file(f),
            fidelity=judged.answers.fidelities.get(f),
            profile=judged.profiles.get(f),
            arena_bytes=judged.answers.arenas.get(f),
            memory=emitted.memories.get(f),
        )
        for f, a in artifacts.items()
    )
    made = job.named(artifacts)
    predictions = {} if job.options.no_profile else before_and_after(job.original, made, job.target)
    return Report(
        model=facts, target=job.target.name, artifacts=rows, passes=tuple(diary.passes),
        original_profile=judged.before, predictions=predictions, options=job.words, warnings=tuple(diary.warnings),
        failure=None if judged.failure is None else str(judged.failure), seconds=dict(diary.seconds),
        edgecc_version=__version__,
    )  # fmt: skip


def publish(job: Job, emitted: Emitted, report: Report, plan: QuantPlan | None) -> Path:
    """Writes everything, with a manifest unless a limit was missed, and returns the folder.

    Raises:
        UsageError: it cannot be written.
    """
    from edgecc.report.html import render_html

    folder = job.folder if report.failure is None else output.failed(job.folder)
    named = job.named(emitted.artifacts)
    files: dict[str, bytes | Path] = {name: a.waits_in or a.data for name, a in named.items()}
    files |= emitted.beside
    files["report.json"] = report.to_json().encode()
    files["report.html"] = render_html(report).encode()
    text = None if plan is None else plan.to_json()
    if text is not None:
        files["plan.json"] = text.encode()
    if report.failure is None:  # a manifest vouches for what lies beside it
        identity = {k: v for k, v in job.words.items() if k not in _ASIDE}
        files[output.MANIFEST] = output.manifest(
            model_sha256=job.source.sha256, target=job.target.name, precision=job.precision, options=identity,
            seed=job.options.seed, artifacts=named, plan=text,
        ).encode()  # fmt: skip
    output.publish(folder, files)
    return folder
