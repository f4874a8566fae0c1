"""The preset deep-compression: packed files beside the artifacts, budgets on them, and plans without data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import edgecc
from edgecc.errors import BudgetError, UsageError
from edgecc.options import make_options
from edgecc.pack.container import unpack
from edgecc.presets import float_passes, make_pass, split_constant

MODELS = Path(__file__).resolve().parents[1] / "models"
CNN, DATA = MODELS / "digits_cnn.onnx", MODELS / "digits_cnn_calib.npz"
QUICK: dict[str, Any] = {"no_profile": True, "threads": 1}


def names(**words: Any) -> list[str]:
    return [p.name for p in float_passes(edgecc.target("arm"), make_options(words))]


def test_the_preset_adds_its_passes_to_those_of_every_target() -> None:
    assert names(preset="deep-compression") == [*names(), "sparsify", "share_weights"]
    options = make_options({"preset": "deep-compression", "passes": ("sparsify:ratio=0.3",)})
    found = float_passes(edgecc.target("x86-64"), options)
    assert [p.options()["ratio"] for p in found if p.name == "sparsify"] == [0.3]
    with pytest.raises(UsageError) as caught:
        names(preset="deep")
    assert "deep-compression" in str(caught.value.remedy)


def test_layers_are_split_before_their_weights_go(tmp_path: Path) -> None:
    split = ("split_gemm:ratio=0.5",)
    assert names(preset="deep-compression", passes=split) == [
        *names(), "split_gemm", "sparsify", "share_weights",
    ]  # fmt: skip
    both = edgecc.compile(
        CNN, data=DATA, eval_data=MODELS / "digits_cnn_test.npz", preset="deep-compression", passes=split,
        format="tflite", output=tmp_path, **QUICK,
    )  # fmt: skip
    made = next(p for p in both.report.passes if p.name == "split_gemm")
    assert made.rewritten and made.effect is not None
    assert made.effect.macs[1] < 0.6 * made.effect.macs[0]
    assert (
        both.fidelity is not None and both.fidelity.agreement is not None and both.fidelity.agreement > 0.95
    )
    ran = [p.name for p in both.report.passes]
    assert ran.index("split_gemm") < ran.index("sparsify") < ran.index("share_weights")


def test_passes_that_a_plan_holds_are_those_at_the_end() -> None:
    chain = [make_pass(n) for n in ("clean_up", "sparsify", "fold_constants", "sparsify", "share_weights")]
    before, after = split_constant(chain)
    assert [p.name for p in before] == ["clean_up", "sparsify", "fold_constants"]
    assert [p.name for p in after] == ["sparsify", "share_weights"]


def test_packed_files_lie_beside_the_artifacts(tmp_path: Path) -> None:
    result = edgecc.compile(
        CNN, data=DATA, eval_data=MODELS / "digits_cnn_test.npz", preset="deep-compression",
        output=tmp_path / "out", **QUICK,
    )  # fmt: skip
    assert result.fidelity is not None
    assert result.fidelity.agreement is not None
    assert result.fidelity.agreement > 0.97
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    for form, artifact in result.artifacts.items():
        name = f"digits_cnn.int8.{form}"
        packed = (tmp_path / "out" / f"{name}.ecz").read_bytes()
        assert unpack(packed) == artifact.content() == (tmp_path / "out" / name).read_bytes()
        assert manifest["artifacts"][name]["packed"]["bytes"] == len(packed)
    by_format = {a.format: a.packed_bytes for a in result.report.artifacts}
    assert by_format["tflite"] == len((tmp_path / "out" / "digits_cnn.int8.tflite.ecz").read_bytes())
    plain = edgecc.compile(CNN, data=DATA, output=tmp_path / "plain", no_verify=True, **QUICK)
    assert not list((tmp_path / "plain").glob("*.ecz"))
    assert plain.report.artifacts[0].packed_bytes is None


def test_the_terminal_tells_the_packed_size(cli: Any, tmp_path: Path) -> None:
    done = cli(
        "compile", CNN, "--data", DATA, "--preset", "deep-compression", "--no-profile", "--no-verify",
        "--format", "onnx", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0
    assert "ONNX int8: packed " in done.out + done.err
    assert "times smaller than the original" in done.out + done.err
    assert (
        cli("unpack", tmp_path / "out" / "digits_cnn.int8.onnx.ecz", "-o", tmp_path / "again.onnx").code == 0
    )
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out" / "digits_cnn.int8.onnx").read_bytes()


def test_the_size_budget_is_that_of_the_packed_file(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "data": DATA, "preset": "deep-compression", "format": "tflite", "no_verify": True, **QUICK,
    }  # fmt: skip
    first = edgecc.compile(CNN, output=tmp_path / "a", **words)
    (facts,) = first.report.artifacts
    assert facts.packed_bytes is not None
    assert facts.packed_bytes < facts.size_bytes
    edgecc.compile(CNN, output=tmp_path / "b", max_size=facts.packed_bytes, **words)
    with pytest.raises(BudgetError) as caught:
        edgecc.compile(CNN, output=tmp_path / "c", max_size=facts.packed_bytes - 1, **words)
    assert "sparsify" in str(caught.value.remedy)


@pytest.mark.parametrize(
    "passes", [("sparsify:ratio=0.5",), ("sparsify:criterion=magnitude", "share_weights:bits=4")]
)
def test_a_plan_gives_the_same_bytes_without_data(tmp_path: Path, passes: tuple[str, ...]) -> None:
    words: dict[str, Any] = {"passes": passes, "no_verify": True, **QUICK}
    first = edgecc.compile(CNN, data=DATA, output=tmp_path / "a", **words)
    again = edgecc.compile(CNN, plan=tmp_path / "a" / "plan.json", output=tmp_path / "b", **words)
    for form, artifact in first.artifacts.items():
        assert again.artifacts[form].content() == artifact.content()
    assert (tmp_path / "b" / "plan.json").read_bytes() == (tmp_path / "a" / "plan.json").read_bytes()


def test_values_stay_few_and_zeros_zero_in_the_file(tmp_path: Path) -> None:
    result = edgecc.compile(
        MODELS / "digits_mlp.onnx", data=MODELS / "digits_mlp_calib.npz", preset="deep-compression", format="onnx",
        passes=("sparsify:ratio=0.7", "share_weights:bits=4"), output=tmp_path / "out", no_verify=True, **QUICK,
    )  # fmt: skip
    model = onnx.load_from_string(result.artifacts["onnx"].content())
    stored = [a for t in model.graph.initializer if (a := onnx.numpy_helper.to_array(t)).size > 2000]
    assert all(np.unique(a).size <= 16 for a in stored)
    assert sum(int((a == 0).sum()) for a in stored) > 0.65 * sum(a.size for a in stored)


def test_without_data_the_preset_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calibration data") as caught:
        edgecc.compile(CNN, preset="deep-compression", output=tmp_path / "out", **QUICK)
    assert "--data" in str(caught.value.remedy)
