"""What the words of a compilation come to on a target: formats, precision, plan, data; no contradictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc.errors import UnsupportedError, UsageError
from edgecc.options import CompileOptions, flag

if TYPE_CHECKING:
    from edgecc import ir
    from edgecc.calibration.dataset import Dataset
    from edgecc.quant import NodePrecision
    from edgecc.quant.carried import Carried
    from edgecc.quant.plan import QuantPlan
    from edgecc.target import Target

# Samples of --random-data: ranges of a network on noise mean little, and more of it would not help.
_RANDOM_CALIBRATION = 16
QUANTIZED = ("int8", "int16x8", "mixed")
SEARCHED = ("mixed", "int4")
DYNAMIC_REMEDY = (
    "no calibration data: weights are int8, activations stay float; give --data for int8 throughout"
)
_REMOVED = (
    "{}, and {} is asked for: its scales are removed, its weights made real, which is the original then"
)
_KEPT = "{}: its scales are kept; no calibration data is needed"
_VERIFICATION = "needs the verification that --no-verify leaves out"
_DATA = "belongs to data, and none is given"


def formats(options: CompileOptions, target: Target) -> tuple[str, ...]:
    """The formats to write.

    Raises:
        UnsupportedError: the target does not run the one asked for.
    """
    asked = options.format
    if asked in (None, "all"):
        return target.formats
    if asked not in target.formats:
        raise UnsupportedError(
            f"{target.name} runs no {asked} files", remedy=f"choose {', '.join(target.formats)}"
        )
    return (asked,)


def keeps(options: CompileOptions, plan: QuantPlan | None, carried: Carried | None) -> bool:
    """Whether the quantization that the network carries stays: no other precision is asked for, and no plan given."""
    return carried is not None and plan is None and options.precision in (None, carried.precision)


def precision(
    options: CompileOptions, target: Target, plan: QuantPlan | None, carried: Carried | None = None
) -> str:
    """The precision asked for, or what the network carries, or the plan's, or the best with the data given.

    Raises:
        UnsupportedError: the target's kernels do not serve it.
        UsageError: it needs data, or is not the plan's.
    """
    best = "int8" if options.data is not None or options.random_data else "dynamic"
    kept = keeps(options, plan, carried)
    found: str = options.precision or (best if plan is None else plan.precision)
    if carried is not None and kept:
        found = carried.precision
    if found not in target.precisions:
        raise UnsupportedError(
            f"{target.name} has no precision {found}", remedy=f"choose {', '.join(target.precisions)}"
        )
    given = options.data is not None or plan is not None or options.random_data
    if found in QUANTIZED and not given and not kept:
        raise UsageError(
            f"{found} needs calibration data",
            node="--precision",
            remedy="give --data, or --plan of an earlier run, or --random-data to do without knowingly",
        )
    if plan is not None and plan.precision != found:
        raise UsageError(f"the plan is for {plan.precision}, not for {found}", node="--plan")
    return found


def calibrated(options: CompileOptions, found: str) -> bool:
    """Whether a precision has a plan: activations are quantized too. int4 has one where there is data to make it."""
    given = options.data is not None or options.plan is not None or options.random_data
    return found in QUANTIZED or (found == "int4" and given)


def searched(options: CompileOptions, found: str) -> bool:
    """Whether precisions are to be chosen by what the limits on the answers leave room for."""
    limited = any(v is not None for v in (options.min_agreement, options.min_sqnr, options.max_drop))
    return limited and found in SEARCHED and options.plan is None and calibrated(options, found)


def carried_note(carried: Carried, found: str, *, kept: bool) -> str:
    """What the user is told of a network that is quantized already."""
    return (_KEPT if kept else _REMOVED).format(carried, found)


def formats_of(found: str, options: CompileOptions, target: Target) -> tuple[str, ...]:
    """The formats to write in a precision: of those asked for, the ones that have kernels for it.

    Raises:
        UnsupportedError: there is none, or the user named one that has none.
    """
    wanted = formats(options, target)
    served = target.only_as.get(found, wanted)
    left = tuple(form for form in wanted if form in served)
    if not left or (options.format == "all" and len(left) < len(wanted)):
        others = ", ".join(p for p in target.precisions if p not in target.only_as)
        lacking = ", ".join(form for form in wanted if form not in served)
        raise UnsupportedError(
            f"{target.name} runs no {lacking} files in {found}: {target.runtimes.get(lacking, lacking)} has no"
            " kernels for it",
            remedy=f"choose --format {served[0]}, or --precision {others}",
        )
    return left


def check_sense(options: CompileOptions, found: str) -> None:
    """Refuses words that contradict each other or would have no effect; `found` is the precision.

    Raises:
        UsageError: naming the option.
    """
    has_data = options.data is not None or options.eval_data is not None
    verified = not options.no_verify
    rules = (
        ("random_data", options.data is None, "is not needed: there is data"),
        ("max_latency", not options.no_profile, "needs the timing that --no-profile leaves out"),
        *(
            (name, verified, _VERIFICATION)
            for name in ("min_agreement", "min_sqnr", "max_drop", "debug_quant")
        ),
        *((name, has_data, _DATA) for name in ("labels", "mean", "std")),
    )
    for name, sensible, reason in rules:
        given = getattr(options, name)  # perhaps an array, which `in` would compare
        if given is not None and given is not False and not sensible:
            raise UsageError(f"this {reason}", node=f"--{flag(name)}")
    if options.keep and not calibrated(options, found):
        raise UsageError(
            f"nodes of {found} artifacts have no precisions of their own",
            node="--keep",
            remedy="choose --precision mixed",
        )
    if options.io_dtype not in (None, "float32") and not calibrated(options, found):
        raise UsageError(
            f"inputs and outputs of {found} artifacts are float32",
            node="--io-dtype",
            remedy="choose --precision int8",
        )


def with_ports(options: CompileOptions, target: Target, found: str) -> CompileOptions:
    """The options with a type of inputs and outputs: the target's, where none is asked for and these are quantized."""
    own = target.io_dtype if calibrated(options, found) else "float32"
    return options if options.io_dtype is not None else replace(options, io_dtype=own)


def given_plan(options: CompileOptions) -> QuantPlan | None:
    """The plan of an earlier run, read from its file.

    Raises:
        UsageError, ModelError: it cannot be read, or is no plan.
    """
    from edgecc.quant.plan import QuantPlan

    given = options.plan
    if given is None or isinstance(given, QuantPlan):
        return given
    try:
        return QuantPlan.from_json(Path(given).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("there is no such file", node=str(given)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"it cannot be read: {error}", node=str(given)) from error


def fitting(plan: QuantPlan, model: ir.Model) -> QuantPlan:
    """The plan, if it was made for this network after these passes; else values would stay float.

    Raises:
        UsageError: it names values that the network does not have.
    """
    from edgecc.ir import label

    values = {v.name for v in model.graph.inputs} | {out.name for node in model.graph for out in node.outputs}
    strange = [name for name in plan.ranges if name not in values]
    if not strange:
        labels = {label(node) for node in model.graph}
        unknown = [name for name in plan.precisions if name not in labels]
        if unknown:
            raise UsageError(f"the plan names a node that the network has not: {unknown[0]}", node="--plan")
    if strange:
        raise UsageError(
            f"{len(strange)} of the plan's {len(plan.ranges)} values are not in the network, as {strange[0]}",
            node="--plan",
            remedy="use the model and the passes that it was made with",
        )
    return plan


def pins(options: CompileOptions, model: ir.Model) -> dict[str, NodePrecision]:
    """The nodes that `--keep` names, by label; later words win.

    Raises:
        UsageError: a name fits no node.
    """
    from edgecc import ir

    found: dict[str, NodePrecision] = {}
    for pattern, precision in (options.keep or {}).items():
        fitting = [
            ir.label(node)
            for node in model.graph
            if any(
                fnmatchcase(str(n), pattern) for n in (node.name, *(out.name for out in node.outputs)) if n
            )
        ]
        if not fitting:
            close = get_close_matches(pattern, [ir.label(node) for node in model.graph], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`edgecc compile --dump-ir` shows the names"
            raise UsageError(f"no node is called {pattern!r} after the passes", node="--keep", remedy=hint)
        found.update(dict.fromkeys(fitting, precision))  # type: ignore[arg-type]
    return found


def datasets(options: CompileOptions, model: ir.Model, warnings: list[str]) -> tuple[Dataset | None, Dataset]:
    """Calibration data, if any, and what fidelity is measured on; oddities go to `warnings`."""
    from edgecc.calibration.dataset import input_specs, open_dataset, random_samples
    from edgecc.verify import RANDOM_SAMPLES

    specs = input_specs(model)
    scale = {"mean": options.mean, "std": options.std}
    calibration = evaluation = None
    if options.data is not None:
        labels = options.labels if options.eval_data is None else None
        calibration = open_dataset(options.data, specs, labels=labels, **scale)
        warnings.extend(calibration.warnings)
    elif options.random_data:
        calibration = random_samples(model, _RANDOM_CALIBRATION, options.seed)
        warnings.append("calibrated on random data: the ranges mean little for real inputs")
    if options.eval_data is not None:
        evaluation = open_dataset(options.eval_data, specs, labels=options.labels, **scale)
        warnings.extend(w for w in evaluation.warnings if w not in warnings)
    if evaluation is None:
        evaluation = calibration
    if evaluation is None:
        evaluation = random_samples(model, RANDOM_SAMPLES, options.seed)
    return calibration, evaluation


def words(
    options: CompileOptions,
    *,
    target: Target,
    precision: str,
    formats: Sequence[str],
    data: Dataset | None,
    eval_data: Dataset,
) -> dict[str, Any]:
    """The options as they were understood, spelt as on the command line, in words that JSON takes."""
    found: dict[str, Any] = {flag(f.name): getattr(options, f.name) for f in fields(options)}
    found |= {"precision": precision, "format": list(formats), "target": target.name}
    found["data"] = None if data is None else data.description
    found["eval-data"] = eval_data.description
    for name in ("labels", "plan"):
        found[name] = None if found[name] is None else "given"
    found["pass"] = [str(p) for p in options.passes]
    return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}
