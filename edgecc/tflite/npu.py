"""Which operators of a TFLite file an Ethos-U leaves to the CPU, by the constraints that Vela states.

They are read from the installed Vela, else from `ethosu.json`, which `benchmarks/ethos.py --limits` makes of it. A rule
is a word and its numbers ("stride 3"); what Vela says beyond these is not looked at, so Vela has the last word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgecc.errors import Finding
from edgecc.tflite.npu_rules import CHECKS
from edgecc.tflite.reader import Graph, Operator, Tensor, read_graph

TABLE = Path(__file__).with_name("ethosu.json")

# What Vela says -> the rule, whose numbers are the groups. The words are those of `regor.tflite_operator_constraints`.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (r"^Feature-map dataTypes must be one of \{(.*)\}$", "types"),
    (r"^(\d+)-bit feature-maps are not supported", "no-bits"),
    (r"Output and Weight tensors must have quantization parameters", "quantized"),
    (r"^Parameter tensors must be constant", "constant-parameters"),
    (r"^Batch must be (\d+)", "batch"),
    (r"^Reduction over depth is only supported if any of h,w,c == 1", "depth-alone"),
    (r"^Reduced axis must be less than (\d+)", "axis-below"),
    (r"^Amount of reduced elements cannot exceed: (\d+)\(Int8\), (\d+)\(UInt8\), (\d+)\(Int16\)", "reduced-at-most"),
    (r"^Kernel stride must be in the range \(1,(\d+)\)", "stride"),
    (r"^Stride>(\d+) is only supported IF \(dilation = 1 AND padding = VALID\)", "stride-unless-valid"),
    (r"Kernel product must be less than or equal to (\d+)\*\d+\n.*\n  - ELSE:\n.*less than or equal to (\d+)", "pool"),
    (r"^kernel product must be less than or equal to (\d+)\*\d+", "pool"),
    (r"^IFM depth must be less than or equal to (\d+)", "depth-at-most"),
    (r"^Operation must be performed along the depth axis", "along-depth"),
    (r"datatypes must match, and must be (Int8 or UInt8|Int8 or Int16|Int8)$", "data"),
    (r"^IFM must be (Int8 or Int16)$", "data"),
    (r"^Both Input quantization parameters must match OFM", "same-scale"),
    (r"^Tensor dimension must be <= (\d+)", "rank"),
    (r"^The product of IFM width and height must be less than (\d+)", "area-below"),
    (r"The sum of absolute weights cannot exceed (\d+)\n", "weight-sum"),
    (r"^Stride values WxH must be: 1x1 OR 2x2", "transposed-stride"),
    (r"half pixel centers:\n    - Scale-factor needs to be (\d)x\n.*\n.*one of: (\d)x/(\d)x/(\d)x", "resize-bilinear"),
    (r"  - Scale-factor must be one of: (\d)x/(\d)x/(\d)x", "resize-nearest"),
    (r"^Scale-factor must be an integer power of two", "resize-power-of-two"),
    (r"Scale-factor can be maximum (\d+)\n  - ELSE:\n.*maximum (\d+)", "resize-at-most"),
    (r"^axis must be equal to batch_dims", "axis-is-batch"),
    (r"^Index tensor must be constant", "constant-index"),
    (r"OFM depth must be less than or equal to 2\^(\d+)", "dynamic-depth"),
    (r"with dynamic weights\): IFM precision must be (Int8)", "dynamic-data"),
)  # fmt: skip

Rules = Mapping[str, tuple[str, ...]]
"""Operator -> its rules, each a word and its numbers or types."""


@dataclass(frozen=True)
class Limits:
    """What an architecture takes: the rules of each operator, and where they are from."""

    architecture: str
    rules: Rules
    source: str


def architecture(accelerator_config: str) -> str:
    """Vela's name of the family: "EthosU55" for "ethos-u55-128"."""
    return "".join(part.capitalize() for part in accelerator_config.split("-")[:2])


def parsed(sentences: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The rules of each operator, of the sentences that Vela gives for it."""
    found: dict[str, tuple[str, ...]] = {}
    for code in sorted(sentences):
        rules = []
        for sentence in sentences[code]:
            for pattern, rule in _SENTENCES:
                match = re.search(pattern, sentence)
                if match:
                    rules.append(" ".join([rule, *(_words(group) for group in match.groups())]))
        found[code] = tuple(sorted(set(rules), key=lambda rule: (not rule.startswith("types"), rule)))
    return found


def _words(group: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", group.lower().replace(" or ", " ")))


@cache
def limits(family: str) -> Limits:
    """The limits of an architecture, of the installed Vela if there is one."""
    from edgecc.profile.vela import constraints

    stated = constraints(family)
    if stated is not None:
        return Limits(family, parsed(stated[1]), stated[0])
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rules = {code: tuple(words) for code, words in table["architectures"].get(family, {}).items()}
    return Limits(family, rules, table["source"])


def left_to_cpu(data: bytes, accelerator_config: str) -> tuple[Finding, ...]:
    """The operators of a file that the NPU does not take, and why."""
    return objections(read_graph(data), limits(architecture(accelerator_config)))


def objections(graph: Graph, known: Limits) -> tuple[Finding, ...]:
    """As `left_to_cpu`."""
    found = []
    for op in graph.operators:
        reason = _objection(op, known)
        if reason is not None:
            found.append(Finding(op.outputs[0].name if op.outputs else "", op.code, reason))
    return tuple(found)


def _objection(op: Operator, known: Limits) -> str | None:
    rules = known.rules.get(op.code)
    if rules is None:
        return f"{known.architecture.replace('Ethos', 'Ethos-')} has no {op.code}"
    maps = [t for t in (*op.inputs, *op.outputs) if t is not None and t.data is None]
    for rule in rules:
        word, *numbers = rule.split()
        reason = _of_maps(word, numbers, maps) or (CHECKS[word](op, numbers) if word in CHECKS else None)
        if reason is not None:
            return reason
    return None


def _of_maps(word: str, numbers: Sequence[str], maps: Sequence[Tensor]) -> str | None:
    """The rules that concern everything that is computed."""
    for tensor in maps:
        kind = tensor.dtype or "another type"
        if word == "types" and kind not in numbers:
            return f"{tensor.name} is {kind}; only {', '.join(numbers)} are served"
        if word == "no-bits" and kind in (f"int{numbers[0]}", f"uint{numbers[0]}"):
            return f"{tensor.name} is {kind}, which is too wide"
        if word == "quantized" and kind != "bool" and not len(tensor.scales):
            return f"{tensor.name} is not quantized"
    return None
