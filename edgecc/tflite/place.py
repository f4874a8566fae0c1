"""Site by site: which kernels serve a node, on integers or on real values, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

from edgecc import ir, registry
from edgecc.analysis.refusals import reason_and_remedy, unknown_size
from edgecc.analysis.sites import FLOAT_MARK, Site
from edgecc.errors import Finding
from edgecc.tflite import LOWERINGS, Lowering
from edgecc.tflite.builder import Builder, NeedsFloat, NotMade, Unservable
from edgecc.tflite.kernels import Kernels, in_words, kind_of

_FAMILIES = (
    "conv", "gemm", "pool", "elementwise", "shape", "reduce", "resize", "index", "scan", "math", "logic",
    "spatial", "windows", "product", "linear", "sample", "quantized", "qdq", "cast", "norm", "detect",
)  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """What a node became.

    Attributes:
        node, op_type: of the graph that is lowered.
        operators: of TFLite, conversions included.
        stored: how the data of these is stored, in words.
        reason: why it works on real values where its operands are integers; empty where it does not.
    """

    node: str
    op_type: str
    operators: tuple[str, ...]
    stored: tuple[str, ...]
    reason: str


def lowerings() -> dict[str, Lowering]:
    """Every lowering by ONNX operator, those of other packages included."""
    for family in _FAMILIES:
        import_module(f"edgecc.tflite.lower_{family}")
    registry.load_lowerings()
    return LOWERINGS


def lower_sites(b: Builder) -> tuple[list[Placed], list[Finding]]:
    """Lowers every site, and says of each that cannot be what stands in the way."""
    placed: list[Placed] = []
    findings: list[Finding] = []
    table = lowerings()
    for site in b.sites.sites:
        before = len(b.graph.operators)
        try:
            reason = _lower_site(b, site, table)
        except Unservable as error:
            if not isinstance(error, NotMade) or not findings:
                findings.append(Finding(site.name, site.op_type, error.reason, error.remedy))
            _pretend(b, site)
            continue
        placed.append(_placed(b, site, before, site.node.metadata_props.get(FLOAT_MARK) or reason))
    return placed, findings


def _placed(b: Builder, site: Site, before: int, reason: str) -> Placed:
    made = b.graph.operators[before:]
    works = [op for op in made if op.code not in ("QUANTIZE", "DEQUANTIZE")]
    stored = dict.fromkeys(in_words(kind_of(op, b.graph.tensors)) for op in works)
    return Placed(site.name, site.op_type, tuple(op.code for op in made), tuple(stored), reason)


def _attempts(b: Builder, site: Site, lowering: Lowering) -> Iterator[tuple[bool, bool, Kernels]]:
    """Ways to lower a site, best first: on integers; with kernels that all runtimes have, then the target's own."""
    known = dict.fromkeys((b.wanted, b.demanded))
    if site.quantized and lowering.int8:
        for unsigned in (False, True) if _has_zero_point(site) else (False,):
            yield from ((True, unsigned, kernels) for kernels in known)
    yield from ((False, False, kernels) for kernels in known)


# What computing with the attributes and shapes of a malformed node may raise.
_MALFORMED = (ArithmeticError, LookupError, TypeError, ValueError)
_SOUND = "check that the network runs in ONNX Runtime; if it does, report this"


def _lower_site(b: Builder, site: Site, table: dict[str, Lowering]) -> str:
    """Lowers one site; says why where a quantized one had to be lowered on real values.

    Raises:
        Unservable: there is no kernel for it.
    """
    lowering = table.get(site.op_type)
    if lowering is None:
        raise Unservable(*reason_and_remedy(site.node))
    if any(not ir.is_static(r.value) for r in site.outputs if r.value.name):
        raise NotMade(*unknown_size(site.node))
    unknown = [
        o.value.name for o in site.inputs if o is not None and o.array is None and not ir.is_static(o.value)
    ]
    if unknown:
        raise NotMade(
            f"the shape of its input {unknown[0]!r} is not known when compiling", "bind it with --input-shape"
        )
    before = len(b.graph.tensors), len(b.graph.operators)
    reason, refusal = "", Unservable("no kernel computes it between these scales")
    for quantized, unsigned, kernels in _attempts(b, site, lowering):
        b.kernels = kernels
        try:
            b.begin(site, quantized=quantized, unsigned=unsigned)
            lowering.function(site, b)
            return "" if quantized or not site.quantized else reason or _lacking(site)
        except NeedsFloat as error:
            reason = str(error)
        except Unservable as error:
            refusal = error
        except _MALFORMED as error:  # shapes and attributes that shape inference let pass
            text = " ".join(str(error).split())[:200]
            refusal = Unservable(f"its operands or attributes do not fit each other: {text}", _SOUND)
        b.forget(*before)
    raise refusal


_UNSIGNED = frozenset({"Conv", "Gemm", "MatMul"})  # whose kernels on uint8 take weights with a zero point


def _has_zero_point(site: Site) -> bool:
    """Whether its weights have a zero point."""
    weight = site.inputs[1] if site.op_type in _UNSIGNED else None
    if weight is None or weight.array is None or weight.quant is None:
        return False
    return not weight.quant.symmetric


def _lacking(site: Site) -> str:
    """Why a quantized site works on real values."""
    kinds = [o.quant.dtype for o in site.inputs if o is not None and o.quant is not None and o.array is None]
    return f"TFLite has no {kinds[0] if kinds else 'int8'} kernel for it"


def _pretend(b: Builder, site: Site) -> None:
    """Gives the results of a node that cannot be served a tensor, so that the rest can be checked too."""
    b.begin(site, quantized=False)
    for position, result in enumerate(site.outputs):
        if ir.dims(result.value) is not None and ir.is_static(result.value):
            with suppress(Unservable):
                b.output(position)
