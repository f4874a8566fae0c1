"""Float TFLite of every reference network: equal to ONNX Runtime, few operators; onnx2tf beside it.

    python benchmarks/float_networks.py [NETWORK ...]

Ends with exit code 1 if an answer differs by more than 1e-4 of its range, if a convolutional classifier has
an operator that it need not have, or if onnx2tf's file has fewer operators or Transposes.
"""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from environments import python
from networks import NETWORKS, Network

import edgecc
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.importer import load
from edgecc.runtime.ort import OrtRunner
from edgecc.verify import compare_all, open_candidate

LIMIT = 1e-4
CLASSIFIERS = frozenset(
    {
        "ic_resnet8",
        "kws_dscnn",
        "resnet20",
        "resnet56",
        "lenet_caffe",
        "efficientnet_lite0",
        "mobilenet_v2_1.0",
    }
)
ALLOWED = frozenset(
    {
        "CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "ADD", "FULLY_CONNECTED",
        "SOFTMAX", "RESHAPE", "PAD", "STRIDED_SLICE",
    }
)  # fmt: skip
_NAMES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}


def operators(path: Path) -> collections.Counter[str]:
    """How often each operator occurs in a file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    return collections.Counter(_NAMES[codes[op.opcodeIndex]] for op in model.subgraphs[0].operators)


def onnx2tf_operators(
    network: Path, input_shape: Mapping[str, Sequence[int]], folder: Path, batch: int | None = None
) -> collections.Counter[str] | None:
    """Those of onnx2tf's float file, None where it makes none."""
    program = python("onnx2tf").with_name("onnx2tf")
    folder.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(
        network, folder.parent / "given.onnx"
    )  # onnx2tf writes its simplified network over the input
    Path(copy).chmod(0o644)
    command = [str(program), "-i", str(copy), "-o", str(folder)]
    command += [] if batch is None else ["-b", str(batch)]
    for name, shape in input_shape.items():
        command += ["-ois", f"{name}:{','.join(map(str, shape))}"]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=300)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    found = next(folder.glob("*_float32.tflite"), None)
    return None if found is None else operators(found)


def measure(network: Network) -> bool:
    """Prints the row of one network."""
    shape = network.input_shape or None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = edgecc.compile(
            network.path, format="tflite", precision="fp32", no_verify=True, no_profile=True,
            input_shape=shape, output=folder / "out",
        )  # fmt: skip
        path = result.artifacts["tflite"].path
        assert path is not None
        mine, theirs = operators(path), onnx2tf_operators(network.path, network.input_shape, folder / "peer")
        model = load(network.path, input_shape=shape)
        reference = OrtRunner.from_model(model)
        data = open_dataset(network.split()[1][:50], input_specs(model))
        candidate = open_candidate(result.artifacts["tflite"], like=reference)
        error = compare_all(reference, {"": candidate}, data)[""].relative_error
    extra = set(mine) - ALLOWED if network.name in CLASSIFIERS else set()
    good = error <= LIMIT and not extra and not mine["TRANSPOSE"] * (network.name in CLASSIFIERS)
    good = good and mine["RESHAPE"] <= (1 if network.name in CLASSIFIERS else 1 << 30)
    good = good and (
        theirs is None or (mine.total() <= theirs.total() and mine["TRANSPOSE"] <= theirs["TRANSPOSE"])
    )
    cells = [
        network.name, f"{error:.1e}", str(mine.total()), str(mine["TRANSPOSE"]),
        "-" if theirs is None else str(theirs.total()), "-" if theirs is None else str(theirs["TRANSPOSE"]),
        "yes" if good else f"NO {' '.join(sorted(extra))}",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)
    return good


def main() -> None:
    """Measures the networks named on the command line, or all."""
    print(
        "| network | error of range | operators | Transposes | onnx2tf: operators | Transposes | as wanted |"
    )
    print("|---|---|---|---|---|---|---|")
    names = sys.argv[1:] or list(NETWORKS)
    good = [measure(NETWORKS[name]) for name in names]
    if not all(good):
        sys.exit(1)


if __name__ == "__main__":
    main()
