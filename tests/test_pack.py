"""Packed files: the same bytes come back, in Python and from the decoder in C; damaged ones are refused."""

import shutil
import subprocess
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecc.compile import lower_float
from edgecc.errors import ModelError, UsageError
from edgecc.pack import codec, pack, unpack
from edgecc.pack.files import pack_file, unpack_file
from edgecc.pack.weights import weight_ranges

MODELS = Path(__file__).resolve().parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def _sparse(count: int, share: float, values: Any) -> Any:
    random = _random()
    return np.where(random.random(count) < share, random.choice(values, count), 0)


SHARED = np.linspace(-1, 1, 16)
STRETCHES = {
    "nothing to gain": (_random().bytes(2000), 1, codec.PLAIN),
    "floats": (_random().standard_normal(3000).astype(np.float32).tobytes(), 4, codec.PLANES),
    "shared": (_random().choice(SHARED, 3000).astype(np.float32).tobytes(), 4, codec.PALETTE),
    "shared halves": (_random().choice(SHARED, 3000).astype(np.float16).tobytes(), 2, codec.PALETTE),
    "pruned": (_sparse(9000, 0.03, np.arange(-8, 8)).astype(np.int8).tobytes(), 1, codec.SPARSE),
    "hardly any": (_sparse(9000, 0.0005, np.arange(-8, 8)).astype(np.int8).tobytes(), 1, codec.SPARSE),
    "pruned and shared": (
        _sparse(6000, 0.05, SHARED).astype(np.float32).tobytes(), 4, codec.SPARSE | codec.PALETTE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRETCHES)
def test_the_shortest_form_is_taken_and_comes_back(name: str) -> None:
    data, width, form = STRETCHES[name]
    stretch = codec.encode(data, width)
    assert stretch.form == form
    assert codec.decode(stretch) == data
    assert all(stretch.size <= other.size for other in codec._forms(data, width))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([1, 2, 3, 4, 8]))
def test_every_form_gives_back_any_bytes(data: bytes, width: int) -> None:
    for stretch in codec._forms(data, width):
        assert codec.decode(stretch) == data


def test_pruned_weights_come_near_their_entropy() -> None:
    """Positions and values of 8 % survivors with 16 levels, coded apart: within 3 % of what they must take."""
    weights = _sparse(400_000, 0.08, np.arange(1, 17)).astype(np.int8)
    share = np.count_nonzero(weights) / weights.size
    positions = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    least = weights.size * (positions + share * 4) / 8
    assert least < codec.encode(weights.tobytes(), 1).size < 1.03 * least


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_network_comes_back(form: str, tmp_path: Path) -> None:
    data = CNN.read_bytes() if form == "onnx" else lower_float(CNN).data
    ranges = weight_ranges(data)
    assert sum(end - start for start, end, _ in ranges) > 0.9 * len(data)
    assert {width for _, _, width in ranges} == {4}
    (tmp_path / f"m.{form}").write_bytes(data)
    found = pack_file(tmp_path / f"m.{form}")
    assert (tmp_path / "m.ecz").stat().st_size == found.packed_size < found.size == len(data)
    assert found.packed_weights < found.weights < found.size
    (tmp_path / f"m.{form}").unlink()
    assert unpack_file(tmp_path / "m.ecz") == tmp_path / f"m.{form}"
    assert (tmp_path / f"m.{form}").read_bytes() == data
    assert pack(data).data == (tmp_path / "m.ecz").read_bytes()  # the same bytes each time


@pytest.mark.parametrize("data", [b"x", b"0123TFL3" + bytes(90), b"\x08\x08" * 40, CNN.read_bytes()[:5000]])
def test_other_and_damaged_files_are_packed_as_a_whole(data: bytes) -> None:
    assert unpack(pack(data).data) == data


def test_damaged_files_are_refused() -> None:
    original = b"".join(d for d, _, _ in STRETCHES.values())
    whole, random, harmless = pack(original).data, _random(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        if random.random() < 0.3:
            damaged = damaged[: random.integers(len(whole))]
        with suppress(ModelError):
            assert unpack(bytes(damaged)) == original  # the bit meant nothing, as the last ones of a stream
            harmless += 1
    assert harmless < 30
    with pytest.raises(ModelError, match="no packed file"):
        unpack(b"nonsense")
    with pytest.raises(UsageError, match="0 bytes"):
        pack(b"")


def test_a_file_is_never_overwritten_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(CNN.read_bytes())
    with pytest.raises(UsageError, match="overwritten"):
        pack_file(path, path)
    with pytest.raises(UsageError, match="no such file"):
        unpack_file(tmp_path / "none.ecz")
    assert path.read_bytes() == CNN.read_bytes()


def test_the_commands(cli: Any, tmp_path: Path) -> None:
    packed = cli("pack", CNN, "-o", tmp_path / "m.ecz", "--json").json
    assert packed["ratio"] == packed["size"] / packed["packed_size"] > 1.05
    said = cli("unpack", tmp_path / "m.ecz", "-o", tmp_path / "back.onnx").out
    assert "back.onnx" in said
    assert (tmp_path / "back.onnx").read_bytes() == CNN.read_bytes()
    assert "structure" in cli("pack", CNN, "-o", tmp_path / "m.ecz").out


# Reads files from the command line, unpacks each, and writes FILE.out and the status.
DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#define ECZ_IMPLEMENTATION
#include "ecz.h"
int main(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        char name[4096];
        FILE *f = fopen(argv[i], "rb");
        uint8_t *file, *out, *memory;
        size_t n, size, work;
        int status = -9;
        fseek(f, 0, SEEK_END);
        n = (size_t)ftell(f);
        rewind(f);
        file = malloc(n ? n : 1);
        n = fread(file, 1, n, f);
        fclose(f);
        size = ecz_size(file, n);
        work = ecz_workspace(file, n);
        if (size < 1u << 24 && work < 1u << 24) {
            out = malloc(size ? size : 1);
            memory = malloc(work ? work : 1);
            status = ecz_unpack(file, n, out, size, memory, work);
            snprintf(name, sizeof name, "%s.out", argv[i]);
            if (!status) {
                f = fopen(name, "wb");
                fwrite(out, 1, size, f);
                fclose(f);
            }
            free(out);
            free(memory);
        }
        free(file);
        printf("%d\\n", status);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder in C, with every check that the compiler has."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler to build the decoder with")
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "main.c").write_text(DRIVER)
    (folder / "ecz.h").write_bytes(resources.files("edgecc.pack").joinpath("ecz.h").read_bytes())
    strict = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for flags in ([*strict, *checks], strict):  # some systems lack the sanitizers' libraries
        command = [compiler, *flags, "main.c", "-o", "decoder"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if made.returncode == 0:
            return folder / "decoder"
    pytest.fail(made.stderr)


def _statuses(decoder: Path, files: list[Path]) -> list[int]:
    ran = subprocess.run([decoder, *files], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [int(line) for line in ran.stdout.split()]


def test_the_decoder_in_c_gives_the_same_bytes(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = [CNN.read_bytes(), lower_float(CNN).data, bytes(70_000), b"x"]
    files = []
    originals += [data for data, _, _ in STRETCHES.values()]
    for i, data in enumerate(originals):
        widths = [w for d, w, _ in STRETCHES.values() if d == data]
        with monkeypatch.context() as patch:
            if widths:
                patch.setattr("edgecc.pack.container.weight_ranges", lambda d, w=widths[0]: [(0, len(d), w)])
            files.append(tmp_path / f"{i}.ecz")
            files[-1].write_bytes(pack(data).data)
    assert _statuses(decoder, files) == [0] * len(files)
    for path, data in zip(files, originals, strict=True):
        assert Path(f"{path}.out").read_bytes() == data


def test_the_decoder_in_c_survives_damage(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, files, wholes = _random(), [], []
    for data, width, _ in STRETCHES.values():
        monkeypatch.setattr("edgecc.pack.container.weight_ranges", lambda d, w=width: [(0, len(d), w)])
        wholes.append(pack(data).data)
    for i in range(400):
        damaged = bytearray(wholes[i % len(wholes)])
        for _ in range(int(random.integers(1, 4))):
            place = random.integers(
                60 if i % 2 else len(damaged)
            )  # the heads of the records as often as the rest
            damaged[int(place) % len(damaged)] = int(random.integers(256))
        if i % 5 == 0:
            damaged = damaged[: random.integers(len(damaged))]
        files.append(tmp_path / f"{i}.ecz")
        files[-1].write_bytes(damaged)
    statuses = _statuses(decoder, files)
    assert set(statuses) <= {0, -1, -2, -3, -9}
    assert sum(s == 0 for s in statuses) < 40
