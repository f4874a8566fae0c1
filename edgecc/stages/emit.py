"""One artifact a format, and what is made of it: packed, compiled for an NPU, written as C++ sources."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecc import firmware, ir, micro, vendor
from edgecc.artifact import Artifact
from edgecc.pipeline import Pipeline
from edgecc.presets import keeping_passes, packs, quantized_passes
from edgecc.stages.job import Job

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan


@dataclass(frozen=True)
class Emitted:
    """What a compilation made.

    Attributes:
        artifacts: by format; their notes say what was made of them.
        beside: other files by name.
        memories: what TFLite Micro takes, by format, on targets that run it.
    """

    artifacts: Mapping[str, Artifact]
    beside: Mapping[str, bytes]
    memories: Mapping[str, micro.MemoryFacts]


def lower(job: Job, floats: ir.Model, plan: QuantPlan | None, form: str) -> Artifact:
    """The artifact of a format.

    Raises:
        UnsupportedError: operators or types that the target cannot run, all at once.
    """
    options, target, special = job.options, job.target, None
    if plan is not None and not job.kept:
        special = plan.for_runtime(form, floats, target)  # type: ignore[arg-type]
    io_dtype = (options.io_dtype if form == "tflite" else None) or "float32"
    passes = quantized_passes(job.precision, io_dtype, planned=plan is not None, options=options)
    model = job.run(Pipeline(keeping_passes(form) if job.kept else passes), floats, special)
    if form == "tflite":
        from edgecc.tflite.lower import lower as to_tflite

        return to_tflite(
            model, precision=job.precision, target=target.name, io_layout=options.io_layout, io_dtype=io_dtype,
            runtime=target.runtimes.get("tflite", "LiteRT"),
        )  # fmt: skip
    from edgecc.onnxrt.export import export

    return export(model, precision=job.precision, target=target.name)


def lower_all(job: Job, floats: ir.Model, plan: QuantPlan | None, scratch: Path) -> dict[str, Artifact]:
    """By format; large ones wait in the folder `scratch`."""
    artifacts: dict[str, Artifact] = {}
    for form in job.formats:
        with job.stage(f"lower to {form}"):
            artifact = lower(job, floats, plan, form)
            # Two large ones are not held at once; one of int8 is a quarter of its network.
            aside = len(job.formats) > 1 and artifact.size >= ir.LARGE_BYTES // 4
            artifacts[form] = artifact.set_aside(scratch / job.file(form)) if aside else artifact
            del artifact
        remarks = artifacts[form].notes.get("remarks", ())
        job.diary.warnings.extend(f"{job.file(form)}: {text}" for text in remarks)
    return artifacts


def finish(job: Job, artifacts: Mapping[str, Artifact]) -> Emitted:
    """With what the preset and the target want beside the artifacts."""
    beside: dict[str, bytes] = {}
    made = dict(artifacts)
    if packs(job.options):
        made = {form: _packed(job, form, artifact, beside) for form, artifact in made.items()}
    if job.target.vela is not None:
        with job.stage("compile for the NPU"):
            compiled, files = vendor.for_npu(job.target, job.named(made), job.diary.warnings)
        beside |= files
        made = {form: compiled[job.file(form)] for form in made}
    memories = micro.memory_facts(made, job.target)
    for form, memory in memories.items():
        name = job.file(form).removesuffix(f".{form}")
        made[form], files, warning = firmware.attach(name, made[form], memory)
        beside |= files
        job.diary.warnings.extend([] if warning is None else [warning])
    return Emitted(made, beside, memories)


def _packed(job: Job, form: str, artifact: Artifact, beside: dict[str, bytes]) -> Artifact:
    """Packs an artifact, which then says so in its notes."""
    from edgecc.pack.container import pack

    with job.stage(f"pack {form}"):
        name = f"{job.file(form)}.ecz"
        beside[name] = data = pack(artifact.content()).data
    facts = {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return replace(artifact, notes={**artifact.notes, "packed": facts})
