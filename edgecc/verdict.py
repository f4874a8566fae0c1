"""Is the result good enough? Limits on fidelity (exit 4), budgets of size, work and time (exit 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgecc.analysis.cost import total_macs
from edgecc.errors import BudgetError, EdgeccError, FidelityError

if TYPE_CHECKING:
    from edgecc import ir
    from edgecc.artifact import Artifact
    from edgecc.fidelity import Fidelity
    from edgecc.options import CompileOptions
    from edgecc.profile import Profile

_SPARSER = "remove more weights, as with --pass sparsify:ratio=0.8, or share fewer values: --pass share_weights:bits=4"


def verdict(
    options: CompileOptions,
    precision: str,
    model: ir.Model,
    files: Mapping[str, tuple[Artifact, Fidelity | None, Profile | None]],
    lowered: Mapping[str, Fidelity],
) -> EdgeccError | None:
    """The first limit or budget that is not kept, None where all are.

    Args:
        options: with the limits.
        precision: of the artifacts.
        model: the float network after the passes.
        files: artifact, fidelity and timing by file name.
        lowered: against what approximate passes left of the network, of the files that must equal that.
    """
    from edgecc.limits import check_limits

    try:
        for name, (_, fidelity, _) in files.items():
            if fidelity is not None:
                own = "approximate" if name in lowered else precision
                check_limits(
                    fidelity, precision=own, min_agreement=options.min_agreement,
                    min_sqnr=options.min_sqnr, max_drop=options.max_drop, artifact=name,
                )  # fmt: skip
        for name, fidelity in lowered.items():
            check_limits(fidelity, precision=precision, artifact=name)
        check_budgets(options, model, {name: (a, p) for name, (a, _, p) in files.items()})
    except (FidelityError, BudgetError) as error:
        return error
    return None


def check_budgets(
    options: CompileOptions, model: ir.Model, files: Mapping[str, tuple[Artifact, Profile | None]]
) -> None:
    """Holds what was made against `--max-macs`, `--max-size` and `--max-latency`.

    Args:
        options: with the budgets.
        model: the float network after the passes.
        files: artifact and timing by file name.

    Raises:
        BudgetError: the first budget that is exceeded, with the figure.
    """
    if options.max_macs is not None and (macs := total_macs(model)) > options.max_macs:
        raise BudgetError(
            f"{macs:,} multiply-accumulates, {options.max_macs:,.0f} allowed", node="--max-macs"
        )
    for name, (artifact, profile) in files.items():
        packed = artifact.notes.get("packed")
        size = artifact.size if packed is None else int(packed["bytes"])
        if options.max_size is not None and size > options.max_size:
            raise BudgetError(
                f"{size:,} bytes, {options.max_size:,.0f} allowed",
                node=name if packed is None else packed["file"],
                remedy="choose a narrower --precision" if packed is None else _SPARSER,
            )
        if options.max_latency is None or profile is None:
            continue
        allowed_ms = 1e3 * options.max_latency
        if profile.typical_ms > allowed_ms:
            raise BudgetError(
                f"{profile.typical_ms:.3g} ms ({profile.tier}), {allowed_ms:g} ms allowed", node=name
            )
