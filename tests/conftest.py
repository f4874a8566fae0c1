"""What several test files use: the shared material, models written as text, and their answers."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx.printer
import pytest

import edgecc.cli
from edgecc import ir
from edgecc.importer import load
from edgecc.pipeline import Pass, Pipeline, PipelineLog
from edgecc.profile.vela import installed
from edgecc.runtime.ort import OrtRunner

Array = npt.NDArray[Any]
Parse = Callable[..., onnx.ModelProto]
needs_vela = pytest.mark.skipif(installed() is None, reason="Arm's Vela is not installed (edgecc[ethos])")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference networks and data beside the repository."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder `shared` with the reference networks is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def parse() -> Parse:
    """Makes a model of ONNX text: `g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }`."""

    def make(
        text: str, opset: int = 17, constants: Mapping[str, Array] | None = None, domains: str = ""
    ) -> onnx.ModelProto:
        ir_version = 3 if opset < 9 else 8 if opset < 18 else 10
        header = f'<ir_version: {ir_version}, opset_import: ["": {opset}{domains}]>'
        model = onnx.parser.parse_model(f"{header}\n{text}")
        for name, array in (constants or {}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            if ir_version < 4:  # where initializers are defaults of inputs
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        return model

    return make


@pytest.fixture(scope="module")
def onnx_file(parse: Parse, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with a symbolic batch, in a folder whose name has a space."""
    weights = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    model = parse(
        "g (float[N,64] x) => (float[N,48] y) { h = MatMul(x, w) y = Sigmoid(h) }", constants={"w": weights}
    )
    path = tmp_path_factory.mktemp("two words") / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def tflite_file(onnx_file: Path) -> Path:
    """The same in TFLite."""
    from edgecc.tflite.lower import lower

    path = onnx_file.with_suffix(".tflite")
    path.write_bytes(lower(load(onnx_file), precision="fp32", target="arm").data)
    return path


@pytest.fixture(scope="session")
def feeds() -> Callable[..., dict[str, Array]]:
    """Random inputs for a model: normal floats, integers 0 and 1; a symbolic batch is `batch`."""

    def make(model: ir.Model | onnx.ModelProto, batch: int = 2, seed: int = 0) -> dict[str, Array]:
        random = np.random.default_rng(seed)
        if isinstance(model, onnx.ModelProto):
            specs = OrtRunner.from_bytes(model.SerializeToString(), optimize=False).inputs
        else:
            specs = OrtRunner.from_model(model, optimize=False).inputs
        arrays: dict[str, Array] = {}
        for spec in specs:
            shape = tuple(batch if d is None else d for d in spec.shape)
            floating = np.dtype(spec.dtype).kind == "f"
            values = random.standard_normal(shape) if floating else random.integers(0, 2, shape)
            arrays[spec.name] = np.asarray(values).astype(spec.dtype)
        return arrays

    return make


@pytest.fixture(scope="session")
def assert_same_answers(feeds: Callable[..., dict[str, Array]]) -> Callable[..., None]:
    """Asserts that an IR model answers like its original, unoptimised, within `tolerance` of the range."""

    def check(
        original: onnx.ModelProto | Path, model: ir.Model, tolerance: float = 1e-5, batch: int = 2
    ) -> None:
        if isinstance(original, Path):
            reference = OrtRunner.from_file(original, optimize=False)
        else:
            reference = OrtRunner.from_bytes(original.SerializeToString(), optimize=False)
        data = feeds(model, batch)
        expected = reference.run(data)
        got = OrtRunner.from_model(model, optimize=False).run(data)
        assert list(got) == list(expected)
        for name, array in expected.items():
            assert got[name].dtype == array.dtype
            assert got[name].shape == array.shape
            if array.dtype.kind == "f":
                limit = tolerance * max(float(np.max(np.abs(array), initial=0)), 1e-6)
                np.testing.assert_allclose(got[name], array, rtol=0, atol=limit, err_msg=name)
            else:
                np.testing.assert_array_equal(got[name], array, err_msg=name)

    return check


@pytest.fixture
def no_terminal_noise(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Asserts that nothing was printed, by Python or by a library underneath."""
    yield
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


class Rewritten:
    """What passes made of a model.

    Attributes:
        model: the result. lines: its nodes as ONNX text. counts: rewrites of each pass. reasons: of refusals.
    """

    def __init__(self, model: ir.Model, log: PipelineLog) -> None:
        self.model = model
        protos = [ir.serde.serialize_node(node) for node in model.graph]
        for proto in protos:
            proto.ClearField("name")
        self.lines = [" ".join(onnx.printer.to_text(proto).split()) for proto in protos]
        self.counts = [record.rewritten for record in log.records]
        self.reasons = [refusal.reason for record in log.records for refusal in record.refused]
        self.refused = [refusal.node for record in log.records for refusal in record.refused]

    def constant(self, name: str) -> Array:
        """The array of an initializer."""
        array = ir.constant(self.model.graph.initializers[name])
        assert array is not None
        return array


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., Rewritten]:
    """Loads a model and runs passes over it in a pipeline, which checks that the answers stay."""

    def run(original: onnx.ModelProto, *passes: Pass) -> Rewritten:
        return Rewritten(*Pipeline(passes).run(load(original)))

    return run


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `edgecc` with these words in this process, as a shell would: nothing but SystemExit comes out."""

    def run(*words: str | Path) -> Outcome:
        capfd.readouterr()
        code: Any = 0
        try:
            edgecc.cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def pip() -> list[str]:
    """The words that run pip without the network, building with the setuptools that is installed."""
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip("pip and setuptools are needed to build packages")
    if int(version("setuptools").partition(".")[0]) < 77:  # asked, not imported: that would replace distutils
        pytest.skip("setuptools is older than 77")
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
