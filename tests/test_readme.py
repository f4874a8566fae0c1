"""README's examples are run as they stand, in a copy of what they name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EDGECC = Path(sys.executable).with_name("edgecc")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def edgecc_lines() -> list[str]:
    """Every complete `edgecc` command of the shell blocks (what sets up the environment is cut off)."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line[line.index("edgecc compile") :] for line in lines if "edgecc compile" in line]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_examples() -> None:
    assert len(edgecc_lines()) >= 2
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("line", edgecc_lines())
def test_commands(line: str, folder: Path) -> None:
    path = f"{EDGECC.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = {p.name for p in (folder / "build" / "digits_cnn-arm").iterdir()}
    promised = set(re.findall(r"^  (\S+\.(?:tflite|onnx|html|json))  ", TEXT, re.M))
    assert len(promised) == 6
    assert made == promised


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_continuous_integration_runs_the_test_command() -> None:
    found = re.search(r"<!-- test command -->\n```sh\n(.*)\n```", TEXT)
    assert found is not None
    assert found[1] == "pytest -q"
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
