"""Which operators an Ethos-U leaves to the CPU: foreseen by stated limits, and as Arm's Vela decides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_vela
from tflite_cases import Case, case, ints, model, names, seeded

from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.profile import vela
from edgecc.profile.vela import compile_with_vela, constraints
from edgecc.serving import _written
from edgecc.target import target
from edgecc.tflite import npu
from edgecc.tflite.lower import lower

CNN = Path(__file__).resolve().parents[1] / "models" / "digits_cnn.onnx"
Cli = Callable[..., Any]

# Left to the CPU by some Ethos-U, and neighbours that are not.
CASES = [
    case("Conv", (1, 8, 24, 24), seeded(8, 8, 3, 3), strides=[4, 4]),
    case("Conv", (1, 8, 24, 24), seeded(8, 8, 3, 3), strides=[4, 4], auto_pad="SAME_UPPER"),
    case("Conv", (1, 8, 24, 24), seeded(8, 1, 3, 3), strides=[4, 4], group=8),
    case("AveragePool", (1, 8, 24, 24), kernel_shape=[9, 9], auto_pad="SAME_UPPER"),
    case("AveragePool", (1, 8, 24, 24), kernel_shape=[9, 9]),
    case("MaxPool", (1, 4, 300, 4), kernel_shape=[260, 1]),
    case("ReduceMean", (1, 8, 6, 6), ints(1), keepdims=1),
    case("ReduceMean", (8, 40), ints(1), keepdims=1),
    case("ReduceMean", (1, 1, 5000, 1), ints(2), keepdims=1),
    case("Resize", (1, 8, 6, 6), None, np.array([1, 1, 2, 2], np.float32), mode="linear"),
    case("Resize", (1, 8, 6, 6), None, np.array([1, 1, 4, 4], np.float32), mode="linear"),
    case("Resize", (1, 8, 6, 6), None, np.array([1, 1, 3, 3], np.float32), mode="linear"),
    case("ConvTranspose", (1, 8, 6, 6), seeded(8, 4, 3, 3), strides=[3, 3]),
    case("ConvTranspose", (1, 8, 6, 6), seeded(8, 4, 3, 3), strides=[2, 2]),
    case("Gather", (1, 8, 6), ints(0, 2, 1), axis=1),
    case("Div", (1, 8, 6, 6), (1, 8, 6, 6)),
    case("Sin", (1, 8, 6, 6)),
    case("HardSwish", (1, 8, 6, 6)),
    case("Max", (1, 8, 6, 6), (1, 8, 6, 6)),
    case("MatMul", (1, 8, 6), (1, 6, 8)),
    case("DepthToSpace", (1, 8, 6, 6), blocksize=2),
]


def int8_file(c: Case) -> bytes:
    device = target("ethos-u55-128")
    passes = Pipeline(float_passes(device, CompileOptions(target=device.name)))
    floats, _ = passes.run(load(model(c)), PassContext(target=device, check=False))
    quantized = _written(floats, device, "int8")
    return lower(quantized, precision="int8", target="t", io_dtype="int8", runtime="TFLite Micro").data


@needs_vela
@pytest.mark.parametrize("device", ["ethos-u55-128", "ethos-u85-256"])
@pytest.mark.parametrize("c", CASES, ids=names(CASES))
def test_the_limits_foresee_what_vela_leaves_to_the_cpu(c: Case, device: str) -> None:
    data = int8_file(c)
    foreseen = {f.node: f.reason for f in npu.left_to_cpu(data, device)}
    try:
        left = {o.name for o in compile_with_vela(data, target(device))[0].on_cpu}
    except UnsupportedError as error:  # all of it
        left = {f.node for f in error.findings}
    assert set(foreseen) == left
    assert all(foreseen.values())


@pytest.mark.parametrize("family", ["EthosU55", "EthosU65", "EthosU85"])
def test_the_committed_limits_are_velas(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    npu.limits.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(vela, "installed", lambda: None)
        committed = npu.limits(family)
    npu.limits.cache_clear()
    assert {"CONV_2D", "ADD", "SOFTMAX"} <= set(committed.rules)
    assert ("GATHER" in committed.rules) == (family == "EthosU85")
    stated = constraints(family)
    if stated is None or stated[0] != committed.source:
        pytest.skip("the Vela that the table was made of is not installed")
    assert npu.parsed(stated[1]) == committed.rules


def test_inspect_names_what_is_left_to_the_cpu(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sin.onnx"
    path.write_bytes(model(case("Sin", (1, 8, 6, 6)), sandwiched=True).SerializeToString())
    found = cli("inspect", path, "--target", "ethos-u55-128")
    assert "leaves these operators to the CPU" in found.out
    assert "SIN" in found.out
    (there,) = cli("inspect", path, "--target", "ethos-u55-128", "--json").json["targets"]
    assert "SIN" in {f["op_type"] for f in there["on_cpu"]}
    assert "leaves these" not in cli("inspect", CNN, "--target", "ethos-u55-128").out
