"""int8 TFLite and int8 ONNX of every reference network against its float original.

    python benchmarks/fidelity.py [NETWORK ...]

Calibrated on each k-th sample, tested on all others. Ends with exit code 1 if a number is missed.

The ONNX files are made for the processor they are measured on. On x86-64 ONNX Runtime turns int8 activations into
uint8, except those that several nodes read, and computes what lies between the two kinds in float (of the file of
MobileNetV2 for Arm 15 of 52 convolutions): neither Arm's answers nor integers.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

from networks import NETWORKS, SHARED, Network

import edgecc
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.importer import load
from edgecc.runtime.ort import OrtRunner
from edgecc.verify import class_outputs, compare, compare_all, open_candidate

# Network -> (most points of top-1 lost, least agreement, least SQNR in dB); None: it must compile and run.
GOALS: dict[str, tuple[float | None, float | None, float | None]] = {
    **dict.fromkeys(("ic_resnet8", "kws_dscnn", "resnet20", "resnet56"), (0.3, None, None)),
    "lenet_caffe": (0.1, None, None),
    "efficientnet_lite0": (None, 0.98, 21.5),
    "mobilenet_v2_1.0": (None, 0.97, 21.5),
}
TARGET = "x86-64" if platform.machine() in ("x86_64", "AMD64") else "arm"
# Least agreement of the two formats with each other.
FORMATS = 0.99


def measure(network: Network) -> bool:
    """Prints a row a format, the peer's file where there is one, and one format against the other."""
    calibration, test, labels = network.split()
    model = load(network.path, input_shape=network.input_shape or None)
    with tempfile.TemporaryDirectory() as folder:
        result = edgecc.compile(
            network.path, target=TARGET, precision="int8", data=calibration, input_shape=network.input_shape or None,
            no_verify=True, no_profile=True, output=Path(folder) / "out",
        )  # fmt: skip
        reference = OrtRunner.from_model(model)
        runners = {f: open_candidate(a, like=reference) for f, a in result.artifacts.items()}
        if network.peer:
            runners["peer tflite"] = open_candidate(
                SHARED / "peers" / f"{network.peer}.tflite", like=reference
            )
        data = open_dataset(test, input_specs(model), labels=labels)
        classes = class_outputs(model)
        found = compare_all(reference, runners, data, classes=classes, labels=labels if classes else None)
        other = compare(
            runners["tflite"], runners["onnx"], open_dataset(test, input_specs(model)), classes=classes
        )
    drop, agreement, sqnr = GOALS.get(network.name, (None, None, None))
    peer = found.get("peer tflite")
    good = True
    for form, fidelity in found.items():
        kept = form == "peer tflite" or (
            (drop is None or (fidelity.drop or 0.0) <= drop)
            and (agreement is None or (fidelity.agreement or 0.0) >= agreement)
            and (sqnr is None or fidelity.sqnr_db >= sqnr)
            and (peer is None or peer.accuracy is None or (fidelity.accuracy or 0.0) >= peer.accuracy)
        )
        good = good and kept
        shares = (fidelity.reference_accuracy, fidelity.accuracy, fidelity.agreement)
        verdict = "peer" if form == "peer tflite" else "yes" if kept else "NO"
        cells = [network.name, form, str(fidelity.samples), *map(_percent, shares)]
        cells += [f"{fidelity.sqnr_db:.2f}", verdict]
        print("| " + " | ".join(cells) + " |", flush=True)
    shown = "-" if other.agreement is None else "yes" if other.agreement >= FORMATS else "NO"
    cells = [network.name, "onnx against tflite", str(other.samples), "-", "-", _percent(other.agreement)]
    print("| " + " | ".join([*cells, f"{other.sqnr_db:.2f}", shown]) + " |", flush=True)
    return good and shown != "NO"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def main() -> None:
    """Measures the networks named on the command line, or all."""
    print("| network | file | samples | float top-1 | top-1 | agreement | SQNR dB | as wanted |")
    print("|---|---|---|---|---|---|---|---|")
    names = sys.argv[1:] or list(NETWORKS)
    good = [measure(NETWORKS[name]) for name in names]
    if not all(good):
        sys.exit(1)


if __name__ == "__main__":
    main()
