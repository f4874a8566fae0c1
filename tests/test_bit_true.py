"""`verify --bit-true`: the simulator's answers, and which kernels answer otherwise."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_lower_int8 import GRAPHS, graph
from tflite_cases import Array, case, ints, model, quantized, seeded

from edgecc.artifact import Artifact
from edgecc.errors import UnsupportedError, UsageError
from edgecc.fidelity import BitTrue, Fidelity, KernelAgreement
from edgecc.report.tables import fidelity_tables
from edgecc.report.terminal import plain_lines
from edgecc.simulate import network
from edgecc.simulate.runner import SimulatedRunner
from edgecc.tflite.lower import lower
from edgecc.tflite.reader import Operator
from edgecc.verify import verify

FAST, REFERENCE = "LiteRT, fast kernels", "LiteRT, reference kernels"


def artifact(made: onnx.ModelProto, precision: Any = "int8") -> Artifact:
    return lower(quantized(made, precision=precision)[0], precision=precision, target="arm")


def bit_true(made: onnx.ModelProto, **options: Any) -> tuple[Fidelity, dict[str, KernelAgreement]]:
    found = verify(made, artifact(made), bit_true=True, **options)
    assert isinstance(found.bit_true, BitTrue)
    return found, {k.kernels: k for k in found.bit_true.kernels}


def test_a_sound_network() -> None:
    found, kernels = bit_true(graph(GRAPHS["head"]))
    assert list(kernels) == [FAST, REFERENCE]
    assert found.samples == 16
    assert found.sqnr_db > 20
    reference, fast = kernels[REFERENCE], kernels[FAST]
    assert (reference.verdict, reference.differing, reference.operator) == ("equal", 0, None)
    assert reference.samples == 16
    assert reference.compared > fast.compared  # every tensor, not the outputs alone
    assert fast.compared == 16 * 2 * 3
    assert fast.verdict in ("equal", "rounding")


def test_the_answers_are_the_simulated_integers() -> None:
    made = graph(GRAPHS["residual"])
    compiled = artifact(made)
    simulated = SimulatedRunner(compiled.data)
    feeds = {"x": seeded(2, 4, 8, 6, seed=5)}
    answers = simulated.run(feeds)["y"]
    assert answers.dtype == np.float32
    assert answers.shape == (2, 4, 8, 6)
    step = float(simulated.graph.operators[-1].given(0).scale)
    np.testing.assert_allclose(answers / step, np.rint(answers / step), atol=1e-3)
    with pytest.raises(UsageError, match="no data for input x"):
        simulated.run({})


def test_few_of_many_samples_are_compared_in_every_tensor() -> None:
    _, kernels = bit_true(graph(GRAPHS["relu"]), data=seeded(70, 4, 8, 6).reshape(35, 2, 4, 8, 6))
    assert kernels[FAST].samples == 35
    assert kernels[REFERENCE].samples == 18  # every second one: at least 16


def test_a_defect_of_the_reference_kernels_is_named() -> None:
    """LiteRT's reference Sum reads int8 as uint8; its fast one does not."""
    _, kernels = bit_true(model(case("ReduceSum", (2, 4, 8, 6), ints(1))))
    reference = kernels[REFERENCE]
    assert reference.verdict == "defect"
    assert reference.operator is not None
    assert reference.operator.startswith("SUM")
    assert reference.largest > 1
    assert kernels[FAST].verdict in ("equal", "rounding")


@pytest.mark.parametrize(("steps", "verdict"), [(1, "rounding"), (5, "defect")])
def test_a_fast_kernel_beyond_one_step_is_a_defect(
    steps: int, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from a simulator that is wrong on purpose in the last operator but one."""
    made = graph(GRAPHS["head"])
    del made.graph.node[-1]  # the Softmax
    made.graph.output[0].name = made.graph.node[-1].output[0]
    right = network.KERNELS["int8"]["FULLY_CONNECTED"]

    def wrong(op: Operator, values: Sequence[Array]) -> list[Array]:
        return [np.where(v > 0, v - steps, v + steps).astype(np.int8) for v in right(op, values)]

    monkeypatch.setitem(network.KERNELS["int8"], "FULLY_CONNECTED", partial(wrong))
    found = verify(made, artifact(made), bit_true=True)
    assert found.bit_true is not None
    fast, reference = found.bit_true.kernels
    assert (reference.verdict, fast.verdict) == ("defect", verdict)
    assert str(reference.operator).startswith("FULLY_CONNECTED")
    assert fast.largest in (steps, steps + 1)
    if verdict == "defect":
        assert str(fast.operator).startswith("FULLY_CONNECTED")


def test_a_runtime_without_the_reference_kernel() -> None:
    _, kernels = bit_true(model(case("DepthToSpace", (2, 4, 8, 6), blocksize=2), sandwiched=True))
    assert kernels[REFERENCE].verdict == "absent"
    assert "DEPTH_TO_SPACE" in kernels[REFERENCE].explanation
    assert kernels[FAST].verdict in ("equal", "rounding")


@pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is not installed")
def test_a_file_for_tflite_micro_is_compared_there(tmp_path: Path) -> None:
    import edgecc

    target = tmp_path / "micro.toml"
    base = (Path(__file__).resolve().parents[1] / "targets" / "arm.toml").read_text(encoding="utf-8")
    assert "runtimes" in base
    target.write_text(base.replace('tflite = "LiteRT"', 'tflite = "TFLite Micro"'), encoding="utf-8")
    models = Path(__file__).resolve().parents[1] / "models"
    result = edgecc.compile(
        models / "digits_mlp.onnx", data=models / "digits_mlp_calib.npz", precision="int8", format="tflite",
        target=str(target), output=tmp_path / "out", no_verify=True, no_profile=True,
    )  # fmt: skip
    (made,) = result.artifacts.values()
    found = verify(models / "digits_mlp.onnx", made, data=models / "digits_mlp_test.npz", bit_true=True)
    assert found.bit_true is not None
    (micro,) = found.bit_true.kernels
    assert (micro.kernels, micro.verdict, micro.differing) == ("TFLite Micro", "equal", 0)
    rows = np.random.default_rng(0).random((3, 64), np.float32)
    batches = verify(models / "digits_mlp.onnx", made, data=[{"pixels": rows}], bit_true=True)
    assert batches.bit_true is not None
    (micro,) = batches.bit_true.kernels
    assert (micro.samples, micro.differing) == (3, 0)  # one row after the other


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    made = graph(GRAPHS["residual"])
    with pytest.raises(UnsupportedError, match="not simulated bit for bit: CONV_2D, ADD"):
        verify(made, artifact(made, precision="int16x8"), bit_true=True)
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    with pytest.raises(UsageError, match="only TFLite files"):
        verify(made, path, bit_true=True)


def test_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    made = graph(GRAPHS["depthwise"])
    original, compiled = tmp_path / "model.onnx", tmp_path / "model.tflite"
    onnx.save(made, original)
    compiled.write_bytes(artifact(made).data)
    told = cli("verify", original, compiled, "--bit-true")
    assert told.code == 0
    assert "LiteRT, reference kernels" in told.out
    assert "equal in every tensor" in told.out
    found = cli("verify", original, compiled, "--bit-true", "--json").json
    assert [k["kernels"] for k in found["bit_true"]["kernels"]] == [FAST, REFERENCE]
    assert found["bit_true"]["kernels"][1]["differing"] == 0
    assert "bit_true" not in cli("verify", original, compiled, "--json").json


def test_the_table() -> None:
    agreement = KernelAgreement("fast", 2, 1000, 3, 1, "rounding", "rounding: one step")
    found = Fidelity((), 2, "data", bit_true=BitTrue((agreement,)))
    lines = [
        line for item in fidelity_tables(found) if not isinstance(item, str) for line in plain_lines(item)
    ]
    assert any("1,000" in line and "rounding: one step" in line for line in lines)
