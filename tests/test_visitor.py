"""The programs that travel to a device, and what is made of their answers; without a connection."""

import ast
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save_model

from edgecc import modelfile
from edgecc.datafiles import data_files
from edgecc.errors import EdgeccError
from edgecc.profile import over_ssh
from edgecc.profile.over_ssh import _Answer, _circumstances, _profile
from edgecc.runtime import machine, visitor


@pytest.mark.parametrize("name", ["../out", "model/../../out", "/out"])
def test_no_file_leaves_the_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abc")))
    (tmp_path / "in").mkdir()
    with pytest.raises(visitor.Failure, match="leads out of the folder"):
        visitor.receive(tmp_path / "in", name, 3)
    assert [p.name for p in tmp_path.rglob("*")] == ["in"]


def test_a_file_arrives_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abcdef")))
    visitor.receive(tmp_path, "model/m.onnx", 3)
    assert (tmp_path / "model" / "m.onnx").read_bytes() == b"abc"
    with pytest.raises(SystemExit):
        visitor.receive(tmp_path, "n.onnx", 4)


@pytest.fixture
def connected() -> Iterator[int]:
    """Standard input that stays open until the number that this is is closed."""
    saved, (reader, writer) = os.dup(0), os.pipe()
    os.dup2(reader, 0)
    os.close(reader)
    yield writer
    os.dup2(saved, 0)
    os.close(saved)
    with suppress(OSError):
        os.close(writer)


@pytest.mark.parametrize("program", ["while True: print('x')", "import time; time.sleep(60)"])
def test_a_program_that_goes_on_is_ended(connected: int, program: str) -> None:
    with pytest.raises(visitor.Failure, match="time limit"):
        visitor.watched([sys.executable, "-c", program], time.monotonic() + 1)
    os.close(connected)
    with pytest.raises(SystemExit):
        visitor.watched([sys.executable, "-c", program], time.monotonic() + 60)


def test_a_program_is_told_and_heard(connected: int) -> None:
    lines: list[bytes] = []
    program = "import sys; print(input()); sys.stderr.write('why\\n'); sys.exit(3)"
    found = visitor.watched([sys.executable, "-c", program], time.monotonic() + 60, lines.append, b"go\n")
    assert (found, lines) == ((3, "why\n"), [b"go"])
    assert visitor.ended(*found) == "why (exit code 3)"


def test_a_program_whose_words_nobody_takes_is_ended(connected: int) -> None:
    def gone(line: bytes) -> None:
        raise BrokenPipeError

    program = "import time; print('x', flush=True); time.sleep(10)"
    with pytest.raises(BrokenPipeError):  # it was waited for, and without a limit
        visitor.watched([sys.executable, "-c", program], time.monotonic() + 60, gone, b"go\n")


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "zsh", "csh", "tcsh", "fish"])
def test_every_login_shell_reads_the_command_alike(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    program = b"print(source.readline())"
    done = subprocess.run(
        [shell, "-c", over_ssh._COMMAND], input=b"%d\n%s$rest\n" % (len(program), program), capture_output=True,
        check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == b"b'$rest\\n'\n"


def test_the_programs_need_nothing_but_an_older_python() -> None:
    """They parse as Python 3.9 and import the standard library and the runtimes alone."""
    for name in ("visitor", "machine", "stopwatch"):
        text = (over_ssh._RUNTIME / f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text, feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            known = {*sys.stdlib_module_names, "numpy", "onnxruntime", "ai_edge_litert"}
            assert all(each.partition(".")[0] in known for each in names)


def test_boards_are_told_by_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "/proc/cpuinfo": "CPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nCPU part\t: 0xd0b\n",
    }
    monkeypatch.setattr(machine, "text", lambda path: files.get(path, ""))
    assert machine.machine().startswith("Raspberry Pi 5 Model B Rev 1.0, 2 x Cortex-A76, ")
    assert machine.facts() == {}


def test_what_slows_a_board_down_is_told() -> None:
    before = {"governor": "ondemand", "most_mhz": 1800.0, "celsius": 61.2, "load": 1.5}
    text = " ".join(_circumstances(before, {"celsius": 74.9, "throttled": "50005"}))
    for part in (
        "governor ondemand",
        "below 1800 MHz",
        "61 °C before, 75 °C after",
        "throttles",
        "load 1.50",
    ):
        assert part in text
    assert _circumstances({"governor": "performance", "load": 0.1}, {"throttled": "50000"}) == []


LINES = (
    b"Welcome to the board!",
    b'{"machine": "m", "facts": {"load": 0.0}}',
    b'{"ready": "2.3"}',
    b'{"latency": [1.0, 2.0, 3.0], "memory": null}',
    b'{"facts": {}}',
)


def answer(*lines: bytes) -> _Answer:
    found = _Answer()
    for line in lines:
        found.hear(line)
    return found


def test_an_answer_becomes_a_profile() -> None:
    found = _profile(answer(*LINES), "litert", 2, 7)
    assert (found.median_ms, found.runs, found.operators, found.notes) == (2.0, 3, (), ())


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ((b'{"done": true}',), "latency"),
        ((*LINES, b'{"latency": ["x"], "done": true}'), "float"),
        ((*LINES, b'{"latency": [], "done": true}'), "index"),
        ((*LINES, b'{"memory": Infinity, "done": true}'), "infinity"),
        ((*LINES, b'{"events": [5], "done": true}'), "int"),
        ((*LINES, b"[" * 10**5, b'{"latency": 5, "done": true}'), "iterable"),
    ],
)
def test_an_answer_that_makes_no_sense(
    lines: tuple[bytes, ...], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def visit(*_: Any) -> tuple[_Answer, int, str]:
        return answer(*lines), 0, ""

    monkeypatch.setattr(over_ssh, "_visit", visit)
    (tmp_path / "m.tflite").write_bytes(b"x")
    with pytest.raises(EdgeccError, match=f"does not answer as it should: .*{cause}"):
        over_ssh.profile(tmp_path / "m.tflite", "host", runs=None, threads=1, input_shape={})


def test_a_model_that_holds_its_weights_is_not_read_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr(modelfile, "read", read)
    (tmp_path / "m.onnx").write_bytes(b"weights")
    assert data_files(tmp_path / "m.onnx") == {}
    (tmp_path / "m.onnx").write_bytes(b"")
    assert data_files(tmp_path / "m.onnx") == {}
    (tmp_path / "m.onnx").write_bytes(b"location")
    with pytest.raises(AssertionError):
        data_files(tmp_path / "m.onnx")


def test_weights_are_sent_once_and_never_in_place_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [helper.make_node("Add", ["x", "a"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    held = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in "ab"]
    made = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], held))
    save_model(
        made, tmp_path / "m.onnx", save_as_external_data=True, location="network.onnx", size_threshold=0
    )
    made = load(tmp_path / "m.onnx", load_external_data=False)
    (place,) = (entry for entry in made.graph.initializer[0].external_data if entry.key == "location")
    place.value = "./network.onnx"
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    sent: dict[str, Path] = {}

    def visit(_: Any, request: dict[str, Any], files: list[Path]) -> tuple[_Answer, int, str]:
        sent.update(zip((name for name, _ in request["files"]), files, strict=True))
        return answer(*LINES, b'{"done": true}'), 0, ""

    monkeypatch.setattr(over_ssh, "_visit", visit)
    over_ssh.profile(tmp_path / "m.onnx", "host", runs=None, threads=1, input_shape={})
    assert {name: path.name for name, path in sent.items() if name.startswith("model/")} == {
        "model/network.onnx": "network.onnx",
        "model/network_.onnx": "m.onnx",
    }
    assert list(sent)[-1] == "model/network_.onnx"  # what is measured comes last
