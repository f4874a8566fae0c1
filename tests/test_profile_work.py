"""What measured operators compute and move, pages and memory of `profile`, the benchmark of devices."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import edgecc
from edgecc import registry
from edgecc.analysis.tflite_workload import layers_of_graph
from edgecc.analysis.workload import layers_of
from edgecc.importer import load
from edgecc.micro import excess, file_facts
from edgecc.profile import MEASURED_THERE, OperatorTime, Profile, profile_artifact
from edgecc.profile.emulated import Difference, Emulated, LevelFound
from edgecc.profile.guest import Count, FunctionCount
from edgecc.profile.side_by_side import side_by_side
from edgecc.profile.work import with_work
from edgecc.profile.xnnpack_rows import executed, matched
from edgecc.report.tables import report_tables
from edgecc.target import target
from edgecc.tflite.reader import read_graph

Parse = Callable[..., ModelProto]
Cli = Callable[..., Any]
MODELS = Path(__file__).resolve().parents[1] / "models"
BENCHMARKS = MODELS.with_name("benchmarks")
CNN = MODELS / "digits_cnn.onnx"
SMALL = 'extends = "cortex-m4"\nname = "small"\ndescription = "a small board"\nram_kb = 16\nflash_kb = 16\n'


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> edgecc.CompileResult:
    return edgecc.compile(
        CNN, precision="int8", data=MODELS / "digits_cnn_calib.npz", format="all", no_profile=True, no_verify=True,
        output=tmp_path_factory.mktemp("work") / "out",
    )  # fmt: skip


def path_of(result: edgecc.CompileResult, form: str) -> Path:
    path = result.artifacts[form].path
    assert path is not None
    return path


def profile(*rows: OperatorTime) -> Profile:
    return Profile("LiteRT", "2.3", "here", 1, 3, 1.0, 0.9, 1.1, 0.8, rows, None, 100)


def row(index: int, kind: str, us: float = 10.0, source: str = "xnnpack") -> OperatorTime:
    return OperatorTime(index, f"{kind} #{index}", kind, us, 0.1, source)


def test_products_of_litert_are_told_by_order(int8: edgecc.CompileResult) -> None:
    path = path_of(int8, "tflite")
    found = profile_artifact(path, runs=3)
    layers = layers_of_graph(read_graph(path.read_bytes()))
    products = [(layer.name, layer.macs) for layer in layers if layer.macs]
    assert [(o.name, o.macs) for o in found.operators if o.macs] == products
    unknown = [o.type for o in found.operators if o.macs is None]
    assert all(kind.startswith(("Static Reshape", "Clamp")) for kind in unknown)
    added = next(o for o in found.operators if o.type.startswith("Add"))
    sizes = {layer.name: layer.moved for layer in layers}
    assert added.bytes == sizes[added.name]  # int8: a byte an element
    headings = found.table()
    assert "MACs" in headings
    assert "bound by" in headings


@pytest.mark.parametrize("form", ["float", "int8"])
def test_operators_of_onnx_runtime_are_told_by_name(int8: edgecc.CompileResult, form: str) -> None:
    path = CNN if form == "float" else path_of(int8, "onnx")
    found = profile_artifact(path, runs=3)
    layers = [layer for layer in layers_of(load(path)) if layer.macs]
    assert sorted(o.macs for o in found.operators if o.macs) == sorted(layer.macs for layer in layers)
    for one in found.operators:
        assert (one.macs is None) == (one.bytes is None)
    first = next(o for o in found.operators if o.macs)
    weights = 4 if form == "float" else 1
    assert first.bytes is not None
    assert first.bytes >= weights * layers[0].moved


@pytest.mark.parametrize(
    ("form", "machine", "said"), [("onnx", "x86_64", 1), ("onnx", "aarch64", 0), ("float", "x86_64", 0)]
)
def test_int8_made_for_arm_and_measured_here_says_so(
    int8: edgecc.CompileResult, monkeypatch: pytest.MonkeyPatch, form: str, machine: str, said: int
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    path = CNN if form == "float" else path_of(int8, form)
    shown = [item for item in profile_artifact(path, runs=3).tables() if isinstance(item, str)]
    assert sum("--target x86-64" in line for line in shown) == said


def test_the_terminal_of_compile_says_so_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    made = edgecc.compile(
        CNN, target="arm", data=MODELS / "digits_cnn_calib.npz", no_verify=True, output=tmp_path / "o"
    )
    shown = [item for item in report_tables(made.report) if isinstance(item, str)]
    said = [line for line in shown if "--target x86-64" in line]
    assert len(said) == 1
    assert said[0].startswith("ONNX int8: ")


def test_figures_of_a_device_say_nothing_of_this_processor(
    int8: edgecc.CompileResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    there = replace(profile(row(0, "QLinearConv", source="ort")), tier=MEASURED_THERE)
    assert not any("--target x86-64" in note for note in with_work(there, path_of(int8, "onnx")).notes)


def test_rows_that_do_not_fit_the_file_stay_without_work(int8: edgecc.CompileResult) -> None:
    data = path_of(int8, "tflite").read_bytes()
    codes = [op.code for op in read_graph(data).operators]
    kinds = {
        "CONV_2D": "Convolution (NHWC, QC8) IGEMM", "DEPTHWISE_CONV_2D": "Convolution (NHWC, QC8) DWConv",
        "FULLY_CONNECTED": "Fully Connected (NC, QS8, QC8W) GEMM", "ADD": "Add (ND)", "MEAN": "Mean (ND) Reduce",
    }  # fmt: skip
    rows = [row(i, kinds[code]) for i, code in enumerate(c for c in codes if c in kinds)]
    works = matched(rows, data)
    assert all(works)
    gone = next(i for i, one in enumerate(rows) if "DWConv" in one.type)
    fewer = matched([one for i, one in enumerate(rows) if i != gone], data)
    assert [bool(w) for w in fewer] == [
        not one.type.startswith(("Conv", "Fully")) for one in rows if one != rows[gone]
    ]
    swapped = [replace(one, type=kinds["CONV_2D"]) if i == gone else one for i, one in enumerate(rows)]
    assert not any(
        w for w, one in zip(matched(swapped, data), rows, strict=True) if one.type.startswith("Conv")
    )
    stranger = [*rows, row(0, "SOFTMAX", source="builtin")]  # not what the file has there
    assert not any(matched(stranger, data))


def test_parts_of_a_delegate_are_executed_as_dependencies_allow(parse: Parse, tmp_path: Path) -> None:
    """Operator 1 is left to a kernel of its own: 2 does not wait for it and runs with 0."""
    model = parse("g (float[1,4] x) => (float[1,4] y) { a = Abs(x) b = Neg(a) c = Sqrt(a) y = Add(b, c) }")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    made = edgecc.compile(
        tmp_path / "m.onnx",
        precision="fp32",
        format="tflite",
        no_profile=True,
        no_verify=True,
        output=tmp_path / "o",
    )
    graph = read_graph(made.artifacts["tflite"].data)
    codes = [op.code for op in graph.operators]
    alone = {codes.index("NEG")}
    order = [op.code for op in executed(graph, alone)]
    assert order == ["ABS", "SQRT", "NEG", "ADD"]
    assert [op.code for op in executed(graph, set())] == codes


def test_bounds_are_by_the_highest_rates_of_the_file(
    int8: edgecc.CompileResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = importlib.import_module("edgecc.profile.work")
    known = [work.Work("a", 10_000, 1_000), work.Work("b", 100, 2_000), work.Work("c", 500, 50), None]
    monkeypatch.setattr("edgecc.profile.xnnpack_rows.matched", lambda rows, data: known[: len(rows)])
    path = path_of(int8, "tflite")
    rows = [row(i, "Add (ND)") for i in range(4)]
    found = with_work(profile(*rows), path)
    assert [o.bound for o in found.operators] == ["compute", "memory", "neither", ""]
    assert [o.name for o in found.operators] == ["a", "b", "c", "Add (ND) #3"]
    assert "1 GMAC/s and 0.2 GB/s" in found.notes[-1]
    one = with_work(profile(rows[0]), path)  # its rates are the highest of both kinds: nothing is told
    assert one.operators[0].bound == ""
    assert "not told" in one.notes[0]


def test_a_file_that_cannot_be_read_leaves_the_profile(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"network")
    measured = profile(row(0, "Add (ND)"))
    assert with_work(measured, tmp_path / "m.tflite") == measured
    assert with_work(measured, tmp_path / "none.onnx") == measured


def test_every_kind_of_result_has_a_page(int8: edgecc.CompileResult, tmp_path: Path) -> None:
    count = Count(10, True, {"dot": 1, "mmla": 0, "mlal": 0, "fmla": 0}, (
        FunctionCount("<f>", 10, 1.0, {"dot": 1, "mmla": 0, "mlal": 0, "fmla": 0}),
    ))  # fmt: skip
    level = LevelFound("a76", "cortex-a76", "0", (Difference("this machine", 4, 0, 0.0, 0),), count, {})
    board = tmp_path / "small.toml"
    board.write_text(SMALL)
    pages = {
        "measured here": profile(row(0, "<b>"), row(1, "Add (ND)")).page("<net>"),
        "emulated": Emulated("LiteRT", "2.3", 1, (level,), None).page("<net>"),
        "does not fit": side_by_side(path_of(int8, "tflite"), [target(str(board))]).page("<net>"),
    }
    for said, text in pages.items():
        assert said in text
        assert text.count("<svg") == (2 if said == "does not fit" else 1)  # latency and memory
        assert not any(raw in text for raw in ("<net>", "<b>", "<f>", "http:", "src="))


def test_profile_writes_a_page_of_what_was_measured(
    cli: Cli, int8: edgecc.CompileResult, tmp_path: Path
) -> None:
    page = tmp_path / "p.html"
    found = cli("profile", path_of(int8, "tflite"), "--runs", "3", "--html", page, "--json")
    assert found.code == 0, found.err
    assert any(one["macs"] for one in found.json["operators"])
    text = page.read_text()
    assert "measured here" in text
    assert "<svg" in text


def test_profile_tells_the_memory_of_a_microcontroller(
    cli: Cli, int8: edgecc.CompileResult, tmp_path: Path
) -> None:
    path, board = path_of(int8, "tflite"), tmp_path / "small.toml"
    board.write_text(SMALL)
    found = cli("profile", path, "--target", f"cortex-m4,cortex-m55,{board}", "--json")
    assert found.code == 0, found.err
    memory = found.json["memory"]
    assert list(memory) == ["cortex-m4", "cortex-m55", "small"]
    assert memory["small"]["arena_bytes"] == memory["cortex-m4"]["arena_bytes"] > 16 * 1024
    assert memory["cortex-m4"]["peak"]["operator"]
    text = cli("profile", path, "--target", f"cortex-m4,{board}").out
    assert "cortex-m4: most memory lives during" in text
    assert text.count("small: does not fit:") == 2  # RAM and flash
    assert "cortex-m4: does not fit" not in text
    assert (
        cli("profile", CNN, "--target", "cortex-m4", "--json").json["memory"] == {}
    )  # no arena without a file


def test_memory_of_a_file_is_that_of_its_compilation(tmp_path: Path) -> None:
    made = edgecc.compile(
        CNN, target="cortex-m4", precision="int8", data=MODELS / "digits_cnn_calib.npz", no_profile=True,
        no_verify=True, output=tmp_path / "o",
    )  # fmt: skip
    told = made.report.artifacts[0].memory
    assert told is not None
    facts = file_facts(made.artifacts["tflite"].data, target("cortex-m4"))
    assert replace(facts, given_order_bytes=told.given_order_bytes) == told
    assert excess(facts, "cortex-m4") == (None, None)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module("devices")
    for name in {"devices", "device_checks", "environments", "networks"} - before:
        sys.modules.pop(name, None)


def test_the_benchmark_of_devices_has_every_target_and_format(devices: Any) -> None:
    assert set(devices.TARGETS) == set(registry.target_files())
    checks = importlib.import_module("device_checks")
    for name, formats in devices.TARGETS.items():
        assert set(formats) == set(target(name).formats)
        assert all(check.partition("@")[0] in checks.CHECKS for each in formats.values() for check in each)


def test_files_that_differ_in_the_name_of_the_target_share_their_checks(
    devices: Any, int8: edgecc.CompileResult, tmp_path: Path
) -> None:
    digest = importlib.import_module("device_checks").digest
    made = {
        name: edgecc.compile(
            CNN, target=name, precision="fp32", format="tflite", no_profile=True, no_verify=True,
            output=tmp_path / name,
        ).artifacts["tflite"]
        for name in ("arm", "cortex-a53")
    }  # fmt: skip
    assert made["arm"].data != made["cortex-a53"].data
    assert digest(made["arm"].path) == digest(made["cortex-a53"].path) != digest(path_of(int8, "tflite"))


def test_a_file_that_is_refused_is_not_taken(devices: Any, tmp_path: Path) -> None:
    check = importlib.import_module("device_checks").check
    (tmp_path / "m.tflite").write_bytes(b"damaged")
    found = check("litert", tmp_path / "m.tflite", {"x": np.zeros((1, 1), np.float32)})
    assert not found.whole
    assert "refuses" in found.text


def test_products_in_float_are_found(devices: Any, int8: edgecc.CompileResult, tmp_path: Path) -> None:
    found = importlib.import_module("device_checks").float_products
    assert found(path_of(int8, "tflite")) == []
    made = edgecc.compile(
        CNN, precision="fp32", format="tflite", no_profile=True, no_verify=True, output=tmp_path / "o"
    )
    assert found(path_of(made, "tflite"))
