"""Ethos-U: what Arm's Vela makes of int8 files, its figures in reports and tables, and what is left to the CPU."""

import hashlib
import importlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from conftest import needs_vela

import edgecc
from edgecc import vendor
from edgecc.compile import lower_float
from edgecc.errors import BudgetError, EdgeccError, ModelError, UsageError
from edgecc.options import CompileOptions
from edgecc.profile import vela
from edgecc.profile.npu import NpuFigures
from edgecc.profile.vela import compile_with_vela, profile_with_vela
from edgecc.profile.vela_files import cpu_reasons, operator_rows, read_summary
from edgecc.report.npu import figure_line
from edgecc.report.tables import report_tables
from edgecc.target import Target, read_target, target
from edgecc.tflite import npu
from edgecc.tflite.reader import Operator

MODELS = Path(__file__).resolve().parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
TARGETS = ("ethos-u55-128", "ethos-u65-512", "ethos-u85-256")
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> edgecc.CompileResult:
    return edgecc.compile(
        CNN, target="ethos-u55-128", precision="int8", data=MODELS / "digits_cnn_calib.npz", no_profile=True,
        no_verify=True, output=tmp_path_factory.mktemp("digits") / "out",
    )  # fmt: skip


def figures_of(result: edgecc.CompileResult) -> NpuFigures:
    found = result.report.artifacts[0].npu
    assert found is not None
    return found


@needs_vela
def test_a_compilation_writes_the_file_for_the_device_with_its_figures(digits: edgecc.CompileResult) -> None:
    found = figures_of(digits)
    assert found.on_cpu == ()
    assert not [w for w in digits.report.warnings if "CPU" in w]
    assert found.cycles > 0
    assert found.ms == pytest.approx(found.cycles / 500e6 * 1e3)
    assert sum(o.cycles for o in found.operators) == found.cycles
    assert {o.bound for o in found.operators if o.cycles} <= {"NPU", "SRAM", "off-chip flash"}
    artifact = digits.artifacts["tflite"]
    assert len(found.operators) == sum(artifact.notes["operators"].values())
    assert artifact.size / 3 < found.flash_bytes < artifact.size
    assert 4 * 1024 < found.sram_bytes < 100 * 1024
    assert found.tier == f"computed by Arm's Vela {metadata.version('ethos-u-vela')}"
    assert {p.dtype for p in (*artifact.inputs, *artifact.outputs)} == {"int8"}
    compiled = (digits.output / "digits_cnn.int8_vela.tflite").read_bytes()
    assert len(compiled) == found.size_bytes
    declared = json.loads((digits.output / "manifest.json").read_text())["artifacts"][
        "digits_cnn.int8.tflite"
    ]["vela"]
    assert declared["sha256"] == hashlib.sha256(compiled).hexdigest()
    assert declared["system_config"] == "Ethos_U55_High_End_Embedded"
    assert declared["ethos-u-vela"] == metadata.version("ethos-u-vela")


@needs_vela
def test_the_report_tells_the_figures_everywhere(digits: edgecc.CompileResult) -> None:
    found = figures_of(digits)
    text = "\n".join(map(str, report_tables(digits.report)))
    page = (digits.output / "report.html").read_text()
    for part in (f"{found.cycles:,}", found.tier, found.system_config, "all 23 operators on the NPU"):
        assert part in text
        assert part in page.replace("&#39;", "'")
    assert "digits_cnn.int8_vela.tflite" in page
    written = json.loads((digits.output / "report.json").read_text())
    schema = json.loads((Path(edgecc.__file__).parent / "report" / "report.schema.json").read_text())
    jsonschema.validate(written, schema)
    assert written["artifacts"][0]["npu"]["cycles"] == found.cycles


@needs_vela
def test_two_runs_are_equal(digits: edgecc.CompileResult) -> None:
    data, device = digits.artifacts["tflite"].data, target("ethos-u55-128")
    first, second = (compile_with_vela(data, device) for _ in range(2))
    assert first == second
    assert replace(first[0], file=figures_of(digits).file) == figures_of(digits)


@needs_vela
def test_a_float_network_is_refused(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(lower_float(CNN).data)
    found = cli("profile", path, "--target", "ethos-u55-128")
    assert found.code == 3
    assert "operators to the CPU" in found.err
    assert "Float32" in found.err
    assert "compile" in found.err


@needs_vela
def test_an_operator_on_the_cpu_is_named_with_its_reason(
    digits: edgecc.CompileResult, tmp_path: Path
) -> None:
    result = edgecc.compile(
        CNN, target="ethos-u55-128", plan=digits.output / "plan.json", io_dtype="float32", no_profile=True,
        no_verify=True, output=tmp_path / "o",
    )  # fmt: skip
    left = figures_of(result).on_cpu
    assert [o.type for o in left] == ["QUANTIZE", "DEQUANTIZE"]
    assert "Float32" in left[0].reason
    assert all(o.cycles == 0 and o.placed == "CPU" for o in left)
    told = [w for w in result.report.warnings if "runs on the CPU" in w]
    assert len(told) == 2
    assert left[0].name in told[0]
    assert left[0].reason in told[0]
    assert "2 of 25 operators on the CPU" in figure_line(figures_of(result))


@needs_vela
def test_profile_tells_targets_side_by_side(digits: edgecc.CompileResult, cli: Cli, tmp_path: Path) -> None:
    path = digits.output / "digits_cnn.int8.tflite"
    page = tmp_path / "p.html"
    found = cli("profile", path, "--target", ",".join(TARGETS), "--json", "--html", page).json
    assert [f["target"] for f in found["computed"]] == list(TARGETS)
    assert {tuple(o["placed"] for o in f["operators"]) for f in found["computed"]} == {("NPU",) * 23}
    assert len({f["cycles"] for f in found["computed"]}) == 3
    text = cli("profile", path, "--target", ",".join(TARGETS)).out
    for figures in found["computed"]:
        assert f"{figures['cycles']:,}" in text
        assert figures["system_config"] in text
        assert figures["memory_mode"] in text
    assert page.read_text().count("<svg") == 3
    mixed = cli("profile", CNN, "--target", "ethos-u55-128,cortex-m7", "--json").json
    assert [p["target"] for p in mixed["predictions"]] == ["cortex-m7"]
    assert "edgecc compile" in mixed["missing"]["ethos-u55-128"]
    assert cli("profile", CNN, "--target", "ethos-u55-128").code == 3


@needs_vela
def test_what_vela_does_not_take(digits: edgecc.CompileResult, tmp_path: Path) -> None:
    data, device = digits.artifacts["tflite"].data, target("ethos-u55-128")
    compiled = (digits.output / "digits_cnn.int8_vela.tflite").read_bytes()
    with pytest.raises(ModelError, match="compiled this file already"):
        compile_with_vela(compiled, device)
    with pytest.raises(ModelError, match="not a TFLite file"):
        compile_with_vela(b"junk", device)
    with pytest.raises(UsageError, match=r"no \[vela\]"):
        compile_with_vela(data, target("cortex-m4"))
    with pytest.raises(EdgeccError, match="stopped after"):
        compile_with_vela(data, device, limit_seconds=0.001)
    with pytest.raises(ModelError, match="XX not found"):
        compile_with_vela(data, changed(device, system_config="XX"))
    with pytest.raises(ModelError, match="ethos-u55-7"):
        compile_with_vela(data, changed(device, accelerator_config="ethos-u55-7"))
    with pytest.raises(ModelError, match="no such configuration"):
        compile_with_vela(data, changed(device, config=str(tmp_path / "none.ini")))
    with pytest.raises(UsageError):
        profile_with_vela(tmp_path / "none.tflite", device)


def changed(device: Target, **words: str) -> Target:
    assert device.vela is not None
    return msgspec.structs.replace(device, vela=msgspec.structs.replace(device.vela, **words))


@needs_vela
def test_a_users_own_configuration(digits: edgecc.CompileResult, tmp_path: Path) -> None:
    ethosu = importlib.import_module("ethosu")
    own = Path(next(iter(ethosu.__path__))) / "config_files" / "Arm" / "vela.ini"
    text = own.read_text().replace("core_clock=500e6", "core_clock=250e6")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.ini").write_text(text)
    (tmp_path / "board.toml").write_text(
        'extends = "ethos-u55-128"\nname = "board"\ndescription = "mine"\n[vela]\nconfig = "sub/mine.ini"\n'
    )
    found, _ = compile_with_vela(digits.artifacts["tflite"].data, read_target(tmp_path / "board.toml"))
    assert found.ghz == 0.25
    assert found.target == "board"
    assert found.ms == pytest.approx(2 * figures_of(digits).ms)


@needs_vela
@pytest.mark.parametrize(
    ("limit", "cause"), [({"ram_kb": 16}, "SRAM"), ({"flash_kb": 32}, "flash"), ({}, "ms .* allowed")]
)
def test_limits_hold_for_velas_figures(
    digits: edgecc.CompileResult, limit: dict[str, int], cause: str
) -> None:
    artifacts = {"a.tflite": digits.artifacts["tflite"]}
    device = msgspec.structs.replace(target("ethos-u55-128"), **limit)
    options = CompileOptions(max_latency=None if limit else 1e-6)
    error = vendor.excess(options, device, artifacts)
    assert isinstance(error, BudgetError)
    assert re.search(cause, str(error))
    assert vendor.excess(CompileOptions(max_latency=1.0), target("ethos-u55-128"), artifacts) is None


@needs_vela
def test_a_device_without_room_is_exit_5(digits: edgecc.CompileResult, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(
        'extends = "ethos-u55-128"\nname = "small"\ndescription = "16 KB"\nram_kb = 16\n'
    )
    with pytest.raises(BudgetError, match="SRAM are taken"):
        edgecc.compile(
            CNN, target=str(tmp_path / "small.toml"), plan=digits.output / "plan.json", no_profile=True,
            no_verify=True, output=tmp_path / "o",
        )  # fmt: skip
    assert not (tmp_path / "o").exists()
    assert (tmp_path / "o.failed" / "digits_cnn.int8_vela.tflite").exists()


def test_a_latency_that_nobody_can_tell_is_not_kept(digits: edgecc.CompileResult) -> None:
    artifact = digits.artifacts["tflite"]
    bare = {"a.tflite": replace(artifact, notes={})}
    error = vendor.excess(CompileOptions(max_latency=1.0), target("ethos-u55-128"), bare)
    assert error is not None and "not known without" in error.message
    assert vendor.excess(CompileOptions(max_latency=1.0), target("cortex-m4"), bare) is None


def test_without_vela_it_is_said(
    digits: edgecc.CompileResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setattr(vela, "installed", lambda: None)
    npu.limits.cache_clear()
    words: dict[str, Any] = {"no_profile": True, "no_verify": True, "plan": digits.output / "plan.json"}
    try:
        result = edgecc.compile(
            CNN, target="ethos-u55-128", io_dtype="float32", output=tmp_path / "o", **words
        )
    finally:
        npu.limits.cache_clear()
    assert any("pip install 'edgecc[ethos]'" in w for w in result.report.warnings)
    assert sum("would be left to the CPU" in w for w in result.report.warnings) == 2
    assert result.report.artifacts[0].npu is None
    assert not list((tmp_path / "o").glob("*_vela.tflite"))
    path = tmp_path / "net.tflite"
    shutil.copy(result.output / "digits_cnn.int8.tflite", path)
    found = cli("profile", path, "--target", "ethos-u55-128")
    assert found.code == 2
    assert "edgecc[ethos]" in found.err


def test_operators_without_results_have_no_name() -> None:
    assert vela._name(Operator("ASSIGN_VARIABLE", 0, (), (), None)) == ""


@pytest.mark.parametrize("name", TARGETS)
def test_targets_name_all_that_vela_must_be_told(name: str) -> None:
    spec = target(name).vela
    assert spec is not None
    assert spec.accelerator_config == name
    words = vela.command(spec)
    for option in ("--system-config", "--memory-mode", "--accelerator-config", "--config"):
        assert option in words


@needs_vela
@pytest.mark.parametrize(("peer", "fact"), [("kws_dscnn", 0.18), ("ic_resnet8", 0.403)])
def test_the_facts_of_the_target_are_reproduced(shared: Path, peer: str, fact: float) -> None:
    device = target("ethos-u55-128")
    assert fact in [f.value for f in device.facts]
    found = profile_with_vela(shared / "peers" / f"{peer}_int8.tflite", device)
    assert round(found.ms, 3) == fact
    assert found.on_cpu == ()


@needs_vela
@pytest.mark.parametrize("name", ["ic_resnet8", "kws_dscnn", "sww_ref", "mtcnn_onet"])
def test_networks_run_whole_on_every_ethos(shared: Path, tmp_path: Path, name: str) -> None:
    result = edgecc.compile(
        shared / "models" / f"{name}.onnx", target="ethos-u55-128", precision="int8", random_data=True,
        no_verify=True, no_profile=True, output=tmp_path / "o",
    )  # fmt: skip
    for device in TARGETS:
        found, _ = compile_with_vela(result.artifacts["tflite"].data, target(device))
        assert found.on_cpu == (), device
        assert found.cycles == sum(o.cycles for o in found.operators)


def test_velas_files_with_odd_names(tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(
        '<debug>\n<table name="perf">\n<![CDATA[\n"id","source_id","operator","name","op_cycles","npu_cycles",'
        '"mac_count","Sram_ac"\n1,1,"Conv2D","a, "b"",10,4,7,9\n2,1,"Relu",247,0,0,0,0\n'
        '3,2,"Add","two\nlines",5,5,0,1\n'
        ']]>\n</table>\n<table name="source">\n<![CDATA[\n"id","operator","ext_key"\n1,"Conv2D",0\n2,"Add",1\n'
        "]]>\n</table>\n</debug>\n"
    )
    rows = operator_rows(tmp_path / "d.xml")
    assert [[(r.cycles, r.macs, r.parts) for r in rows[i]] for i in (0, 1)] == [
        [(10, 7, {"NPU": 4, "SRAM": 9}), (0, 0, {"NPU": 0, "SRAM": 0})], [(5, 0, {"NPU": 5, "SRAM": 1})],
    ]  # fmt: skip
    said = (
        "\nWarning (supported operators) operator: EXP, ofm: 'it's'\nReason: no\nbecause\n\nWarning (supported"
        " operators) operator: DIV, ofm: 'b'\nReason: Unsupported opType\n\n#####\n"
    )
    assert cpu_reasons(said) == {"it's": "no; because", "b": "Unsupported opType"}
    (tmp_path / "s.csv").write_text("core_clock,cycles_total\n5e8,10\n")
    with pytest.raises(EdgeccError, match="has no nn_macs"):
        read_summary(tmp_path / "s.csv")
    (tmp_path / "e.xml").write_text("<debug/>")
    with pytest.raises(EdgeccError, match="no table"):
        operator_rows(tmp_path / "e.xml")
