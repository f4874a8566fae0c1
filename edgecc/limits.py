"""Which outputs are classes, and how far an artifact may stray."""

from __future__ import annotations

from edgecc import ir
from edgecc.errors import FidelityError, UsageError
from edgecc.fidelity import Fidelity, OutputFidelity
from edgecc.rounding import SAFETY

FLOAT32 = ("fp32", "float32")
"""Names of the precision that must agree with the original."""
FLOAT32_TOLERANCE = 1e-3
"""Largest relative error allowed to float32 artifacts (DESIGN §3)."""
FLOAT32_SHARE = 1e-2
"""Largest share of integers (of an ArgMax, say) that may differ: near ties fall either way."""

_HEADS = frozenset({"Softmax", "LogSoftmax", "QLinearSoftmax"})
_LOGITS = frozenset(
    {
        "Gemm",
        "MatMul",
        "QGemm",
        "QLinearMatMul",
        "MatMulInteger",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    }
)
_TRANSPARENT = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout", "QuantizeLinear"}
    | {"DequantizeLinear"}
)


def class_outputs(model: ir.Model) -> frozenset[str]:
    """Names of the outputs that are scores of classes.

    That is what ends in a Softmax, or else (no output does) in a Gemm or MatMul, perhaps with a bias, has the
    shape (batch, 2 or more), and not the shape of an input, as the output of an autoencoder has.
    """
    inputs = {ir.dims(value) for value in model.graph.inputs}
    heads: dict[str, str] = {}
    for output in model.graph.outputs:
        shape = ir.dims(output)
        if shape is None or len(shape) != 2 or (shape[1] is not None and shape[1] < 2):
            continue
        if any(known and known[1:] == shape[1:] and len(known) == 2 for known in inputs):
            continue
        heads[str(output.name)] = _head(output)
    ends = {op for op in heads.values() if op in _HEADS} or _LOGITS
    return frozenset(name for name, op in heads.items() if op in ends)


def _head(value: ir.Value) -> str:
    """The operator that decides what `value` means, behind reshapes, casts and a constant bias."""
    for _ in range(16):
        node = value.producer()
        if node is None:
            return ""
        computed = [v for v in node.inputs if v is not None and ir.constant(v) is None]
        biased = node.op_type == "Add" and len(computed) == 1
        if node.op_type == "Mul":  # sums of integers times their scale, which may be computed
            computed = [
                v for v in computed if (maker := v.producer()) is not None and maker.op_type == "Cast"
            ]
            biased = len(computed) == 1
        if not computed or not (biased or node.op_type in _TRANSPARENT):
            return node.op_type
        value = computed[0]
    return ""


def float32_excess(output: OutputFidelity) -> str:
    """By how much an output of a float32 artifact errs more than is allowed; empty if it does not."""
    if output.integers:
        same = 1.0 if output.agreement is None else output.agreement
        error, limit, of = 1 - same, FLOAT32_SHARE, "elements"
    else:
        error, limit, of = output.relative_error, FLOAT32_TOLERANCE, "range"
    noise = output.rounding or 0.0
    if error <= max(limit, SAFETY * noise):
        return ""
    allowed = f"allowed for float32: {limit:.0e}"
    if noise:
        allowed += f"; rounding alone moves the original by {noise:.1e}"
    return f"output {output.name} differs by {error:.2e} of its {of}, {allowed}"


_REMEDIES = {
    "fp32": "report it; edgecc verify --layers shows where the answers part, --skip-pass leaves a pass out",
    "approximate": "look at the error of each layer (edgecc verify --layers), give more representative calibration"
    " data, or choose a wider --precision",
}


def check_limits(
    fidelity: Fidelity,
    *,
    precision: str | None = None,
    min_agreement: float | None = None,
    min_sqnr: float | None = None,
    max_drop: float | None = None,
    artifact: str | None = None,
) -> None:
    """Holds the figures against the limits.

    Args:
        fidelity: what was measured.
        precision: of the artifact; "fp32" must agree within `FLOAT32_TOLERANCE`, others have no own limit.
        min_agreement: share, 0 to 1.
        min_sqnr: in dB.
        max_drop: in points of accuracy where labels were given, else of agreement.
        artifact: what the error calls the artifact.

    Raises:
        FidelityError: naming every limit that is missed, with the figure measured.
        UsageError: a limit on classes, but no output is classes.
    """
    if (min_agreement is not None or max_drop is not None) and fidelity.agreement is None:
        raise UsageError(
            "no output of this network is scores of classes, so agreement cannot be limited",
            remedy="limit the SQNR with --min-sqnr, or name the outputs that are classes",
        )
    missed = []
    if fidelity.nonfinite:
        missed.append(f"{fidelity.nonfinite} NaN or infinite values where the original is finite")
    if precision in FLOAT32:
        missed += [why for o in fidelity.outputs if (why := float32_excess(o))]
    if min_agreement is not None and fidelity.agreement is not None and fidelity.agreement < min_agreement:
        missed.append(f"agreement is {fidelity.agreement:.2%}, at least {min_agreement:.2%} is asked for")
    if min_sqnr is not None and fidelity.sqnr_db < min_sqnr:
        missed.append(f"SQNR is {fidelity.sqnr_db:.2f} dB, at least {min_sqnr:g} dB is asked for")
    if (
        max_drop is not None and fidelity.drop is not None and fidelity.drop > max_drop + 1e-9
    ):  # 91.5 - 91 is not exactly 0.5
        kind = "accuracy" if fidelity.accuracy is not None else "agreement"
        missed.append(f"{fidelity.drop:.2f} points of {kind} are lost, at most {max_drop:g} are allowed")
    if missed:
        raise FidelityError(
            f"{'; '.join(missed)} ({fidelity.samples} samples: {fidelity.data})",
            node=artifact,
            remedy=_REMEDIES["fp32" if precision in ("fp32", "float32") else "approximate"],
        )
