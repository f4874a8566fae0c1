"""Predicted latency: layers counted by kind, rates refitted, grades told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latency_cases import Parse, device, write_network

import edgecc
from edgecc.analysis.latency_fit import posterior
from edgecc.analysis.tflite_workload import layers_of_graph, precision_of_graph
from edgecc.analysis.workload import KINDS, RATES, Layer, amounts, kind_of, layers_of, total_amounts
from edgecc.compile import lower_float
from edgecc.errors import ModelError, UnsupportedError, UsageError
from edgecc.importer import load
from edgecc.profile import rates
from edgecc.profile.predict import before_and_after, predict, predict_file
from edgecc.profile.recalibrate import Measured, read_measured, refit, target_text
from edgecc.profile.side_by_side import SideBySide
from edgecc.report.predictions import prediction_tables
from edgecc.target import BoardSpec, CostSpec, FactorSpec, LatencySpec, target
from edgecc.tflite.reader import read_graph


@pytest.fixture
def network(parse: Parse, tmp_path: Path) -> Path:
    return write_network(parse, tmp_path)


def table(**given: object) -> LatencySpec:
    rates = {"conv3x3": 2.0, "depthwise": 4.0, "conv1x1": 1.0, "fc": 1.0, "layers": 1000.0}
    words = {"runtime": "LiteRT", "precision": "int8", "board": "b", "ghz": 2.0, "rates": rates, "error": 0.1,
             "networks": 5, "source": "s", **given}  # fmt: skip
    return LatencySpec(**words)  # type: ignore[arg-type]


def test_layers_are_counted_by_kind(network: Path) -> None:
    layers = layers_of(load(network))
    assert [(x.op_type, x.kind) for x in layers] == [
        ("Conv", "conv3x3"), ("Conv", "depthwise"), ("Conv", "conv1x1"), ("Sigmoid", "exp"), ("MatMul", "fc"),
    ]  # fmt: skip
    found = total_amounts(layers)
    assert found["conv3x3"] == 8 * 8 * 9 * 100
    assert found["depthwise"] == 8 * 9 * 100
    assert found["conv3x3_moved"] == 1600
    assert found["fc"] == 6400
    assert found["layers"] == 5
    assert found["written"] == 2 * 800 + 1600 + 4  # of products; the Sigmoid rescales nothing
    assert set(found) == set(RATES)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (((3, 3), 1, 1, 1, 8, 8), "conv3x3"),
        (((3, 3), 1, 1, 1, 64, 126), "conv3x3_odd"),  # no multiple of 4
        (((3, 3), 1, 1, 1, 3, 64), "conv3x3_odd"),
        (((3, 3), 1, 1, 1, 64, 4), "conv3x3_odd"),  # few
        (((3, 3), 2, 1, 1, 8, 8), "conv"),
        (((3, 3), 1, 2, 1, 8, 8), "conv"),
        (((1, 1), 1, 1, 1, 8, 8), "conv1x1"),
        (((1, 1), 1, 1, 2, 8, 16), "conv1x1"),
        (((1, 1), 1, 1, 8, 1, 8), "depthwise"),
        (((3, 3), 1, 1, 8, 1, 8), "depthwise"),
        (((3, 3), 1, 1, 2, 4, 8), "grouped"),
    ],
)
def test_kinds_of_convolutions(given: tuple[tuple[int, ...], int, int, int, int, int], kind: str) -> None:
    assert kind_of(*given) == kind
    assert kind in KINDS


def test_a_bias_is_no_layer_and_another_sum_is(parse: Parse) -> None:
    text = """g (float[1,8] x) => (float[1,4] y) {
        a = MatMul(x, w)
        b = Add(a, bias)
        y = Add(b, a)
    }"""
    model = parse(text, constants={"w": np.ones((8, 4), np.float32), "bias": np.ones(4, np.float32)})
    assert [x.op_type for x in layers_of(load(model.SerializeToString()))] == ["MatMul", "Add"]


def test_powers_are_a_kind_of_their_own(parse: Parse) -> None:
    model = parse("g (float[1,8,4,4] x) => (float[1,8,4,4] y) { y = LRN<size=5>(x) }")
    (layer,) = layers_of(load(model.SerializeToString()))
    assert (layer.kind, amounts(layer)["power_moved"]) == ("power", 256)


def test_a_prediction_is_the_sum_of_rates_times_amounts(network: Path) -> None:
    found = predict(load(network), device(table()))
    cycles = 57600 * 2 + 7200 * 4 + 12800 + 6400 + 5000
    assert found.ms == pytest.approx(cycles / 2e6)
    assert sum(o.ms for o in found.operators) == pytest.approx(found.ms)
    assert found.operators[0].bound == "compute"
    assert found.operators[3].bound == "overhead"
    assert (found.tier, found.grade) == ("predicted", rates.CALIBRATED)
    assert (found.low_ms, found.high_ms) == pytest.approx((0.9 * found.ms, 1.1 * found.ms))


def test_grades(network: Path) -> None:
    model = load(network)
    other = predict(model, device(table(runtime="ncnn", error_other=0.3)))
    assert (other.grade, other.error) == (rates.OTHER_RUNTIME, 0.3)
    assert "ncnn" in other.notes[0]
    factors = {"LiteRT": FactorSpec(factor=0.5, error=0.2, devices=7)}
    ncnn = table(runtime="ncnn", error_other=0.3, factors=factors)
    times = predict(model, device(table(runtime="else"), ncnn))
    assert (times.grade, times.error) == (rates.OTHER_RUNTIME, 0.2)
    assert times.ms == pytest.approx(0.5 * other.ms)
    assert (
        "rates of ncnn times 0.5 stand for LiteRT" in times.notes[0] and "7 other devices" in times.notes[0]
    )
    assert predict(model, device(ncnn), runtime="ncnn").ms == pytest.approx(other.ms)
    unknown = predict(model, device(ncnn), runtime="ONNX Runtime")
    assert unknown.error == 0.3
    assert unknown.ms == pytest.approx(other.ms)
    wild = predict(model, device(table(precision="fp32")))
    assert wild.grade == rates.UNCALIBRATED
    assert (wild.low_ms, wild.high_ms) == pytest.approx((wild.ms / 2, wild.ms * 2))
    assert predict(model, device(table(networks=1))).grade == rates.SCALED
    with pytest.raises(UnsupportedError, match="no latency table") as raised:
        predict(model, device())
    assert "ghz" in str(raised.value.remedy)


def test_the_bar_is_of_a_network_that_nobody_measured(network: Path) -> None:
    model = load(network)
    assert predict(model, device(table(error_new=0.3))).error == 0.3
    assert predict(model, device(table(error=0.4, error_new=0.3))).error == 0.4


@pytest.mark.parametrize(
    ("runtime", "precision", "elsewhere"),
    [("LiteRT", "int8", 0.39), ("LiteRT", "fp32", 0.74), ("X-CUBE-AI", "int8", 0.25)],
)
def test_another_board_has_a_larger_bar_than_another_clock(
    network: Path, runtime: str, precision: str, elsewhere: float
) -> None:
    spec = table(runtime=runtime, precision=precision)
    words = {"runtime": runtime, "precision": precision}
    boards = {
        "same": BoardSpec(description=spec.board, ghz=1.0, source="s"),
        "other": BoardSpec(description="another", ghz=1.0, source="s"),
    }
    for board, bar in (("same", 0.25), ("other", elsewhere)):
        given = device(spec, boards=boards, board=board)
        assert predict(load(network), given, **words).error == bar


def test_a_board_scales_by_its_clock(network: Path) -> None:
    model = load(network)
    fast, slow = predict(model, target("rpi5")), predict(model, target("rk3588"))
    assert slow.ms == pytest.approx(fast.ms)
    assert predict(model, target("rpi-zero-2w")).ms == pytest.approx(1.4 * predict(model, target("rpi3")).ms)
    assert target("rpi3").name == "cortex-a53"
    assert predict(model, target("nucleo-u575zi-q")).ghz == 0.16


def test_one_measured_network_sets_the_speed_and_keeps_the_shape() -> None:
    known = np.log([1.0, 4.0, 100.0])
    amounts_ = np.array([[1e6, 1e5, 10]])
    truth = 2.5 * amounts_ @ np.exp(known)
    found = posterior(amounts_, truth, known)
    assert (amounts_ @ np.exp(found))[0] == pytest.approx(truth[0], rel=0.02)
    assert np.ptp(found - known) < 0.1


def test_many_measured_networks_find_the_rates() -> None:
    random = np.random.default_rng(0)
    rates = np.array([1.0, 8.0, 3.0])
    amounts_ = random.lognormal(size=(60, 3))
    found = posterior(amounts_, amounts_ @ rates, np.zeros(3), strength=0.001)
    assert np.exp(found) == pytest.approx(rates, rel=0.02)


def test_calibrate_writes_a_target(network: Path, tmp_path: Path) -> None:
    base = target("nucleo-l4r5zi")
    wanted = 3 * predict(load(network), base).ms
    (tmp_path / "m.csv").write_text(f"model,latency_ms\nnet.onnx,{wanted}\n")
    (measured,) = read_measured(tmp_path / "m.csv")
    assert measured == Measured(network, wanted)
    spec, before = refit([measured], base, runtime=None, precision="int8", ghz=None, board="mine")
    assert before == pytest.approx(2 / 3, abs=0.01)
    (tmp_path / "mine.toml").write_text(target_text(spec, base, "mine", base.name))
    made = target(str(tmp_path / "mine.toml"))
    assert (made.ram_kb, made.flash_kb) == (640, 2048)
    again = predict(load(network), made)
    assert again.ms == pytest.approx(wanted, rel=0.02)
    assert again.grade == rates.SCALED
    assert len(made.latency) == len(base.latency)


def test_calibrate_keeps_the_tables_of_other_runtimes(network: Path, tmp_path: Path) -> None:
    base = target("rpi5")
    spec, _ = refit(
        [Measured(network, 1.0)], base, runtime="LiteRT", precision="int8", ghz=None, board="mine"
    )
    (tmp_path / "mine.toml").write_text(target_text(spec, base, "mine", base.name))
    made = target(str(tmp_path / "mine.toml"))
    assert made.latency == (spec, *base.latency)
    assert any(table.factors for table in made.latency)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a,b\n1,2\n", "column model"),
        ("model,latency_ms\nx.onnx,fast\n", "line 2"),
        ("model,latency_ms\nx.onnx,-1\n", "above 0"),
        ("model,latency_ms\n", "no measured network"),
    ],
)
def test_a_wrong_table_of_measurements(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ModelError, match=cause):
        read_measured(tmp_path / "m.csv")
    with pytest.raises(UsageError, match="no such file"):
        read_measured(tmp_path / "none.csv")


def test_tables_and_page_carry_tier_and_grade(network: Path) -> None:
    found = [predict_file(network, target(name)) for name in ("rpi4", "cortex-m7")]
    text = str(prediction_tables(found, 3, "<b>net"))
    page = SideBySide((), tuple(found), {}).page("<b>net")
    for part in (text, page):
        assert all(p.grade in part and p.target in part and p.tier in part for p in found)
    assert "<b>net" not in page
    assert page.count("<svg") == 2
    json.dumps([p.to_dict() for p in found])


def test_every_layer_has_a_rate(network: Path) -> None:
    assert all(amounts(layer)["layers"] == 1 for layer in layers_of(load(network)))


def test_a_tflite_file_is_counted_as_the_network_it_was_made_of(network: Path) -> None:
    artifact = lower_float(network)
    (found,), (same,) = ([layers_of_graph(read_graph(artifact.data))], [layers_of(load(network))])

    def work(layers: list[Layer]) -> dict[str, int]:
        return {k: sum(x.macs for x in layers if x.kind == k) for k in KINDS}

    assert work(found) == work(same)
    assert sum(x.weights for x in found if x.macs) >= sum(x.weights for x in same if x.macs)
    assert [x.name for x in found if x.kind == "depthwise"] == ["c"]


@pytest.mark.parametrize("lack", ["inputs", "outputs"])
def test_a_tflite_file_whose_operators_lack_tensors_is_damaged(
    network: Path, tmp_path: Path, lack: str
) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT.InitFromObj(schema.Model.GetRootAs(lower_float(network).data, 0))
    for operator in made.subgraphs[0].operators:
        setattr(operator, lack, list(getattr(operator, lack))[:1] if lack == "inputs" else [])
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    (tmp_path / "m.tflite").write_bytes(bytes(builder.Output()))
    with pytest.raises(ModelError, match=r"damaged|has no input"):
        predict_file(tmp_path / "m.tflite", target("rpi4"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic", "int8", "int16x8"])
def test_the_precision_of_a_tflite_file_is_read_from_it(
    network: Path, tmp_path: Path, precision: Any
) -> None:
    result = edgecc.compile(
        network,
        precision=precision,
        format="tflite",
        no_verify=True,
        no_profile=True,
        random_data=True,
        output=tmp_path / "o",
    )
    path = tmp_path / "plain.tflite"
    path.write_bytes(result.artifacts["tflite"].data)
    assert precision_of_graph(read_graph(path.read_bytes())) == precision
    tables = [table(precision=p) for p in ("fp32", "fp16", "dynamic", "int8", "int16x8")]
    assert predict_file(path, device(*tables)).precision == precision


def test_a_compilation_tells_before_and_after_on_its_target(network: Path, tmp_path: Path) -> None:
    result = edgecc.compile(
        network,
        target="cortex-a76",
        precision="int8",
        random_data=True,
        no_verify=True,
        output=tmp_path / "o",
    )
    before, after = (result.report.predictions[k] for k in ("original", "net.int8.tflite"))
    assert (before.precision, after.precision) == ("fp32", "int8")
    assert before.ms > 0
    assert after.ms > 0
    page = (tmp_path / "o" / "report.html").read_text()
    assert "Predicted for cortex-a76, not measured" in page
    assert before.grade in page
    assert (
        edgecc.compile(
            network,
            target="x86-64",
            precision="int8",
            random_data=True,
            no_verify=True,
            output=tmp_path / "p",
        ).report.predictions
        == {}
    )  # it has no rates: it is measured


def test_rates_of_another_precision_are_scaled_by_the_costs_of_the_target(network: Path) -> None:
    cost = CostSpec(mac={"fp32": 6.0, "int8": 2.0, "int16x8": 4.0})
    only = device(table(), cost=cost)
    int8, fp32 = (predict(load(network), only, precision=p) for p in ("int8", "fp32"))
    assert fp32.ms == pytest.approx(3 * int8.ms)
    assert fp32.grade == rates.UNCALIBRATED
    assert fp32.notes == ("rates of LiteRT in int8 stand for LiteRT in fp32, times 3 by [cost]",)


def test_what_cannot_be_counted_is_not_predicted(parse: Parse) -> None:
    text = """g (float[3,1,4] x) => (float[3,1,1,2] y) { y = RNN<hidden_size = 2>(x, w, r) }"""
    weights = {"w": np.ones((1, 2, 4), np.float32), "r": np.ones((1, 2, 2), np.float32)}
    model = load(parse(text, constants=weights))
    with pytest.raises(UnsupportedError, match="cannot be counted") as raised:
        predict(model, device(table()))
    assert "the file that was made" in str(raised.value)
    assert before_and_after(model, {}, device(table())) == {}


def test_a_prediction_of_no_file_or_another_kind_of_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        predict_file(tmp_path / "x.tflite", device(table()))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UsageError, match=r"\.onnx and \.tflite"):
        predict_file(tmp_path / "x.txt", device(table()))
