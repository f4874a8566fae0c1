"""What large weights cost: peak memory of whole processes, and who copies arrays."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgecc
from edgecc import ir, onnxfile
from edgecc.artifact import Artifact
from edgecc.errors import UnsupportedError
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.quant import params as params_module
from edgecc.quant.params import QuantParams
from edgecc.runtime import TensorSpec
from edgecc.runtime.ort import OrtRunner
from edgecc.target import target
from edgecc.tflite.buffers import Buffers
from edgecc.tflite.graph import Graph, Tensor
from edgecc.tflite.writer import check_size
from edgecc.turns import Recorded

WIDTH, LAYERS = 2560, 11  # 26 MB a layer, 288 MB in all: more than ir.LARGE_BYTES


def _heavy(folder: Path, layers: int = LAYERS, width: int = WIDTH) -> Path:
    """MatMul, Relu in turn; weights in a file beside the model."""
    random = np.random.default_rng(0)
    nodes, held = [], []
    with (folder / "weights.bin").open("wb") as file:
        for i in range(layers):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            array = random.standard_normal((width, width), np.float32) * np.float32(width**-0.5)
            for key, value in (
                ("location", "weights.bin"),
                ("offset", file.tell()),
                ("length", array.nbytes),
            ):
                tensor.external_data.add(key=key, value=str(value))
            file.write(array.tobytes())
            held.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"x{i + 1}"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, width]) for n in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "heavy", ports[:1], ports[1:], held)
    path = folder / "heavy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _heavy(tmp_path_factory.mktemp("heavy"))


_BARE = """
import resource, sys, edgecc.compile, edgecc.tflite.lower, edgecc.onnxrt.export, onnxruntime
from edgecc.cli import main
"""


def _peak(*arguments: str) -> float:
    """Highest resident memory of `edgecc ARGUMENTS` in bytes, above that of a process that only imports it."""

    def run(*command: str) -> float:
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert not status
        return usage.ru_maxrss * 1024.0

    return run("-m", "edgecc.cli", *arguments) - run("-c", _BARE)


# Weights read and written once each, and room for what is made of one layer while it is quantized.
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs by system")
@pytest.mark.parametrize(
    ("precision", "form", "share"),
    [
        ("fp32", "tflite", 2.3),
        ("fp32", "all", 2.3),
        ("dynamic", "tflite", 2.1),
        ("dynamic", "onnx", 2.1),
        ("int8", "tflite", 2.5),
        ("int8", "onnx", 2.5),
    ],
)
def test_compiling_takes_little_more_than_the_weights(
    heavy: Path, tmp_path: Path, precision: str, form: str, share: float
) -> None:
    out = ["-o", str(tmp_path / "o"), "--no-profile", "--no-verify", "-q"]
    out += ["--random-data"] if precision == "int8" else []
    peak = _peak("compile", str(heavy), "--precision", precision, "--format", form, *out)
    assert peak < share * LAYERS * WIDTH**2 * 4


def test_passes_share_weights_with_the_original(heavy: Path) -> None:
    model = edgecc.load(heavy)
    given = {name: v.const_value for name, v in model.graph.initializers.items()}
    done, _ = Pipeline(float_passes(target("arm"), CompileOptions())).run(model, PassContext(check=False))
    assert {n: v.const_value for n, v in model.graph.initializers.items()} == given
    arrays = [t.numpy() for t in given.values() if t is not None]
    made = [ir.constant(v) for v in done.graph.initializers.values() if v.const_value.nbytes > 1 << 20]  # type: ignore[union-attr]
    assert len(made) == LAYERS
    for array in made:  # transposed, as views
        assert array is not None
        assert sum(np.shares_memory(array, own) for own in arrays) == 1


def test_a_pipeline_without_effect_hands_on_the_same_tensors(heavy: Path) -> None:
    model = edgecc.load(heavy)
    done, _ = Pipeline([]).run(model)
    assert done is not model
    for name, value in model.graph.initializers.items():
        assert done.graph.initializers[name].const_value is value.const_value


def test_large_networks_are_verified_one_after_the_other(
    heavy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ir, "LARGE_BYTES", 1 << 20)
    small = _heavy(tmp_path, layers=2, width=512)
    result = edgecc.compile(small, precision="fp32", no_profile=True, output=tmp_path / "o")
    assert sorted(result.fidelities) == ["onnx", "tflite"]
    assert all(f.samples == 16 and f.sqnr_db > 80 for f in result.fidelities.values())
    again = edgecc.verify(small, tmp_path / "o" / "heavy.fp32.tflite")
    assert again.sqnr_db == pytest.approx(result.fidelities["tflite"].sqnr_db)
    for artifact in result.artifacts.values():  # which waited in files
        assert artifact.path is not None
        assert len(artifact.data) > 1 << 20
        assert artifact.path.read_bytes() == artifact.data


def test_an_artifact_can_wait_in_a_file(tmp_path: Path) -> None:
    held = Artifact(b"some bytes", "onnx", "fp32", "arm", (), ())
    aside = held.set_aside(tmp_path / "there")
    assert aside.data == b""
    for artifact in (held, aside):
        assert (artifact.size, artifact.sha256) == (10, hashlib.sha256(b"some bytes").hexdigest())
        assert artifact.content() == b"some bytes"


def test_recorded_answers_can_be_read_twice() -> None:
    class Twice:
        inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (2,), "float32"),)
        outputs: tuple[TensorSpec, ...] = (TensorSpec("y", (2,), "float32"), TensorSpec("t", (1,), "object"))

        def run(self, feeds: Mapping[str, ir.Array]) -> dict[str, ir.Array]:
            return {"y": feeds["x"] * 2, "t": np.array([str(feeds["x"][0])], object)}

    samples = [{"x": np.full(2, i, np.float32)} for i in range(3)]
    recorded = Recorded(Twice(), samples)
    for _ in range(2):
        found = list(recorded)
        assert [float(a["y"][0]) for a in found] == [0, 2, 4]
        assert [a["t"][0] for a in found] == ["0.0", "1.0", "2.0"]


def test_an_onnx_artifact_holds_external_data(heavy: Path, tmp_path: Path) -> None:
    small = _heavy(tmp_path, layers=2, width=300)
    data = onnxfile.serialize(edgecc.load(small))
    held = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(data).graph.initializer
    }
    for tensor in onnx.load(small).graph.initializer:
        np.testing.assert_array_equal(held[tensor.name], onnx.numpy_helper.to_array(tensor))
    assert data == onnxfile.serialize(edgecc.load(small))


def test_a_serialised_model_without_its_large_weights_answers_the_same(
    heavy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = _heavy(tmp_path, layers=3, width=301)
    data = onnxfile.serialize(edgecc.load(small))
    rest, weights = onnxfile.weights_aside(data, "there")
    assert len(rest) < 4000
    assert [t.name for t, _ in weights] == ["w0", "w1", "w2"]
    for tensor in onnx.load(small).graph.initializer:
        content = next(c for t, c in weights if t.name == tensor.name)
        assert bytes(content) == onnx.numpy_helper.to_array(tensor).tobytes()
    feeds = {"x0": np.random.default_rng(1).normal(size=(1, 301)).astype(np.float32)}
    want = OrtRunner.from_bytes(data).run(feeds)["x3"]
    onnxfile.write_aside(data, tmp_path / "apart.onnx")
    monkeypatch.setattr(ir, "LARGE_BYTES", 1 << 20)
    for runner in (OrtRunner.from_bytes(data), OrtRunner.from_file(tmp_path / "apart.onnx")):
        np.testing.assert_allclose(runner.run(feeds)["x3"], want, rtol=1e-5, atol=1e-6)


def test_buffers_hold_what_was_added_in_any_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir, "_CHUNK", 64)
    array = np.arange(3 * 5 * 7, dtype=np.float32).reshape(3, 5, 7)
    buffers = Buffers()
    moved = array.transpose(2, 0, 1)
    assert buffers.add(moved) == 1
    assert buffers.add(np.ascontiguousarray(moved)) == 1
    assert buffers.add(array) == 2
    assert buffers.add(np.zeros((0, 3), np.float32)) == 0
    file = buffers.behind(bytearray(48), [40, 36])
    for place, held in ((8, moved), (12, array)):
        start = place + int.from_bytes(file[place : place + 4], "little")
        size = int.from_bytes(file[start : start + 4], "little")
        assert (start + 4) % 16 == 0
        assert file[start + 4 : start + 4 + size] == held.tobytes()


def test_a_file_over_2_gb_is_refused_before_it_is_made() -> None:
    huge = np.broadcast_to(np.zeros(1, np.float32), (600_000_000,))  # takes no memory
    graph = Graph([Tensor("w", huge.shape, "float32", huge)])
    with pytest.raises(UnsupportedError, match="do not fit into a TFLite file"):
        check_size(graph)


def test_quantizing_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params_module, "_PIECE", 100)
    array = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    for axis, count in ((None, 1), (0, 40), (1, 30)):
        params = QuantParams(np.linspace(0.01, 0.02, count), np.zeros(count), "int8", axis)
        whole = params.quantize(array)
        stored = array.astype(np.float64) / params.scale.astype(np.float64).reshape(
            [-1 if a == axis else 1 for a in range(2)]
        )
        np.testing.assert_array_equal(whole, np.clip(np.rint(stored), -128, 127).astype(np.int8))
