"""What each method does to the fidelity of int8 ONNX, alone and together, on two splits of the images.

    python benchmarks/int8_quality.py [mobilenet_v2_1.0 efficientnet_lite0 ...]

Every fifth image calibrates, from the first on (split 0) or from the third on (split 2); the other 400 test.
The settings were chosen on splits 2 and 3; split 0 is the one that `fidelity.py` reports.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from networks import NETWORKS

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.calibration.observers import collect
from edgecc.importer import load
from edgecc.onnxrt.export import export
from edgecc.options import make_options
from edgecc.passes.equalize import Equalize
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.passes.round_weights import RoundWeights
from edgecc.pipeline import Pass, PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.quant.plan import make_plan
from edgecc.runtime.ort import OrtRunner

# Method -> passes before planning, observer, passes after.
METHODS: dict[str, tuple[tuple[Pass, ...], Any, tuple[Pass, ...]]] = {
    "minmax": ((), "minmax", ()),
    "robust": ((), "robust", ()),
    "mse": ((), "mse", ()),
    "channel": ((), "channel", ()),
    "robust, round_weights": ((), "robust", (RoundWeights(),)),
    "channel, round_weights": ((), "channel", (RoundWeights(),)),
    "equalize, robust, round_weights": ((Equalize(),), "robust", (RoundWeights(),)),
    "all: equalize, channel, round_weights": ((Equalize(),), "channel", (RoundWeights(),)),
}


def measure(name: str, first: int) -> None:
    network = NETWORKS[name]
    x, _ = network.load()
    chosen = np.arange(first, len(x), max(network.every, len(x) // network.most))[: network.most]
    test = np.setdiff1d(np.arange(len(x)), chosen)
    model = load(network.path, input_shape=network.input_shape or None)
    data = open_dataset(x[chosen], input_specs(model))
    target = edgecc.target("arm")
    floats, _ = Pipeline(float_passes(target, make_options({}))).run(model, PassContext(check=False))
    want = answers(OrtRunner.from_model(model), x, test)
    for method, (before, observer, after) in METHODS.items():
        started = time.perf_counter()
        made, _ = Pipeline(before).run(floats, PassContext(data=data))
        plan = make_plan(made, collect(made, data, observer=observer))
        made, _ = Pipeline(after).run(made, PassContext(data=data, plan=plan))
        seconds = time.perf_counter() - started
        InsertQDQ().apply(made, PassContext(plan=plan.for_runtime("onnx", made, target)))
        file = export(made, precision="int8", target=target.name)
        got = answers(OrtRunner.from_bytes(file.data), x, test)
        agreement = 100 * np.mean(got.argmax(-1) == want.argmax(-1))
        sqnr = 10 * np.log10(np.sum(want**2) / np.sum((got - want) ** 2))
        print(f"| {name} | {first} | {method} | {agreement:.2f} | {sqnr:.2f} | {seconds:.1f} |", flush=True)


def answers(runner: OrtRunner, x: ir.Array, rows: ir.Array) -> ir.Array:
    name = runner.inputs[0].name
    return np.concatenate([next(iter(runner.run({name: x[i : i + 1]}).values())) for i in rows])


def main() -> None:
    print("| network | split | method | agreement % | SQNR dB | seconds |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:] or ["mobilenet_v2_1.0", "efficientnet_lite0", "resnet20"]:
        for first in (0, 2):
            measure(name, first)


if __name__ == "__main__":
    main()
