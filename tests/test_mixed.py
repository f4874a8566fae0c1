"""Several precisions in one graph: seams, islands, pins, integer ports."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_lower_int8 import GRAPHS, graph, network
from tflite_cases import Array, seeded

import edgecc
from edgecc import ir
from edgecc.analysis.cost import conversion, cycles
from edgecc.analysis.two_labels import TwoLabels
from edgecc.artifact import Artifact
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.errors import ModelError, UnsupportedError, UsageError
from edgecc.importer import load
from edgecc.onnxrt.export import export
from edgecc.options import make_options
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext, Pipeline, validate
from edgecc.presets import make_pass
from edgecc.quant import islands, rules
from edgecc.quant.params import from_weights
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.quant.units import integer_units, unit_outputs
from edgecc.report.schema import artifact_facts
from edgecc.report.tables import islands as islands_text
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.target import CostSpec
from edgecc.tflite.lower import lower

MODELS = Path(__file__).resolve().parents[1] / "models"


def planned(made: onnx.ModelProto, precision: Any = "mixed", **precisions: Any) -> tuple[ir.Model, QuantPlan]:
    """The float network, and its plan with the precisions of nodes by their first output."""
    model, _ = Pipeline([make_pass("fuse_gemm")]).run(load(made))
    statistics = collect(model, random_samples(model, count=4, seed=3))
    labels = {str(n.outputs[0].name): ir.label(n) for n in model.graph}
    chosen = {labels[name]: p for name, p in precisions.items()}
    return model, make_plan(model, statistics, precision=precision, precisions=chosen)


def written(model: ir.Model, plan: QuantPlan, io_dtype: Any = "float32") -> tuple[ir.Model, Artifact]:
    """The graph with Q/DQ nodes and the TFLite file."""
    copy = model.clone()
    special = plan.for_runtime("tflite", model, edgecc.target("arm"))
    InsertQDQ(io_dtype=io_dtype).apply(copy, PassContext(plan=special))
    validate(copy)
    return copy, lower(copy, precision="mixed", target="arm", io_dtype=io_dtype)


def decibels(reference: Array, answer: Array) -> float:
    error = np.sum((answer.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / max(error, 1e-30)))


def check(model: ir.Model, plan: QuantPlan, io_dtype: Any = "float32") -> Artifact:
    """LiteRT answers like the Q/DQ graph, as far from the float network as that is."""
    quantized, artifact = written(model, plan, io_dtype)
    runner, simulation = (OrtRunner.from_model(m, optimize=False) for m in (model, quantized))
    feeds = {s.name: seeded(*(d or 2 for d in s.shape), seed=9) for s in runner.inputs}
    real, wanted = runner.run(feeds), simulation.run(feeds)
    got = LiteRtRunner(artifact.data, threads=1).run(feeds)
    for name, array in real.items():
        # A step more or less in front of a Sigmoid is ten decibels behind it.
        assert decibels(array, got[name]) > min(decibels(array, wanted[name]) - 12, 60)
        assert decibels(array, got[name]) > 22
    return artifact


FORK = "c = Conv(x, w, b) r = Relu(c) d = Conv(r, w) e = Conv(r, w, b) f = Conv(r, w) a = Add(d, e) y = Add(a, f)"


def test_one_quantize_between_the_widths_serves_all_readers() -> None:
    model, plan = planned(graph(FORK), d="int16x8", e="int16x8", a="int16x8", f="int16x8", y="int16x8")
    artifact = check(model, plan)
    assert artifact.notes["operators"] == {
        "CONV_2D": 4, "ADD": 2, "QUANTIZE": 2, "DEQUANTIZE": 1,
    }  # fmt: skip
    assert artifact.notes["conversions"] == 1
    (missing,) = artifact.notes["not_in_tflite_runtime_2_14"]
    assert "QUANTIZE" in missing
    assert "int16" in missing
    model, plan = planned(graph(FORK), c="int16x8")
    artifact = check(model, plan)
    assert (artifact.notes["operators"]["QUANTIZE"], artifact.notes["conversions"]) == (2, 1)
    assert artifact.notes["not_in_tflite_runtime_2_14"] == []


def test_int8_values_are_exact_in_int16() -> None:
    model, plan = planned(graph(FORK), d="int16x8")
    special = plan.for_runtime("tflite", model)
    narrow, wide = special.tensors["r"], special.seams["r"]
    assert wide.dtype == "int16"
    assert wide.scale[0] * 128 == narrow.scale[0]
    values = narrow.dequantize(np.arange(-128, 128, dtype=np.int8))
    np.testing.assert_array_equal(wide.dequantize(wide.quantize(values)), values)


def test_values_that_float_makes_are_quantized_once_a_width() -> None:
    model, plan = planned(graph("y = Conv(x, w) z = Conv(x, w)"), z="int16x8")
    assert check(model, plan).notes["operators"] == {"CONV_2D": 2, "DEQUANTIZE": 2, "QUANTIZE": 2}
    assert plan.for_runtime("tflite", model).tensors["x"].dtype == "int16"
    assert plan.for_runtime("tflite", model).seams["x"].dtype == "int8"


def test_groups_of_one_scale_end_at_seams() -> None:
    text = "c = Conv(x, w) s = Sigmoid(x) k = Concat<axis=1>(c, s, x) y, z = Split<axis=1, num_outputs=2>(k)"
    for wide in ("c", "s", "k", "y"):
        model, plan = planned(graph(text), **{wide: "int16x8"})
        check(model, plan)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic"])
def test_float_nodes_between_integer_ones_stay_float(precision: str) -> None:
    """DequantizeLinear, operator, QuantizeLinear is what an integer operator looks like, too."""
    model, plan = planned(graph("c = Conv(x, w, b) d = Conv(c, w, b) s = Sigmoid(d) y = Conv(s, w)"),
                          d=precision, s=precision)  # fmt: skip
    artifact = check(model, plan)
    found = {i["op_type"]: i["reason"] for i in artifact.notes["float_islands"]}
    assert found == dict.fromkeys(("Conv", "Sigmoid"), f"the plan computes it in {precision}")
    assert artifact.notes["operators"]["DEQUANTIZE"] == (3 if precision == "fp16" else 2)
    quantized, _ = written(model, plan)
    weights = [n.inputs[1].producer() for n in quantized.graph if n.op_type == "Conv"]  # type: ignore[union-attr]
    kinds = [None if w is None else w.op_type for w in weights]
    middle = {"fp32": None, "fp16": "Cast", "dynamic": "DequantizeLinear"}[precision]
    assert kinds == ["DequantizeLinear", middle, "DequantizeLinear"]


def test_convolutions_without_a_kernel_for_int8_weights_stay_float() -> None:
    made = graph("c = Conv(x, w) t = ConvTranspose(c, dense) y = Conv(t, w)")
    artifact = check(*planned(made, t="dynamic"))
    assert [i["op_type"] for i in artifact.notes["float_islands"]] == ["ConvTranspose"]


def test_weights_that_are_read_along_two_axes() -> None:
    """Their scales lie along one of them: the other operator computes in float, in graphs of others too."""
    for text in ("t = ConvTranspose(x, w) y = Conv(t, w)", "t = Conv(x, w) y = ConvTranspose(t, w)"):
        for kind in ("int8", "dynamic", "int16x8"):
            model, plan = planned(graph(text), t=kind)
            assert any("along another axis" in i["reason"] for i in check(model, plan).notes["float_islands"])
    made = network(
        "g (float[1,4,6,5] x) => (float[1,4,6,5] y) { a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) "
        "v = DequantizeLinear<axis=1>(w, many, zs) c = Conv(b, v) d = QuantizeLinear(c, t, z) "
        "y = DequantizeLinear(d, t, z) }",
        s=np.array(0.03, np.float32), t=np.array(0.1, np.float32), z=np.array(0, np.int8),
        many=np.array([0.01, 0.001, 0.02, 0.005], np.float32), zs=np.zeros(4, np.int8),
        w=np.arange(-8, 8).astype(np.int8).reshape(4, 4, 1, 1) * 15,
    )  # fmt: skip
    feeds = {"x": seeded(1, 4, 6, 5)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    got = LiteRtRunner(lower(load(made), precision="int8", target="arm").data).run(feeds)["y"]
    np.testing.assert_allclose(got, wanted, atol=0.11)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRAPHS)
def test_any_mixture_answers_rightly(name: str, seed: int) -> None:
    random = np.random.default_rng((seed, len(name)))
    made = graph(GRAPHS[name])
    kinds = ["int8", "int8", "int16x8", "int16x8", "fp32", "dynamic", "fp16"]
    precisions = {str(out): random.choice(kinds) for node in made.graph.node for out in node.output[:1]}
    if name in ("head", "flatten"):  # where fuse_gemm rewrites nodes
        precisions = {k: v for k, v in precisions.items() if k not in ("f", "g")}
    model, plan = planned(made, **precisions)
    check(model, plan, random.choice(["float32", "int8", "uint8", "int16"]))


@pytest.mark.parametrize("precision", ["int8", "int16x8", "mixed"])
@pytest.mark.parametrize("io_dtype", ["int8", "uint8", "int16"])
def test_integer_ports(precision: str, io_dtype: str) -> None:
    model, plan = planned(
        graph(GRAPHS["head"]), precision, **({"c": "int16x8"} if precision == "mixed" else {})
    )
    artifact = check(model, plan, io_dtype)
    assert {p.dtype for p in (*artifact.inputs, *artifact.outputs)} == {io_dtype}
    assert "DEQUANTIZE" not in artifact.notes["operators"]
    own = {"int8": "int8", "int16x8": "int16"}.get(precision)
    assert artifact.notes["operators"].get("QUANTIZE", 0) == 0 or io_dtype != own


def test_an_input_that_both_widths_read_has_one_port() -> None:
    for io_dtype in ("int8", "int16"):
        model, plan = planned(graph("y = Conv(x, w) z = Conv(x, w)"), z="int16x8")
        artifact = check(model, plan, io_dtype)
        assert [p.dtype for p in artifact.inputs] == [io_dtype]
        assert "DEQUANTIZE" not in artifact.notes["operators"]


def test_a_plan_is_kept_and_edited_as_json() -> None:
    model, plan = planned(graph(FORK), d="int16x8", e="fp32")
    special = plan.for_runtime("tflite", model)
    for one in (plan, special):
        assert QuantPlan.from_json(one.to_json()) == one
        assert one.diff(QuantPlan.from_json(one.to_json())) == []
    data = json.loads(islands.assign(plan, model, "tflite", CostSpec(conversion=1e6)).to_json())
    labels = {str(n.outputs[0].name): ir.label(n) for n in model.graph}
    assert data["precisions"][labels["e"]] == "fp32"
    assert set(data["precisions"]) == {ir.label(n) for n in integer_units(model, "tflite", plan)[0]} | {
        labels["e"]
    }
    data["precisions"][labels["a"]] = "int8"  # by hand: wins over what was chosen, and its reason
    edited = QuantPlan.from_json(json.dumps(data))
    assert edited.precision_of(next(n for n in model.graph if n.outputs[0].name == "a")) == "int8"
    data["precisions"][labels["a"]] = "int3"
    with pytest.raises(UsageError, match="int3"):
        QuantPlan.from_json(json.dumps(data))
    with pytest.raises(ModelError):
        QuantPlan.from_json(json.dumps({**data, "precisions": [1]}))


def test_onnx_runtime_computes_int16_nodes_in_float() -> None:
    model, plan = planned(graph(FORK), d="int16x8")
    special = plan.for_runtime("onnx", model)
    _, reasons = integer_units(model, "onnx", special)
    label = next(ir.label(n) for n in model.graph if n.outputs[0].name == "d")
    assert reasons[label] == "ONNX Runtime has no kernels for int16 activations"
    copy = model.clone()
    InsertQDQ().apply(copy, PassContext(plan=special))
    artifact = export(copy, precision="mixed", target="arm")
    feeds = {"x": seeded(2, 4, 8, 6, seed=9)}
    real = OrtRunner.from_model(model).run(feeds)["y"]
    assert decibels(real, OrtRunner.from_bytes(artifact.data).run(feeds)["y"]) > 25


# ---- islands ---------------------------------------------------------------------------------------------------


def best(problem: TwoLabels) -> float:
    """The least cost, by trying everything."""
    free = [v for v in problem.costs if v not in problem.pins]
    labels = ({**problem.pins, **dict(zip(free, bits, strict=True))}
              for bits in itertools.product((0, 1), repeat=len(free)))  # fmt: skip
    return float(min(problem.total(each) for each in labels))


@pytest.mark.parametrize("seed", range(60))
def test_the_cut_is_optimal(seed: int) -> None:
    random = np.random.default_rng(seed)
    problem, count = TwoLabels(), int(random.integers(2, 9))
    for v in range(count):
        problem.add(v, *random.integers(0, 10, 2).astype(float))
        if random.random() < 0.3:
            problem.pin(v, int(random.integers(2)))
    for v in range(count - 1):
        readers = random.integers(v + 1, count, random.integers(1, 4)).tolist()
        problem.value(v, readers, float(random.integers(0, 10)))
    labels = problem.solve()
    assert all(labels[v] == label for v, label in problem.pins.items())
    assert problem.total(labels) == best(problem)


def test_where_both_cost_the_same_integers_win() -> None:
    problem = TwoLabels()
    problem.add("a", 1, 1)
    problem.add("b", 0, 2)
    problem.value("a", ["b"], 2)
    problem.pin("input", 1)
    problem.value("input", ["a"], 2)
    assert problem.solve() == {"input": 1, "a": 1, "b": 1}


REGIONS = {
    "gate": "c = Conv(x, w) t = Sin(c) m = Mul(c, t) n = Add(m, c) y = Conv(n, w)",
    "chain": "c = Conv(x, w) t = Sin(c) m = Mul(t, t) n = Add(m, m) o = Cos(n) y = Conv(o, w)",
    "branch": "c = Conv(x, w) t = Sin(c) k = Concat<axis=1>(c, t) r = Relu(k) s = Cos(r) y = Mul(r, s)",
    "shared": "s = Sigmoid(x) t = Sin(s) m = Mul(s, x) n = Mul(m, t) y = Conv(n, w)",
}


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("ports", [0, 1, None])
@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_islands_are_found(name: str, ports: int | None, seed: int) -> None:
    """Against every assignment, costed here from the network itself."""
    random = np.random.default_rng((seed, len(name)))
    rates = CostSpec(
        mac={"fp32": random.random(), "int8": random.random() / 2, "int16x8": 1.0},
        byte={"fp32": random.random() / 4, "int8": random.random() / 4, "int16x8": 1.0},
        conversion=random.random(), operator=10 * random.random(),
    )  # fmt: skip
    model, plan = planned(graph(REGIONS[name]))
    units, _ = integer_units(model, "tflite", plan)
    nodes = list(units)
    problem = islands.cut_problem(model, nodes, dict.fromkeys(nodes, "int8"), rates, ports=ports)
    got = problem.solve()

    def cost(integer: set[ir.Node]) -> float:
        found = sum(cycles(n, unit_outputs(n), "int8" if n in integer else "fp32", rates) for n in nodes)
        absorbed = {rules.fused_activation(n) for n in nodes}
        values = [(v, ports) for v in model.graph.inputs] + [
            (out, int(n in integer)) for n in model.graph if n not in absorbed
            for out in (unit_outputs(n) if n in units else n.outputs)
        ]  # fmt: skip
        for value, made in values:
            wants = [int(u.node in integer) for u in value.uses()]
            wants += [ports] if value.is_graph_output() and ports is not None else []
            if made is not None and any(w != made for w in wants):
                found += conversion(value, rates)
        return found

    least = min(
        cost({n for n, bit in zip(nodes, bits, strict=True) if bit})
        for bits in itertools.product((0, 1), repeat=len(nodes))
    )
    assert cost({n for n in nodes if got[n] == 1}) == pytest.approx(least)


def test_elementwise_operators_between_float_ones_stay_float() -> None:
    model, plan = planned(graph(REGIONS["chain"]), "int8")
    artifact = check(model, plan)
    islands_found = {i["op_type"]: i["reason"] for i in artifact.notes["float_islands"]}
    assert islands_found["Mul"] == islands_found["Add"] == islands.DEARER
    assert set(islands_found) == {"Sin", "Mul", "Add", "Cos"}
    assert artifact.notes["conversions"] == 2
    pinned = planned(graph(REGIONS["chain"]), "int8", m="int8", n="int8")
    assert check(*pinned).notes["conversions"] == 4


@pytest.mark.parametrize("name", GRAPHS)
def test_explicit_int8_computes_what_has_a_kernel(name: str) -> None:
    model, plan = planned(graph(GRAPHS[name]), "int8")
    assert dict(plan.for_runtime("tflite", model).kept_float) == {}


def test_sums_of_products_stay_integers_in_int8_and_move_in_mixed() -> None:
    dear = CostSpec(conversion=1e6)
    text = "s = Sin(x) c = Conv(s, w) y = Cos(c)"
    for precision, wanted in (("int8", "int8"), ("mixed", "fp32")):
        model, plan = planned(graph(text), precision)
        if precision == "mixed":
            plan = islands.assign(plan, model, "tflite", dear)
        conv = next(n for n in model.graph if n.op_type == "Conv")
        assert plan.precision_of(conv) == wanted
        assert islands.lazy(model, integer_units(model, "tflite", plan)[0], {conv: "int8"}, dear) == {}


def test_mixed_weighs_ports_and_pins() -> None:
    """Where conversions cost more than everything, a network with float ports is float, one with int8 ports int8."""
    dear = CostSpec(conversion=1e6)
    model, plan = planned(graph(GRAPHS["residual"]))
    assert set(islands.assign(plan, model, "tflite", dear).precisions.values()) == {"fp32"}
    assert set(islands.assign(plan, model, "tflite", dear, ports=True).precisions.values()) == {"int8"}
    model, plan = planned(graph(GRAPHS["residual"]), c="int8")
    assert "int8" in islands.assign(plan, model, "tflite", dear).precisions.values()


# ---- the command -----------------------------------------------------------------------------------------------


def compiled(tmp_path: Path, **words: Any) -> edgecc.CompileResult:
    given: dict[str, Any] = {"format": "tflite", "no_profile": True, "threads": 1, "output": tmp_path / "out"}
    if "plan" not in words:
        given["data"] = MODELS / "digits_cnn_calib.npz"
    return edgecc.compile(MODELS / "digits_cnn.onnx", **{**given, **words})


def test_nodes_are_pinned_by_name(tmp_path: Path) -> None:
    result = compiled(tmp_path, precision="int8", keep=("*pointwise*=fp32",))
    found = result.artifacts["tflite"].notes["float_islands"]
    assert found
    assert {i["reason"] for i in found} == {"the plan computes it in fp32"}
    plan = QuantPlan.from_json((tmp_path / "out" / "plan.json").read_text())
    assert set(plan.precisions.values()) == {"fp32"}
    again = compiled(tmp_path, plan=tmp_path / "out" / "plan.json", output=tmp_path / "again")
    assert again.artifacts["tflite"].notes == result.artifacts["tflite"].notes
    with pytest.raises(UsageError, match="no node is called"):
        compiled(tmp_path, precision="int8", keep={"nothing": "fp32"})
    for words in ({"keep": "a"}, {"keep": "a=int3"}, {"keep": {"a": "b"}}):
        with pytest.raises(UsageError, match="no precision of a node"):
            make_options(words)
    with pytest.raises(UsageError, match="no precisions of their own"):
        compiled(tmp_path, precision="fp32", keep={"*": "int8"}, data=None)


def test_a_plan_that_names_another_network_s_node(tmp_path: Path) -> None:
    compiled(tmp_path, precision="int8")
    data = json.loads((tmp_path / "out" / "plan.json").read_text())
    data["precisions"] = {"elsewhere": "fp32"}
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="elsewhere"):
        compiled(tmp_path, plan=tmp_path / "plan.json")


def test_mixed_is_compiled_for_both_formats(tmp_path: Path) -> None:
    result = compiled(tmp_path, precision="mixed", format="all")
    assert set(result.artifacts) == {"tflite", "onnx"}
    plan = QuantPlan.from_json((tmp_path / "out" / "plan.json").read_text())
    assert plan.precision == "mixed"
    assert plan.precisions
    assert min(f.sqnr_db for f in result.fidelities.values()) > 25


def test_int16x8_is_written_as_tflite_alone(tmp_path: Path) -> None:
    assert set(compiled(tmp_path, precision="int16x8", format=None).artifacts) == {"tflite"}
    for form in ("onnx", "all"):
        with pytest.raises(UnsupportedError, match="no kernels for it") as caught:
            compiled(tmp_path, precision="int16x8", format=form)
        assert "--format tflite" in str(caught.value)


def rounded_weights(model: ir.Model) -> ir.Model:
    """The float network with weights that int8 can hold."""
    copy = model.clone()
    for node in copy.graph:
        weight = rules.weight_of(node)
        array = ir.constant(weight)
        if weight is not None and array is not None:
            params = from_weights(array, rules.channel_axis(node))
            weight.const_value = ir.Tensor(params.dequantize(params.quantize(array)), name=weight.name)
    return copy


def samples(shared: Path, name: str) -> Array:
    if name == "digits_cnn":
        with np.load(MODELS / "digits_cnn_test.npz") as held:
            return np.asarray(next(a for a in held.values() if a.ndim == 4), np.float32)[:24]
    if name == "kws_dscnn":
        with np.load(shared / "data" / "kws01_mfcc_int8.npz") as held:
            mfcc = np.asarray(held["x_int8"][::40], np.float32)
            return (mfcc[:, None] - 83) * np.float32(0.58470290899)
    if name.startswith("resnet"):
        with np.load(shared / "data" / "cifar10_test_dev.npz") as held:
            mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            return np.asarray(((held["x"][::250] / 255 - mean) / std).transpose(0, 3, 1, 2), np.float32)
    from PIL import Image

    scale: Mapping[str, Callable[[Any], Any]] = {
        "efficientnet_lite0": lambda x: (x - 127) / 128,
        "mobilenet_v2_1.0": lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    }
    files = sorted((shared / "data" / "imagenet_dev").glob("*.jpg"))[::60]
    images = [scale[name](np.asarray(Image.open(f).convert("RGB"), np.float64)) for f in files]
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize(
    "name", ["digits_cnn", "resnet20", "kws_dscnn", "mobilenet_v2_1.0", "efficientnet_lite0"]
)
def test_int16_activations_lose_nothing_beside_int8_weights(shared: Path, name: str) -> None:
    """At least 40 dB from the float network with the same rounded weights: where int16x8 errs, the weights do."""
    path = MODELS / f"{name}.onnx" if name.startswith("digits") else shared / "models" / f"{name}.onnx"
    target = edgecc.target("arm")
    passes = [make_pass(p) for p in target.pipeline.passes]
    floats, _ = Pipeline(passes).run(load(path), PassContext(target=target, check=False))
    array = samples(shared, name)
    (value,) = floats.graph.inputs
    rows = [{str(value.name): array[i : i + 1]} for i in range(len(array))]
    plan = make_plan(floats, collect(floats, rows), precision="int16x8").for_runtime("tflite", floats, target)
    quantized, _ = Pipeline([make_pass("insert_qdq")]).run(floats, PassContext(plan=plan, check=False))
    artifact = lower(quantized, precision="int16x8", target="arm")
    assert not artifact.notes["float_islands"]
    reference, runner = OrtRunner.from_model(rounded_weights(floats)), LiteRtRunner(artifact.data, threads=1)
    wanted, got = [reference.run(row) for row in rows[:8]], [runner.run(row) for row in rows[:8]]
    for output in wanted[0]:
        assert decibels(*(np.concatenate([a[output] for a in each]) for each in (wanted, got))) > 40


def test_other_quantizers_graphs_are_not_weighed() -> None:
    """A Q/DQ graph says what is integer; nothing marks its nodes."""
    made = network(
        "g (float[2,4,8,6] x) => (float[2,4,8,6] y) { a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) "
        "c = Mul(b, b) d = QuantizeLinear(c, s, z) y = DequantizeLinear(d, s, z) }",
        s=np.array(0.05, np.float32), z=np.array(0, np.int16),
    )  # fmt: skip
    artifact = lower(load(made), precision="int16x8", target="arm")
    assert not artifact.notes["float_islands"]
    feeds = {"x": seeded(2, 4, 8, 6)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    np.testing.assert_allclose(LiteRtRunner(artifact.data).run(feeds)["y"], wanted, atol=0.051)


def test_the_report_tells_islands_and_conversions() -> None:
    model, plan = planned(graph(REGIONS["chain"]), "int8")
    _, artifact = written(model, plan)
    facts = artifact_facts(artifact, file="a.tflite")
    assert facts.conversions == 2
    lines = islands_text([*facts.float_islands, *facts.float_islands])
    assert [line for line in lines if line.startswith("Mul")] == [
        f"Mul Mul_2 runs in float: {islands.DEARER}"
    ] * 2
    assert islands_text(facts.float_islands * 4)[0].startswith("4 Sin (Sin_1 and others) run in float: ")
