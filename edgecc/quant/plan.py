"""The quantization plan: which tensor is stored how; made from one calibration, specialised a runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edgecc import ir
from edgecc.errors import ModelError, UnsupportedError, UsageError
from edgecc.quant import NodePrecision, int4, rules
from edgecc.quant.groups import Range, stored_values
from edgecc.quant.islands import lazy
from edgecc.quant.params import DType, QuantParams, from_range, from_weights
from edgecc.quant.rules import Runtime
from edgecc.quant.shared_values import shares_values
from edgecc.quant.units import Width, integer_units, is_wide, width

if TYPE_CHECKING:
    from edgecc.calibration.observers import Statistics
    from edgecc.target import Target

Precision = Literal["int8", "int16x8", "int4", "mixed"]

# A bias is stored in int32 with scale s_in * s_w and begins an int32 sum. Where it would exceed this, the
# channel's weight scale is widened: its weights are negligible beside its bias.
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class QuantPlan:
    """Which tensor is stored how.

    Attributes:
        precision: int8; int16x8 (int16 activations, int8 weights); int4 (int8 activations, int4 weights where there
            are kernels, see int4.py); mixed: as `precisions` say, else int8.
        ranges: lowest and highest value of each activation, by value name.
        tensors: parameters of activations and constants, by value name. Biases are not listed: their scale is
            the product of the input's and the weights'.
        kept_float: nodes that are not quantized though a kernel exists, with the reason.
        runtime: what the plan is specialised for; None: no runtime yet.
        precisions: of nodes, by label, where it is not the plan's own. An activation that its producer absorbs
            has the producer's. A node whose precision the runtime has no kernel for stays float.
        extremes: ranges of int16 activations where nothing is cut off as in `ranges`.
        constants: weights and biases that passes changed on calibration data, as text (constants.py).
        seams: of values that operators of both widths read, the parameters in the width that `tensors` has not.
    """

    precision: Precision
    ranges: Mapping[str, Range]
    tensors: Mapping[str, QuantParams]
    kept_float: Mapping[str, str] = field(default_factory=dict)
    runtime: Runtime | None = None
    precisions: Mapping[str, NodePrecision] = field(default_factory=dict)
    seams: Mapping[str, QuantParams] = field(default_factory=dict)
    extremes: Mapping[str, Range] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("ranges", "tensors", "kept_float", "precisions", "seams", "extremes", "constants"):
            object.__setattr__(self, name, MappingProxyType(dict(sorted(getattr(self, name).items()))))
        strange = {n: p for n, p in self.precisions.items() if p not in get_args(NodePrecision)}
        for label, found in strange.items():
            raise UsageError(
                f"there is no precision {found!r} for a node",
                node=label,
                remedy=f"choose {', '.join(get_args(NodePrecision))}",
            )

    def precision_of(self, node: ir.Node) -> NodePrecision:
        """The precision that the plan gives a node."""
        label = ir.label(node)
        if label in self.precisions:
            return self.precisions[label]
        if label in self.kept_float:
            return "fp32"
        return "int8" if self.precision == "mixed" else self.precision

    def range_of(self, name: str, dtype: str) -> Range:
        """What activations of that width cover."""
        return self.extremes.get(name, self.ranges[name]) if dtype == "int16" else self.ranges[name]

    def stored(self, name: str, dtype: str) -> QuantParams:
        """The parameters of a value as operators on activations of that width read it."""
        params = self.tensors[name]
        wide = dtype == "int16"
        return params if name not in self.seams or is_wide(params) == wide else self.seams[name]

    def for_runtime(self, runtime: Runtime, model: ir.Model, target: Target | None = None) -> QuantPlan:
        """The plan with what one runtime demands: fixed output ranges, one scale a same-scale group, uint8.

        Weight scales stay as they are. Values that the runtime's kernels do not quantize are left out.
        """
        from edgecc.target import CostSpec

        unsigned = runtime == "onnx" and target is not None and target.activation_dtype == "uint8"
        units, _ = integer_units(model, runtime, self)
        precisions = {node: self.precision_of(node) for node in units}
        pinned = [node for node in units if ir.label(node) in self.precisions]
        rates = CostSpec() if target is None else target.cost
        floats = lazy(model, units, precisions, rates, pinned)
        kept = {**self.kept_float, **{ir.label(node): reason for node, reason in floats.items()}}
        units = {node: column for node, column in units.items() if node not in floats}
        widths = {node: width(self, node) for node in units}
        ranges: dict[Width, Mapping[str, Range]] = {
            "int8": self.ranges,
            "int16": {**self.ranges, **self.extremes},
        }
        tensors, seams = stored_values(units, widths, ranges, "uint8" if unsigned else "int8")
        plan = replace(self, tensors=tensors, seams=seams, runtime=runtime, kept_float=kept)
        weights: dict[str, QuantParams] = {}
        for node in model.graph:
            weight = rules.weight_of(node)
            if weight is None or (node not in units and self.precision_of(node) != "dynamic"):
                continue
            name, source = str(weight.name), node.inputs[0]
            params = weights.get(name, self.tensors.get(name))
            if params is not None and widths.get(node) == "int16" and source is not None:
                params = _room_for_bias(node, params, plan.stored(str(source.name), "int16"))
            if params is not None:
                weights[name] = params
        return replace(plan, tensors={**tensors, **weights})

    def to_json(self) -> str:
        """JSON text; `from_json` gives back an equal plan (floats survive exactly)."""
        data = {
            "version": 1,
            "precision": self.precision,
            "runtime": self.runtime,
            "ranges": {n: list(r) for n, r in self.ranges.items()},
            "tensors": {n: p.to_dict() for n, p in self.tensors.items()},
            "kept_float": dict(self.kept_float),
            "precisions": dict(self.precisions),
            "extremes": {n: list(r) for n, r in self.extremes.items()},
            "seams": {n: p.to_dict() for n, p in self.seams.items()},
            "constants": dict(self.constants),
        }
        return json.dumps(data, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> QuantPlan:
        """The inverse of `to_json`.

        Raises:
            ModelError: the text is no plan.
        """
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ModelError(f"the plan has version {data['version']}; this edgecc reads version 1")
            return cls(
                data["precision"],
                {str(n): (float(low), float(high)) for n, (low, high) in data["ranges"].items()},
                {str(n): QuantParams.from_dict(p) for n, p in data["tensors"].items()},
                {str(n): str(r) for n, r in data["kept_float"].items()},
                data["runtime"],
                {str(n): p for n, p in data.get("precisions", {}).items()},
                {str(n): QuantParams.from_dict(p) for n, p in data.get("seams", {}).items()},
                {str(n): (float(low), float(high)) for n, (low, high) in data.get("extremes", {}).items()},
                {str(n): str(text) for n, text in data.get("constants", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"this is no quantization plan ({type(error).__name__}: {error})") from error

    def diff(self, other: QuantPlan) -> list[str]:
        """One line for everything in which `other` differs."""
        lines = []
        for title, mine, theirs in (
            ("range", self.ranges, other.ranges),
            ("tensor", self.tensors, other.tensors),
            ("extreme", self.extremes, other.extremes),
            ("seam", self.seams, other.seams),
            ("precision of", self.precisions, other.precisions),
            ("kept float", self.kept_float, other.kept_float),
        ):
            a: Mapping[str, Any] = mine
            b: Mapping[str, Any] = theirs
            for name in sorted({*a, *b}):
                if a.get(name) != b.get(name):
                    lines.append(f"{title} {name}: {a.get(name, 'absent')} -> {b.get(name, 'absent')}")
        for name in sorted({*self.constants, *other.constants}):
            if self.constants.get(name) != other.constants.get(name):
                lines.append(f"constant {name}: other numbers")
        for name in ("precision", "runtime"):
            if getattr(self, name) != getattr(other, name):
                lines.append(f"{name}: {getattr(self, name)} -> {getattr(other, name)}")
        return lines

    def __str__(self) -> str:
        head = f"{self.precision} plan for {self.runtime or 'any runtime'}"
        return "\n  ".join([head, *(f"{name}: {params}" for name, params in self.tensors.items())])


def make_plan(
    model: ir.Model,
    statistics: Statistics,
    *,
    precision: Precision = "int8",
    per_channel: bool = True,
    keep_float: Mapping[str, str] | None = None,
    precisions: Mapping[str, NodePrecision] | None = None,
) -> QuantPlan:
    """The plan that no runtime has specialised yet.

    Args:
        model: the float network, after the float passes.
        statistics: of that same network.
        precision: int8, int16x8, int4 or mixed.
        per_channel: one weight scale an output channel, or one a tensor.
        keep_float: nodes not to quantize, with the reason.
        precisions: of nodes, by label, where it is not `precision`.

    Raises:
        UsageError: an activation has no finite range.
        UnsupportedError: the network computes in float16, float64 or integers only.
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise UsageError(f"there is no plan for the precision {precision}", remedy=f"choose {known}")
    if not statistics.ranges:
        raise UnsupportedError(
            "no value that the network computes is float32, so there is nothing to quantize",
            remedy="export the network in float32, or choose --precision fp32",
        )
    for name, (low, high) in statistics.ranges.items():
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UsageError(
                f"its values range from {low} to {high} on the calibration data",
                node=name,
                remedy="look for infinities in the data or the network",
            )
    dtype: DType = "int16" if precision == "int16x8" else "int8"
    ranges = {**statistics.ranges, **(statistics.extremes if dtype == "int16" else {})}
    tensors = {name: from_range(low, high, dtype) for name, (low, high) in ranges.items()}
    spared = int4.spared(model) if precision == "int4" else set()
    for node in model.graph:
        weight = rules.weight_of(node)
        if weight is None:
            continue
        array = ir.constant(weight)
        assert array is not None
        wanted = (precisions or {}).get(ir.label(node), "int8" if node in spared else precision)
        params = _weight_params(node, array, per_channel=per_channel, narrow=wanted == "int4")
        name, source = str(weight.name), node.inputs[0]
        if name in tensors and tensors[name].axis != params.axis:
            continue  # one matrix used in two ways: see integer_units
        if name in tensors and tensors[name].dtype != params.dtype:  # one reader takes no int4
            params = next(p for p in (params, tensors[name]) if p.dtype == "int8")
        elif name in tensors:
            params = replace(params, scale=np.maximum(params.scale, tensors[name].scale))
        if source is not None and source.name in tensors:
            params = _room_for_bias(node, params, tensors[source.name])
        if shares_values(array):  # one scale for all channels
            params = replace(params, scale=np.full_like(params.scale, params.scale.max()))
        tensors[name] = params
    return QuantPlan(
        precision, dict(statistics.ranges), tensors, dict(keep_float or {}),
        precisions=dict(precisions or {}), extremes=dict(statistics.extremes),
    )  # fmt: skip


def _weight_params(node: ir.Node, array: ir.Array, *, per_channel: bool, narrow: bool) -> QuantParams:
    """int4 where that is wanted and the node takes it, else int8."""
    axis = rules.channel_axis(node) if per_channel else None
    return from_weights(array, axis, "int4" if narrow and int4.objection(node, "int8") is None else "int8")


def _room_for_bias(node: ir.Node, weight: QuantParams, source: QuantParams) -> QuantParams:
    bias = ir.constant(rules.bias_of(node))
    if bias is None:
        return weight
    needed = np.abs(bias.astype(np.float64).reshape(-1)) / (float(source.scale[0]) * _BIAS_LIMIT)
    if weight.axis is None or needed.size != weight.scale.size:
        needed = np.full(weight.scale.size, needed.max(initial=0.0))
    return replace(weight, scale=np.maximum(weight.scale, needed.astype(np.float32)))
