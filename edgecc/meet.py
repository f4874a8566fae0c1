"""The cheapest precisions of nodes with which the artifacts keep the limits that the user set: trials of real files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.errors import FidelityError, ModelError
from edgecc.limits import check_limits, class_outputs
from edgecc.quant.constants import rounded_to_widths, rounded_where_stored
from edgecc.quant.search import Found, Outcome, cheapest
from edgecc.quant.stored_weights import wider_weights

if TYPE_CHECKING:
    from edgecc.calibration.dataset import Dataset
    from edgecc.fidelity import Fidelity
    from edgecc.options import CompileOptions
    from edgecc.quant.budget import Choice
    from edgecc.quant.plan import QuantPlan
    from edgecc.quant.rules import Runtime
    from edgecc.target import Target
    from edgecc.turns import Recorded

# Samples on which noise is probed. It is an average over all elements of an output: 8 images say it within 0.3 dB.
_PROBED = 8
# Sources of noise that the report names.
_NAMED = 3

Write = Callable[[ir.Model, "QuantPlan", str], Artifact]


@dataclass(frozen=True)
class Trials:
    """Measures plans by the files that they make.

    Attributes:
        network: the network with the weights that nodes have under a plan.
        write: makes the artifact of a format.
        formats: to be tried.
        options: with the limits.
        reference: the original's answers to `dataset`.
        dataset: what answers are compared on.
        classes: outputs that are classes.
    """

    network: Callable[[QuantPlan], ir.Model]
    write: Write
    formats: Sequence[str]
    options: CompileOptions
    reference: Recorded
    dataset: Dataset
    classes: frozenset[str]

    def __call__(self, plan: QuantPlan) -> Outcome:
        """Whether every format's file keeps the limits."""
        from edgecc.verify import compare_all, open_candidate

        model, threads = self.network(plan), self.options.threads or 1
        try:
            runners = {
                form: open_candidate(self.write(model, plan, form), like=self.reference, threads=threads)
                for form in self.formats
            }
        except ModelError:  # the runtime's optimiser fails on some mixtures: another one will do
            return Outcome(False, float("inf"))
        measured = compare_all(self.reference, runners, self.dataset, classes=self.classes)
        noise = max(10 ** (-f.sqnr_db / 10) for f in measured.values())
        return Outcome(all(self._keeps(f) for f in measured.values()), noise)

    def _keeps(self, fidelity: Fidelity) -> bool:
        options = self.options
        try:
            check_limits(
                fidelity,
                min_agreement=options.min_agreement,
                min_sqnr=options.min_sqnr,
                max_drop=options.max_drop,
            )
        except FidelityError:
            return False
        return True


def meet(
    plan: QuantPlan,
    floats: ir.Model,
    rounded: ir.Model,
    *,
    original: ir.Model,
    target: Target,
    options: CompileOptions,
    formats: Sequence[str],
    data: Dataset,
    eval_data: Dataset,
    write: Write,
    rounding: Callable[[QuantPlan], ir.Model],
) -> tuple[QuantPlan, ir.Model, str]:
    """The plan, the network to write by it, and what the search has to say.

    Args:
        plan: mixed, everything in integers but what is pinned; or int4, all weights in it that may be.
        floats: the float network that it was made for.
        rounded: the same after the passes that round weights.
        original: the network as it came, whose answers count.
        target: with its costs.
        options: with the limits.
        formats: that are written; the first one's kernels are weighed.
        data: calibration data, some of which noise is probed on.
        eval_data: what the limits are measured on.
        write: makes the artifact of a format.
        rounding: runs the passes that round weights for a plan.

    Raises:
        UsageError: a limit on classes, but no output is classes.
    """
    from edgecc.calibration.moments import spread
    from edgecc.quant.budget import choices, weight_choice
    from edgecc.quant.sensitivity import noise_sources
    from edgecc.runtime.ort import OrtRunner
    from edgecc.turns import Recorded

    runtime: Runtime = formats[0]  # type: ignore[assignment]
    threads, integers = options.threads, options.io_dtype != "float32"
    sources = noise_sources(
        floats,
        plan.for_runtime(runtime, floats, target),
        spread(data, _PROBED),
        rounded=rounded,
        threads=threads,
    )
    network: Callable[[QuantPlan], ir.Model]
    problems: Sequence[Choice]
    if plan.precision == "int4":
        wide = wider_weights(floats, plan)
        again = rounding(replace(plan, tensors={**plan.tensors, **wide}))
        network = partial(rounded_to_widths, rounded, again)
        problems = [weight_choice(floats, plan, wide, sources)]
    else:
        network = partial(rounded_where_stored, floats, rounded)
        problems = choices(floats, plan, sources, target.cost, runtime=runtime, ports=integers)
    reference = Recorded(OrtRunner.from_model(original, threads=threads), eval_data)
    trials = Trials(network, write, formats, options, reference, eval_data, class_outputs(original))
    wanted = None if options.min_sqnr is None else 10 ** (-options.min_sqnr / 10)
    found = cheapest(problems, trials, wanted=wanted)
    chosen = found.plan
    if plan.precision == "int4":
        return chosen, network(chosen), _told_of_weights(found)
    if found.outcome.met and "fp16" in target.precisions:
        halved = _halved(chosen, floats)
        if halved.precisions != chosen.precisions and trials(halved).met:
            chosen = halved
    return chosen, network(chosen), _told(found, chosen)


def _halved(plan: QuantPlan, model: ir.Model) -> QuantPlan:
    """Weights of nodes that were raised to float in float16: a smaller file at the same speed."""
    from edgecc.quant import rules

    halves: Mapping[str, str] = {
        ir.label(n): "fp16"
        for n in model.graph
        if rules.weight_of(n) is not None and plan.precisions.get(ir.label(n)) == "fp32"
        and ir.label(n) in plan.kept_float
    }  # fmt: skip
    return replace(plan, precisions={**plan.precisions, **halves})  # type: ignore[dict-item]


def _told(found: Found, plan: QuantPlan) -> str:
    choice, chosen = found.choice, found.chosen
    raised, units = len(chosen.raised), len(choice.units)
    least, most = choice.assignment(()).cost, choice.assignment(choice.free).cost
    kinds = " and ".join(sorted({plan.precision_of(n) for n in chosen.raised})) or "anything wider"
    return (
        f"{units - raised} of {units} operators compute in integers, {raised} in {kinds}; by the target's numbers they"
        f" take {chosen.cost / max(least, 1e-30):.2f} times as long as all in integers and"
        f" {chosen.cost / max(most, 1e-30):.2f} times as long as none (trials: {found.trials}). Most noise, all in"
        f" int8, comes from {_loudest(choice)}"
    )


def _told_of_weights(found: Found) -> str:
    choice, chosen = found.choice, found.chosen
    least, most = choice.assignment(()).cost, choice.assignment(choice.free).cost
    return (
        f"{len(choice.units) - len(chosen.raised)} of {len(choice.units)} layers that may have int4 weights have them,"
        f" {len(chosen.raised)} have int8; these take {_megabytes(chosen.cost)} instead of {_megabytes(least)} all in"
        f" int4 and {_megabytes(most)} all in int8 (trials: {found.trials}). Most noise, all in int4, comes from"
        f" {_loudest(choice)}"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB"


def _loudest(choice: Choice) -> str:
    shares = sorted(choice.shares(), key=lambda pair: -pair[1])[:_NAMED]
    return ", ".join(f"{name} ({share:.0%})" for name, share in shares)
