"""What a compressing pass did to work, size, predicted latency and answers: measured, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecc import ir

if TYPE_CHECKING:
    from edgecc.pipeline import Pass, PassContext

# Samples on which answers are compared.
_SAMPLES = 64


@dataclass(frozen=True)
class Effect:
    """Before and after one pass.

    Attributes:
        given: the options that are not the pass's defaults.
        macs: multiply-accumulates of one inference with batch 1.
        weights: elements of constants in floating point that are not zero.
        cycles: of one inference in float32 by the target's numbers (predicted; for ranking); None without a target.
        sqnr_db: of the answers, against the network before the pass.
        agreement: the share of equal argmax, where an output is scores of classes.
        samples: on how many.
        data: what they are.
    """

    given: Mapping[str, Any]
    macs: tuple[int, int]
    weights: tuple[int, int]
    cycles: tuple[float, float] | None
    sqnr_db: float
    agreement: float | None
    samples: int
    data: str


def measure_effect(step: Pass, before: ir.Model, after: ir.Model, ctx: PassContext) -> Effect:
    """Compares two networks with the same inputs and outputs, on calibration data where there is some."""
    from edgecc.analysis.cost import total_cycles, total_macs
    from edgecc.calibration.dataset import Dataset, Sample, random_samples
    from edgecc.calibration.moments import spread
    from edgecc.runtime.ort import OrtRunner
    from edgecc.verify import class_outputs, compare

    data = random_samples(before, count=4, seed=ctx.seed) if ctx.data is None else ctx.data
    few: Iterable[Sample] = spread(data, _SAMPLES)  # type: ignore[assignment]
    some = Dataset(lambda: iter(few), description=data.description)
    runners = (OrtRunner.from_model(model, threads=1) for model in (before, after))
    found = compare(next(runners), next(runners), some, classes=class_outputs(before))
    rates = None if ctx.target is None else ctx.target.cost
    return Effect(
        {f.name: value for f in step.declared() if (value := getattr(step, f.name)) != f.default},
        (total_macs(before), total_macs(after)),
        (_nonzero(before), _nonzero(after)),
        None if rates is None else (total_cycles(before, rates), total_cycles(after, rates)),
        found.sqnr_db,
        found.agreement,
        found.samples,
        data.description,
    )


def _nonzero(model: ir.Model) -> int:
    arrays = (ir.constant(value) for value in model.graph.initializers.values())
    return sum(int(np.count_nonzero(a)) for a in arrays if a is not None and a.dtype.kind == "f")
