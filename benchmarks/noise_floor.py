"""Where the noise of int8 comes from: weights, activations, and each layer, on images that did not calibrate.

    python benchmarks/noise_floor.py [mobilenet_v2_1.0 efficientnet_lite0 ...]

Each rounding is made alone in the float network, its effect on the answers measured on 32 samples; errors of different
places are nearly uncorrelated, so their powers add up. No choice of ranges takes the sum away: it is what steps of
1/255 of each value's range leave.
"""

from __future__ import annotations

import sys

import numpy as np
from networks import NETWORKS, Network

import edgecc
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.calibration.observers import collect
from edgecc.importer import load
from edgecc.options import make_options
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes, planned_passes, planning_passes
from edgecc.quant.plan import make_plan
from edgecc.quant.sensitivity import Source, noise_sources

SAMPLES, WORST = 32, 8


def measure(network: Network) -> None:
    """Prints the sums, and the worst places."""
    calibration, test, _ = network.split()
    model = load(network.path, input_shape=network.input_shape or None)
    data = open_dataset(calibration, input_specs(model))
    target, options = edgecc.target("arm"), make_options({})
    floats, _ = Pipeline(float_passes(target, options)).run(model, PassContext(check=False))
    floats, _ = Pipeline(planning_passes("int8", options)).run(floats, PassContext(data=data))
    plan = make_plan(floats, collect(floats, data, observer="channel"))
    rounded, _ = Pipeline(planned_passes("int8", options)).run(floats, PassContext(data=data, plan=plan))
    some = list(open_dataset(test[:: max(1, len(test) // SAMPLES)][:SAMPLES], input_specs(model)))
    found = noise_sources(floats, plan.for_runtime("tflite", floats, target), some, rounded=rounded)
    weights, activations = ([s for s in found if s.weights is kind] for kind in (True, False))
    for label, sources in (("weights", weights), ("activations", activations), ("both", found)):
        print(f"| {network.name} | all {label} | {len(sources)} | {decibels(sources):.1f} | |")
    total = sum(power(s) for s in found)
    for source in sorted(found, key=power, reverse=True)[:WORST]:
        kind = "weights of what makes it" if source.weights else "activation"
        share = 100 * power(source) / total
        print(
            f"| {network.name} | {source.name}, {kind} | 1 | {decibels([source]):.1f} | {share:.1f} |",
            flush=True,
        )


def power(source: Source) -> float:
    """The mean over the outputs of the network."""
    return float(np.mean(source.noise))


def decibels(sources: list[Source]) -> float:
    """The answers' power over that of the noise."""
    return -10 * float(np.log10(max(sum(power(s) for s in sources), 1e-20)))


def main() -> None:
    """Measures the networks named on the command line, or those that int8 troubles most."""
    print("| network | noise of | places | SQNR dB if it were alone | share of all % |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or ["mobilenet_v2_1.0", "efficientnet_lite0", "ic_resnet8", "ppocr_cls"]:
        measure(NETWORKS[name])


if __name__ == "__main__":
    main()
