"""What limits on the answers cost: the cheapest precisions that keep them, beside simpler ways to choose as many nodes.

    python benchmarks/mixed_precision.py [mobilenet_v2_1.0 efficientnet_lite0 ppocr_cls yolo_fastestv2_352 ...]

The network is quantized with edgecc's default methods for the target `arm`; noise is probed on 8 calibration samples,
limits are kept on the calibration samples (at most 100), and what is reported is measured on the samples that test,
with the ONNX file in ONNX Runtime. Costs are what the target's numbers say. `own error`: as many nodes, those that err
most by themselves (`edgecc verify --layers`), or as many of them as cost the same; `random`: as many nodes, drawn.
NAME@8 asks for 8 dB above int8 alone, NAME@100 for equal answers to all calibration samples.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection

import numpy as np
from networks import NETWORKS

import edgecc
from edgecc import ir
from edgecc.analysis.cost import macs
from edgecc.calibration.dataset import Dataset, input_specs, open_dataset
from edgecc.calibration.moments import spread
from edgecc.calibration.observers import collect
from edgecc.errors import ModelError
from edgecc.fidelity import Fidelity
from edgecc.importer import load
from edgecc.layerwise import compare_layers
from edgecc.limits import class_outputs
from edgecc.onnxrt.export import export
from edgecc.options import make_options
from edgecc.passes.equalize import Equalize
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.passes.round_weights import RoundWeights
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.quant.budget import Assignment, Choice, choices
from edgecc.quant.constants import rounded_where_stored
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.quant.search import Outcome, cheapest
from edgecc.quant.sensitivity import noise_sources
from edgecc.quant.units import unit_outputs
from edgecc.runtime.ort import OrtRunner
from edgecc.turns import Recorded
from edgecc.verify import compare

ABOVE = (3.0, 8.0)
"""Limits asked for, in dB above int8 throughout; where there are classes also the agreement below."""
AGREEMENT = 1.0


class Bench:
    """One network, quantized, with everything that measuring an assignment takes."""

    def __init__(self, name: str) -> None:
        network, self.target = NETWORKS[name], edgecc.target("arm")
        calibration, test, _ = network.split()
        self.original = load(network.path, input_shape=network.input_shape or None)
        specs = input_specs(self.original)
        self.data, self.test = open_dataset(calibration, specs), open_dataset(test, specs)
        floats, _ = Pipeline(float_passes(self.target, make_options({}))).run(
            self.original, PassContext(check=False)
        )
        self.floats, _ = Pipeline((Equalize(),)).run(floats, PassContext(data=self.data))
        self.plan = make_plan(
            self.floats, collect(self.floats, self.data, observer="channel"), precision="mixed"
        )
        self.rounded, _ = Pipeline((RoundWeights(),)).run(
            self.floats, PassContext(data=self.data, plan=self.plan)
        )
        self.classes = class_outputs(self.original)
        runner = OrtRunner.from_model(self.original)
        self.reference = {d: Recorded(runner, d) for d in (self.data, self.test)}
        started = time.perf_counter()
        sources = noise_sources(
            self.floats,
            self.plan.for_runtime("onnx", self.floats, self.target),
            spread(self.data, 8),
            rounded=self.rounded,
        )
        self.seconds = time.perf_counter() - started
        self.choice: Choice = choices(self.floats, self.plan, sources, self.target.cost, runtime="onnx")[0]

    def file(self, plan: QuantPlan) -> edgecc.Artifact:
        """The ONNX file of a plan."""
        model = rounded_where_stored(self.floats, self.rounded, plan)
        InsertQDQ().apply(model, PassContext(plan=plan.for_runtime("onnx", model, self.target)))
        return export(model, precision="mixed", target=self.target.name)

    def measure(self, plan: QuantPlan, data: Dataset) -> Fidelity:
        """How it answers."""
        runner = OrtRunner.from_bytes(self.file(plan).data)
        return compare(self.reference[data], runner, data, classes=self.classes)

    def by_own_error(self) -> list[ir.Node]:
        """Units, those first that err most by themselves."""
        artifact = self.file(self.choice.planned(self.choice.assignment(())))
        layers = compare_layers(
            self.floats, artifact, self.data, like=OrtRunner.from_model(self.floats), samples=8
        )
        own = {layer.name: layer.own_sqnr_db for layer in layers}
        return sorted(
            self.choice.free, key=lambda n: min(own.get(str(out.name), 200.0) for out in unit_outputs(n))
        )


def run(name: str, only: str) -> None:
    """The rows of one network."""
    bench = Bench(name)
    choice = bench.choice
    every = choice.assignment(())
    base = bench.measure(choice.planned(every), bench.data)
    predicted = -10 * np.log10(every.worst)
    print(
        f"{name}: {len(choice.sources)} sources probed in {bench.seconds:.1f} s; they add up to {predicted:.2f} dB, "
        f"measured on the calibration samples: {base.sqnr_db:.2f} dB",
        file=sys.stderr,
    )
    show(bench, "int8 throughout", "", every)
    order = bench.by_own_error()
    limits: list[tuple[str, float | None, float | None]] = [
        (f"{base.sqnr_db + db:.1f} dB", base.sqnr_db + db, None)
        for db in ABOVE
        if not only or float(only) == db
    ]
    if bench.classes and len(bench.test) > 100 and (not only or float(only) == 100 * AGREEMENT):
        limits.append((f"{AGREEMENT:.0%} agree", None, AGREEMENT))
    for text, decibels, agreement in limits:

        def trial(
            plan: QuantPlan, decibels: float | None = decibels, agreement: float | None = agreement
        ) -> Outcome:
            got = bench.measure(plan, bench.data)
            met = (
                got.sqnr_db >= decibels if decibels is not None else (got.agreement or 0) >= (agreement or 0)
            )
            return Outcome(met, 10 ** (-got.sqnr_db / 10))

        started = time.perf_counter()
        wanted = None if decibels is None else 10 ** (-decibels / 10)
        found = cheapest([choice], trial, wanted=wanted)
        seconds = time.perf_counter() - started
        count = len(found.chosen.raised)
        show(bench, text, f"edgecc, {found.trials} trials, {seconds:.0f} s", found.chosen)
        if count:
            show(bench, text, "own error", choice.assignment(order[:count]))
            show(bench, text, "own error, same cost", as_dear(choice, order, found.chosen.cost))
            draw(bench, text, count)


def as_dear(choice: Choice, order: list[ir.Node], cost: float) -> Assignment:
    """The first units in that order, as many as cost no more."""
    tried = [choice.assignment(order[:count]) for count in range(len(order) + 1)]
    return max((a for a in tried if a.cost <= cost), key=lambda a: len(a.raised))


def draw(bench: Bench, limit: str, count: int) -> None:
    """The row of as many units drawn, once more where the runtime cannot load what they make."""
    free = bench.choice.free
    for seed in range(20):
        drawn = np.random.default_rng(seed).permutation(len(free))[:count]
        try:
            show(bench, limit, "random", bench.choice.assignment([free[i] for i in drawn]))
        except ModelError:
            continue
        return


def show(bench: Bench, limit: str, way: str, chosen: Assignment) -> None:
    """One row."""
    choice = bench.choice
    found = bench.measure(choice.planned(chosen), bench.test)
    none, every = choice.assignment(()).cost, choice.assignment(choice.free).cost
    cells = [
        limit, way, f"{len(choice.units) - len(chosen.raised)} of {len(choice.units)}",
        f"{100 * share(choice.units, chosen.raised):.0f}", f"{chosen.cost / none:.2f}", f"{chosen.cost / every:.2f}",
        f"{-10 * np.log10(max(chosen.worst, 1e-20)):.2f}", f"{found.sqnr_db:.2f}",
        "-" if found.agreement is None else f"{100 * found.agreement:.2f}",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def share(units: Collection[ir.Node], raised: Collection[ir.Node]) -> float:
    """Of the multiply-accumulates, what stays in integers."""
    return 1 - sum(map(macs, raised)) / max(sum(map(macs, units)), 1)


def main() -> None:
    for text in sys.argv[1:] or ["mobilenet_v2_1.0", "efficientnet_lite0", "ppocr_cls", "yolo_fastestv2_352"]:
        name, _, only = text.partition("@")
        print(f"\n{name}\n")
        print(
            "| limit | chosen by | in int8 | MAC % | cost / int8 | / float | predicted dB | SQNR dB | agreement % |"
        )
        print("|" + "---|" * 9)
        run(name, only)


if __name__ == "__main__":
    main()
