"""Virtual environments for peers, made where they are first needed: they are no dependencies of edgecc."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent / ".environments"

# Peer -> what to install, and the Python that it needs (None: the one that runs the benchmark).
PEERS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "onnx2tf": (("onnx2tf==2.6.9",), "3.12"),
    "ai-edge-quantizer": (("ai-edge-quantizer==0.10.0",), None),
    "onnxsim": (("onnxsim==0.8.1", "onnxruntime"), None),
    "tflite-runtime": (("tflite-runtime==2.14.0", "numpy<2"), "3.11"),
    "matplotlib": (("matplotlib==3.10.7",), None),
    "nncf": (("nncf==3.4.0", "onnxruntime", "onnx"), None),
}


def python(peer: str) -> Path:
    """The interpreter of the peer's environment.

    Raises:
        RuntimeError: it cannot be made here; the message says why.
    """
    folder = HOME / peer
    found = folder / "bin" / "python"
    if (folder / "complete").exists():
        return found
    packages, version = PEERS[peer]
    base = sys.executable if version is None else _interpreter(version)
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [base, "-m", "venv", str(folder)],
        [str(found), "-m", "pip", "install", "--quiet", *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{peer} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "complete").touch()
    return found


def _interpreter(version: str) -> str:
    for name in (f"python{version}", *sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"))):
        path = shutil.which(str(name))
        if (
            path is not None
            and subprocess.run([path, "-c", "pass"], check=False, capture_output=True).returncode == 0
        ):
            return path
    raise RuntimeError(f"Python {version} is not installed")
