"""Measuring over ssh, against a real sshd on loopback: what comes back, what is refused, what stays behind."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto
from sshd import Sshd, serve

from edgecc import cli
from edgecc.errors import EdgeccError, UsageError
from edgecc.profile import MEASURED_THERE, Profile, over_ssh
from edgecc.profile.devices import profile_on
from edgecc.profile.over_ssh import Place, command, parse
from edgecc.target import target

Parse = Callable[..., ModelProto]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with serve(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def measured(device: str, path: Path, **words: Any) -> Profile:
    found = profile_on(device, path, **{"runs": 5, **words})
    assert isinstance(found, Profile)
    return found


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_profile_comes_back(sshd: Sshd, onnx_file: Path, tflite_file: Path, kind: str) -> None:
    path = {"onnx": onnx_file, "tflite": tflite_file}[kind]
    found = measured(sshd.device(), path, input_shape={"x": (3, 64)} if kind == "onnx" else None)
    assert found.tier == MEASURED_THERE == "measured on a device"
    assert (found.runtime, found.runs, found.threads) == (
        {"onnx": "ONNX Runtime", "tflite": "LiteRT"}[kind],
        5,
        1,
    )
    assert found.runtime_version == version({"onnx": "onnxruntime", "tflite": "ai-edge-litert"}[kind])
    assert found.median_ms is not None and 0 < found.min_ms <= found.median_ms
    assert found.operators, found.notes
    assert found.size_bytes == path.stat().st_size
    assert os.uname().machine in found.machine
    assert found.memory_bytes
    assert sshd.left() == []
    json.dumps(found.to_dict())
    assert MEASURED_THERE in found.table()


def test_the_command_line_prints_the_schema_of_a_profile(sshd: Sshd, tflite_file: Path) -> None:
    words = [sys.executable, "-m", "edgecc.cli", "profile", str(tflite_file), "--runs", "4", "--json"]
    done = subprocess.run(
        [*words, "--device", sshd.device("pi@127.0.0.1:" + str(sshd.port))],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    data = json.loads(done.stdout)
    assert (data["tier"], data["runs"]) == (MEASURED_THERE, 4)
    jsonschema = pytest.importorskip("jsonschema")
    whole = json.loads((Path(over_ssh.__file__).parents[1] / "report" / "report.schema.json").read_text())
    jsonschema.validate(data, {**whole["$defs"]["profile"], "$defs": whole["$defs"]})


@pytest.mark.parametrize(
    "name", ["a b'c\"d$(touch ran)`touch ran`;touch ran.onnx", "-oProxyCommand=x\ny.onnx"]
)
def test_no_name_reaches_a_shell(
    sshd: Sshd, onnx_file: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(onnx_file.read_bytes())
    shape = {"$(touch ran)\n`touch ran`": (1,)}
    assert measured(sshd.device(), Path(name), input_shape=shape).runs == 5
    environment = f"/nowhere/$(touch {sshd.folder}/ran);touch ran'\"/bin/python"
    with pytest.raises(EdgeccError, match="does not start there"):
        measured(sshd.device(python=environment), Path(name))
    assert list(sshd.folder.rglob("ran")) == list(tmp_path.rglob("ran")) == []


def test_the_remote_command_is_one_constant_text() -> None:
    first, second = command(Place("a", "pi", 2022, "/x y/$(z)")), command(Place("b"))
    assert first[-1] == second[-1]
    assert first[-3:-1] == ["--", "a"]
    assert not re.search(r"[\\$!`\n]", first[-1])
    assert "StrictHostKeyChecking=yes" in " ".join(first)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ({"known": "unknown"}, "host key is not the known one"),
        ({"known": "changed"}, "host key is not the known one"),
        ({"key": "other_key"}, "refuses the key"),
    ],
)
def test_strangers_are_refused(sshd: Sshd, onnx_file: Path, words: dict[str, str], cause: str) -> None:
    config = sshd.client("strange", **words)
    config.write_text("StrictHostKeyChecking no\nNoHostAuthenticationForLocalhost yes\n" + config.read_text())
    with pytest.raises(EdgeccError, match=cause) as caught:
        measured(sshd.device(config=str(config)), onnx_file)
    assert caught.value.remedy
    assert (sshd.folder / "unknown").read_text() == ""


@pytest.mark.parametrize(
    "place",
    ["-oProxyCommand=x", "pi@-x", "-pi@host", "host:0", "host:99999", "a b", "host;x", "host?python=x",
     "host?python=/a&venv=/b", "host?colour=red", "host?timeout=0", "host?timeout=soon", "pi@@host", "host/x",
     "host?config=/no/such/file", "host?python=/a%0Ab", "", "[::1;x]"],
)  # fmt: skip
def test_wrong_places(place: str, onnx_file: Path) -> None:
    with pytest.raises(UsageError):
        measured(f"ssh://{place}", onnx_file)


def test_places() -> None:
    assert parse("pi@rpi5.local:2022/?venv=~/my%20env&timeout=60") == Place(
        "rpi5.local", "pi", 2022, "~/my env/bin/python", None, 60.0
    )
    assert parse("Board_1") == Place("Board_1")
    assert parse("[fe80::1]").host == "fe80::1"


def test_hosts_that_are_not_there(tmp_path: Path, sshd: Sshd, onnx_file: Path) -> None:
    with pytest.raises(EdgeccError, match="cannot be reached"):
        measured(sshd.device("127.0.0.1:1"), onnx_file)
    with pytest.raises(EdgeccError, match="no host of that name"):
        measured(sshd.device("nowhere.invalid"), onnx_file)
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(UsageError, match=r"\.onnx and \.tflite"):
        measured(sshd.device(), tmp_path / "m.txt")


def test_weights_beside_the_model_go_along(sshd: Sshd, onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    (tmp_path / "sub").mkdir()
    onnx.save_model(
        model, tmp_path / "sub" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    assert (tmp_path / "sub" / "w.bin").stat().st_size > 10000
    assert measured(sshd.device(), tmp_path / "sub" / "m.onnx").runs == 5


def test_what_cannot_run_there_is_an_error_with_the_cause(
    sshd: Sshd, tflite_file: Path, tmp_path: Path, parse: Parse
) -> None:
    bad = parse("g (float[1] x) => (float[1] y) { y = ai.nobody.Nothing(x) }", domains=', "ai.nobody": 1')
    (tmp_path / "bad.onnx").write_bytes(bad.SerializeToString())
    with pytest.raises(EdgeccError, match=r"ONNX Runtime cannot run it: .*exit code 1"):
        measured(sshd.device(), tmp_path / "bad.onnx")
    (tmp_path / "bad.tflite").write_bytes(b"....TFL3 nonsense")
    with pytest.raises(EdgeccError, match="LiteRT cannot run it"):
        measured(sshd.device(), tmp_path / "bad.tflite")
    with pytest.raises(EdgeccError, match="has no LiteRT") as caught:
        measured(sshd.device(python=f"{sshd.folder}/env/bin/python3"), tflite_file)
    assert "pip install ai-edge-litert==" in str(caught.value.remedy)
    assert sshd.left() == []


def test_a_library_that_differs_leaves_the_interpreter(
    sshd: Sshd, tflite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in over_ssh._RUNTIME.glob("*.py"):
        text = path.read_text(encoding="utf-8").replace("LiteRtCreateEnvironment", "LiteRtNoSuchFunction")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(over_ssh, "_RUNTIME", tmp_path)
    found = measured(sshd.device(), tflite_file)
    assert (found.runs, found.operators) == (5, ())
    assert "LiteRtNoSuchFunction" in found.notes[0]


def test_the_time_limit_holds_there(sshd: Sshd, onnx_file: Path) -> None:
    with pytest.raises(EdgeccError, match="time limit"):
        measured(sshd.device(timeout="3"), onnx_file, runs=10**7)
    assert sshd.left() == []


def test_a_broken_connection_leaves_nothing_behind(sshd: Sshd, onnx_file: Path) -> None:
    where = parse(sshd.device().removeprefix("ssh://"))
    names = ("stopwatch.py", "machine.py")
    files = [*(over_ssh._RUNTIME / name for name in names), onnx_file]
    request = {
        "runtime": "ort", "version": version("onnxruntime"), "python": sys.executable, "timeout": 60,
        "files": [[name, path.stat().st_size] for name, path in zip((*names, "model/m.onnx"), files, strict=True)],
        "stopwatch": {"kind": "ort", "threads": 1, "seconds": 1, "runs": 10**7, "operators": False, "shapes": {}},
    }  # fmt: skip
    with subprocess.Popen(command(where), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdin is not None and ssh.stdout is not None
        over_ssh._send(ssh.stdin, request, files)
        while b"ready" not in ssh.stdout.readline():
            pass
        assert len(sshd.left()) == 1
        folder = sshd.folder / "tmp" / sshd.left()[0]
        assert folder.stat().st_mode & 0o777 == 0o700
        ssh.kill()
    until = time.monotonic() + 20
    while sshd.left() and time.monotonic() < until:
        time.sleep(0.05)
    assert sshd.left() == []
    running = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if os.access(p, os.R_OK)]
    assert not any(str(folder).encode() in words for words in running)


def wheel(folder: Path) -> None:
    """A package of the runtime's name and version, which only leads to where it is installed here."""
    name = f"ai_edge_litert-{version('ai-edge-litert')}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as file:
        info = f"{name}.dist-info"
        file.writestr("elsewhere.pth", sysconfig.get_paths()["purelib"] + "\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: {name[15:]}\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "".join(f"{n},,\n" for n in file.namelist()) + f"{info}/RECORD,,\n")


def test_an_environment_is_made_where_there_is_none(sshd: Sshd, tflite_file: Path, tmp_path: Path) -> None:
    """pip installs from a folder instead of an index: first an empty one."""
    pytest.importorskip("ensurepip")
    (sshd.folder / "home/.config/pip").mkdir(parents=True)
    (sshd.folder / "home/.config/pip/pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {tmp_path}\n"
    )
    device, made = sshd.device(python=""), sshd.folder / "home/.cache/edgecc"
    with pytest.raises(
        EdgeccError, match=r"ai-edge-litert==.* cannot be installed there .*No matching"
    ) as caught:
        measured(device, tflite_file)
    assert "?python=" in str(caught.value.remedy)
    wheel(tmp_path)
    found = measured(device, tflite_file)
    assert "made an environment with LiteRT" in found.notes[0]
    assert len(found.operators) > 0
    (folder,) = made.iterdir()
    assert version("ai-edge-litert") in folder.name
    again = measured(sshd.device(python=""), tflite_file)
    assert not any("environment" in note for note in again.notes)
    assert measured(sshd.device(python="", venv=str(folder)), tflite_file).runs == 5


def test_without_python_there(sshd: Sshd, onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_ssh, "_COMMAND", over_ssh._COMMAND.replace("python3", "python3-is-not-here"))
    with pytest.raises(EdgeccError, match="there is no python3 on its PATH"):
        measured(sshd.device(), onnx_file)


def test_a_target_is_calibrated_there(sshd: Sshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(__file__).resolve().parents[1] / "models" / "digits_mlp.onnx"
    words = ["--device", sshd.device(), "--target", "cortex-a53", "-o", str(tmp_path / "my.toml"), "--json"]
    cli.main(["calibrate", str(model), *words])
    (row,) = json.loads(capsys.readouterr().out)["measured"]
    assert row["ms"] > 0
    assert MEASURED_THERE in row["notes"][0]
    assert target(str(tmp_path / "my.toml")).latency[0].measured == 1
