"""--precision int4 with limits on the answers: which layers keep int8 weights, by measured noise for each byte."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Parse
from tflite_cases import Array, seeded

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.errors import FidelityError
from edgecc.importer import load
from edgecc.quant import int4
from edgecc.quant.budget import Choice, weight_choice
from edgecc.quant.constants import rounded_to_widths
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.quant.search import Outcome, cheapest
from edgecc.quant.sensitivity import noise_sources
from edgecc.quant.stored_weights import wider_weights

MODELS = Path(__file__).resolve().parents[1] / "models"
X = "g (float[1,8,8,8] x) => (float[1,8,8,8] y)"
CHAIN = "a = Conv(x, wa) b = Conv(a, wb) c = Conv<group=8>(b, wd) y = Conv<pads=[1,1,1,1]>(c, wc)"


def chain() -> dict[str, Array]:
    """1x1 weights that int4 holds, others that it does not, a depthwise layer, nine times as many weights, some bad."""
    exact = np.sign(seeded(8, 8, 1, 1)).astype(np.float32)
    coarse = exact * np.linspace(0.02, 1, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    many = np.sign(seeded(8, 8, 3, 3)).astype(np.float32)
    many[0, :4] = seeded(4, 3, 3)
    few = {
        "wa": exact,
        "wb": coarse,
        "wc": many,
    }  # not quite: shared values would have one scale for all channels
    return {
        "wd": seeded(8, 1, 1, 1),
        **{k: v * (1 + np.float32(1e-6) * seeded(*v.shape)) for k, v in few.items()},
    }


def prepared(made: Any, **precisions: Any) -> tuple[ir.Model, QuantPlan, Choice]:
    model = load(made)
    samples = list(random_samples(model, count=4, seed=3))
    labels = {str(n.outputs[0].name): ir.label(n) for n in model.graph}
    pins = {labels[n]: p for n, p in precisions.items()}
    statistics = collect(model, samples)
    plan = make_plan(model, statistics, precision="int4", precisions=pins, spare=False)
    sources = noise_sources(model, plan.for_runtime("tflite", model), samples)
    return model, plan, weight_choice(model, plan, wider_weights(model, plan), sources)


def names(nodes: Any) -> set[str]:
    return {str(node.outputs[0].name) for node in nodes}


def test_what_may_be_in_int4_has_a_choice_and_its_bytes_are_the_cost(parse: Parse) -> None:
    _, plan, choice = prepared(parse(f"{X} {{ {CHAIN} }}", constants=chain()))
    assert names(choice.free) == {"a", "b", "y"}  # the depthwise one has no int4 form
    assert {n: p.dtype for n, p in plan.tensors.items() if n.startswith("w")} == {
        "wa": "int4", "wb": "int4", "wc": "int4", "wd": "int8"
    }  # fmt: skip
    assert choice.assignment(()).cost == (64 + 64 + 576) / 2
    assert choice.assignment(choice.free).cost == 64 + 64 + 576
    rest = choice.assignment(choice.free).noise
    others = [s.noise[0] for s in choice.sources if not s.weights or s.name == "c"]
    assert rest == pytest.approx(sum(others))  # activations and the depthwise layer err in any case
    assert rest < choice.assignment(()).noise


def test_the_most_harm_for_a_byte_becomes_int8_first(parse: Parse) -> None:
    _, _, choice = prepared(parse(f"{X} {{ {CHAIN} }}", constants=chain()))
    own = {
        name: choice.assignment(()).noise - choice.assignment([n]).noise
        for n in choice.free for name in names([n])
    }  # fmt: skip
    assert own["b"] > 3 * own["a"]
    assert own["y"] > own["b"]
    hull = choice.hull()
    assert names(hull[0].raised) == set()
    assert names(hull[1].raised) == {"b"}  # y errs more, and has nine times the bytes
    for price in (1.0, 1e3, 1e5, 1e7):
        best = choice.at(price)
        every = itertools.chain.from_iterable(itertools.combinations(choice.free, k) for k in range(4))
        least = min(a.cost + price * a.noise for a in map(choice.assignment, every))
        assert best.cost + price * best.noise == pytest.approx(least)


def test_a_chosen_plan_has_int8_parameters_and_says_so(parse: Parse) -> None:
    model, plan, choice = prepared(parse(f"{X} {{ {CHAIN} }}", constants=chain()))
    limit = choice.hull()[1].worst

    def trial(tried: QuantPlan) -> Outcome:
        raised = [n for n in choice.units if tried.precision_of(n) == "int8"]
        assert names(raised) == {
            str(n.outputs[0].name) for n in choice.units if tried.tensors[str(n.inputs[1].name)].dtype == "int8"  # type: ignore[union-attr]
        }  # fmt: skip
        noise = choice.assignment(raised).worst
        return Outcome(noise <= limit, noise)

    found = cheapest([choice], trial, wanted=limit)
    assert found.outcome.met
    assert names(found.chosen.raised) == {"b"}
    assert found.plan.tensors["wb"] == make_plan(
        model, collect(model, random_samples(model, count=4, seed=3))
    ).tensors["wb"]  # fmt: skip
    assert found.plan.kept_float == {}
    assert QuantPlan.from_json(found.plan.to_json()) == found.plan
    assert plan.precisions == {}


def test_each_layer_has_the_weights_rounded_for_its_width(parse: Parse) -> None:
    model, _, choice = prepared(parse(f"{X} {{ {CHAIN} }}", constants=chain()))
    narrow, wide = model.clone(), model.clone()
    for made, number in ((narrow, 4), (wide, 8)):
        for name in chain():
            value = made.graph.initializers[name]
            shape = ir.static_dims(value)
            value.const_value = ir.Tensor(np.full(shape, number, np.float32), name=name)
    plan = choice.planned(choice.assignment([n for n in choice.units if names([n]) == {"b"}]))
    found = rounded_to_widths(narrow, wide, plan).graph.initializers
    widths = {name: float(ir.constant(found[name]).max()) for name in chain()}  # type: ignore[union-attr]
    assert widths == {"wa": 4, "wb": 8, "wc": 4, "wd": 8}


def test_nodes_with_an_own_precision_keep_it(parse: Parse) -> None:
    made = parse(f"{X} {{ {CHAIN} }}", constants=chain())
    _, plan, choice = prepared(made, b="int4", a="int8")
    assert names(choice.free) == {"y"}
    assert (plan.tensors["wa"].dtype, plan.tensors["wb"].dtype) == ("int8", "int4")
    raised = choice.planned(choice.assignment(choice.free))
    assert {n: raised.tensors[n].dtype for n in ("wa", "wb", "wc")} == {
        "wa": "int8", "wb": "int4", "wc": "int8"
    }  # fmt: skip


def test_a_matrix_that_two_nodes_read_is_chosen_and_paid_once(parse: Parse) -> None:
    text = "g (float[4,8] x) => (float[4,8] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
    _, _, choice = prepared(parse(text, constants={"w": seeded(8, 8)}))
    assert names(choice.free) == {"a"}
    assert choice.assignment(()).cost == 32
    quiet, loud = choice.assignment(choice.free), choice.assignment(())
    weights = [s for s in choice.sources if s.weights]
    assert len(weights) == 2
    assert loud.worst - quiet.worst == pytest.approx(sum(s.noise[0] for s in weights))


# ---- the command -------------------------------------------------------------------------------------------------


def compiled(tmp_path: Path, **words: Any) -> edgecc.CompileResult:
    given: dict[str, Any] = {
        "no_profile": True,
        "threads": 1,
        "precision": "int4",
        "output": tmp_path / "out",
    }
    given["data"] = MODELS / "digits_cnn_calib.npz"
    return edgecc.compile(MODELS / "digits_cnn.onnx", **{**given, **words})


def widths(result: edgecc.CompileResult) -> dict[str, int]:
    plan = QuantPlan.from_json((result.output / "plan.json").read_text())
    stored = [p.dtype for p in plan.tensors.values() if p.axis is not None]
    return {kind: stored.count(kind) for kind in ("int4", "int8")}


def test_the_limit_is_kept_with_some_layers_in_int8_and_the_plan_gives_the_same_files(tmp_path: Path) -> None:
    loose = compiled(tmp_path, min_sqnr=15.0, output=tmp_path / "loose")
    words: dict[str, Any] = {"min_sqnr": 30.0}
    result = compiled(tmp_path, **words)
    assert min(f.sqnr_db for f in loose.fidelities.values()) < 30.0
    assert min(f.sqnr_db for f in result.fidelities.values()) >= 30.0
    int8 = compiled(tmp_path, precision="int8", output=tmp_path / "int8")
    for form, artifact in result.artifacts.items():
        assert loose.artifacts[form].size < artifact.size < int8.artifacts[form].size
    few, more = widths(loose), widths(result)
    assert more["int4"] < few["int4"]
    again = compiled(tmp_path, **words, output=tmp_path / "again")
    plan = tmp_path / "out" / "plan.json"
    replayed = compiled(tmp_path, plan=plan, data=None, output=tmp_path / "replayed")
    for form, artifact in result.artifacts.items():
        assert again.artifacts[form].data == artifact.data
        assert replayed.artifacts[form].data == artifact.data


def test_the_report_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    result = compiled(tmp_path, min_sqnr=30.0, format="tflite")
    (told,) = [t for t in result.report.warnings if "layers that may have int4 weights" in t]
    chosen = widths(result)
    assert told.startswith(f"{chosen['int4']} of 12 layers")
    assert "Most noise, all in int4, comes from block1.pointwise.output" in told
    refused = [r.reason for record in result.report.passes for r in record.refused]
    assert any(reason.endswith(int4.NOISY) for reason in refused)
    assert not any(reason.endswith(int4.SPARED) for reason in refused)


def test_what_int8_does_not_reach_either_is_an_error_with_the_best_that_was(tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="at least 90 dB is asked for"):
        compiled(tmp_path, min_sqnr=90.0, format="tflite")
    plan = QuantPlan.from_json((tmp_path / "out.failed" / "plan.json").read_text())
    assert set(plan.precisions.values()) == {"int8"}


def test_limits_are_held_on_the_data_that_evaluates(tmp_path: Path) -> None:
    """Faint images, on which int4 errs more than on those that calibrate."""
    with np.load(MODELS / "digits_cnn_calib.npz") as held:
        faint = {name: 0.3 * held[name][:20] for name in held.files if held[name].ndim == 4}
    words: dict[str, Any] = {"format": "tflite", "min_sqnr": 25.0}
    plain = compiled(tmp_path, **words)
    result = compiled(tmp_path, **words, eval_data=faint, output=tmp_path / "faint")
    assert result.fidelities["tflite"].samples == 20
    assert result.fidelities["tflite"].sqnr_db >= 25.0
    assert widths(result)["int8"] > widths(plain)["int8"]
