"""Writes the pages that are made from the code: `python docs/generate.py`. A test fails when one is stale."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnx

from edgecc.quant.rules import RULES, TFLITE_INT16, Column
from edgecc.tflite.kernels import Kernels, Reach, demanded, in_words, kernels, table
from edgecc.tflite.lower import lowerings

NEWEST = 28  # opset of the ONNX release whose operators are listed
PAGE = Path(__file__).resolve().parent / "operators.md"
UNROLLED = {
    "LSTM": "its steps, unrolled (pass `unroll_recurrent`)",
    "GRU": "its steps, unrolled (pass `unroll_recurrent`)",
    "RNN": "its steps, unrolled (pass `unroll_recurrent`)",
    "Scan": "its steps, unrolled (pass `unroll_scan`)",
    "Loop": "its rounds, unrolled where their number is known (pass `unroll_scan`)",
    "If": "the branch taken, or both and a choice (pass `inline_if`)",
}
RUNTIMES = {
    "LiteRT": demanded("litert"),
    "tflite-runtime 2.14": kernels("tflite-runtime-2.14"),
    "TFLite Micro": demanded("tflite-micro"),
}


def operators() -> Iterator[tuple[str, str]]:
    """Every ONNX operator of the default domain that edgecc takes, and what becomes of it."""
    known = lowerings()
    names: dict[str, onnx.defs.OpSchema] = {}
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: s.since_version):
        if schema.domain == "" and schema.since_version <= NEWEST:
            names[schema.name] = schema
    for name in sorted(names):
        schema = names[name]
        if name in known:
            text = (inspect.getdoc(known[name].function) or "").splitlines()[0].rstrip(".")
            kernel = _kernel(name, known[name].function)
            yield name, text if kernel is None else kernel
        elif name in UNROLLED:
            yield name, UNROLLED[name]
        elif getattr(schema, "has_function", False) or getattr(
            schema, "has_context_dependent_function", False
        ):
            yield name, "the operators of its ONNX definition (pass `expand_functions`)"


def _kernel(name: str, function: Callable[..., None]) -> str | None:
    """The kernel that a table of the lowering's module names for the operator, where that is all there is to it."""
    tables = [
        v for v in vars(sys.modules[function.__module__]).values() if isinstance(v, Mapping) and name in v
    ]
    named = [v[name][0] if isinstance(v[name], tuple) else v[name] for v in tables]
    codes = {code for code in named if isinstance(code, str) and code in table()["kernels"]}
    return codes.pop() if len(codes) == 1 else None


def integers(name: str, runtime: str) -> str:
    """What an operator is in integers: its output scale, or "float"."""
    rule, known = RULES.get(name), lowerings().get(name)
    if rule is None:
        return "float"
    if runtime == "onnx":
        return _scale(rule.onnx, "uint8")
    if known is None or not known.int8:
        return "float"
    if runtime == "int16":
        return _scale(TFLITE_INT16.get(name, rule.tflite), "int16")
    return _scale(rule.tflite, "int8")


def _scale(column: Column | None, dtype: str) -> str:
    if column is None or (column.fixed is not None and dtype not in column.fixed):
        return "float"
    text = {"own": "yes", "same": "yes, scale of its input", "fixed": "yes, fixed scale"}[column.scale]
    return f"{text} \\*" if column.unless is not None else text


def weights(name: str) -> str:
    """What fp16, dynamic and int4 change: the constant weights, where there are some."""
    rule = RULES.get(name)
    return "weights" if rule is not None and rule.weight is not None else "as float32"


def operator_table() -> list[str]:
    """A line an ONNX operator."""
    lines = [
        "| ONNX operator | becomes | fp16, dynamic, int4 | TFLite int8 | TFLite int16x8 | ONNX int8 |",
        "|---|---|---|---|---|---|",
    ]
    for name, text in operators():
        cells = [integers(name, kind) for kind in ("int8", "int16", "onnx")]
        lines.append(f"| {name} | {_cell(text)} | {weights(name)} | {' | '.join(cells)} |")
    return lines


def kernel_table() -> list[str]:
    """A line a TFLite operator."""
    lines = [f"| TFLite operator | {' | '.join(RUNTIMES)} |", "|---|" + "---|" * len(RUNTIMES)]
    for code in sorted(table()["kernels"]):
        cells = [_kinds(known, code) for known in RUNTIMES.values()]
        lines.append(f"| {code} | {' | '.join(cells)} |")
    return lines


def _kinds(known: Kernels, code: str) -> str:
    """Kinds by the ranks that they serve; conversions by where they come from."""
    found = known.kinds(code)
    if not found:
        return "-"
    groups: dict[str, list[str]] = {}
    for kind, reach in found.items():
        groups.setdefault(_ranks(reach), []).append(kind)
    parts = []
    for ranks, kinds in groups.items():
        sources: dict[str, list[str]] = {}
        for kind in kinds:
            source, _, target = kind.partition(">")
            sources.setdefault(source, []).append(target)
        words = [
            in_words(source) + (f" to {' / '.join(map(in_words, to))}" if any(to) else "")
            for source, to in sources.items()
        ]
        parts.append(f"{', '.join(words)} ({ranks})")
    return "; ".join(parts)


def _ranks(reach: Reach) -> str:
    text = f"{reach.low} to {reach.high} axes" if reach.low < reach.high else f"{reach.low} axes"
    if reach.broadcast is None or reach.broadcast == reach.high:
        return text
    return (
        f"{text}, of different shapes up to {reach.broadcast}" if reach.broadcast else f"{text}, of one shape"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGE_TEXT = """\
<!-- made by `python docs/generate.py`: do not edit -->
# Operators

`edgecc inspect MODEL --target T` says the same of each node of a network, without compiling it.

## ONNX operators

*becomes*: names in capitals are TFLite's kernels; what has none is composed of those. *float* in an integer column:
the operator runs on real values between a DEQUANTIZE and a QUANTIZE, and the report says so. \\*: some nodes only, as
those with constant weights; `inspect` names the reason where one is left out.

{operators}

## Kernels by runtime

Measured by `python benchmarks/kernels.py` in {packages}.
Each entry is loaded and answered rightly, in LiteRT both with XNNPACK and with its built-in kernels. What is missing
is refused, stops the process or is answered wrongly there. `edgecc/tflite/kernels.json` has the same for programs.

{kernels}
"""


def page() -> str:
    """The text of operators.md."""
    packages = ", ".join(dict.fromkeys(table()["packages"].values()))
    operators, found = "\n".join(operator_table()), "\n".join(kernel_table())
    return PAGE_TEXT.format(operators=operators, packages=packages, kernels=found)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
