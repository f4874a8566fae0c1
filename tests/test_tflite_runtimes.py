"""The same files in tflite-runtime 2.14, the last of its name, as in the current LiteRT."""

import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import test_int4_tflite
import test_lower_conv
import test_lower_elementwise
import test_lower_gemm
import test_lower_int8
import test_lower_pool
import test_lower_reduce
import test_lower_resize
import test_lower_shape
from tflite_cases import Array, Case, assert_close, case, compiled, feed, ints, model, quantized

from edgecc.artifact import Artifact
from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.litert_ports import Bound
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.kernels import wanted as kernels_wanted
from edgecc.tflite.lower import lower

MODELS = Path(__file__).resolve().parents[1] / "models"
PASSES = [
    "clean_up",
    "fold_constants",
    "simplify_reshapes",
    "fuse_pad",
    "fuse_gemm",
    "fold_batchnorm",
    "fuse_activation",
    "clean_up",
]

# Runs in the other environment: every NAME.tflite of a folder on NAME.npz; what it answers goes to NAME.out.npz.
SCRIPT = """
import glob, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
for path in sorted(glob.glob(sys.argv[1] + "/*.tflite")):
    print(path, flush=True)
    given = np.load(path[:-6] + "npz")
    try:
        interpreter = Interpreter(model_path=path)
        for d in interpreter.get_input_details():
            interpreter.resize_tensor_input(d["index"], given[d["name"]].shape)
        interpreter.allocate_tensors()
        for d in interpreter.get_input_details():
            interpreter.set_tensor(d["index"], given[d["name"]])
        interpreter.invoke()
        answers = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
    except (RuntimeError, ValueError) as error:
        answers = {"error": np.array(str(error))}
    np.savez(path[:-6] + "out.npz", **answers)
"""


@dataclass
class OldRuntime:
    """tflite-runtime 2.14 in an environment of its own, and a folder for files to run in it."""

    python: Path
    folder: Path

    def run(
        self, artifacts: Mapping[str, tuple[Artifact, Mapping[str, Array]]]
    ) -> dict[str, dict[str, Array] | str]:
        """What it answers to each artifact and its feeds: real values in the ONNX layout, or the error."""
        for old in self.folder.iterdir():
            old.unlink()
        script = self.folder / "run.py"
        script.write_text(SCRIPT)
        for number, (artifact, feeds) in enumerate(artifacts.values()):
            stem = self.folder / f"{number:04d}"
            stem.with_suffix(".tflite").write_bytes(artifact.data)
            stored = {
                p.name: Bound(p, 0, np.dtype(p.dtype)).store(np.asarray(feeds[p.name]))
                for p in artifact.inputs
            }
            np.savez(stem.with_suffix(".npz"), allow_pickle=False, **stored)
        done = subprocess.run([self.python, script, self.folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (
            f"it crashed on {list(artifacts)[len(done.stdout.splitlines()) - 1]}: {done.stderr[-500:]}"
        )
        answers: dict[str, dict[str, Array] | str] = {}
        for number, (name, (artifact, _)) in enumerate(artifacts.items()):
            with np.load(self.folder / f"{number:04d}.out.npz") as found:
                if "error" in found:
                    answers[name] = str(found["error"])
                else:
                    answers[name] = {
                        p.name: Bound(p, 0, np.dtype(p.dtype)).real(found[p.name]) for p in artifact.outputs
                    }
        return answers


@pytest.fixture(scope="session")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> OldRuntime:
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime exists for Python up to 3.11 only")
    home = tmp_path_factory.mktemp("tflite_runtime")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "tflite-runtime==2.14",
        "numpy<2",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"tflite-runtime cannot be installed: {made.stderr.strip().splitlines()[-1:]}")
    folder = home / "files"
    folder.mkdir()
    return OldRuntime(python, folder)


def artifacts_of(path: Path) -> dict[str, Artifact]:
    """A network in every precision."""
    integers, _ = quantized(onnx.load(path), PASSES)
    return {
        "fp32": compiled(load(path), passes=PASSES),
        "fp16": compiled(load(path), passes=[*PASSES, "halve_weights"]),
        "dynamic": compiled(load(path), passes=[*PASSES, "quantize_weights"]),
        "int8": lower(integers, precision="int8", target="arm"),
    }


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_our_networks(old_runtime: OldRuntime, name: str) -> None:
    path = MODELS / f"{name}.onnx"
    with np.load(MODELS / f"{name}_calib.npz") as held:
        array = next(iter(held.values())).astype(np.float32)
    spec = OrtRunner.from_file(path).inputs[0]
    feeds = {spec.name: array[: spec.shape[0] or 4].reshape([d or 4 for d in spec.shape])}
    artifacts = artifacts_of(path)
    answers = old_runtime.run({kind: (artifact, feeds) for kind, artifact in artifacts.items()})
    for kind, artifact in artifacts.items():
        answer = answers[kind]
        if artifact.notes["not_in_tflite_runtime_2_14"]:
            assert isinstance(answer, str), kind  # refused, not answered wrongly
            assert "version" in answer
            continue
        assert not isinstance(answer, str), f"{kind}: {answer}"
        for output, wanted in LiteRtRunner(artifact.data).run(feeds).items():
            gap, largest = float(np.max(np.abs(answer[output] - wanted))), float(np.max(np.abs(wanted)))
            # int8: the two round sums differently, so a step or two of 255 in each layer.
            assert gap <= {"int8": 0.03, "dynamic": 3e-3}.get(kind, 1e-5) * largest, kind


@pytest.mark.parametrize("data", [False, True])
def test_int4_weights_are_answered_rightly_or_refused(old_runtime: OldRuntime, data: bool) -> None:
    """What 2.14 computes wrongly has versions that it does not load (edgecc/tflite/versions.py)."""
    runs: dict[str, tuple[Artifact, dict[str, Array]]] = {}
    for name, (op, shape, weights, attributes, _) in test_int4_tflite.CASES.items():
        if data and (op == "ConvTranspose" or "block_size" in weights[2]):
            continue
        made = test_int4_tflite.dequantizing(op, shape, weights, relu=True, **attributes)
        feeds = feed(made)
        if data:
            made = test_int4_tflite.between_integers(made, weights)
        artifact = compiled(made, "onnx")
        runs[name] = artifact, feeds
    answers = old_runtime.run(runs)
    refused = set()
    for name, (artifact, feeds) in runs.items():
        answer = answers[name]
        assert isinstance(answer, str) == bool(artifact.notes["not_in_tflite_runtime_2_14"]), (name, answer)
        if isinstance(answer, str):
            assert "version" in answer or "type" in answer, name  # TRANSPOSE_CONV looks at the types itself
            refused.add(name)
            continue
        wanted = LiteRtRunner(artifact.data, threads=1).run(feeds)["y"]
        assert np.abs(answer["y"] - wanted).max() <= 0.03 * np.abs(wanted).max(), name
    assert refused
    assert len(refused) < len(runs)


FLOAT = [
    *test_lower_conv.CONV, *test_lower_conv.TRANSPOSED, *test_lower_pool.POOLS[::2], *test_lower_gemm.GEMM,
    *test_lower_gemm.MATMUL,
    *test_lower_resize.LINEAR[::2], *test_lower_resize.SCALED, *test_lower_elementwise.UNARY,
    *test_lower_elementwise.BINARY[::2],
    *test_lower_elementwise.WHERE, *test_lower_shape.CASES[::2], *test_lower_reduce.REDUCED[::4],
    *test_lower_reduce.SOFT[::3],
]  # fmt: skip


def test_float_operators(old_runtime: OldRuntime) -> None:
    runs = {}
    for c in FLOAT:
        made = model(c)
        runs[str(c)] = (compiled(made), feed(made, low=c.low))
    compare(
        old_runtime, runs, lambda wanted, port: 1e-5 * max(float(np.max(np.abs(wanted), initial=0)), 1e-3)
    )


def test_integer_operators(old_runtime: OldRuntime) -> None:
    runs = {}
    cases: list[tuple[Case, bool]] = [(c, False) for c in test_lower_int8.ONE] + [
        (c, True) for c in test_lower_int8.MOVING
    ]
    for c, sandwiched in cases:
        made = model(c, sandwiched=sandwiched)
        graph, _ = quantized(made)
        runs[str(c)] = (lower(graph, precision="int8", target="arm", io_dtype="int8"), feed(made))
    compare(old_runtime, runs, lambda wanted, port: 3.01 * (port.scale or 0))


def test_int16_operators(old_runtime: OldRuntime) -> None:
    """Neither has other kernels for int16 than the plain ones: at most a rounding differs (FULLY_CONNECTED)."""
    runs = {}
    for sandwiched, cases in ((False, test_lower_int8.ONE), (True, test_lower_int8.MOVING)):
        for c in cases:
            made = model(c, sandwiched=sandwiched)
            graph, _ = quantized(made, precision="int16x8")
            artifact = lower(graph, precision="int16x8", target="arm", io_dtype="int16")
            if not artifact.notes["not_in_tflite_runtime_2_14"]:
                runs[str(c)] = (artifact, feed(made))
            else:
                assert c.op in ("Gemm", "MatMul"), str(c)
    compare(old_runtime, runs, lambda wanted, port: 1.01 * (port.scale or 1e-4))


def compare(
    old_runtime: OldRuntime, runs: dict[str, tuple[Artifact, dict[str, Array]]], limit: object
) -> None:
    answers = old_runtime.run(runs)
    wrong = []
    for name, (artifact, feeds) in runs.items():
        answer = answers[name]
        if isinstance(answer, str):
            wrong.append(f"{name}: {answer}")
            continue
        for (output, wanted), port in zip(
            LiteRtRunner(artifact.data, threads=1).run(feeds).items(), artifact.outputs, strict=True
        ):
            gap = np.max(np.abs(answer[output].astype(np.float64) - wanted), initial=0)
            if answer[output].shape != wanted.shape or gap > limit(wanted, port):  # type: ignore[operator]
                wrong.append(f"{name}: {gap}")
    assert not wrong


DEEP = (2, 1, 3, 2, 1, 2)  # six axes
ONNX_NAMES = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "POW": "Pow", "MAXIMUM": "Max", "MINIMUM": "Min",
    "EQUAL": "Equal",
    "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less", "LESS_EQUAL": "LessOrEqual",
    "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or",
}  # fmt: skip


def at_the_limits() -> Iterator[Case]:
    """Cases of every type and of the highest ranks in edgecc/tflite/kernels.json."""
    known = kernels_wanted("litert")
    for code, op in ONNX_NAMES.items():
        types = {kind for kind in known.kinds(code) if kind in TYPES}
        for dtype in sorted(types & ORT_TYPES.get(op, types)):
            rank = known.broadcast_rank(code, dtype)
            shape = DEEP[-rank:]
            yield case(op, shape, shape[-2:], dtype=dtype, low=1)
            yield case(op, shape, (*shape[:-1], 1), dtype=dtype, low=1)
            yield case(op, DEEP, DEEP, dtype=dtype, low=1)
    moved = ["float32", "int32", "int64", "bool"]
    for dtype in moved:
        yield case("Transpose", DEEP, perm=[5, 0, 4, 2, 1, 3], dtype=dtype)
        yield case("Concat", DEEP, DEEP, axis=2, dtype=dtype)
        yield case("Slice", DEEP[1:], ints(2), ints(-9), ints(1), ints(-1), dtype=dtype)
        yield case("Gather", DEEP, ints(1, 0), axis=5, dtype=dtype)
        yield case("Tile", DEEP, ints(1, 2, 1, 1, 2, 1), dtype=dtype)
        yield case("Expand", DEEP, ints(*DEEP[:4], 2, 2), dtype=dtype)
    for dtype in moved[:3]:
        yield case("Pad", DEEP[1:], ints(0, 0, 1, 0, 0, 0, 0, 0, 0, 1), dtype=dtype)
        yield case("ReduceSum", DEEP, ints(2, 5), dtype=dtype)
        yield case("ReduceMax", DEEP, ints(0, 3), dtype=dtype)
    for dtype in ("float32", "int32"):
        yield case("Split", DEEP, axis=0, num_outputs=2, outputs=2, dtype=dtype)
    yield case("Softmax", DEEP)
    yield case("MatMul", (2, 1, 2, 3, 4), (2, 2, 4, 2))
    yield case("Pad", DEEP[1:], ints(0, 0, 1, 0, 0, 0, 0, 0, 0, 1), mode="reflect")


TYPES = frozenset({"float32", "int32", "int64", "int8", "uint8", "int16", "bool"})
ORT_TYPES = {
    "Pow": frozenset({"float32", "int32"}),
    **dict.fromkeys(["Add", "Max", "Min"], frozenset({"float32", "int32", "int64"})),
}


def test_limits_of_types_and_ranks(old_runtime: OldRuntime) -> None:
    runs, wanted = {}, {}
    for c in at_the_limits():
        made = model(c)
        feeds = feed(made, low=c.low)
        runs[str(c)] = (compiled(made), feeds)
        wanted[str(c)] = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
    answers = old_runtime.run(runs)
    for name, (artifact, feeds) in runs.items():
        answer = answers[name]
        assert not isinstance(answer, str), f"{name}: {answer}"
        assert_close(LiteRtRunner(artifact.data).run(feeds), wanted[name])
        assert_close(answer, wanted[name])
