"""Sources for microcontrollers: they compile, hold the file's bytes, and register just its operators."""

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgecc
from edgecc import firmware
from edgecc.analysis.flat import FlatNetwork
from edgecc.tflite.flat import read_network

MODELS = Path(__file__).resolve().parents[1] / "models"
HOSTILE = ('a"b\\', "9 lives", "x\n#error", "*/", "ünï/ço", "..", "class", "a" * 300, "", "\udcff", "日本")

STUB = """
#pragma once
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
template <unsigned int tOpCount>
class MicroMutableOpResolver {
 public:
%s
  unsigned int count = 0;
 private:
  TfLiteStatus Add() { return count++ < tOpCount ? kTfLiteOk : kTfLiteError; }
};
}  // namespace tflite
"""

MAIN = """
#include <cstdint>
#include <cstdio>
#include "%(name)s.h"
#include "%(name)s.h"
alignas(16) static unsigned char arena[%(name)s_arena_size];
int main() {
  %(name)s_resolver resolver;
  if (%(name)s_register_operators(resolver) != kTfLiteOk) return 1;
  if (resolver.count != %(name)s_operator_count) return 2;
  if (reinterpret_cast<std::uintptr_t>(%(name)s_model) %% 16 != 0) return 3;
  arena[0] = 0;
  return std::fwrite(%(name)s_model, 1, %(name)s_model_size, stdout) == %(name)s_model_size ? 0 : 4;
}
"""


def compiled(model: Any, folder: Path, **words: Any) -> edgecc.CompileResult:
    given: dict[str, Any] = {
        "target": "cortex-m55",
        "precision": "fp32",
        "no_verify": True,
        "no_profile": True,
    }
    return edgecc.compile(model, output=folder / "out", **{**given, **words})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> edgecc.CompileResult:
    return compiled(
        MODELS / "digits_cnn.onnx", tmp_path_factory.mktemp("digits"), precision="int8", random_data=True
    )


def methods() -> list[str]:
    """Every method that a header may call."""
    return sorted(
        found
        for code in (*firmware._METHODS, *firmware._CAMEL)
        if (found := firmware.method(code)) is not None
    )


def build(files: dict[str, bytes], name: str, folder: Path, *flags: str) -> bytes:
    """Compiles the sources with a resolver that counts, and gives what the program writes: the model."""
    compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    stub = folder / "tensorflow" / "lite" / "micro" / "micro_mutable_op_resolver.h"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB % "\n".join(f"  TfLiteStatus {m}() {{ return Add(); }}" for m in methods()))
    for file, data in files.items():
        (folder / file).write_bytes(data)
    (folder / "main.cc").write_text(MAIN % {"name": name})
    program = folder / "program"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", *flags, "-I", str(folder)]
    sources = [str(folder / f"{name}.cc"), str(folder / "main.cc")]
    done = subprocess.run(
        [*command, *sources, "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return subprocess.run([str(program)], capture_output=True, check=True).stdout


def test_the_sources_compile_and_hold_the_file(digits: edgecc.CompileResult, tmp_path: Path) -> None:
    names = [f"digits_cnn_int8.{end}" for end in ("cc", "h")]
    files = {name: (digits.output / name).read_bytes() for name in names}
    assert build(files, "digits_cnn_int8", tmp_path) == digits.artifacts["tflite"].data


def test_the_header_registers_the_operators_of_the_file(digits: edgecc.CompileResult) -> None:
    header = (digits.output / "digits_cnn_int8.h").read_text()
    codes = {o.code for o in read_network(digits.artifacts["tflite"].data).operators}
    assert set(re.findall(r"resolver\.(\w+)\(\)", header)) == {firmware.method(c) for c in codes}
    assert {"AddConv2D", "AddDepthwiseConv2D", "AddFullyConnected"} <= set(
        re.findall(r"resolver\.(\w+)\(\)", header)
    )
    assert f"MicroMutableOpResolver<{len(codes)}>" in header


def test_the_arena_has_a_margin(digits: edgecc.CompileResult) -> None:
    memory = digits.report.artifacts[0].memory
    assert memory is not None
    header = (digits.output / "digits_cnn_int8.h").read_text()
    size = int(re.findall(r"_arena_size = (\d+);", header)[0])
    assert size % 16 == 0
    assert 1.05 * memory.arena_bytes + 1000 <= size <= 1.05 * memory.arena_bytes + 1050
    assert f"{memory.arena_bytes};" in header and "MVE" in header


def test_the_manifest_vouches_for_them(digits: edgecc.CompileResult) -> None:
    manifest = json.loads((digits.output / "manifest.json").read_text())
    listed = manifest["artifacts"]["digits_cnn.int8.tflite"]["firmware"]
    assert {row["file"] for row in listed} == {"digits_cnn_int8.h", "digits_cnn_int8.cc"}
    for row in listed:
        data = (digits.output / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_any_name_becomes_an_identifier(name: str) -> None:
    found = firmware.identifier(name)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", found) and len(found) <= 60


def test_names_that_are_shortened_stay_apart() -> None:
    assert firmware.identifier("a" * 300) != firmware.identifier("a" * 301)
    assert firmware.identifier("日") != firmware.identifier("本")
    assert firmware.identifier("kws_dscnn.int8") == "kws_dscnn_int8"


@pytest.mark.parametrize("name", ['a"b\\', "x\n#error", "int", "日本"], ids=range(4))
def test_hostile_names_compile(digits: edgecc.CompileResult, name: str, tmp_path: Path) -> None:
    memory = digits.report.artifacts[0].memory
    assert memory is not None
    data = bytes(range(256)) * 3
    network = FlatNetwork((), read_network(digits.artifacts["tflite"].data).operators, (), ())
    made = firmware.sources(name, data, network, memory)
    assert build(made.files, made.identifier, tmp_path) == data


def test_a_file_with_a_hostile_name_is_compiled(tmp_path: Path) -> None:
    path = tmp_path / 'it"s a\\ model.onnx'
    path.write_bytes((MODELS / "digits_mlp.onnx").read_bytes())
    result = compiled(path, tmp_path)
    assert {p.name for p in result.output.iterdir() if p.suffix in (".cc", ".h")} == {
        "it_s_a_model_fp32.cc", "it_s_a_model_fp32.h",
    }  # fmt: skip


def test_large_files_become_no_array(digits: edgecc.CompileResult, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, artifact = digits.report.artifacts[0].memory, digits.artifacts["tflite"]
    assert memory is not None
    monkeypatch.setattr(firmware, "MOST_BYTES", artifact.size - 1)
    same, files, warning = firmware.attach("n", replace(artifact, notes={}), memory)
    assert not files and "firmware" not in same.notes
    assert warning is not None and "no C array" in warning


def test_other_targets_get_none(tmp_path: Path) -> None:
    arm = compiled(MODELS / "digits_mlp.onnx", tmp_path, target="arm", format="tflite")
    npu = compiled(
        MODELS / "digits_mlp.onnx",
        tmp_path / "npu",
        target="ethos-u55-128",
        precision="int8",
        random_data=True,
    )
    for result in (arm, npu):
        assert not [p for p in result.output.iterdir() if p.suffix in (".cc", ".h")]
        assert "firmware" not in (result.output / "manifest.json").read_text()


def test_every_kernel_of_tflite_micro_has_a_method() -> None:
    """The table of kernels lists what TFLite Micro runs: each must be one that firmware can register."""
    from edgecc.tflite.kernels import TABLE

    rows = json.loads(TABLE.read_text())["kernels"]
    assert [
        code for code, row in rows.items() if row.get("tflite-micro") and firmware.method(code) is None
    ] == []
    assert firmware.method("CUSTOM") is None


def test_the_terminal_names_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgecc.cli import main

    main(["compile", str(MODELS / "digits_mlp.onnx"), "--target", "cortex-m4", "--precision", "int8", "--random-data",
          "--no-verify", "--no-profile", "-o", str(tmp_path / "out")])  # fmt: skip
    written = [
        line.removeprefix("wrote ") for line in capsys.readouterr().out.splitlines() if "wrote" in line
    ]
    assert {Path(w).name for w in written} >= {
        "digits_mlp_int8.cc",
        "digits_mlp_int8.h",
        "digits_mlp.int8.tflite",
    }
    assert all(Path(w).is_file() for w in written)
