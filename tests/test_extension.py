"""Another package adds a pass, a target and a lowering: the one of docs/extending.md, built and installed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecc.runtime.litert import LiteRtRunner

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
FILES = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
Parse = Callable[..., onnx.ModelProto]
Edgecc = Callable[..., subprocess.CompletedProcess[str]]


def install(pip: list[str], source: Path, target: Path) -> None:
    """Builds the package and installs it into a folder of its own, without the network."""
    words = (
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
        str(source),
    )
    done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def runner(site: Path) -> Edgecc:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgecc.cli", *map(str, words)], capture_output=True, text=True,
            check=False,
            timeout=120, env={**os.environ, "PYTHONPATH": str(site)},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def site(pip: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extension")
    for name, text in FILES.findall(PAGE.read_text(encoding="utf-8")):
        path = folder / "edgecc-twice" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    install(pip, folder / "edgecc-twice", folder / "site")
    return folder / "site"


@pytest.fixture
def network(parse: Parse, tmp_path: Path) -> Path:
    """y = Conv(Twice(x)), z = Twice(Twice(v))."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    text = """g (float[1,3,8,8] x, float[1,3,8,8] v) => (float[1,4,8,8] y, float[1,3,8,8] z)
        <float[1,3,8,8] s, float[1,3,8,8] t>
        { t = my.domain.Twice(x) y = Conv(t, w) s = my.domain.Twice(v) z = my.domain.Twice(s) }"""
    onnx.save(parse(text, constants={"w": weights}, domains=', "my.domain": 1'), tmp_path / "twice.onnx")
    return tmp_path / "twice.onnx"


QUICK = ("--precision", "fp32", "--no-verify", "--no-profile", "--json")


def test_all_three_are_listed(site: Path) -> None:
    edgecc = runner(site)
    assert "merge_twice" in json.loads(edgecc("passes", "--json").stdout)
    assert "limit" in edgecc("passes", "merge_twice").stdout
    assert json.loads(edgecc("targets", "tb", "--json").stdout)["name"] == "twice-board"


def test_a_network_is_compiled_with_all_three(site: Path, network: Path, tmp_path: Path) -> None:
    edgecc = runner(site)
    done = edgecc("compile", network, "--target", "twice-board", *QUICK, "-o", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {p["name"]: p["rewritten"] for p in report["passes"]}["merge_twice"] == 1
    (artifact,) = report["artifacts"]
    assert artifact["operators"]["ADD"] == 1  # the Twice before the convolution
    assert artifact["operators"]["MUL"] == 1  # the two that were merged
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    answers = LiteRtRunner((tmp_path / "o" / "twice.fp32.tflite").read_bytes()).run({"x": x, "v": -x})
    weights = onnx.numpy_helper.to_array(onnx.load(network).graph.initializer[0])[:, :, 0, 0]
    np.testing.assert_allclose(answers["y"], np.einsum("oc,nchw->nohw", weights, 2 * x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answers["z"], -4 * x, rtol=1e-6)


def test_options_of_the_pass_come_from_the_command_line(site: Path, network: Path, tmp_path: Path) -> None:
    words = ("--format", "tflite", "--pass", "merge_twice:limit=0", *QUICK, "-o", tmp_path / "o")
    done = runner(site)("compile", network, *words)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout)["passes"][-1]
    assert (last["name"], last["options"], last["rewritten"]) == ("merge_twice", {"limit": 0}, 0)
    assert [r["reason"] for r in last["refused"]] == ["limit=0"]


def test_without_the_package_the_operator_is_unknown(network: Path, tmp_path: Path) -> None:
    done = runner(tmp_path)("compile", network, "--format", "tflite", *QUICK, "-o", tmp_path / "o")
    assert done.returncode == 3
    assert "my.domain::Twice" in done.stderr


def test_a_second_lowering_for_an_operator_names_both(
    site: Path, network: Path, pip: list[str], tmp_path: Path
) -> None:
    rival = tmp_path / "rival"
    (rival / "rival").mkdir(parents=True)
    (rival / "rival" / "__init__.py").write_text(
        "from edgecc.tflite import lowers\n\n\n@lowers('my.domain::Twice')\ndef also(site, b): ...\n"
    )
    (rival / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "rival"\nversion = "1"\n'
        '[project.entry-points."edgecc.lowerings"]\nrival = "rival"\n'
        '[tool.setuptools]\npackages = ["rival"]\n'
    )
    install(pip, rival, tmp_path / "site")
    edgecc = runner(Path(f"{site}{os.pathsep}{tmp_path / 'site'}"))
    done = edgecc("compile", network, "--format", "tflite", *QUICK, "-o", tmp_path / "o")
    assert done.returncode == 2
    assert "edgecc_twice.lowerings.twice" in done.stderr
    assert "rival.also" in done.stderr
    assert not (tmp_path / "o").exists()
