"""Compares ways of taking ranges of activations on real networks: the evidence for the default observer.

    python benchmarks/observers.py [NETWORK ...]

The rest is what edgecc does by default (equalized, weights rounded on data); NETWORK@N calibrates from sample N on.
Agreement and SQNR of the int8 ONNX file are against the float network, on the samples that did not calibrate (CIFAR:
every third of them). Two ways that the product does not have are compared here as well, as they gain nothing in it:

`moving average`: the mean over the samples of their extremes, as quantize_static's `CalibMovingAverage` has it.
`entropy`: the ends +-T that lose least of the histogram's information, as the Kullback-Leibler divergence of the values
from what 255 levels make of them (Migacz 2017, "8-bit inference with TensorRT"); zeros, which every range stores, are
left out, as else they decide.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from networks import NETWORKS

import edgecc
from edgecc import ir
from edgecc.calibration import observers
from edgecc.calibration.dataset import Dataset, input_specs, open_dataset
from edgecc.calibration.extremes import Extremes
from edgecc.calibration.observers import Range, Statistics, collect
from edgecc.importer import load
from edgecc.limits import class_outputs
from edgecc.onnxrt.export import export
from edgecc.options import make_options
from edgecc.passes.equalize import Equalize
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.passes.round_weights import RoundWeights
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.runtime.ort import OrtRunner
from edgecc.turns import Recorded
from edgecc.verify import compare

DEFAULT = (
    "mobilenet_v2_1.0", "mobilenet_v2_1.0@2", "efficientnet_lite0", "efficientnet_lite0@2", "resnet20", "kws_dscnn",
    "yolo_fastestv2_352",
)  # fmt: skip
LEVELS = 255
# Of the histogram's bins on either side of 0, the fewest that are kept; and how many thresholds are tried.
FEWEST, TRIED = 128, 60


class MeanExtremes(Extremes):
    """The mean over the samples of their extremes."""

    def ranges(self, *, fenced: bool = True) -> dict[str, Range]:
        """As the base class; "fenced" is here the mean."""
        whole, rows = super().ranges(fenced=False), np.stack(self._rows).astype(np.float64)
        if not fenced:
            return whole
        means = rows.mean(axis=0)  # (2, values)
        return {
            name: seen if name in self._whole else (float(means[0, i]), float(means[1, i]))
            for i, (name, seen) in enumerate(whole.items())
        }


class Entropy(observers._Histograms):
    """The symmetric ends whose 255 levels tell most of the histogram."""

    def add(self, answers: Mapping[str, ir.Array], sample: Mapping[str, ir.Array]) -> None:
        """Counts one sample's values but zeros."""
        super().add(answers, sample)
        for name in self.names:
            array = sample[name] if name in sample else answers[name]
            if name in self._counts:
                self._counts[name][self.bins // 2] -= int((array == 0).sum())

    def ranges(self) -> dict[str, Range]:
        """Never beyond the extremes."""
        found = dict(self._seen)
        for name, (low, high) in self._seen.items():
            if name in self._whole or name not in self._counts or not np.isfinite(high - low):
                continue
            width = 2 * self._limits[name] / self.bins
            ends = np.unique(np.linspace(FEWEST, self.bins // 2, TRIED).astype(int))
            lost = [divergence(self._counts[name], end, one_sided=low >= 0) for end in ends]
            threshold = float(ends[int(np.argmin(lost))]) * width
            found[name] = (max(low, -threshold), min(high, threshold))
        return found


def divergence(counts: ir.Array, end: int, *, one_sided: bool) -> float:
    """KL divergence of a histogram from what 255 levels make of its inner part.

    Args:
        counts: (bins,) over [-limit, limit].
        end: bins on either side of the middle that are kept; what is beyond is counted at the ends.
        one_sided: there is nothing below the middle.
    """
    middle = len(counts) // 2
    start = middle if one_sided else middle - end
    inner = counts[start : middle + end].astype(np.float64)
    clipped = inner.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[middle + end :].sum()
    level = np.minimum(np.arange(len(inner)) * LEVELS // len(inner), LEVELS - 1)
    filled = (clipped > 0).astype(np.float64)
    sums, places = np.bincount(level, inner, LEVELS), np.bincount(level, filled, LEVELS)
    coarse = (sums / np.maximum(places, 1))[level] * filled
    share, guess = clipped / max(clipped.sum(), 1), np.maximum(coarse / max(coarse.sum(), 1), 1e-9)
    kept = share > 0
    return float(np.sum(share[kept] * np.log(share[kept] / guess[kept])))


def watched(model: ir.Model, data: Dataset, kind: str) -> Statistics:
    """As `collect`, by one of the two that the product has not."""
    values, whole = observers.observed_values(model), observers._answers(model)
    inputs = {str(v.name) for v in model.graph.inputs}
    names = [str(v.name) for v in values]
    watch: MeanExtremes | Entropy
    if kind == "entropy":
        watch = Entropy(names, 100.0, whole)
        runner = OrtRunner.from_model(model, extra_outputs=[n for n in names if n not in inputs])
    else:
        watch = MeanExtremes(values, None, whole)
        runner = OrtRunner.from_model(watch.augmented(model))
    count = 0
    for sample in data:
        watch.add(runner.run(sample), sample)
        count += 1
    return Statistics(observers._complete(model, watch.ranges()), count, observer=kind)


def _product(**words: Any) -> Callable[[ir.Model, Dataset], Statistics]:
    return lambda model, data: collect(model, data, **words)


def _candidate(kind: str) -> Callable[[ir.Model, Dataset], Statistics]:
    return lambda model, data: watched(model, data, kind)


OBSERVERS: dict[str, Callable[[ir.Model, Dataset], Statistics]] = {
    "channel (default)": _product(observer="channel"),
    "robust": _product(observer="robust"),
    "minmax": _product(observer="minmax"),
    "percentile 99.99": _product(observer="percentile", percentile=99.99),
    "percentile 99.999": _product(observer="percentile", percentile=99.999),
    "mse": _product(observer="mse"),
    "moving average": _candidate("moving average"),
    "entropy": _candidate("entropy"),
}


class Rounded:
    """The equalized network with its weights rounded, once for all plans whose weights have the same scales."""

    def __init__(self, floats: ir.Model, data: Dataset) -> None:
        self.floats, self.data = floats, data
        self._made: list[tuple[QuantPlan, ir.Model]] = []

    def for_plan(self, plan: QuantPlan) -> ir.Model:
        """A copy."""
        weights = [n for n in plan.tensors if n not in plan.ranges]
        for known, model in self._made:
            if all(known.tensors[n] == plan.tensors[n] for n in weights):
                return model.clone()
        model, _ = Pipeline((RoundWeights(),)).run(self.floats, PassContext(data=self.data, plan=plan))
        self._made.append((plan, model))
        return model.clone()


def measure(text: str, chosen: Sequence[str] = tuple(OBSERVERS)) -> None:
    """Prints a row an observer."""
    name, _, first = text.partition("@")
    network, target = NETWORKS[name], edgecc.target("arm")
    calibration, test, _ = network.split(int(first or 0))
    original = load(network.path, input_shape=network.input_shape or None)
    specs = input_specs(original)
    data = open_dataset(calibration, specs)
    answers = open_dataset(test[:: 3 if len(test) > 1000 else 1], specs)
    floats, _ = Pipeline(float_passes(target, make_options({}))).run(original, PassContext(check=False))
    floats, _ = Pipeline((Equalize(),)).run(floats, PassContext(data=data))
    rounded = Rounded(floats, data)
    reference, classes = Recorded(OrtRunner.from_model(original), answers), class_outputs(original)
    for title in chosen:
        started = time.perf_counter()
        plan = make_plan(floats, OBSERVERS[title](floats, data))
        seconds = time.perf_counter() - started
        made = rounded.for_plan(plan)
        InsertQDQ().apply(made, PassContext(plan=plan.for_runtime("onnx", made, target)))
        file = export(made, precision="int8", target=target.name)
        found = compare(reference, OrtRunner.from_bytes(file.data), answers, classes=classes)
        agreement = "-" if found.agreement is None else f"{100 * found.agreement:.2f}"
        print(f"| {text} | {title} | {agreement} | {found.sqnr_db:.2f} | {seconds:.1f} |", flush=True)


def main() -> None:
    """Measures the networks named on the command line, or all."""
    print("| network | observer | agreement % | SQNR dB | seconds |\n|---|---|---|---|---|")
    for text in sys.argv[1:] or DEFAULT:
        measure(text)


if __name__ == "__main__":
    main()
