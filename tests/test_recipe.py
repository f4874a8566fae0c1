"""The deployment recipe of docs/recipes: run for a good night and for bad ones."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecc.options import CompileOptions, flag

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "docs" / "recipes"
MLP = ROOT / "models" / "digits_mlp"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `edgecc` is this edgecc."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    command = tmp_path / "bin" / "edgecc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgecc.cli "$@"\n')
    command.chmod(0o755)
    return f"{command.parent}{os.pathsep}{os.environ['PATH']}"


def nightly(path: str, archive: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    facts = {
        "PATH": path, "ARCHIVE": str(archive), "MODEL": f"{MLP}.onnx", "CALIB": f"{MLP}_calib.npz",
        "TEST": f"{MLP}_test.npz", **environment,
    }  # fmt: skip
    command = ["bash", str(RECIPES / "nightly.sh"), "--format", "tflite", "--no-profile", *words]
    return subprocess.run(
        command, env={**os.environ, **facts}, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_good_night_is_archived_with_its_manifest(path: str, tmp_path: Path) -> None:
    done = nightly(path, tmp_path / "archive", LIMITS="--min-agreement 0.99 --max-drop 0.5 --max-size 250KB")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nightly: digits_mlp for arm: compiled and verified" in done.stdout
    (night,) = (tmp_path / "archive").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", night.name)
    assert [p.name for p in night.iterdir()] == ["digits_mlp"]
    assert {p.name for p in (night / "digits_mlp").iterdir()} == {
        "digits_mlp.int8.tflite", "manifest.json", "plan.json", "report.json", "report.html", "edgecc.log"
    }  # fmt: skip
    assert json.loads((night / "digits_mlp" / "manifest.json").read_text())["precision"] == "int8"
    again = nightly(path, tmp_path / "archive")  # twice in one night: the later one stands
    assert again.returncode == 0
    assert [p.name for p in night.iterdir()] == ["digits_mlp"]


@pytest.mark.parametrize(
    ("limits", "code", "reason"),
    [("--min-sqnr 150", 4, "less faithful than allowed"), ("--max-size 1KB", 5, "a budget of size"),
     ("--precision int16x8 --target FLOATS.toml", 3, "cannot run"), ("--min-snqr 3", 2, "set up wrongly")],
)  # fmt: skip
def test_a_bad_night_fails_with_its_code_and_its_reason(
    path: str, tmp_path: Path, limits: str, code: int, reason: str
) -> None:
    (tmp_path / "floats.toml").write_text(
        'extends = "arm"\nname = "floats"\ndescription = "no integers"\nprecisions = ["fp32"]\n'
    )
    limits = limits.replace("FLOATS.toml", str(tmp_path / "floats.toml"))
    done = nightly(path, tmp_path / "archive", LIMITS=limits)
    assert done.returncode == code, done.stdout + done.stderr
    assert reason in done.stdout.splitlines()[-1]
    (night,) = (tmp_path / "archive").iterdir()
    assert [p.name for p in night.iterdir()] == ["digits_mlp.failed"]
    names = {p.name for p in (night / "digits_mlp.failed").iterdir()}
    assert "edgecc.log" in names
    assert "manifest.json" not in names
    if code in (4, 5):
        assert {"report.html", "digits_mlp.int8.tflite"} <= names


def test_a_job_without_a_model_says_so(path: str, tmp_path: Path) -> None:
    done = nightly(path, tmp_path / "archive", MODEL="")
    assert done.returncode != 0
    assert "set MODEL" in done.stderr
    assert not (tmp_path / "archive").exists()


def test_the_ci_job_calls_the_script_with_options_that_exist() -> None:
    job = (RECIPES / "nightly.yml").read_text(encoding="utf-8")
    assert "docs/recipes/nightly.sh" in job
    known = {f"--{flag(name)}" for name in CompileOptions.__dataclass_fields__}
    assert set(re.findall(r"(?<= )--[a-z-]+", job)) <= known
    for model in re.findall(r"model: (\S+)", job)[:2]:
        assert (ROOT / f"{model}.onnx").exists()
    script = (RECIPES / "nightly.sh").read_text(encoding="utf-8")
    documented = set(re.findall(r"^#   ([A-Z]+) ", script, re.MULTILINE))
    assert documented == set(re.findall(r"^          ([A-Z]+): ", job, re.MULTILINE))
