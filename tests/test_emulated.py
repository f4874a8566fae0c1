"""Emulated Arm: the answers and the instructions of the real Arm runtimes, and how its absence is told."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome

import edgecc
from edgecc.errors import EdgeccError, UsageError
from edgecc.profile import emulation
from edgecc.profile.devices import profile_on
from edgecc.profile.elf import functions
from edgecc.profile.emulated import compare, run_many
from edgecc.profile.emulation import EmulatorUnavailableError, Machine, machine
from edgecc.profile.guest import Guest
from edgecc.profile.instructions import BlockLog, is_class, ranges
from edgecc.profile.tensors import ModelFile

MODELS = Path(__file__).resolve().parents[1] / "models"
MARKER, LOOP, ONCE = 0x5500001000, 0x5500002000, 0x5500003000


@pytest.fixture(scope="module")
def arm() -> Machine:
    try:
        return machine()
    except EmulatorUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits_cnn in int8, as TFLite and as ONNX."""
    folder = tmp_path_factory.mktemp("digits")
    edgecc.compile(
        MODELS / "digits_cnn.onnx",
        data=str(MODELS / "digits_cnn_calib.npz"),
        precision="int8",
        format="all",
        no_profile=True,
        no_verify=True,
        output=folder,
    )
    return folder


def images(count: int) -> np.ndarray:
    with np.load(MODELS / "digits_cnn_test.npz") as held:
        name = next(n for n in held.files if held[n].ndim == 4)
        return np.asarray(held[name][:count, None], np.float32)


def test_int8_answers_alike_on_every_level_and_the_count_repeats(arm: Machine, digits: Path) -> None:
    feeds = {"image": images(3)}
    path = digits / "digits_cnn.int8.tflite"
    found = compare(path, ["a53", "a76"], feeds)
    assert found.bit_identical is True
    here = [each.differences[0] for each in found.levels]
    assert [(d.against, d.compared, d.differing) for d in here] == [("this machine", 30, 0)] * 2
    a53, a76 = (each.count for each in found.levels)
    assert a53 is not None and a76 is not None
    assert a53.repeatable and a76.repeatable
    assert a76.instructions < a53.instructions
    assert a53.products["dot"] == a53.products["mmla"] == a76.products["mmla"] == 0
    assert a76.products["dot"] > 0
    assert "neondot" in a76.functions[0].name and "mlal" in a53.functions[0].name
    assert sum(f.instructions for f in a76.functions) == a76.instructions
    again = compare(path, ["a76"], feeds).levels[0].count
    assert again == a76


def test_onnx_runtime_answers_alike_on_every_level_and_the_count_repeats(arm: Machine, digits: Path) -> None:
    """On x86-64 it computes part of a file for Arm in float: of 30 answers one differs there, by a step."""
    feeds = {"image": images(3)}
    path = digits / "digits_cnn.int8.onnx"
    found = compare(path, ["a53", "a76"], feeds, count=False)
    assert found.bit_identical is True
    here = [each.differences[0] for each in found.levels]
    assert [(d.against, d.compared) for d in here] == [("this machine", 30)] * 2
    assert all((d.steps or 0) <= 1 for d in here)
    assert found.levels[0].operators["QLinearConv"] > 0
    guest = Guest(arm, "a76", "ort", path)
    stored = ModelFile.read(path).stored(feeds)
    guest.run(stored)
    first, again = guest.count(stored), guest.count(stored)  # in processes of their own
    assert first.repeatable and again == first
    assert first.products["dot"] > 0
    assert first.products["mmla"] == first.products["fmla"] == 0


def test_an_unknown_level_is_refused(digits: Path) -> None:
    path = digits / "digits_cnn.int8.tflite"
    with pytest.raises(UsageError, match=r"'a99' is not emulated.*known: a53, a72, a76, i8mm, all"):
        profile_on("emulated://a53,a99", path)
    with pytest.raises(UsageError, match="one thread"):
        profile_on("emulated://a53", path, threads=2)


def test_inputs_that_are_not_there_are_refused(
    digits: Path, parse: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no input 'imgae'"):
        profile_on("emulated://a53", digits / "digits_cnn.int8.onnx", input_shape={"imgae": (1, 1, 28, 28)})
    bare = parse("g () => (float[1] y) { y = Constant<value_floats = [1.0]>() }")
    (tmp_path / "m.onnx").write_bytes(bare.SerializeToString())
    with pytest.raises(UsageError, match="no inputs"):
        profile_on("emulated://a53", tmp_path / "m.onnx")


def test_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    guest = Guest(Machine(tmp_path), "a53", "litert", tmp_path / "m.tflite", timeout=9)
    with pytest.raises(EdgeccError, match=r"LiteRT cannot run it on a53: it was stopped.* 9 s"):
        guest._answer(b"", -9, io.BytesIO(b"chatter\n"))


def test_without_apt_it_is_no_debian_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome], digits: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outcome = cli("profile", digits / "digits_cnn.int8.tflite", "--device", "emulated://a53")
    assert outcome.code == EdgeccError.exit_code
    assert "there is no apt-get: this is no Debian machine" in outcome.err
    assert "Remedy: " in outcome.err
    assert not (tmp_path / "cache").exists()


def test_an_archive_out_of_reach_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    fakes = {"apt-get": 'echo "E: Failed to fetch InRelease" >&2; exit 100', "dpkg": "echo amd64"}
    for name in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
        (tools / name).write_text(f"#!/bin/sh\n{fakes.get(name, 'exit 1')}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        EmulatorUnavailableError, match="archive is out of reach: E: Failed to fetch"
    ) as caught:
        machine()
    assert caught.value.remedy
    assert list((tmp_path / "cache" / "edgecc").iterdir()) == []


def test_the_second_of_two_makers_keeps_the_first_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path, _: object) -> None:
        (folder / "mine").touch()
        first = tmp_path / "edgecc" / name
        first.mkdir()
        (first / "theirs").touch()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(emulation, "_make", make)
    monkeypatch.setattr(emulation, "versions", lambda: {"ai-edge-litert": "1", "onnxruntime": "2"})
    name = "arm64-1-litert-1-onnxruntime-2"
    assert [p.name for p in machine().folder.iterdir()] == ["theirs"]
    assert [p.name for p in (tmp_path / "edgecc").iterdir()] == [name]


def test_a_machine_that_cannot_be_put_in_its_place_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(emulation, "_make", lambda *_: None)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(EmulatorUnavailableError, match="cannot be written"):
        machine()


def log_text(loops: int, inferences: int) -> bytes:
    """What qemu writes: a block where it is translated, a line where it is executed."""

    def block(address: int, words: list[int]) -> str:
        body = "".join(f"0x{address + 4 * i:08x}:  {word:08x}  text\n" for i, word in enumerate(words))
        return f"----------------\nIN: \n{body}\n"

    def run(address: int) -> str:
        return f"Trace 0: 0x7f00 [0000000000001001/{address:016x}/00000001/00080200] \n"

    text = block(LOOP, [0x4E829420, 0xD503201F]) + run(LOOP) + block(MARKER, [0xD65F03C0])
    for i in range(inferences):
        text += run(MARKER) + run(LOOP) * loops + (block(ONCE, [0x4E82A420]) if not i else "") + run(ONCE)
    return (text + run(MARKER)).encode()


@pytest.mark.parametrize("size", [7, 100, 1 << 20])
def test_instructions_are_counted_between_markers(size: int) -> None:
    log, text = BlockLog(MARKER), log_text(loops=5, inferences=3)
    for i in range(0, len(text), size):
        log.feed(text[i : i + size])
    assert log.totals() == [11, 11, 11]
    assert log.usual() == (2, 2)
    found = {address: (count, kinds["dot"], kinds["mmla"]) for address, count, kinds in log.executed(2)}
    assert found == {LOOP: (10, 5, 0), ONCE: (1, 0, 1)}
    assert log.translated == {ONCE}


@pytest.mark.parametrize(
    ("totals", "place", "agreeing"),
    [
        ([9, 5, 5, 5, 5], 4, 4),
        ([9, 5, 14, 9, 5], 4, 2),  # what was done in one by the clock, and what that left to the next
        ([9, 14, 9, 5, 5], 4, 2),
        ([9, 5, 5, 14, 9], 2, 2),
        ([9, 7, 6], 2, 1),
        ([5, 7], 1, 1),
    ],
)
def test_the_usual_inference_is_counted(totals: list[int], place: int, agreeing: int) -> None:
    log = BlockLog(MARKER, blocks={ONCE: [0]})
    log.inferences = [Counter({b"%016x" % ONCE: total}) for total in totals]
    assert log.usual() == (place, agreeing)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (0x4E829420, "dot"),  # sdot v0.4s, v1.16b, v2.16b
        (0x6F82E020, "dot"),  # udot v0.4s, v1.16b, v2.4b[0]
        (0x4E82A420, "mmla"),  # smmla v0.4s, v1.16b, v2.16b
        (0x0E628020, "mlal"),  # smlal v0.4s, v1.4h, v2.4h
        (0x4E22CC20, "fmla"),  # fmla v0.4s, v1.4s, v2.4s
    ],
)
def test_vector_products_are_told_by_their_encoding(word: int, kind: str) -> None:
    assert [name for name in ("dot", "mmla", "mlal", "fmla") if is_class(word, name)] == [kind]


def test_few_ranges_cover_all_blocks() -> None:
    blocks = {start: [0] * 4 for start in (0, 16, 100, 1000, 1100, 9000)}
    assert ranges(blocks, blocks, 100) == [(0, 31), (100, 115), (1000, 1015), (1100, 1115), (9000, 9015)]
    assert ranges(blocks, blocks, 3) == [(0, 115), (1000, 1115), (9000, 9015)]
    assert ranges(blocks, blocks, 1) == [(0, 9015)]


def test_a_function_is_found_by_its_offset() -> None:
    import ctypes
    import sys

    if not sys.platform.startswith("linux"):
        pytest.skip("libraries are ELF files on Linux")
    line = next(
        x for x in Path("/proc/self/maps").read_text().splitlines() if "r-xp" in x and "/libc.so" in x
    )
    span, _, offset, *_ = line.split()
    address = ctypes.cast(ctypes.CDLL(None).l64a, ctypes.c_void_p).value
    assert address is not None
    known = functions(Path(line.split(maxsplit=5)[5]))
    assert known.name(address - int(span.split("-")[0], 16) + int(offset, 16)) == "l64a"
    assert known.name(0) is None


def test_one_level_answers_many_samples(arm: Machine, digits: Path) -> None:
    feeds = {"image": images(2)}
    answers = run_many(digits / "digits_cnn.int8.tflite", "i8mm", feeds)
    assert [array.shape for array in answers.values()] == [(2, 1, 10)]
