"""The wheel holds every module and data file; one that is not listed works only when editable."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edgecc", "passes", "targets")


@pytest.fixture(scope="module")
def wheel(pip: list[str], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy of what is needed, so that nothing is left in the working tree."""
    copy = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    command = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(copy / "dist")]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "dist").glob("edgecc-*-py3-none-any.whl")
    return zipfile.ZipFile(path)


def expected() -> set[str]:
    """Modules and data of the three folders; passes and targets lie under edgecc."""
    suffixes = (".py", ".toml", ".j2", ".json", ".typed", ".h")
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT)
            behind_link = inside.parts[:2] in (("edgecc", "passes"), ("edgecc", "targets"))
            if (
                path.is_file()
                and path.suffix in suffixes
                and not behind_link
                and "__pycache__" not in inside.parts
            ):
                found.add(inside.as_posix() if folder == "edgecc" else f"edgecc/{inside.as_posix()}")
    return found


def test_every_module_and_data_file_is_in_it(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected()
    for name in (
        "edgecc/py.typed", "edgecc/targets/arm.toml", "edgecc/targets/x86-64.toml",
        "edgecc/report/report.html.j2", "edgecc/report/report.schema.json",
        "edgecc/passes/fold_batchnorm.py", "edgecc/onnxrt/__init__.py",
    ):  # fmt: skip
        assert name in names


def test_it_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    facts = Parser().parsestr(wheel.read(name).decode())
    assert facts["Requires-Python"] == ">=3.11"
    core = [line for line in facts.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert core
    assert all(
        ">=" in line and not set("<=~!") & set(line.replace(">=", "")) for line in core
    )  # lower bounds only
    assert not any(line.lower().startswith(("tensorflow", "torch")) for line in core)
    (points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "edgecc = edgecc.cli:main" in wheel.read(points).decode()


def test_it_runs_where_it_is_unpacked(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    program = "import edgecc, edgecc.cli; print(edgecc.__file__); edgecc.cli.main(['passes'])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60,
        cwd=tmp_path,        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "fold_batchnorm" in done.stdout
