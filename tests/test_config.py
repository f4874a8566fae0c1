"""edgecc.toml: every option can stand there; the command line wins; no code is named in it."""

import dataclasses
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from edgecc.errors import EdgeccError, ModelError, UsageError
from edgecc.options import CompileOptions, flag, make_options, read_config

MLP = Path(__file__).resolve().parents[1] / "models" / "digits_mlp.onnx"
FIELDS = [f.name for f in dataclasses.fields(CompileOptions)]
# Option -> its value in TOML, and what arrives.
VALUES: dict[str, tuple[str, Any]] = {
    "target": ('"x86-64"', "x86-64"),
    "format": ('"onnx"', "onnx"),
    "precision": ('"int8"', "int8"),
    "data": ('"c.npz"', "{folder}/c.npz"),
    "eval_data": ('"sub/t.npz"', "{folder}/sub/t.npz"),
    "labels": ('"l.txt"', "{folder}/l.txt"),
    "mean": ("[123.7, 116.3, 103.5]", (123.7, 116.3, 103.5)),
    "std": ("58.4", (58.4,)),
    "random_data": ("true", True),
    "input_shape": ("{ x = [1, 3, 8, 8] }", {"x": (1, 3, 8, 8)}),
    "preset": ('"minimal"', "minimal"),
    "passes": ('["fold_constants", "fuse_pad"]', ("fold_constants", "fuse_pad")),
    "skip_passes": ('["fuse_pad"]', ("fuse_pad",)),
    "plan": ('"/abs/plan.json"', "/abs/plan.json"),
    "observer": ('"percentile"', "percentile"),
    "io_layout": ('"nhwc"', "nhwc"),
    "io_dtype": ('"uint8"', "uint8"),
    "keep": ('{ "head/*" = "fp32" }', {"head/*": "fp32"}),
    "min_agreement": ("0.97", 0.97),
    "min_sqnr": ("20", 20),
    "max_drop": ("0.5", 0.5),
    "max_latency": ('"10ms"', 0.01),
    "max_macs": ('"50M"', 50e6),
    "max_size": ('"1MB"', 1e6),
    "no_verify": ("true", True),
    "no_profile": ("true", True),
    "debug_quant": ("true", True),
    "dump_ir": ('"ir"', "{folder}/ir"),
    "seed": ("7", 7),
    "threads": ("2", 2),
    "output": ('"out"', "{folder}/out"),
}
Cli = Callable[..., Any]


def write(folder: Path, text: str) -> Path:
    path = folder / "edgecc.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_arrives(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From the file, through the command, into `compile`: in both spellings of the key."""
    assert name in VALUES, f"a new option: say here what {name} looks like in TOML"
    text, expected = VALUES[name]
    if isinstance(expected, str):
        expected = expected.format(folder=tmp_path)
    seen: list[CompileOptions] = []

    def stop(model: object, options: CompileOptions, progress: object) -> None:
        seen.append(options)
        raise UsageError("seen")

    module = import_module("edgecc.compile")  # `edgecc.compile` is the function
    monkeypatch.setattr(module, "compile_with", stop)
    for key in (flag(name), flag(name).replace("-", "_"), name):
        assert cli("compile", MLP, "--config", write(tmp_path, f"{key} = {text}\n")).code == 2
        got = getattr(seen[-1], name)
        assert got == (pytest.approx(expected) if isinstance(expected, float) else expected)
        others = [f for f in FIELDS if f != name]
        assert all(getattr(seen[-1], f) == getattr(CompileOptions(), f) for f in others)


def test_the_command_line_wins(cli: Cli, tmp_path: Path) -> None:
    config = write(
        tmp_path, 'precision = "fp16"\nformat = "tflite"\nno-verify = true\nno-profile = true\noutput = "a"'
    )
    found = cli("compile", MLP, "--config", config, "--precision", "fp32", "--json")
    assert found.code == 0, found.err
    assert list(found.json["files"]) == ["tflite"]
    assert (tmp_path / "a" / "digits_mlp.fp32.tflite").exists()
    options = json.loads((tmp_path / "a" / "manifest.json").read_text())["options"]
    assert options["precision"] == "fp32"


def test_an_unknown_key_is_refused_with_a_suggestion(cli: Cli, tmp_path: Path) -> None:
    found = cli("compile", MLP, "--config", write(tmp_path, "min-sqrn = 20\n"))
    assert found.code == 2
    assert "did you mean 'min-sqnr'" in found.err
    assert cli("compile", MLP, "--config", write(tmp_path, "[compile]\nseed = 1\n")).code == 2


@pytest.mark.parametrize(
    "text", ["seed = ", "seed = 'x'", "seed = 1.5", "no-verify = 'yes'", "input-shape = {x = 'a'}",
             "data = 3",
             "mean = 'a'", "output = []", "threads = true", "pass = 3", "input-shape = {x = [1, {}]}",
             "target = 5", "precision = ['int8']", "max-size = 'big'", "labels = [[1]]"]
)  # fmt: skip
def test_wrong_values_are_told_not_thrown(cli: Cli, tmp_path: Path, text: str) -> None:
    found = cli("compile", MLP, "--config", write(tmp_path, text))
    assert found.code == 2, found.err
    assert "defect" not in found.err


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="TOML"):
        read_config(tmp_path / "bad.toml")
    with pytest.raises(EdgeccError):
        read_config(tmp_path)  # a folder


@pytest.mark.parametrize("key", ["data", "eval-data", "labels"])
def test_no_code_runs_because_a_file_names_it(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match="names code"):
        read_config(write(tmp_path, f'{key} = "os:getcwd"\n'))


def test_no_file_is_read_that_was_not_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'precision = "fp16"\n')
    monkeypatch.chdir(tmp_path)
    found = cli("compile", MLP, "--format", "tflite", "--no-verify", "--no-profile", "-o", "o")
    assert found.code == 0
    assert (tmp_path / "o" / "digits_mlp.dynamic.tflite").exists()


def test_a_target_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    found = read_config(write(tmp_path, 'target = "board.toml"\n'))
    assert found == {"target": str(tmp_path / "board.toml")}
    assert make_options(read_config(write(tmp_path, 'target = "arm"\n'))).target == "arm"
