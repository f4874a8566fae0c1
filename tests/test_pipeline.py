"""The pass pipeline: what it checks, records, wraps and leaves alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import random_samples
from edgecc.errors import PassError, UsageError
from edgecc.importer import load
from edgecc.passes.clean_up import CleanUp
from edgecc.passes.fold_batchnorm import FoldBatchNorm
from edgecc.pipeline import Pass, PassContext, PassResult, Pipeline, Refusal, relative_error, validate
from edgecc.rounding import rounding_noise

MODELS = Path(__file__).resolve().parents[1] / "models"
Parse = Callable[..., onnx.ModelProto]


@dataclass(frozen=True, kw_only=True)
class Scale(Pass):
    """Multiplies every constant: exact only for a factor of 1."""

    name: ClassVar[str] = "scale"
    factor: float = 1.0

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        for value in model.graph.initializers.values():
            array = ir.constant(value)
            assert array is not None
            value.const_value = ir.Tensor(array * np.float32(self.factor))
        return PassResult(len(model.graph.initializers), (Refusal("y", "never touched"),))


@dataclass(frozen=True, kw_only=True)
class RoughScale(Scale):
    """The same, and says that it is approximate."""

    name: ClassVar[str] = "rough_scale"
    exact: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Broken(Pass):
    """Does something wrong to the graph."""

    name: ClassVar[str] = "broken"
    how: str = "raise"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        node = model.graph[0]
        if self.how == "raise":
            raise KeyError("w")
        if self.how == "usage":
            raise UsageError("not like this", node="--pass")
        if self.how == "twice":
            node.outputs[0].name = "x"
        if self.how == "unknown operator":
            node.op_type = "Nonsense"
        if self.how == "rename":
            model.graph.outputs[0].name = "z"
        if self.how == "strange":
            node.replace_input_with(0, ir.Value(name="nowhere"))
        return PassResult(1)


@pytest.fixture
def model(parse: Parse) -> ir.Model:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    return edgecc.load(
        parse("g (float[1,3] x) => (float[1,4] y) { y = MatMul(x, w) }", constants={"w": weights})
    )


def test_the_input_stays_and_weights_are_shared(model: ir.Model) -> None:
    after, log = Pipeline([RoughScale(factor=2)]).run(model)
    before = ir.constant(model.graph.initializers["w"])
    assert before is not None
    assert before[0, 1] == 1
    got = ir.constant(after.graph.initializers["w"])
    assert got is not None
    assert got[0, 1] == 2
    untouched, _ = Pipeline([]).run(model)
    assert untouched.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    assert len(log.records) == 1


def test_the_log_says_what_each_pass_did(model: ir.Model) -> None:
    _, log = Pipeline([Scale(), RoughScale(factor=3)]).run(model)
    exact, rough = log.records
    assert (exact.name, exact.exact, exact.options, exact.rewritten) == ("scale", True, {"factor": 1.0}, 1)
    assert exact.refused == (Refusal("y", "never touched"),)
    assert (exact.nodes_before, exact.nodes_after) == (1, 1)
    assert exact.seconds >= 0
    assert exact.error == 0
    assert rough.error is None  # its loss is measured by verification


def test_an_exact_pass_that_changes_the_answers_is_caught(model: ir.Model) -> None:
    with pytest.raises(
        PassError, match=r"changed the answers by 1\.\d+e-02.*passes before it: clean_up"
    ) as caught:
        Pipeline([CleanUp(), Scale(factor=1.01)]).run(model)
    assert caught.value.node == "scale"
    assert "--skip-pass scale" in str(caught.value.remedy)
    Pipeline([Scale(factor=1.01)]).run(model, PassContext(check=False))


def test_exact_passes_after_an_approximate_one_are_compared_with_it(model: ir.Model) -> None:
    _, log = Pipeline([RoughScale(factor=5), Scale()]).run(model)
    assert log.records[1].error == 0


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raise", "KeyError: 'w'"), ("twice", "two values are called x"), ("unknown operator", "cannot be run"),
     ("rename", "the outputs are now called z"), ("strange", "reads nowhere")],
)  # fmt: skip
def test_whatever_a_pass_breaks_is_told_with_its_name(model: ir.Model, how: str, reason: str) -> None:
    with pytest.raises(PassError, match=reason) as caught:
        Pipeline([CleanUp(), Broken(how=how)]).run(model)
    assert caught.value.node == "broken"
    assert caught.value.exit_code == 1
    assert "passes before it: clean_up" in str(caught.value)


def test_what_a_pass_tells_the_user_is_passed_on(model: ir.Model) -> None:
    with pytest.raises(UsageError, match="not like this"):
        Pipeline([Broken(how="usage")]).run(model)


def test_progress_and_snapshots(model: ir.Model, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    context = PassContext(dump=tmp_path / "ir", progress=lambda *step: seen.append(step))
    Pipeline([CleanUp(), Scale()]).run(model, context)
    assert seen == [("clean_up", 0, 2), ("scale", 1, 2)]
    assert sorted(p.name for p in (tmp_path / "ir").iterdir()) == ["00-clean_up.txt", "01-scale.txt"]
    assert "MatMul" in (tmp_path / "ir" / "01-scale.txt").read_text()


def test_validate_finds_an_output_that_nobody_computes(model: ir.Model) -> None:
    validate(model)
    model.graph.outputs[0] = ir.Value(name="lost")
    with pytest.raises(ValueError, match="nothing computes the output lost"):
        validate(model)


def test_relative_error() -> None:
    def array(*values: float) -> ir.Array:
        return np.array(values, np.float32)

    one, nan = array(1, 2), array(1, np.nan)
    assert relative_error(one, one) == 0
    assert relative_error(one, array(1, 2.02)) == pytest.approx(0.01, rel=1e-3)
    assert relative_error(nan, nan) == 0
    for a, b in ((one, nan), (nan, one), (one, one[:1])):
        assert relative_error(a, b) == float("inf")
    assert relative_error(np.zeros(2), np.zeros(2)) == 0


def images() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for _ in range(4):
        yield {"image": rng.random((1, 1, 32, 32), np.float32)}


@pytest.mark.parametrize("form", ["array", "generator", "path"])
def test_passes_run_alone_on_data_in_every_form(form: str) -> None:
    """The example of PRODUCT.md, with the passes that there are."""
    data: Any = MODELS / "digits_cnn_calib.npz" if form == "path" else images()
    if form == "array":
        data = np.concatenate([item["image"] for item in images()])
    model = edgecc.load(MODELS / "digits_cnn.onnx")
    pipeline = edgecc.Pipeline([CleanUp(), FoldBatchNorm()])
    folded, log = pipeline.run(model, edgecc.PassContext(data=data, target=edgecc.target("arm")))
    kinds = {node.op_type for node in folded.graph}
    assert "BatchNormalization" not in kinds
    assert "BatchNormalization" in {node.op_type for node in model.graph}
    assert log.records[1].rewritten > 5
    assert log.records[1].error is not None
    assert log.records[1].error < 1e-5


def test_rounding_of_an_ill_conditioned_network_is_no_change_of_answers(parse: Parse) -> None:
    """Only the far tail of a Sigmoid is left, which the runtime itself computes to few digits."""
    text = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
        c = Conv<pads=[1,1,1,1]>(x, w)
        b = BatchNormalization(c, scale, shift, mean, variance)
        y = Sigmoid(b)
    }"""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((4, 3, 3, 3), np.float32),
        "scale": np.full(4, 0.2, np.float32),
        "shift": np.full(4, -18.0, np.float32),
        "mean": np.zeros(4, np.float32),
        "variance": np.full(4, 0.7, np.float32),
    }
    model = load(parse(text, constants=constants))
    noise = rounding_noise(model, random_samples(model, 2, 0))
    assert noise["y"] > 1e-4
    _, log = Pipeline([FoldBatchNorm()]).run(model)
    assert log.records[0].rewritten == 1


def test_integers_are_compared_by_the_share_that_differs() -> None:
    a = np.arange(1000)
    b = a.copy()
    b[:3] = 900
    assert relative_error(a, b) == 0.003
    assert relative_error(a > 3, a > 4) == 0.001


def test_rounding_noise_of_a_sound_network_is_small(model: ir.Model) -> None:
    assert max(rounding_noise(model, random_samples(model, 2, 0)).values()) < 1e-5
