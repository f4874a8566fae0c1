"""Precisions by measured sensitivity: where noise enters, the cheapest choice that keeps limits, the speed guard."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Parse
from test_lower_int8 import GRAPHS, graph
from tflite_cases import Array, seeded

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.errors import FidelityError
from edgecc.importer import load
from edgecc.onnxrt.export import export
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext
from edgecc.quant import islands
from edgecc.quant.budget import NOISY, Assignment, Choice, choices
from edgecc.quant.constants import rounded_where_stored
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.quant.search import Found, Outcome, cheapest
from edgecc.quant.sensitivity import Source, noise_sources
from edgecc.runtime.ort import OrtRunner
from edgecc.target import CostSpec

MODELS = Path(__file__).resolve().parents[1] / "models"
X = "g (float[1,4,8,8] x) => (float[1,4,8,8] y)"
CHAIN = "a = Conv(x, wa) b = Conv(a, wb) c = Conv(b, wc) y = Conv(c, wa)"
# int16 dearer than float, as on every CPU with vectors of float.
CPU = CostSpec(
    mac={"fp32": 0.25, "int8": 0.0625, "int16x8": 1.0}, byte={"fp32": 0.06, "int8": 0.06, "int16x8": 0.2}
)
EVEN = CostSpec(mac=CPU.mac, byte=CPU.byte, conversion=0.0)


def identity(size: int = 4) -> Array:
    return np.eye(size, dtype=np.float32).reshape(size, size, 1, 1)


def uneven(wide: float = 300.0) -> dict[str, Array]:
    """A chain of convolutions in which `b` has one channel of wide range, which `c` does not even read."""
    mix = seeded(4, 4, 1, 1, seed=2)
    gain = np.array([wide, 1, 1, 1], np.float32).reshape(4, 1, 1, 1)
    return {
        "wa": mix,
        "wb": identity() * gain,
        "wc": mix * np.array([0, 1, 1, 1], np.float32).reshape(1, 4, 1, 1),
    }


def prepared(
    made: onnx.ModelProto, rates: CostSpec = EVEN, runtime: Any = "tflite", **precisions: Any
) -> tuple[ir.Model, QuantPlan, list[Source], list[Choice]]:
    model = load(made)
    samples = list(random_samples(model, count=4, seed=3))
    labels = {str(n.outputs[0].name): ir.label(n) for n in model.graph}
    plan = make_plan(
        model,
        collect(model, samples),
        precision="mixed",
        precisions={labels[n]: p for n, p in precisions.items()},
    )
    sources = noise_sources(model, plan.for_runtime(runtime, model), samples)
    return model, plan, sources, choices(model, plan, sources, rates, runtime=runtime)


def names(nodes: Any) -> set[str]:
    return {str(node.outputs[0].name) for node in nodes}


def decibels(noise: float) -> float:
    return float(-10 * np.log10(max(noise, 1e-30)))


def by_noise(choice: Choice) -> Callable[[QuantPlan], Outcome]:
    """A trial that finds what was predicted."""

    def trial(plan: QuantPlan) -> Outcome:
        raised = [n for n in choice.units if plan.precision_of(n) != "int8"]
        return Outcome(choice.assignment(raised).worst <= 1e-5, choice.assignment(raised).worst)

    return trial


# ---- where noise enters ------------------------------------------------------------------------------------------


def test_the_sensitive_activation_is_found(parse: Parse) -> None:
    _, _, sources, _ = prepared(parse(f"{X} {{ {CHAIN} }}", constants=uneven()))
    most = max(sources, key=lambda s: s.noise[0])
    assert (most.name, most.weights, names(most.nodes)) == ("b", False, {"b", "c"})
    assert most.noise[0] > 20 * max(s.noise[0] for s in sources if s is not most)


def test_the_sensitive_weights_are_found(parse: Parse) -> None:
    """One weight of each output is large where the input is always near zero: the steps are too wide for the others."""
    weights = {**uneven(1.0), "wb": identity() * np.float32(0.01)}
    weights["wb"][:, 3] = 1.0
    weights["wa"] = weights["wa"].copy()
    weights["wa"][3] *= 1e-3
    _, _, sources, _ = prepared(parse(f"{X} {{ {CHAIN} }}", constants=weights))
    most = max((s for s in sources if s.weights), key=lambda s: s.noise[0])
    assert (most.name, names(most.nodes)) == ("b", {"b"})


RESIDUAL = "a = Conv(x, wa) r = Relu(a) b = Conv(r, wb) s = Add(b, a) c = Conv(s, wc) y = Add(c, x)"


@pytest.mark.parametrize("name", ["x", "a", "r", "s", "y"])
def test_noise_is_that_of_the_network_with_this_value_rounded_alone(parse: Parse, name: str) -> None:
    """Against the whole network with one QuantizeLinear and DequantizeLinear in it."""
    constants = uneven(8.0)
    made = parse(f"{X} {{ {RESIDUAL} }}", constants=constants)
    model, plan, sources, _ = prepared(made)
    found = {s.name: s for s in sources if not s.weights}
    assert "a" in found  # both Relu and Add read it, so it is not absorbed
    special = plan.for_runtime("tflite", model)
    copy = model.clone()
    values = {str(v.name): v for v in (*copy.graph.inputs, *(o for n in copy.graph for o in n.outputs))}
    value, params = values[name], special.tensors[name]
    rounded = copy.clone()
    cut = OrtRunner.from_model(model, optimize=False, extra_outputs=[] if name in "xy" else [name])
    rest = {str(v.name): v for v in (*rounded.graph.inputs, *(o for n in rounded.graph for o in n.outputs))}
    entry = ir.Value(name="wrong", shape=value.shape, type=value.type)
    if name != "y":
        rest[name].replace_all_uses_with(entry)
        rounded.graph.inputs.append(entry)
    after = OrtRunner.from_model(rounded, optimize=False)
    error = power = 0.0
    for sample in random_samples(model, count=4, seed=3):
        answers = {**sample, **cut.run(sample)}
        wrong = params.dequantize(params.quantize(answers[name]))
        got = wrong if name == "y" else after.run({**sample, "wrong": wrong})["y"]
        error += float(np.sum((got - answers["y"]) ** 2, dtype=np.float64))
        power += float(np.sum(answers["y"] ** 2, dtype=np.float64))
    assert found[name].noise[0] == pytest.approx(error / power, rel=1e-3)


def test_what_moves_values_rounds_nothing(parse: Parse) -> None:
    text = f"{X} {{ a = Conv(x, wa) t = Transpose<perm=[0,1,3,2]>(a) i = Identity(t) y = Conv(i, wb) }}"
    _, _, sources, _ = prepared(parse(text, constants=uneven(1.0)))
    kinds = {(s.name, s.weights): names(s.nodes) for s in sources}
    assert set(kinds) == {("x", False), ("a", False), ("y", False), ("a", True), ("y", True)}
    assert kinds["a", False] == {"a", "t", "i", "y"}


def test_outputs_of_every_type_and_branches_that_read_unseen_values(parse: Parse) -> None:
    """Integers, booleans, and a graph inside of a node that reads a value of the outer one."""
    text = (
        "g (float[1,4,8,8] x, bool c) => (float[1,4,8,8] y, int64[1,1,8,8] i, bool[1,4,8,8] b) {"
        " a = Conv(x, wa) d = Conv(a, wb) i = ArgMax<axis=1>(d) b = Greater(d, a)"
        " y = If(c) <then_branch = t () => (float[1,4,8,8] p) { p = Mul(a, d) },"
        " else_branch = e () => (float[1,4,8,8] q) { q = Add(a, d) }> }"
    )
    _, _, sources, (choice,) = prepared(parse(text, constants=uneven(1.0)))
    found = {s.name: s.noise for s in sources if not s.weights}
    assert {"x", "a", "d"} <= set(found)
    assert all(np.isfinite(s.noise).all() for s in sources)
    assert found["a"][0] > 0
    assert choice.hull()[-1].noise <= choice.hull()[0].noise


def test_the_sum_predicts_the_whole() -> None:
    model = load(MODELS / "digits_cnn.onnx")
    rows = digits(8)
    samples = [{str(model.graph.inputs[0].name): rows[i : i + 1]} for i in range(len(rows))]
    plan = make_plan(model, collect(model, samples), precision="mixed")
    special = plan.for_runtime("onnx", model)
    predicted = sum(s.noise[0] for s in noise_sources(model, special, samples))
    copy = model.clone()
    InsertQDQ().apply(copy, PassContext(plan=special))
    reference, runner = OrtRunner.from_model(model), OrtRunner.from_model(copy, optimize=False)
    error = power = 0.0
    for sample in samples:
        (wanted,), (got,) = (r.run(sample).values() for r in (reference, runner))
        error += float(np.sum((got - wanted) ** 2))
        power += float(np.sum(wanted**2))
    assert decibels(predicted) == pytest.approx(decibels(error / power), abs=2.0)


def digits(count: int) -> Array:
    with np.load(MODELS / "digits_cnn_calib.npz") as held:
        return np.asarray(next(a for a in held.values() if a.ndim == 4), np.float32)[:count]


# ---- the cheapest choice -----------------------------------------------------------------------------------------


def test_only_the_sensitive_layers_are_raised(parse: Parse) -> None:
    model, plan, _, (choice,) = prepared(parse(f"{X} {{ {CHAIN} }}", constants=uneven()))
    everything = choice.assignment(())
    limit = 10 * choice.assignment([n for n in choice.units if names([n]) & {"b", "c"}]).worst
    assert limit < everything.worst / 2

    def trial(tried: QuantPlan) -> Outcome:
        noise = choice.assignment([n for n in choice.units if tried.precision_of(n) != "int8"]).worst
        return Outcome(noise <= limit, noise)

    found = cheapest([choice], trial, wanted=limit)
    assert names(found.chosen.raised) == {"b", "c"}
    assert found.outcome.met
    assert found.plan.kept_float == dict.fromkeys(map(ir.label, found.chosen.raised), NOISY)
    assert {found.plan.precision_of(n) for n in model.graph} == {"int8", "fp32"}
    assert QuantPlan.from_json(found.plan.to_json()) == found.plan
    assert plan.precisions == {}


@pytest.mark.parametrize("name", ["residual", "head", "gate"])
@pytest.mark.parametrize("price", [0.0, 1e2, 1e4, 1e6, 1e12])
def test_no_assignment_costs_less_at_a_price(name: str, price: float) -> None:
    text = GRAPHS.get(name, "c = Conv(x, w) t = Sin(c) m = Mul(c, t) n = Add(m, c) y = Conv(n, w)")
    _, _, _, (choice,) = prepared(graph(text), CPU)

    def total(a: Assignment) -> float:
        return a.cost + price * a.noise

    free = choice.free
    least = min(
        total(choice.assignment([n for n, bit in zip(free, bits, strict=True) if bit]))
        for bits in itertools.product((0, 1), repeat=len(free))
    )
    assert total(choice.at(price)) == pytest.approx(least)


def test_the_path_goes_from_cheap_to_quiet() -> None:
    _, _, _, (choice,) = prepared(graph(GRAPHS["residual"]), EVEN)
    hull = choice.hull()
    assert len(hull) > 2
    assert hull[0].raised == choice.at(0.0).raised
    assert hull[-1].noise == 0.0
    for path in (hull, choice.between(hull[0], hull[-1])):
        assert all(a.cost < b.cost and a.noise > b.noise for a, b in itertools.pairwise(path))


def test_pinned_units_keep_their_precision_and_their_noise(parse: Parse) -> None:
    _, _, sources, (choice,) = prepared(parse(f"{X} {{ {CHAIN} }}", constants=uneven()), b="int8")
    assert names(choice.free) == {"a", "c", "y"}
    loudest = max(s.noise[0] for s in sources)
    assert choice.hull()[-1].worst >= loudest
    found = cheapest([choice], by_noise(choice), wanted=1e-5)
    assert not found.outcome.met
    assert "b" not in names(found.chosen.raised)


def test_stricter_limits_cost_more_and_the_chosen_one_keeps_its() -> None:
    _, _, _, (choice,) = prepared(graph(GRAPHS["residual"]), EVEN)
    found: list[Found] = []
    for limit in (1e-2, 1e-3, 1e-4, 1e-5, 0.0):

        def trial(plan: QuantPlan, limit: float = limit) -> Outcome:
            noise = choice.assignment([n for n in choice.units if plan.precision_of(n) != "int8"]).worst
            return Outcome(noise <= limit, 2 * noise)  # what is measured is never quite what was predicted

        found.append(cheapest([choice], trial, wanted=limit))
        assert found[-1].outcome.met
        assert found[-1].chosen.worst <= limit
    costs = [f.chosen.cost for f in found]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_where_nothing_is_good_enough_the_quietest_is_chosen() -> None:
    _, _, _, (choice,) = prepared(graph(GRAPHS["residual"]), EVEN)
    tried: list[QuantPlan] = []

    def never(plan: QuantPlan) -> Outcome:
        tried.append(plan)
        return Outcome(False, float("inf"))

    found = cheapest([choice], never, wanted=None)
    assert not found.outcome.met
    assert set(found.chosen.raised) == set(choice.free)
    assert len(tried) == found.trials <= 2 + np.log2(len(choice.hull()))


def test_int16_where_it_takes_less_time_than_float(parse: Parse) -> None:
    rates = CostSpec(mac={"fp32": 4.0, "int8": 1.0, "int16x8": 2.0}, conversion=0.01)
    made = parse(f"{X} {{ {CHAIN} }}", constants=uneven())
    model, _, sources, (real, wide) = prepared(made, rates)
    assert set(wide.wider.values()) == {"int16x8"}
    assert real.hull()[-1].noise == 0.0
    assert wide.hull()[-1].worst == pytest.approx(sum(s.noise[0] for s in sources if s.weights))
    limit = 2 * wide.assignment([n for n in wide.units if names([n]) & {"b", "c"}]).worst

    def trial(plan: QuantPlan) -> Outcome:
        raised = [n for n in wide.units if plan.precision_of(n) != "int8"]
        choice = wide if "int16x8" in plan.precisions.values() else real
        return Outcome(choice.assignment(raised).worst <= limit, choice.assignment(raised).worst)

    found = cheapest([real, wide], trial, wanted=limit)
    assert {found.plan.precision_of(n) for n in model.graph} == {"int8", "int16x8"}
    assert {"b", "c"} <= names(found.chosen.raised)
    assert found.plan.kept_float == {}
    assert len(choices(model, found.plan, sources, EVEN, runtime="onnx")) == 1  # which has no int16 kernels


def test_nodes_in_float_have_their_own_weights_again(parse: Parse) -> None:
    model, _, _, (choice,) = prepared(parse(f"{X} {{ {CHAIN} }}", constants=uneven()))
    after = model.clone()
    for name in ("wa", "wb", "wc"):
        value = after.graph.initializers[name]
        value.const_value = ir.Tensor(np.zeros(value.const_value.shape, np.float32), name=name)  # type: ignore[union-attr,arg-type]
    chosen = choice.planned(choice.assignment([n for n in choice.units if names([n]) & {"a", "b"}]))
    found = rounded_where_stored(model, after, chosen).graph.initializers
    assert ir.constant(found["wb"]).any()  # type: ignore[union-attr]
    assert not ir.constant(found["wc"]).any()  # type: ignore[union-attr]
    assert not ir.constant(found["wa"]).any()  # type: ignore[union-attr] # another node has them in integers


# ---- the speed guard ---------------------------------------------------------------------------------------------


def test_what_is_not_faster_in_integers_stays_float_where_nothing_was_asked_for() -> None:
    model = load(graph("s = Sin(x) c = Conv(s, w) r = Relu(c) y = Cos(r)"))
    plan = make_plan(model, collect(model, random_samples(model, count=2, seed=1)))
    dear = CostSpec(conversion=1e6)
    guarded, remark = islands.weigh(plan, model, "tflite", dear, explicit=False)
    assert remark is None
    assert guarded.precision == "int8"
    assert set(guarded.kept_float.values()) == {islands.DEARER}
    assert {guarded.precision_of(n) for n in model.graph if n.op_type in ("Conv", "Relu")} == {"fp32"}
    asked, remark = islands.weigh(plan, model, "tflite", dear, explicit=True)
    assert asked == plan
    assert remark is not None
    assert "1 of 1 operators take less time in float than in int8 (Conv" in remark
    assert islands.weigh(plan, model, "tflite", CostSpec(conversion=0.0), explicit=True) == (plan, None)


def guarded_target(tmp_path: Path) -> str:
    path = tmp_path / "slow.toml"
    path.write_text(
        'extends = "arm"\nname = "slow"\ndescription = "integers gain nothing"\n'
        "[cost]\nmac = { fp32 = 0.1, int8 = 0.2, int16x8 = 1.0 }\nconversion = 1.0\n"
    )
    return str(path)


def compiled(tmp_path: Path, **words: Any) -> edgecc.CompileResult:
    given: dict[str, Any] = {"format": "tflite", "no_profile": True, "threads": 1, "output": tmp_path / "out"}
    given["data"] = MODELS / "digits_cnn_calib.npz"
    return edgecc.compile(MODELS / "digits_cnn.onnx", **{**given, **words})


def test_the_guard_decides_from_the_target_s_numbers(tmp_path: Path) -> None:
    result = compiled(tmp_path, target=guarded_target(tmp_path))
    assert result.report.options["precision"] == "int8"
    found = result.artifacts["tflite"].notes["float_islands"]
    assert found
    assert {i["reason"] for i in found} == {islands.DEARER}
    asked = compiled(tmp_path, target=guarded_target(tmp_path), precision="int8", output=tmp_path / "asked")
    assert asked.artifacts["tflite"].notes["float_islands"] == []
    assert any("less time in float than in int8" in text for text in asked.report.warnings)
    assert compiled(tmp_path, output=tmp_path / "arm").report.warnings == ()


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tflite", "all"])
def test_the_limit_is_kept_at_less_than_the_cost_of_float(tmp_path: Path, form: str) -> None:
    words: dict[str, Any] = {"precision": "mixed", "min_sqnr": 44.0, "format": form}
    result = compiled(tmp_path, **words)
    assert min(f.sqnr_db for f in result.fidelities.values()) >= 44.0
    plan = QuantPlan.from_json((tmp_path / "out" / "plan.json").read_text())
    assert {"int8", "fp16"} <= set(plan.precisions.values())
    (told,) = [t for t in result.report.warnings if "operators compute in integers" in t]
    assert "logits" in told
    again = compiled(tmp_path, **words, output=tmp_path / "again")
    replayed = compiled(tmp_path, plan=tmp_path / "out" / "plan.json", data=None, format=form,
                        output=tmp_path / "replayed")  # fmt: skip
    for key, artifact in result.artifacts.items():
        assert again.artifacts[key].data == artifact.data
        assert replayed.artifacts[key].data == artifact.data


def test_a_limit_that_int8_keeps_raises_nothing(tmp_path: Path) -> None:
    result = compiled(tmp_path, precision="mixed", min_agreement=0.9)
    assert result.artifacts["tflite"].notes["float_islands"] == []
    free = compiled(tmp_path, precision="mixed", output=tmp_path / "free")
    assert free.artifacts["tflite"].data == result.artifacts["tflite"].data


def test_what_float_does_not_reach_either_is_an_error_with_the_best_that_was(tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="at least 190 dB is asked for"):
        compiled(tmp_path, precision="mixed", min_sqnr=190.0)
    plan = QuantPlan.from_json((tmp_path / "out.failed" / "plan.json").read_text())
    assert set(plan.precisions.values()) == {"fp32"}


# ---- ONNX Runtime ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_onnx_runtime_leaves_the_weights_of_float_nodes_alone(seed: int) -> None:
    """Between quantized values it would round them to int8, one scale a tensor."""
    random = np.random.default_rng(seed)
    spread = (10.0 ** random.uniform(-2, 0, (4, 1, 1, 1))).astype(np.float32)
    made = graph("c = Conv(x, w) r = Relu(c) d = Conv(r, v, b) y = Conv(d, w)")
    made.graph.initializer.append(onnx.numpy_helper.from_array(seeded(4, 4, 1, 1, seed=seed) * spread, "v"))
    model = load(made)
    label = next(ir.label(n) for n in model.graph if n.outputs[0].name == "d")
    samples = list(random_samples(model, count=4, seed=3))
    plan = make_plan(model, collect(model, samples), precision="mixed", precisions={label: "fp32"})
    copy = model.clone()
    InsertQDQ().apply(copy, PassContext(plan=plan.for_runtime("onnx", model)))
    data = export(copy, precision="mixed", target="arm").data
    runners = [OrtRunner.from_bytes(data, optimize=optimize) for optimize in (True, False)]
    scale = float(plan.for_runtime("onnx", model).tensors["y"].scale[0])
    for sample in samples:
        got, wanted = (r.run(sample)["y"] for r in runners)
        # A step of an inner value may fall the other way; wrong weights would move far more answers.
        assert np.mean(np.abs(got - wanted) > 0.5 * scale) < 0.05
