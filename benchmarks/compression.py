"""What methods of compression do to fidelity, non-zero weights, multiply-accumulates and packed size.

    python benchmarks/compression.py [resnet20 resnet56 lenet_caffe efficientnet_lite0] [--method "sparsify hessian"]

Each method is a list of settings: the words of `compile` for a range of its main option. Calibration samples never
test. The file is int8 TFLite; packed is `edgecc pack` of it; zeros are those of its weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from networks import NETWORKS

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.importer import load
from edgecc.pack.container import pack
from edgecc.pack.weights import weight_ranges
from edgecc.runtime.ort import OrtRunner
from edgecc.verify import class_outputs, compare_all, open_candidate

RATIOS = (0.3, 0.5, 0.7, 0.8)
# Method -> the main option as text -> words of `compile`.
METHODS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "none": {"-": {}},
    **{
        f"sparsify {criterion}": {
            f"{ratio:.0%}": {"passes": (f"sparsify:criterion={criterion},ratio={ratio}",)} for ratio in RATIOS
        }
        for criterion in ("magnitude", "gradient", "entropy", "hessian")
    },
    "sparsify hessian N:M": {p: {"passes": (f"sparsify:pattern={p}",)} for p in ("2:4", "1:4")},
    "share_weights": {f"{b} bits": {"passes": (f"share_weights:bits={b}",)} for b in (5, 4, 3)},
    "deep-compression": {
        f"{t:g}": {"preset": "deep-compression", "passes": (f"sparsify:threshold={t}",)}
        for t in (0.001, 0.002, 0.005, 0.01, 0.02)
    },
}
# lenet_caffe has matrices of 800 inputs, of which a sample shows one row.
CALIBRATION = {"lenet_caffe": 1000}
# So many samples test at most.
TESTED = 2500


def split(name: str) -> tuple[ir.Array, ir.Array, ir.Array | None]:
    network = NETWORKS[name]
    x, y = network.load()
    most = CALIBRATION.get(name, network.most)
    chosen = np.arange(0, len(x), max(network.every, len(x) // most))[:most]
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    rest = rest[:: max(1, len(rest) // TESTED)]
    return x[chosen], x[rest], None if y is None else y[rest]


def rows(name: str, wanted: str | None) -> Iterator[str]:
    network = NETWORKS[name]
    calibration, test, labels = split(name)
    model = load(network.path, input_shape=network.input_shape or None)
    reference = OrtRunner.from_model(model, threads=1)
    data = open_dataset(test, input_specs(model), labels=labels)
    size = network.path.stat().st_size
    for method, settings in METHODS.items():
        if wanted not in (None, method):
            continue
        for option, words in settings.items():
            with tempfile.TemporaryDirectory() as folder:
                result = edgecc.compile(
                    network.path, data=calibration, precision="int8", format="tflite", threads=1, no_verify=True,
                    no_profile=True, input_shape=network.input_shape or None, output=Path(folder) / "o", **words,
                )  # fmt: skip
                artifact = result.artifacts["tflite"]
                file = artifact.content()
                candidate = open_candidate(artifact, like=reference, threads=1)
                found = compare_all(
                    reference, {"tflite": candidate}, data, classes=class_outputs(model), labels=labels
                )
            fidelity, packed = found["tflite"], len(pack(file).data)
            held = np.concatenate(
                [np.frombuffer(file[a:b], np.int8) for a, b, w in weight_ranges(file) if w == 1]
            )
            figures = (
                percent(fidelity.reference_accuracy), percent(fidelity.accuracy), percent(fidelity.agreement),
                f"{fidelity.sqnr_db:.2f}", f"{100 * np.mean(held != 0):.1f}", f"{result.report.model.macs:,}",
                f"{packed:,}", f"{size / packed:.1f}",
            )  # fmt: skip
            yield " | ".join((f"| {name}", method, option, *figures)) + " |"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--method", choices=tuple(METHODS))
    words = parser.parse_args()
    print(
        "| network | method | option | float top-1 | top-1 | agreement % | SQNR dB | non-zero % | MACs | packed bytes"
        " | times smaller |"
    )
    print("|---" * 11 + "|")
    for name in words.networks or ("lenet_caffe", "resnet20", "resnet56", "efficientnet_lite0"):
        for row in rows(name, words.method):
            print(row, flush=True)


if __name__ == "__main__":
    main()
