"""Speed of the results: int8 TFLite against ai-edge-quantizer's file, int8 ONNX against quantize_static's.

    python benchmarks/latency.py [NETWORK ...]

Both files run in this process, in turns of a few inferences each, one thread; what counts is the median of the
turns' ratios.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter
from environments import python
from networks import NETWORKS, Network

import edgecc

TURNS, RUNS = 60, 5
# int8 TFLite may take this much of the peer's time, int8 ONNX no more than its peer's; to either is added what
# the peer differs from itself when it is measured the same way.
TFLITE_LIMIT, ONNX_LIMIT = 1.05, 1.0


def main() -> None:
    """Measures the networks named on the command line, or the two ImageNet classifiers."""
    print("| network | file | edgecc ms | peer ms | ratio | peer against itself | as wanted |")
    print("|---|---|---|---|---|---|---|")
    missed = 0
    for name in sys.argv[1:] or ["efficientnet_lite0", "mobilenet_v2_1.0"]:
        with tempfile.TemporaryDirectory() as folder:
            for row in compare(NETWORKS[name], Path(folder)):
                missed += row.endswith("NO |")
                print(row, flush=True)
    sys.exit(1 if missed else 0)


def compare(network: Network, folder: Path) -> list[str]:
    """A row a format."""
    calibration, _, _ = network.split()
    np.save(folder / "calibration.npy", calibration)
    result = edgecc.compile(
        network.path,
        precision="int8",
        data=calibration,
        no_verify=True,
        no_profile=True,
        output=folder / "out",
    )
    rows = []
    makers: dict[
        str, tuple[Callable[[Network, Path], Path], Callable[[Path], Callable[[], object]], float]
    ] = {
        "tflite": (quantizer_file, tflite_runner, TFLITE_LIMIT),
        "onnx": (static_file, onnx_runner, ONNX_LIMIT),
    }
    for form, (make, open_file, limit) in makers.items():
        path = result.artifacts[form].path
        assert path is not None
        peer = make(network, folder)
        mine, theirs, ratio = in_turns(open_file(path), open_file(peer))
        _, _, itself = in_turns(open_file(peer), open_file(peer))
        good = "yes" if ratio <= limit + abs(itself - 1) else "NO"
        cells = [
            network.name,
            f"{form} int8",
            f"{mine:.2f}",
            f"{theirs:.2f}",
            f"{ratio:.3f}",
            f"{itself:.3f}",
            good,
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def quantizer_file(network: Network, folder: Path) -> Path:
    """onnx2tf's float file, quantized by ai-edge-quantizer."""
    copy = shutil.copy(network.path, folder / "given.onnx")  # onnx2tf writes over its input
    Path(copy).chmod(0o644)
    run(python("onnx2tf").with_name("onnx2tf"), "-i", copy, "-o", folder / "onnx2tf")
    source = next((folder / "onnx2tf").glob("*_float32.tflite"))
    target, data = folder / "peer.tflite", folder / "calibration_nhwc.npy"
    np.save(data, np.load(folder / "calibration.npy").transpose(0, 2, 3, 1))
    script = Path(__file__).parent / "peers" / "run_ai_edge_quantizer.py"
    run(python("ai-edge-quantizer"), script, source, data, target)
    return target


def static_file(network: Network, folder: Path) -> Path:
    """onnxruntime.quantization.quantize_static's file."""
    script = Path(__file__).parent / "peers" / "run_quantize_static.py"
    run(sys.executable, script, network.path, folder / "calibration.npy", folder / "peer.onnx")
    return folder / "peer.onnx"


def run(*command: object) -> None:
    """A command that must succeed."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-800:]}")


def tflite_runner(path: Path) -> Callable[[], object]:
    """Runs a TFLite file on random data."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        data = np.random.default_rng(0).standard_normal(detail["shape"])
        interpreter.set_tensor(detail["index"], data.astype(detail["dtype"]))
    return interpreter.invoke  # type: ignore[no-any-return]


def onnx_runner(path: Path) -> Callable[[], object]:
    """Runs an ONNX file on random data."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {
        i.name: np.random.default_rng(0).standard_normal(i.shape).astype(np.float32)
        for i in session.get_inputs()
    }
    return lambda: session.run(None, feeds)


def in_turns(mine: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Milliseconds of both (median of the turns' fastest runs), and the median of the turns' ratios.

    These machines run in two gears, which change within seconds: compare only what ran side by side.
    """
    fastest: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 2):
        for side in (0, 1) if turn % 2 else (1, 0):
            times = []
            for _ in range(RUNS):
                started = time.perf_counter()
                (mine, theirs)[side]()
                times.append(1e3 * (time.perf_counter() - started))
            if turn >= 2:  # the first turns warm up
                fastest[side].append(min(times))
    ratios = np.array(fastest[0]) / np.array(fastest[1])
    return float(np.median(fastest[0])), float(np.median(fastest[1])), float(np.median(ratios))


if __name__ == "__main__":
    main()
