"""Speed and memory of the tool itself: whole processes, the best of several runs.

    python benchmarks/tool_speed.py

onnx2tf, which takes 1.4 s for float MobileNetV2 on a quiet machine, runs here too, because machines differ from
day to day. Quantizers take 2.4 to 27 s for int8 EfficientNet-Lite0.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environments import python
from networks import NETWORKS

REPEATS = 5
EDGECC = Path(sys.executable).with_name("edgecc")


def measure(command: list[str]) -> tuple[float, float]:
    """Best wall time in seconds and highest peak memory in MB of a command."""
    times, peak = [], 0.0
    for _ in range(REPEATS):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - started)
        peak = max(peak, usage.ru_maxrss / 1024)
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with {status}")
    return min(times), peak


def main() -> None:
    """One row a command."""
    mobile, efficient = NETWORKS["mobilenet_v2_1.0"].path, NETWORKS["efficientnet_lite0"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calibration.npz"
        # In a process of its own: a child's peak memory counts what its parent holds when it is forked.
        save = "import sys, numpy, networks; n = networks.NETWORKS['efficientnet_lite0']"
        save += "; numpy.savez(sys.argv[1], input=n.split()[0])"
        subprocess.run([sys.executable, "-c", save, data], cwd=Path(__file__).parent, check=True)
        bare, float32 = ["--no-verify", "--no-profile"], ["--precision", "fp32", "--format", "tflite"]
        compile_ = [str(EDGECC), "compile"]
        mobile_out, efficient_out = ["-o", f"{folder}/m"], ["-o", f"{folder}/e"]
        given = Path(shutil.copy(mobile, folder))  # onnx2tf writes over its input
        given.chmod(0o644)
        onnx2tf = str(python("onnx2tf").with_name("onnx2tf"))
        rows: list[tuple[str, list[str], float | None]] = [
            ("edgecc --help", [str(EDGECC), "--help"], 0.3),
            ("MobileNetV2, float TFLite", [*compile_, str(mobile), *float32, *bare, *mobile_out], 1.6),
            ("the same, verified and profiled", [*compile_, str(mobile), *float32, *mobile_out], 3.2),
            ("the same, onnx2tf", [onnx2tf, "-i", str(given), "-o", f"{folder}/o"], None),
        ]
        for form in ("tflite", "onnx", "all"):
            command = [*compile_, str(efficient.path), "--data", str(data), "--format", form, *efficient_out]
            rows.append((f"EfficientNet-Lite0, int8 {form}", [*command, *bare], 4.0))
            rows.append(("the same, verified and profiled", command, 8.0))
        print("| what | s | limit s | peak MB |\n|---|---|---|---|")
        for name, command, limit in rows:
            seconds, peak = measure(command)
            print(f"| {name} | {seconds:.2f} | {'-' if limit is None else limit} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
