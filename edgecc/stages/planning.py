"""How everything is stored: the plan, from calibration or given, and the weights that it rounds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgecc import ir, resolve
from edgecc.pipeline import Pipeline
from edgecc.presets import planned_passes, planning_passes
from edgecc.quant import carried
from edgecc.stages.emit import lower
from edgecc.stages.job import Job

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan


def equalized(job: Job, floats: ir.Model) -> ir.Model:
    """The network after the passes that make it easier to quantize."""
    with job.stage("equalize"):
        return job.run(Pipeline(planning_passes(job.precision, job.options)), floats)


def planned(job: Job, floats: ir.Model) -> QuantPlan | None:
    """The plan: carried by the network, given, or made from data; None where activations stay float."""
    if job.kept:
        return carried.plan(floats, job.precision)
    if not job.calibrated:
        return None
    pins = resolve.pins(job.options, floats)
    if job.given_plan is not None:
        plan = resolve.fitting(job.given_plan, floats)
        return replace(plan, precisions={**plan.precisions, **pins})
    from edgecc.calibration.observers import collect
    from edgecc.quant.islands import weigh
    from edgecc.quant.plan import make_plan

    assert job.data is not None
    options, target = job.options, job.target
    with job.stage("calibrate"):
        statistics = collect(floats, job.data, observer=options.observer, threads=options.threads)
        plan = make_plan(
            floats,
            statistics,
            precision=job.precision,  # type: ignore[arg-type]
            per_channel=target.per_channel,
            precisions=pins,
            spare=not job.searched,
        )
        if job.searched and job.precision == "mixed":
            return plan
        plan, remark = weigh(
            plan, floats, job.formats[0], target.cost,  # type: ignore[arg-type]
            explicit=options.precision is not None, ports=options.io_dtype != "float32",
        )  # fmt: skip
        job.diary.warnings.extend([] if remark is None else [remark])
        return plan


def rounded(job: Job, plan: QuantPlan, floats: ir.Model) -> tuple[QuantPlan, ir.Model]:
    """The plan and the network with the weights that it stores; precisions are chosen where limits are to be met."""
    with job.stage("round weights"):
        made = _rounded(job, floats, plan)
    if not job.searched:
        return plan, made
    from edgecc.meet import meet

    assert job.data is not None
    with job.stage("choose precisions"):
        plan, model, told = meet(
            plan, floats, made, original=job.original, target=job.target, options=job.options,
            formats=job.formats, data=job.data, eval_data=job.eval_data, write=partial(lower, job.untold()),
            rounding=partial(_rounded, job, floats),
        )  # fmt: skip
    job.diary.warnings.append(told)
    return plan, model


def _rounded(job: Job, floats: ir.Model, plan: QuantPlan) -> ir.Model:
    return job.run(Pipeline(planned_passes(job.precision, job.options)), floats, plan)
