"""int8 by edgecc's defaults and by its peers' on the same images: fidelity, and time and memory of whole processes.

    python benchmarks/int8_peers.py [efficientnet_lite0 mobilenet_v2_1.0 ...]

Every fifth sample (NETWORK@N: from sample N on) calibrates, the others test. Every tool reads the same files; edgecc
neither verifies nor times its artifacts here, as the others do not. ONNX files run in ONNX Runtime as it is installed
beside edgecc. quantize_static's own default is one weight scale a tensor; per channel is what its users choose.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from environments import python
from networks import NETWORKS

from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.importer import load
from edgecc.limits import class_outputs
from edgecc.runtime import Runner
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.turns import Recorded
from edgecc.verify import compare

PEERS = Path(__file__).resolve().parent / "peers"
EDGECC = Path(sys.executable).with_name("edgecc")
SAVE = (
    "import sys, numpy, networks; x = networks.NETWORKS[sys.argv[1]].split(int(sys.argv[2]))[0];"
    " numpy.save(sys.argv[3] + '.npy', x); numpy.savez(sys.argv[3] + '.npz', input=x)"
)


def process(command: list[str]) -> tuple[str, str, str]:
    """Seconds of wall time, seconds of processors, and peak memory in GB of a command.

    Raises:
        RuntimeError: it failed, with its last line.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        running = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            said.seek(0)
            raise RuntimeError((said.read().decode(errors="replace").strip().splitlines() or ["failed"])[-1])
    return f"{seconds:.1f}", f"{usage.ru_utime + usage.ru_stime:.1f}", f"{usage.ru_maxrss / 1024**2:.2f}"


def commands(source: Path, samples: Path, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """What makes each file, and where it then is."""
    stem, array = source.stem, f"{samples}.npy"
    found: dict[str, tuple[list[str], Path]] = {}
    for form in ("tflite", "onnx"):
        words = [
            "--data",
            f"{samples}.npz",
            "--precision",
            "int8",
            "--format",
            form,
            "--no-verify",
            "--no-profile",
        ]
        out = folder / f"edgecc_{form}"
        command = [str(EDGECC), "compile", str(source), *words, "-o", str(out)]
        found[f"edgecc, {form}"] = (command, out / f"{stem}.int8.{form}")
    tools: dict[str, tuple[str, str, tuple[str, ...]]] = {
        "ONNX Runtime quantize_static": (sys.executable, "run_quantize_static.py", ("tensor",)),
        "the same, per channel": (sys.executable, "run_quantize_static.py", ()),
        "onnxsim quantize_static": (str(python("onnxsim")), "run_onnxsim.py", ()),
        "NNCF": (str(python("nncf")), "run_nncf.py", ()),
    }
    for number, (title, (interpreter, script, more)) in enumerate(tools.items()):
        out = folder / f"peer{number}.onnx"
        found[title] = ([interpreter, str(PEERS / script), str(source), array, str(out), *more], out)
    return found


def runner(path: Path) -> Runner:
    """Of a file, by its ending."""
    data = path.read_bytes()
    if path.suffix == ".tflite":
        return LiteRtRunner(data)
    return OrtRunner.from_bytes(data)


def measure(text: str) -> None:
    """Prints a row a tool."""
    name, _, first = text.partition("@")
    network = NETWORKS[name]
    with tempfile.TemporaryDirectory() as made:
        samples = Path(made) / "calibration"
        # Processes of their own, before this one holds data: see main.
        save = [sys.executable, "-c", SAVE, name, first or "0", str(samples)]
        subprocess.run(save, cwd=Path(__file__).parent, check=True)
        paths, taken = {}, {}
        for title, (command, path) in commands(network.path, samples, Path(made)).items():
            try:
                taken[title], paths[title] = process(command), path
            except RuntimeError as error:
                print(f"| {text} | {title} | {error} | | | | | |", flush=True)
        original = load(network.path, input_shape=network.input_shape or None)
        _, test, labels = network.split(int(first or 0))
        data = open_dataset(test, input_specs(original), labels=labels)
        reference, classes = Recorded(OrtRunner.from_model(original), data), class_outputs(original)
        for title, path in paths.items():
            found = compare(reference, runner(path), data, classes=classes, labels=labels)
            shares = (found.accuracy, found.agreement)
            cells = [text, title, *("-" if s is None else f"{100 * s:.2f}" for s in shares)]
            cells += [f"{found.sqnr_db:.2f}", *taken[title]]
            print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measures the networks named on the command line, or two, each in a process of its own.

    A child's peak memory counts what its parent has when it forks: the data of the network before would stand in it.
    """
    print(
        "| network | tool | top-1 | agreement % | SQNR dB | s | processor s | GB |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for text in sys.argv[1:] or ("efficientnet_lite0", "mobilenet_v2_1.0"):
        running = get_context("spawn").Process(target=measure, args=(text,))
        running.start()
        running.join()
        if running.exitcode:
            raise SystemExit(f"{text} was not measured")


if __name__ == "__main__":
    main()
