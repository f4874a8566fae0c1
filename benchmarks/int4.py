"""int4 weights of the reference networks: size and fidelity beside int8's, and what each choice of scales gains.

    python benchmarks/int4.py [NETWORK ...]            artifacts, in LiteRT and ONNX Runtime
    python benchmarks/int4.py --limits [NETWORK ...]   int4 weights where limits on the answers leave room for them
    python benchmarks/int4.py --weights [NETWORK ...]  weights alone, in ONNX Runtime without optimisation of answers

Calibrated on each k-th sample from the first (NETWORK@N: from N) on, tested on all others (CIFAR and MNIST: every third
of them). Limits are kept on the calibration samples alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from networks import NETWORKS, Network

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import Dataset, input_specs, open_dataset
from edgecc.importer import load
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.quant import int4, rules
from edgecc.quant.params import QuantParams, from_weights
from edgecc.runtime.ort import OrtRunner
from edgecc.target import target
from edgecc.verify import class_outputs, compare_all, open_candidate

Array = np.ndarray[Any, np.dtype[Any]]
DEFAULT = ("efficientnet_lite0", "mobilenet_v2_1.0", "resnet20", "lenet_caffe")
_ALONE = {"skip_passes": ("round_weights",)}
# Name -> whether there is calibration data, and the words of `compile`.
FORMS: dict[str, tuple[bool, dict[str, Any]]] = {
    "int8 weights": (False, {"precision": "dynamic"}),
    "int4 weights": (False, {"precision": "int4"}),
    "int4 weights, blocks of 64": (
        False,
        {"precision": "int4", "passes": ("quantize_weights:block_size=64",)},
    ),
    "int4 weights, blocks of 32": (
        False,
        {"precision": "int4", "passes": ("quantize_weights:block_size=32",)},
    ),
    "int8, rounding alone": (True, {"precision": "int8", **_ALONE}),
    "int4 weights, int8 activations, rounding alone": (True, {"precision": "int4", **_ALONE}),
    "int4 weights, int8 activations": (True, {"precision": "int4"}),
}
# Limits on the answers to the calibration samples, without labels: a drop is one of agreement.
LIMITS: dict[str, tuple[bool, dict[str, Any]]] = {
    "int8": (True, {"precision": "int8"}),
    "int4, the smallest layers int8": (True, {"precision": "int4"}),
    "int4, --max-drop 2": (True, {"precision": "int4", "max_drop": 2.0}),
    "int4, --min-agreement 0.99": (True, {"precision": "int4", "min_agreement": 0.99}),
    "int4, --min-sqnr 14": (True, {"precision": "int4", "min_sqnr": 14.0}),
    "int4, --min-sqnr 18": (True, {"precision": "int4", "min_sqnr": 18.0}),
    "int4, --min-sqnr 22": (True, {"precision": "int4", "min_sqnr": 22.0}),
}


def widest(node: ir.Node, array: Array) -> QuantParams:
    """The scale that the largest magnitude of a channel needs."""
    wide = from_weights(array, rules.channel_axis(node))
    return QuantParams(wide.scale * 127 / 7, wide.zero_point, "int4", wide.axis, narrow=True)


def square(node: ir.Node, array: Array) -> QuantParams:
    """The scale of least squared error."""
    axis = rules.channel_axis(node)
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    peak = np.maximum(np.abs(rows).max(axis=1), 1e-12)
    best, least = peak / 7, np.full(len(rows), np.inf)
    for share in np.linspace(1, 0.4, 13):
        scale = peak * share / 7
        stored = np.clip(np.rint(rows / scale[:, None]), -7, 7)
        cost = ((rows - stored * scale[:, None]) ** 2).sum(axis=1)
        best, least = np.where(cost < least, scale, best), np.minimum(cost, least)
    return QuantParams(best, np.zeros(best.shape), "int4", axis, narrow=True)


def nearest(params: QuantParams, array: Array) -> Array:
    """Each weight rounded for itself."""
    return params.quantize(array)


def kept_sums(params: QuantParams, array: Array) -> Array:
    """Rounded so that the sums of channels stay."""
    return np.asarray(int4.quantized(params, array), np.int8)


METHODS: dict[str, tuple[Callable[[ir.Node, Array], QuantParams], Callable[[QuantParams, Array], Array]]] = {
    "largest magnitude, nearest": (widest, nearest),
    "least squares, nearest": (square, nearest),
    "edgecc's scale, nearest": (int4.weight_params, nearest),
    "largest magnitude, sums kept": (widest, kept_sums),
    "least squares, sums kept": (square, kept_sums),
    "edgecc's scale, sums kept": (int4.weight_params, kept_sums),
}


def test_data(network: Network, model: ir.Model, first: int) -> tuple[Array, Dataset, Array | None]:
    """Calibration samples, test data, its labels."""
    calibration, test, labels = network.split(first)
    every = 3 if len(test) > 1000 else 1
    test, labels = test[::every], None if labels is None else labels[::every]
    return calibration, open_dataset(test, input_specs(model), labels=labels), labels


def artifacts(network: Network, first: int, forms: dict[str, tuple[bool, dict[str, Any]]]) -> None:
    """Prints a row a form and format."""
    title = f"{network.name}@{first}" if first else network.name
    model = load(network.path, input_shape=network.input_shape or None)
    calibration, data, labels = test_data(network, model, first)
    reference = OrtRunner.from_model(model)
    classes = class_outputs(model)
    for name, (calibrated, words) in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = edgecc.compile(
                    network.path, data=calibration if calibrated else None, input_shape=network.input_shape or None,
                    no_verify=forms is FORMS, no_profile=True, output=Path(folder) / "out", **words,
                )  # fmt: skip
            except edgecc.EdgeccError as error:
                print(f"| {title} | {name} | {error.message} | | | | | |")
                continue
            runners = {f: open_candidate(a, like=reference) for f, a in result.artifacts.items()}
            found = compare_all(reference, runners, data, classes=classes, labels=labels)
            for form, fidelity in found.items():
                size = f"{result.artifacts[form].size / 1e6:.2f} MB"
                print(_row(title, name, form, size, fidelity), flush=True)


def weights(network: Network, first: int) -> None:
    """Prints a row a method."""
    model = load(network.path, input_shape=network.input_shape or None)
    _, data, labels = test_data(network, model, first)
    device = target("arm")
    pipeline = Pipeline(float_passes(device, CompileOptions()))
    floats, _ = pipeline.run(model, PassContext(target=device, check=False))
    reference, classes = OrtRunner.from_model(model), class_outputs(model)
    for name, method in METHODS.items():
        runner = OrtRunner.from_model(_replaced(floats, *method))
        fidelity = compare_all(reference, {"onnx": runner}, data, classes=classes, labels=labels)["onnx"]
        print(_row(network.name, name, "weights", "", fidelity), flush=True)


def _replaced(
    floats: ir.Model,
    scale: Callable[[ir.Node, Array], QuantParams],
    rounded: Callable[[QuantParams, Array], Array],
) -> ir.Model:
    """The network with weights that int4 can hold."""
    copy = floats.clone()
    for node in copy.graph:
        value = node.inputs[1] if len(node.inputs) > 1 else None
        array = ir.constant(value)
        if (
            value is None
            or array is None
            or node.op_type not in ("Conv", "Gemm", "MatMul")
            or array.size < 1024
        ):
            continue
        wide = int4.objection(node, "float32") is not None
        params = from_weights(array, rules.channel_axis(node)) if wide else scale(node, array)
        stored = params.quantize(array) if wide else rounded(params, array)
        value.const_value = ir.Tensor(params.dequantize(stored), name=value.name)
    return copy


def _row(network: str, name: str, form: str, size: str, fidelity: Any) -> str:
    shares = (fidelity.reference_accuracy, fidelity.accuracy, fidelity.agreement)
    cells = [network, name, form, size, *("-" if s is None else f"{100 * s:.2f}" for s in shares)]
    return "| " + " | ".join([*cells, f"{fidelity.sqnr_db:.2f}"]) + " |"


def main() -> None:
    """Measures the networks named on the command line, or four."""
    names = [a for a in sys.argv[1:] if not a.startswith("--")] or DEFAULT
    forms = LIMITS if "--limits" in sys.argv else FORMS
    print("| network | form | file | size | float top-1 | top-1 | agreement | SQNR dB |")
    print("|---|---|---|---|---|---|---|---|")
    for text in names:
        name, _, first = text.partition("@")
        if "--weights" in sys.argv:
            weights(NETWORKS[name], int(first or 0))
        else:
            artifacts(NETWORKS[name], int(first or 0), forms)


if __name__ == "__main__":
    main()
