"""Whether a file is taken as a whole by what runs it on a device: the checks of `devices.py`, each by its name."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environments import python

from edgecc.errors import EdgeccError
from edgecc.profile.emulated import compare
from edgecc.profile.local import Job, profile_all
from edgecc.profile.tensors import ModelFile
from edgecc.profile.vela import compile_with_vela
from edgecc.report.emulated import difference
from edgecc.runtime.tflm import MicroRunner
from edgecc.target import target
from edgecc.tflite.flat import read_network

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]
WORKER = Path(__file__).with_name("tflite_runtime_worker.py")

_PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})
# What ONNX Runtime executes in float where a quantized operator has no integer kernel.
_FLOAT = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "ConvTranspose")


@dataclass(frozen=True)
class Verdict:
    """What a check says.

    Attributes:
        text: for the table.
        whole: every operator is taken, none unsupported and none left to another processor or to float.
    """

    text: str
    whole: bool


def litert(path: Path, feeds: Feeds, place: str) -> Verdict:
    """LiteRT on this machine: every operator runs, and which are XNNPACK's."""
    found = profile_all({"": Job(path)}, runs=3)[""]
    fused = sum(o.source == "xnnpack" for o in found.operators)
    rest = sorted({o.type for o in found.operators if o.source == "builtin"})
    others = f", built-in: {', '.join(rest)}" if rest else ""
    return Verdict(
        f"LiteRT {found.runtime_version} ({fused} kernels of XNNPACK{others})", bool(found.operators)
    )


def tflite_runtime(path: Path, feeds: Feeds, place: str) -> Verdict:
    """The last tflite-runtime, in an environment of its own: answers beside those of LiteRT here."""
    program, file = python("tflite-runtime"), ModelFile.read(path)
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder, "in.npz"), Path(folder, "out.npz")
        stored: dict[str, Any] = dict(file.stored(feeds))
        np.savez(given, **stored)
        words = [str(each) for each in (program, WORKER, path, given, got)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            return Verdict(f"tflite-runtime 2.14 refuses: {why[0]}", whole=False)
        with np.load(got, allow_pickle=False) as held:
            answers = file.real({name: held[name] for name in held.files})
    wanted = file.here(feeds)
    gap = max(float(np.abs(answers[k] - wanted[k].reshape(answers[k].shape)).max()) for k in wanted)
    scales = [scale for scale in file.scales.values() if scale]
    far = f"by {round(gap / min(scales))} steps" if scales else f"by {gap:.2g}"
    pairs = [
        (answers[k].reshape(len(v), -1).argmax(1), v.reshape(len(v), -1).argmax(1)) for k, v in wanted.items()
    ]
    alike, count = min(int((a == b).sum()) for a, b in pairs), len(pairs[0][0])
    text = "equal to LiteRT" if gap == 0 else f"LiteRT's class on {alike} of {count}, differs {far} at most"
    return Verdict(f"tflite-runtime 2.14 ({text})", whole=True)


def emulated(path: Path, feeds: Feeds, place: str) -> Verdict:
    """LiteRT or ONNX Runtime on an emulated processor: every operator runs, and how far answers are from those here."""
    found = compare(path, [place], feeds, count=False)
    level = found.levels[0]
    text = f"{found.runtime} on {place} ({difference(level.differences[0])})"
    left = {kind: count for kind, count in level.operators.items() if kind in _FLOAT}
    if left:
        text += f", in float: {left}"
    return Verdict(text, not left)


def onnx_runtime(path: Path, feeds: Feeds, place: str) -> Verdict:
    """ONNX Runtime on this machine: every operator runs, none in float."""
    found = profile_all({"": Job(path)}, runs=3)[""]
    kinds = [o.type for o in found.operators]
    left = sorted(set(kinds) & set(_FLOAT))
    text = f"ONNX Runtime {found.runtime_version} ({len(kinds)} operators"
    return Verdict(text + (f", in float: {', '.join(left)})" if left else ")"), bool(kinds) and not left)


def micro(path: Path, feeds: Feeds, place: str) -> Verdict:
    """TFLite Micro on this machine: its resolver knows every operator, its kernels take them all."""
    runner = MicroRunner(path.read_bytes())
    runner.run({name: array[0] for name, array in feeds.items()})
    return Verdict(f"TFLite Micro (arena here {(runner.arena_bytes or 0) / 1024:.1f} KiB)", whole=True)


def vela(path: Path, feeds: Feeds, place: str) -> Verdict:
    """Arm's Vela: no operator is left to the CPU."""
    figures, _ = compile_with_vela(path.read_bytes(), target(place))
    left = len(figures.on_cpu)
    text = f"Vela {figures.tool_version} ({len(figures.operators) - left} on the NPU, {left} on the CPU)"
    return Verdict(text, not left)


CHECKS: dict[str, Callable[[Path, Feeds, str], Verdict]] = {
    "litert": litert,
    "tflite-runtime": tflite_runtime,
    "emulated": emulated,
    "onnxruntime": onnx_runtime,
    "micro": micro,
    "vela": vela,
}
"""Name -> what takes a file, samples by ONNX name (samples, *shape), and what stands behind `@` in `devices.py`."""


def check(name: str, path: Path, feeds: Feeds) -> Verdict:
    """Runs the check `name` or `name@place`; an error of edgecc is a file that is not taken."""
    kind, _, place = name.partition("@")
    try:
        return CHECKS[kind](path, feeds, place)
    except EdgeccError as error:
        return Verdict(f"{name} refuses: {' '.join(str(error).split())[:200]}", whole=False)


def float_products(path: Path) -> list[str]:
    """Convolutions and matrix products of an int8 TFLite file that are in float all the same."""
    network = read_network(path.read_bytes())
    return [
        network.name(i)
        for i, op in enumerate(network.operators)
        if op.code in _PRODUCTS and network.tensors[op.outputs[0]].kind == "float32"
    ]


def digest(path: Path) -> str:
    """SHA-256 of what a runtime executes: of a TFLite file without description and metadata, which name the target."""
    data = path.read_bytes()
    return hashlib.sha256(_executed(data) if path.suffix == ".tflite" else data).hexdigest()


def _executed(data: bytes) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for entry in model.metadata or []:
        model.buffers[entry.buffer].data = None
    model.metadata = model.description = None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder))
    return bytes(builder.Output())
