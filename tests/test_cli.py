"""The commands: exit codes, JSON, silence, and what untrusted names do to a terminal."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
CNN, MLP = MODELS / "digits_cnn.onnx", MODELS / "digits_mlp.onnx"
CALIB, TEST = MODELS / "digits_mlp_calib.npz", MODELS / "digits_mlp_test.npz"
QUICK = ("--no-verify", "--no-profile")
Cli = Callable[..., Any]
Array = npt.NDArray[Any]


@pytest.fixture
def unserved(parse: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    """A network with an operator that TFLite does not have, under a name that attacks terminals."""
    model = parse("g (float[1,4,4] x) => (int64[3,n] y) { t = Relu(x) \n y = NonZero(t) }")
    model.graph.node[1].name = "evil\x1b[2J\x1b]0;owned\x07[red]\u202egnp"
    path = tmp_path / "unserved.onnx"
    onnx.save(model, path)
    return path


def test_the_whole_line_in_both_formats(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = cli("compile", CNN, "--target", "arm", "--data", MODELS / "digits_cnn_calib.npz",
                "--eval-data", MODELS / "digits_cnn_test.npz", "--max-drop", "0.5", "--min-agreement", "0.98",
                "--max-size", "200kB", "--max-macs", "3M", "--max-latency", "1s", "-o", out)  # fmt: skip
    assert found.code == 0, found.err
    names = {p.name for p in out.iterdir()}
    assert names == {
        "digits_cnn.int8.tflite", "digits_cnn.int8.onnx", "report.json", "report.html",
        "manifest.json", "plan.json"
    }  # fmt: skip
    assert "digits_cnn for arm" in found.out.splitlines()[0]
    assert f"wrote {out / 'digits_cnn.int8.tflite'}" in found.out
    assert found.err.splitlines()[0] == "import"  # plain lines where there is no terminal
    assert "\x1b" not in found.out + found.err
    report = json.loads((out / "report.json").read_text())
    assert {a["format"]: a["fidelity"]["agreement"] > 0.98 for a in report["artifacts"]} == {
        "tflite": True,
        "onnx": True,
    }
    assert not (tmp_path / "out.failed").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic", "int8"])
def test_every_precision_in_every_format(cli: Cli, tmp_path: Path, precision: str) -> None:
    data = ("--data", CALIB) if precision == "int8" else ()
    found = cli(
        "compile", MLP, "--precision", precision, *data, "--no-profile", "--json", "-o", tmp_path / "o"
    )
    assert found.code == 0, found.err
    assert set(found.json["files"]) == {"tflite", "onnx"}
    for form, path in found.json["files"].items():
        assert Path(path).name == f"digits_mlp.{precision}.{form}"
    least = {"fp32": 100, "fp16": 50, "dynamic": 30, "int8": 25}[precision]
    assert all(a["fidelity"]["sqnr_db"] > least for a in found.json["artifacts"])


def test_without_data_only_weights_are_quantized_and_the_remedy_comes_first(cli: Cli, tmp_path: Path) -> None:
    found = cli("compile", MLP, *QUICK, "-o", tmp_path / "o")
    assert found.code == 0
    assert "give --data" in found.out.splitlines()[0]
    assert found.out.count("give --data") == 1
    assert (tmp_path / "o" / "digits_mlp.dynamic.tflite").exists()


def test_random_data_must_be_asked_for_by_name(cli: Cli, tmp_path: Path) -> None:
    refused = cli("compile", MLP, "--precision", "int8", "-o", tmp_path / "o")
    assert refused.code == 2
    assert "--random-data" in refused.err
    taken = cli("compile", MLP, "--random-data", *QUICK, "-o", tmp_path / "o")
    assert taken.code == 0
    assert "random data" in taken.out.splitlines()[0]
    assert (tmp_path / "o" / "digits_mlp.int8.tflite").exists()


# ---- exit codes ----------------------------------------------------------------------------------

WRONG_USE = {
    "no such model": (("compile", "nope.onnx"), "there is no such file"),
    "a folder": (("compile", MODELS), "folder"),
    "no model": (("compile",), "MODEL"),
    "no such command": (("compil", MLP), "compil"),
    "no such option": (("compile", MLP, "--fromat", "tflite"), "--format"),
    "no such format": (("compile", MLP, "--format", "tfl"), "choose tflite, onnx, all"),
    "no such precision": (("compile", MLP, "--precision", "int7"), "int8"),
    "no such target": (("compile", MLP, "--target", "arn"), "did you mean 'arm'"),
    "no such target file": (("compile", MLP, "--target", "nope.toml"), "no such target file"),
    "no such preset": (("compile", MLP, "--preset", "mini"), "minimal"),
    "no such pass": (("compile", MLP, "--pass", "fold_batchnrm"), "did you mean 'fold_batchnorm'"),
    "no such pass option": (("compile", MLP, "--pass", "fold_constants:megs=3"), "no option 'megs'"),
    "a pass that does not run": (("compile", MLP, "--skip-pass", "insert_qdq"), "no pass 'insert_qdq' runs"),
    "int8 without data": (("compile", MLP, "--precision", "int8"), "needs calibration data"),
    "no such data": (("compile", MLP, "--data", "nope.npz"), "nope.npz"),
    "no such function": (("compile", MLP, "--data", "nope:samples"), "nope"),
    "a function that fails": (("compile", MLP, "--data", "numpy:zeros"), "this function failed"),
    "no such plan": (("compile", MLP, "--plan", "nope.json"), "there is no such file"),
    "no plan": (("compile", MLP, "--plan", MODELS / "README.md"), "no quantization plan"),
    "no such configuration": (("compile", MLP, "--config", "nope.toml"), "no such configuration"),
    "agreement above 1": (("compile", MLP, "--min-agreement", "1.01"), "between 0 and 1"),
    "no number": (("compile", MLP, "--min-sqnr", "high"), "cannot be read"),
    "not a number": (("compile", MLP, "--min-sqnr", "nan"), "number of decibels"),
    "no size": (("compile", MLP, "--max-size", "1 furlong"), "is not a size"),
    "no duration": (("compile", MLP, "--max-latency", "10"), "is not a duration"),
    "no shape": (("compile", MLP, "--input-shape", "1x64"), "NAME=1x3x224x224"),
    "no such input": (("compile", MLP, "--input-shape", "x=1x64"), "pixels"),
    "an empty dimension": (("compile", MLP, "--input-shape", "pixels=0x64"), "not positive"),
    "no threads": (("compile", MLP, "--threads", "0"), "between 1 and 1024"),
    "no seed": (("compile", MLP, "--seed", "x"), "cannot be read"),
    "labels of nothing": (("compile", MLP, "--labels", "l.txt"), "none is given"),
    "mean of nothing": (("compile", MLP, "--mean", "1"), "none is given"),
    "no mean": (("compile", MLP, "--data", CALIB, "--mean", "a"), "'a' is not a number"),
    "int8 ports of a float file": (("compile", MLP, "--precision", "fp32", "--io-dtype", "int8"), "float32"),
    "a limit without verification": (("compile", MLP, "--no-verify", "--min-sqnr", "3"), "--no-verify"),
    "a latency without timing": (("compile", MLP, "--no-profile", "--max-latency", "3ms"), "--no-profile"),
    "data of another network": (("compile", MLP, "--data", MODELS / "digits_cnn_calib.npz"), "pixels"),
    "output is a file": (("compile", MLP, "-o", MODELS / "README.md"), "not a folder"),
    "verify nothing": (("verify", MLP, "nope.tflite"), "there is no such file"),
    "verify, agreement above 1": (("verify", MLP, MLP, "--min-agreement", "2"), "between 0 and 1"),
    "profile nothing": (("profile", "nope.tflite"), "there is no such file"),
    "profile there": (("profile", MLP, "--device", "ssh://-oProxyCommand=x"), "no name of a device"),
    "profile nowhere": (("profile", MLP, "--device", "telnet://x"), "cannot be reached"),
    "profile for nothing": (("profile", MLP, "--target", "arm,z80"), "no target 'z80'"),
    "inspect nothing": (("inspect", "nope.onnx"), "there is no such file"),
    "no such target page": (("targets", "z80"), "arm"),
    "no such pass page": (("passes", "fold"), "fold_batchnorm"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_USE)
def test_wrong_use_is_exit_2_with_a_reason_and_without_a_trace(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words, reason = WRONG_USE[name]
    found = cli(*words)
    assert found.code == 2, found.err
    assert reason in found.err
    assert "Traceback" not in found.err
    assert not list(tmp_path.iterdir())
    again = cli(*words, "--json")
    assert again.code == 2
    assert again.json["exit_code"] == 2
    assert again.json["message"]


def test_an_operator_that_no_format_has_is_exit_3(cli: Cli, unserved: Path, tmp_path: Path) -> None:
    found = cli("compile", unserved, "--format", "tflite", "--precision", "fp32", "-o", tmp_path / "o")
    assert found.code == 3
    assert "NonZero" in found.err
    assert not (tmp_path / "o").exists()


def test_what_the_target_does_not_list_is_exit_3(cli: Cli, tmp_path: Path) -> None:
    only = tmp_path / "mcu.toml"
    only.write_text('name = "mcu"\ndescription = "d"\nformats = ["tflite"]\nprecisions = ["int8"]\n')
    for words in (("--format", "onnx"), ("--precision", "fp16")):
        found = cli("compile", MLP, "--target", only, *words, "-o", tmp_path / "o")
        assert found.code == 3, found.err
        assert "mcu" in found.err


@pytest.mark.parametrize("limit", [("--min-sqnr", "199"), ("--min-agreement", "1")])
def test_less_faithful_than_allowed_is_exit_4(cli: Cli, tmp_path: Path, limit: tuple[str, str]) -> None:
    out = tmp_path / "out"
    words = (
        "compile",
        MLP,
        "--format",
        "tflite",
        "--data",
        CALIB,
        "--eval-data",
        TEST,
        "--no-profile",
        *limit,
    )
    if limit[0] == "--min-agreement":  # noise: no network agrees with itself at int8
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "noise.npz", pixels=rng.standard_normal((300, 64)).astype(np.float32) * 9)
        words = (*words[:6], "--eval-data", tmp_path / "noise.npz", *words[8:])
    found = cli(*words, "--json", "-o", out)
    assert found.code == 4
    assert found.json["error"] == "FidelityError"
    assert not out.exists()
    assert {p.name for p in (tmp_path / "out.failed").iterdir()} == {
        "digits_mlp.int8.tflite", "report.json", "report.html", "plan.json"
    }  # fmt: skip
    assert json.loads((tmp_path / "out.failed" / "report.json").read_text())["failure"]


@pytest.mark.parametrize(
    "budget", [("--max-size", "1KB"), ("--max-macs", "1k"), ("--max-latency", "1ns")], ids=lambda b: b[0]
)
def test_a_budget_that_is_not_met_is_exit_5(cli: Cli, tmp_path: Path, budget: tuple[str, str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("of an earlier night")
    timing = () if budget[0] == "--max-latency" else ("--no-profile",)
    found = cli("compile", MLP, "--format", "tflite", "--no-verify", *timing, *budget, "-o", out)
    assert found.code == 5
    assert "allowed" in found.err
    assert [p.name for p in out.iterdir()] == ["manifest.json"]  # nothing is put there, nothing taken
    assert (tmp_path / "out.failed" / "report.html").exists()


def test_a_defect_is_exit_1_and_says_so(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("edgecc.tflite.lower.lower", broken)
    words = ("compile", MLP, "--format", "tflite", *QUICK, "-o", tmp_path / "o")
    found = cli(*words)
    assert found.code == 1
    assert "a defect in edgecc: ZeroDivisionError: oh" in found.err
    assert "Traceback" not in found.err
    assert "Traceback" in cli(*words, "--verbose").err
    assert cli(*words, "--json").json["exit_code"] == 1


def test_an_interrupt_leaves_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "deep" / "out"
    words = ("compile", MLP, "--format", "tflite", *QUICK, "-o", out)
    for stage in ("edgecc.tflite.lower.lower", "edgecc.output.publish", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(stage, interrupted)
            found = cli(*words)
        assert found.code == 130, stage
        assert "interrupted" in found.err
        assert not list(tmp_path.rglob("*.*")), stage


# ---- how commands speak --------------------------------------------------------------------------


def commands(tmp_path: Path) -> dict[str, tuple[str | Path, ...]]:
    return {
        "compile": ("compile", MLP, "--format", "tflite", *QUICK, "-o", tmp_path / "o"),
        "inspect": ("inspect", MLP, "--target", "arm,x86", "--target", "mobile"),
        "profile": ("profile", MLP, "--target", "arm,x86-64", "--runs", "3", "--threads", "1"),
        "verify": ("verify", MLP, MLP, "--data", CALIB),
        "targets": ("targets",),
        "target": ("targets", "aarch64"),
        "passes": ("passes",),
        "pass": ("passes", "fold_batchnorm"),
    }


@pytest.mark.parametrize("name", list(commands(Path())))
def test_every_command_speaks_json_plain_text_or_not_at_all(cli: Cli, tmp_path: Path, name: str) -> None:
    words = commands(tmp_path)[name]
    plain = cli(*words)
    assert plain.code == 0, plain.err
    assert plain.out
    assert "\x1b" not in plain.out
    data = cli(*words, "--json")
    assert data.code == 0
    assert isinstance(data.json, dict)
    assert data.err == ""
    quiet = cli(*words, "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert cli(*words, "--verbose").code == 0


def test_targets_are_named_one_by_one_or_with_commas(cli: Cli) -> None:
    found = cli("inspect", MLP, "--target", "arm,x86", "--target", "mobile", "--json").json
    assert {each["target"] for each in found["targets"]} == {"arm", "x86-64", "android"}


def test_help_and_version(cli: Cli) -> None:
    top = cli("--help")
    assert top.code == 0
    for command in ("compile", "inspect", "profile", "verify", "calibrate", "targets", "passes"):
        assert command in top.out
        assert cli(command, "--help").code == 0
    assert cli("--version").out.startswith("edgecc 0.")


def test_help_lists_every_option_of_compile(cli: Cli) -> None:
    import dataclasses

    from edgecc.options import CompileOptions, flag

    page = cli("compile", "--help").out
    for each in dataclasses.fields(CompileOptions):
        assert f"--{flag(each.name)}" in page


def test_verbose_tells_what_each_pass_refused(cli: Cli, tmp_path: Path) -> None:
    found = cli("compile", CNN, "--format", "tflite", *QUICK, "--verbose", "-o", tmp_path / "o")
    assert "fold_batchnorm" in found.out


def test_a_terminal_gets_a_bar_and_colours(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    words = ["compile", str(MLP), "--format", "tflite", *QUICK, "-o", str(tmp_path / "o")]
    read: list[bytes] = []

    def keep(descriptor: int) -> bytes:
        read.append(os.read(descriptor, 4096))
        return read[-1]

    environment = dict(os.environ)
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "150"}
    try:
        status = pty.spawn([sys.executable, "-m", "edgecc.cli", *words], keep, lambda _: b"")
    finally:
        os.environ.clear()
        os.environ.update(environment)
    text = b"".join(read).decode()
    assert os.waitstatus_to_exitcode(status) == 0
    assert "\x1b[" in text
    assert "give --data" in text


def test_names_of_a_model_do_not_steer_the_terminal(cli: Cli, unserved: Path, tmp_path: Path) -> None:
    for words in (
        ("compile", unserved, "--format", "tflite", "--precision", "fp32", "-o", tmp_path / "o"),
        ("inspect", unserved),
        ("inspect", unserved, "--verbose"),
        ("profile", unserved, "--runs", "2"),
    ):
        found = cli(*words)
        text = found.out + found.err
        assert "evil" in text or words[0] == "profile"
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}
    assert "\x1b" not in cli("inspect", unserved, "--json").out  # JSON escapes it


def test_a_reader_that_goes_away_is_no_defect() -> None:
    command = f"{sys.executable} -m edgecc.cli passes --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_without_the_letters(tmp_path: Path) -> None:
    words = ["compile", str(MLP), "--format", "tflite", "--no-verify", "-o", str(tmp_path / "o\u03bc")]
    done = subprocess.run(
        [sys.executable, "-m", "edgecc.cli", *words], capture_output=True, check=False, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"o?" in done.stdout


def test_the_installed_command() -> None:
    script = Path(sys.executable).with_name("edgecc")
    if not script.exists():
        pytest.skip("edgecc is not installed as a command")
    done = subprocess.run(
        [script, "targets", "--json"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert "arm" in json.loads(done.stdout)
    wrong = subprocess.run(
        [script, "compile", "nope.onnx"], capture_output=True, text=True, check=False, timeout=60
    )
    assert wrong.returncode == 2


# ---- options that change the work ----------------------------------------------------------------


def test_passes_added_left_out_and_preset(cli: Cli, tmp_path: Path) -> None:
    def names(*words: str) -> list[str]:
        found = cli("compile", CNN, "--format", "tflite", "--precision", "fp32", *QUICK, *words, "--json",
                    "-o", tmp_path / "o")  # fmt: skip
        assert found.code == 0, found.err
        return [p["name"] for p in found.json["passes"]]

    usual = names()
    assert "fold_batchnorm" in usual
    assert names("--pass", "fold_constants")[-1] == "fold_constants"
    assert "fold_batchnorm" not in names("--skip-pass", "fold_batchnorm")
    assert len(names("--preset", "minimal")) < len(usual)


def test_the_plan_of_an_earlier_run_gives_the_same_bytes_without_data(cli: Cli, tmp_path: Path) -> None:
    words = ("compile", CNN, *QUICK)
    assert cli(*words, "--data", MODELS / "digits_cnn_calib.npz", "-o", tmp_path / "a").code == 0
    again = cli(*words, "--plan", tmp_path / "a" / "plan.json", "-o", tmp_path / "b")
    assert again.code == 0, again.err
    for name in ("digits_cnn.int8.tflite", "digits_cnn.int8.onnx", "plan.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    strange = cli("compile", MLP, *QUICK, "--plan", tmp_path / "a" / "plan.json", "-o", tmp_path / "c")
    assert strange.code == 2
    assert "not in the network" in strange.err
    wide = cli(*words, "--precision", "fp32", "--plan", tmp_path / "a" / "plan.json", "-o", tmp_path / "c")
    assert wide.code == 2


def test_dump_ir_writes_the_graph_after_every_pass(cli: Cli, tmp_path: Path) -> None:
    dump = tmp_path / "ir"
    words = ("compile", CNN, "--data", MODELS / "digits_cnn_calib.npz", *QUICK, "--dump-ir", dump)
    assert cli(*words, "-o", tmp_path / "o").code == 0
    names = sorted(p.relative_to(dump).as_posix() for p in dump.rglob("*.txt"))
    assert names[0] == "00-clean_up.txt"
    assert {"onnx/00-insert_qdq.txt", "tflite/00-insert_qdq.txt"} <= set(names)
    assert "Conv" in (dump / names[0]).read_text()
    assert "QuantizeLinear" in (dump / "tflite" / "00-insert_qdq.txt").read_text()


def test_seed_and_threads(cli: Cli, tmp_path: Path) -> None:
    def digest(*words: str) -> str:
        found = cli(
            "compile",
            MLP,
            "--format",
            "tflite",
            "--random-data",
            *QUICK,
            *words,
            "--json",
            "-o",
            tmp_path / "o",
        )
        return str(found.json["artifacts"][0]["sha256"])

    assert digest("--seed", "1") == digest("--seed", "1", "--threads", "2") != digest("--seed", "2")


@pytest.mark.parametrize(("dtype", "shift"), [("int8", 0), ("uint8", 128)])
def test_integer_inputs_and_outputs(cli: Cli, tmp_path: Path, dtype: str, shift: int) -> None:
    words = ("compile", CNN, "--format", "tflite", "--data", MODELS / "digits_cnn_calib.npz", "--no-profile",
             "--eval-data", MODELS / "digits_cnn_test.npz", "--min-agreement", "0.97")  # fmt: skip
    found = cli(*words, "--io-dtype", dtype, "--json", "-o", tmp_path / "o")
    assert found.code == 0, found.err
    (port,) = found.json["artifacts"][0]["inputs"]
    assert port["dtype"] == dtype
    assert port["scale"] > 0
    assert port["zero_point"] == -128 + shift  # pixels start at 0


@pytest.mark.parametrize(
    ("layout", "shape"), [("onnx", [1, 3, 8, 8]), ("nhwc", [1, 8, 8, 3]), ("auto", [1, 8, 8, 3])]
)
def test_layout_of_inputs_and_outputs(
    cli: Cli, parse: Callable[..., onnx.ModelProto], tmp_path: Path, layout: str, shape: list[int]
) -> None:
    weights = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    model = parse("g (float[1,3,8,8] x) => (float[1,5,6,6] y) { y = Conv(x, w) }", constants={"w": weights})
    onnx.save(model, tmp_path / "conv.onnx")
    found = cli("compile", tmp_path / "conv.onnx", "--format", "tflite", "--precision", "fp32",
                "--no-profile",
                "--io-layout", layout, "--json", "-o", tmp_path / "o")  # fmt: skip
    assert found.code == 0, found.err
    (facts,) = found.json["artifacts"]
    assert facts["inputs"][0]["shape"] == shape
    assert facts["inputs"][0]["name"] == "x"
    assert (
        facts["fidelity"]["relative_error"] < 1e-4
    )  # verification feeds the ONNX layout whatever the file's is
    assert bool(facts["transposes"]) == (layout == "onnx")
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert manifest["options"]["io-layout"] == layout


def test_symbolic_dimensions_are_bound(cli: Cli, tmp_path: Path) -> None:
    words = ("compile", MLP, "--format", "tflite", *QUICK, "--json", "-o", tmp_path / "o")
    assert cli(*words).json["artifacts"][0]["inputs"][0]["shape"] == [-1, 64]
    bound = cli(*words, "--input-shape", "pixels=3x64")
    assert bound.json["artifacts"][0]["inputs"][0]["shape"] == [3, 64]


# ---- data ----------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """Twenty test digits as PNG files of 32 x 32 grey pixels, and their labels."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    with np.load(MODELS / "digits_cnn_test.npz") as archive:
        pixels, labels = archive["image"][:20], archive["labels"][:20]
    for index, image in enumerate(pixels):
        Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(folder / f"{index:02d}.png")
    np.savetxt(tmp_path / "labels.txt", labels, fmt="%d")
    return folder, tmp_path / "labels.txt"


def test_a_folder_of_images_with_mean_std_and_labels(
    cli: Cli, tmp_path: Path, images: tuple[Path, Path]
) -> None:
    folder, labels = images
    found = cli("compile", CNN, "--format", "tflite", "--data", folder, "--labels", labels, "--mean", "0",
                "--std", "255", "--no-profile", "--max-drop", "0.5", "--json",
                "-o", tmp_path / "o")  # fmt: skip
    assert found.code == 0, found.err
    fidelity = found.json["artifacts"][0]["fidelity"]
    assert fidelity["samples"] == 20
    assert fidelity["accuracy"] >= 0.95
    assert fidelity["reference_accuracy"] >= 0.95


def test_pixels_that_were_not_scaled_are_warned_about(
    cli: Cli, tmp_path: Path, images: tuple[Path, Path]
) -> None:
    found = cli("compile", CNN, "--format", "tflite", "--data", images[0], *QUICK, "-o", tmp_path / "o")
    assert found.code == 0
    assert "--mean and --std" in found.out.splitlines()[0]


def test_a_function_of_the_users_own_module(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_samples.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    rng = np.random.default_rng(0)\n"
        "    for _ in range(8):\n"
        "        yield {'pixels': rng.random((1, 64), np.float32)}\n"
        "def bad():\n"
        "    yield {'pixels': np.zeros((1, 64), np.float32)}\n"
        "    raise RuntimeError('the disk is gone')\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("compile", MLP, "--format", "tflite", *QUICK, "-o", tmp_path / "o")
    found = cli(*words, "--data", "my_samples:samples", "--json")
    assert found.code == 0, found.err
    assert found.json["options"]["data"] == "my_samples:samples"
    failed = cli(*words, "--data", "my_samples:bad")
    assert failed.code == 2
    assert "the disk is gone" in failed.err


# ---- the other commands --------------------------------------------------------------------------


def test_inspect_counts_and_says_what_a_target_can_run(cli: Cli, unserved: Path) -> None:
    found = cli("inspect", CNN, "--json").json
    assert found["macs"] == pytest.approx(2.44e6, rel=0.01)
    assert found["parameters"] == pytest.approx(62_954, rel=0.05)
    assert found["peak_activation_bytes"] > 0
    assert all(not serving["findings"] for serving in found["targets"])
    findings = next(
        s["findings"] for s in cli("inspect", unserved, "--json").json["targets"] if s["format"] == "tflite"
    )
    assert [f["op_type"] for f in findings] == ["NonZero"]
    assert "cannot run" in cli("inspect", unserved).out


def test_verify_measures_outputs_and_layers(cli: Cli, tmp_path: Path) -> None:
    calib, test = MODELS / "digits_cnn_calib.npz", MODELS / "digits_cnn_test.npz"
    assert cli("compile", CNN, "--data", calib, *QUICK, "-o", tmp_path / "o").code == 0
    for form in ("tflite", "onnx"):
        compiled = tmp_path / "o" / f"digits_cnn.int8.{form}"
        found = cli("verify", CNN, compiled, "--data", test, "--layers", "--json")
        assert found.code == 0, found.err
        assert found.json["samples"] == 450
        assert found.json["accuracy"] > 0.98
        assert len(found.json["layers"]) > 5
        missed = cli("verify", CNN, compiled, "--data", test, "--min-sqnr", "150")
        assert missed.code == 4
        assert "dB" in missed.err
    without = cli("verify", CNN, tmp_path / "o" / "digits_cnn.int8.tflite", "--seed", "3", "--json")
    assert "random" in without.json["data"]


def test_profile_measures_both_formats(cli: Cli, tmp_path: Path) -> None:
    assert cli("compile", MLP, "--precision", "fp32", *QUICK, "-o", tmp_path / "o").code == 0
    for form in ("tflite", "onnx"):
        found = cli("profile", tmp_path / "o" / f"digits_mlp.fp32.{form}", "--runs", "5", "--json")
        assert found.code == 0, found.err
        assert found.json["tier"] == "measured here"
        assert found.json["median_ms"] > 0


def test_profile_predicts_for_targets_that_are_not_here(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    found = cli("profile", CNN, "--target", "rpi4,cortex-m7", "--html", page, "--json")
    assert found.code == 0, found.err
    first, second = found.json["predictions"]
    assert (first["target"], second["target"]) == ("rpi4", "cortex-m7")
    for each in (first, second):
        assert each["tier"] == "predicted"
        assert each["grade"]
        assert each["low_ms"] < each["ms"] < each["high_ms"]
        assert sum(o["ms"] for o in each["operators"]) == pytest.approx(each["ms"])
    assert "predicted" in page.read_text()
    text = cli("profile", CNN, "--target", "cortex-m7").out
    assert second["grade"] in text
    assert "predicted" in text
    assert (
        cli("profile", CNN, "--target", "cortex-m7", "--device", "local", "--json").json["tier"]
        == "measured here"
    )
    assert cli("profile", CNN, "--target", "ethos-u55-128").code == 3


def test_pages_and_boards_that_cannot_be_written_are_wrong_use(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for page in (tmp_path / "file" / "p.html", tmp_path):
        found = cli("profile", CNN, "--target", "cortex-m7", "--html", page)
        assert found.code == 2, found.err
        assert str(tmp_path) in found.err
    (tmp_path / "m.csv").write_text(f"model,latency_ms\n{CNN},5.0\n")
    found = cli("calibrate", "--target", "rpi4", tmp_path / "m.csv", "-o", tmp_path / "file" / "b.toml")
    assert found.code == 2, found.err


def test_no_figure_is_told_for_a_precision_that_does_not_exist(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"model,latency_ms\n{CNN},5.0\n")
    for words in (
        ("profile", CNN, "--target", "rpi4"),
        ("calibrate", tmp_path / "m.csv", "--target", "rpi4", "-o", tmp_path / "b.toml"),
    ):
        found = cli(*words, "--precision", "int9")
        assert (found.code, "--precision" in found.err) == (2, True), found.err
    assert not (tmp_path / "b.toml").exists()


def test_calibrate_makes_a_target(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"model,latency_ms\n{CNN},5.0\n")
    made = tmp_path / "board.toml"
    found = cli("calibrate", "--target", "cortex-m4", tmp_path / "m.csv", "-o", made, "--json")
    assert found.code == 0, found.err
    assert found.json["networks"] == 1
    (again,) = cli("profile", CNN, "--target", made, "--json").json["predictions"]
    assert again["ms"] == pytest.approx(5, rel=0.02)
    assert cli("calibrate", "--target", "cortex-m4", tmp_path / "m.csv", "-o", tmp_path / "x").code == 2


def test_a_page_of_a_target_shows_limits_facts_and_latency(cli: Cli) -> None:
    text = cli("targets", "cortex-m4").out
    for part in ("TFLite Micro", "640 KB", "MLPerf Tiny", "unchecked", "NUCLEO-L4R5ZI"):
        assert part in text


def test_lists_and_pages(cli: Cli) -> None:
    assert {"arm", "x86-64"} <= set(cli("targets", "--json").json)
    page = cli("targets", "aarch64", "--json").json
    assert page["name"] == "arm"
    assert all(fact["source"] for fact in page["facts"])
    listed = cli("passes", "--json").json
    assert {"fold_batchnorm", "insert_qdq"} <= set(listed)
    assert "(approximate)" in listed["insert_qdq"]
    for name in listed:
        page = cli("passes", name, "--json").json
        assert page["does"]


# ---- Python: the same words ----------------------------------------------------------------------


def samples(count: int = 8) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"pixels": rng.random((1, 64), np.float32)}


class Reader:
    """A CalibrationDataReader of ONNX Runtime."""

    def __init__(self) -> None:
        self._items = samples()

    def get_next(self) -> dict[str, Array] | None:
        return next(self._items, None)


FORMS: dict[str, Callable[[], Any]] = {
    "array": lambda: np.concatenate([s["pixels"] for s in samples()]),
    "list": lambda: list(samples()),
    "generator": samples,
    "function": lambda: samples,
    "reader": Reader,
    "tf": lambda: lambda: ([s["pixels"]] for s in samples()),
    "path": lambda: CALIB,
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form_gives_the_same_file(tmp_path: Path, form: str) -> None:
    import edgecc

    result = edgecc.compile(
        MLP, precision="int8", format="tflite", data=FORMS[form](), no_profile=True, no_verify=True,
        output=tmp_path / "o",
    )  # fmt: skip
    if form == "path":
        return
    expected = edgecc.compile(
        MLP, precision="int8", format="tflite", data=list(samples()), no_profile=True, no_verify=True,
        output=tmp_path / "e",
    )  # fmt: skip
    assert result.artifacts["tflite"].data == expected.artifacts["tflite"].data


def test_python_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgecc

    monkeypatch.chdir(tmp_path)
    result = edgecc.compile(str(MLP), target="arm", precision="int8", data=CALIB, eval_data=TEST)
    path = result.artifacts["tflite"].path
    assert path == Path("build/digits_mlp-arm/digits_mlp.int8.tflite")
    assert path.read_bytes() == result.artifacts["tflite"].data
    assert result.fidelity is not None
    assert result.fidelity.agreement is not None
    assert result.fidelity.agreement > 0.97
    assert result.profile is not None
    assert "measured here" in result.profile.table()
    assert result.output == Path("build/digits_mlp-arm")
    fidelity = edgecc.verify(MLP, path, data=TEST, min_sqnr=20)
    assert fidelity.sqnr_db > 20


@pytest.mark.parametrize("kind", ["proto", "ir", "bytes"])
def test_models_in_memory_stay_as_they_are(tmp_path: Path, kind: str) -> None:
    import edgecc

    proto = onnx.load(MLP)
    before = proto.SerializeToString(deterministic=True)
    model: Any = {"proto": proto, "ir": edgecc.load(MLP), "bytes": MLP.read_bytes()}[kind]
    result = edgecc.compile(model, format="tflite", precision="fp32", no_profile=True, output=tmp_path / "o")
    expected = edgecc.compile(MLP, format="tflite", precision="fp32", no_profile=True, output=tmp_path / "e")
    assert result.artifacts["tflite"].data == expected.artifacts["tflite"].data
    assert result.artifacts["tflite"].path == tmp_path / "o" / "model.fp32.tflite"
    assert proto.SerializeToString(deterministic=True) == before


def test_python_refuses_unknown_and_wrong_words(tmp_path: Path) -> None:
    import edgecc

    words: Any
    for words, reason in (
        ({"precison": "int8"}, "did you mean 'precision'"),
        ({"min_agreement": 1.5}, "between 0 and 1"),
        ({"threads": "two"}, "cannot be read"),
        ({"no_verify": "yes"}, "true or false"),
        ({"passes": [3]}, "no pass '3'"),
    ):
        with pytest.raises(edgecc.EdgeccError, match=reason) as caught:
            edgecc.compile(MLP, output=tmp_path / "o", **words)
        assert caught.value.exit_code == 2


def test_json_of_failure_and_success_never_mix(cli: Cli, tmp_path: Path) -> None:
    words: list[tuple[str | Path, ...]] = [
        ("targets", "--json"),
        ("targets", "z80", "--json"),
        ("compile", "--json"),
    ]
    words.append(
        ("compile", MLP, "--format", "tflite", "--max-size", "1", *QUICK, "--json", "-o", tmp_path / "o")
    )
    for each, code in itertools.zip_longest(words, [0, 2, 2, 5]):
        found = cli(*each)
        assert found.code == code
        assert ("exit_code" in found.json) == (code != 0)


def test_an_original_that_cannot_be_timed_ends_no_compilation(cli: Cli, tmp_path: Path) -> None:
    """ONNX Runtime refuses two nodes of one name; edgecc tells them apart."""
    model = onnx.load(MLP)
    for node in model.graph.node:
        node.name = "same"
    path = tmp_path / "same.onnx"
    onnx.save(model, path)
    done = cli("compile", path, "--precision", "fp32", "--json", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert any(w.startswith("the original was not timed: ") for w in done.json["warnings"])
    assert done.json["original_profile"] is None
    assert all(a["profile"] for a in done.json["artifacts"])
