"""Data in every form of PRODUCT.md, and the errors for data that does not fit."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecc.calibration import images
from edgecc.calibration.dataset import Dataset, open_dataset, random_samples
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.runtime import TensorSpec

X = TensorSpec("x", (1, 3, 4, 5), "float32")
ONE = [X]
DATA = np.arange(6 * 60, dtype=np.float32).reshape(6, 3, 4, 5) / 100


def equal(dataset: Dataset, expected: np.ndarray[Any, Any]) -> None:
    for _ in range(2):  # every form can be read again
        rows = [sample["x"] for sample in dataset]
        assert all(row.shape == (1, *expected.shape[1:]) and row.dtype == np.float32 for row in rows)
        np.testing.assert_array_equal(np.concatenate(rows), expected)


class Reader:
    """As onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self) -> None:
        self.rows = iter(DATA)

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.rows, None)
        return None if row is None else {"x": row[None]}


class Loader:
    """An iterable that is no sequence, as a PyTorch DataLoader with batches of two."""

    def __iter__(self) -> Iterator[Any]:
        return (DATA[i : i + 2] for i in range(0, 6, 2))


def representative_dataset() -> Iterator[list[Any]]:
    """As TensorFlow's converter takes it."""
    for row in DATA:
        yield [row[None]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: DATA,
        lambda: DATA[:, None],
        lambda: list(DATA),
        lambda: [{"x": row} for row in DATA],
        lambda: {"x": DATA},
        lambda: (row for row in DATA),
        lambda: ({"x": row[None]} for row in DATA),
        Reader,
        Loader,
        lambda: representative_dataset,
        lambda: lambda: DATA,
    ],
    ids=["array", "batched", "list", "dicts", "dict", "generator", "dict-generator", "reader", "loader",
         "representative", "function"],
)  # fmt: skip
def test_forms_in_memory(make: Callable[[], Any]) -> None:
    equal(open_dataset(make(), ONE), DATA)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["x", "images", "anything"])
def test_npz(tmp_path: Path, save: Any, key: str) -> None:
    save(tmp_path / "a.npz", **{key: DATA, "labels": np.arange(6)})
    dataset = open_dataset(str(tmp_path / "a.npz"), ONE)
    equal(dataset, DATA)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == list(range(6))
    assert len(dataset) == 6


def test_npz_in_fortran_order_and_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(DATA))
    np.save(tmp_path / "a.npy", DATA)
    equal(open_dataset(tmp_path / "a.npz", ONE), DATA)
    equal(open_dataset(tmp_path / "a.npy", ONE), DATA)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"evil": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([{"evil": 1}], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(UsageError):
            open_dataset(tmp_path / name, ONE)


def test_several_inputs_by_name_and_by_position(tmp_path: Path) -> None:
    specs = [X, TensorSpec("n", (None, 2), "int64"), TensorSpec("rate", (), "int64")]
    numbers = np.arange(12).reshape(6, 2)
    np.savez(tmp_path / "a.npz", x=DATA, n=numbers, rate=np.int64(16000))
    sample = list(open_dataset(tmp_path / "a.npz", specs))[5]
    assert sample["n"].tolist() == [[10, 11]]
    assert sample["rate"].shape == ()
    rows = [[DATA[i], numbers[i], 16000] for i in range(6)]
    assert list(open_dataset(rows, specs))[3]["n"].tolist() == [[6, 7]]
    with pytest.raises(UsageError, match="rate"):
        open_dataset([{"x": DATA[0], "n": numbers[0]}], specs)
    with pytest.raises(UsageError, match="x, n, rate"):
        open_dataset(DATA, specs)


def test_fixed_batch_takes_that_many_rows() -> None:
    dataset = open_dataset(DATA, [TensorSpec("x", (2, 3, 4, 5), "float32")])
    assert [s["x"].shape[0] for s in dataset] == [2, 2, 2]
    assert len(dataset) == 3


def test_one_shot_generator_is_read_once_and_lazily() -> None:
    seen: list[int] = []

    def rows() -> Iterator[Any]:
        for i in range(6):
            seen.append(i)
            yield DATA[i]

    dataset = open_dataset(rows(), ONE)
    assert seen == [0]
    with pytest.raises(TypeError):
        len(dataset)
    equal(dataset, DATA)
    assert seen == list(range(6))
    assert len(dataset) == 6


def test_module_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import numpy as np\ndef rows():\n    yield np.ones((3, 4, 5))\nBROKEN = 1\n"
    (tmp_path / "calibration_of_a_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    equal(open_dataset("calibration_of_a_test:rows", ONE), np.ones((1, 3, 4, 5), np.float32))
    sys.modules.pop("calibration_of_a_test", None)
    for bad in ("calibration_of_a_test:absent", "no_such_module:rows", "calibration_of_a_test:BROKEN"):
        with pytest.raises(UsageError, match=bad if "BROKEN" not in bad else "type int"):
            open_dataset(bad, ONE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png"):
        Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "labels.tsv").write_text("file\tlabel\tname\nb.png\t7\tseven\na.png\t3\tthree\n")
    return tmp_path


def test_folder_of_images(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "a.png"), np.float32)
    mean, std = [1.0, 2.0, 3.0], 2.0
    nchw = open_dataset(folder, ONE, mean=mean, std=std)
    np.testing.assert_allclose(next(iter(nchw))["x"][0], ((pixels - mean) / std).transpose(2, 0, 1))
    assert nchw.labels is not None
    assert nchw.labels.tolist() == [3, 7]
    nhwc = open_dataset(folder, [TensorSpec("x", (1, 4, 5, 3), "float32")], mean=mean, std=std)
    np.testing.assert_allclose(next(iter(nhwc))["x"][0], (pixels - mean) / std)
    assert not nhwc.warnings


def test_folder_of_images_of_another_size_warns(folder: Path) -> None:
    dataset = open_dataset(folder, [TensorSpec("x", (1, 1, 8, 8), "float32")], mean=127, std=128)
    assert next(iter(dataset))["x"].shape == (1, 1, 8, 8)
    assert "2 of 2 images" in dataset.warnings[0]


def test_folder_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--input-shape"):
        open_dataset(folder, [TensorSpec("x", (None, 3, None, None), "float32")])
    with pytest.raises(UsageError, match="takes no images"):
        open_dataset(folder, [TensorSpec("x", (1, 40, 30, 2), "float32")])
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    with pytest.raises(UsageError, match="too many"):
        open_dataset(folder, ONE)
    monkeypatch.undo()
    (folder / "c.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"c\.png"):
        open_dataset(folder, ONE)


def test_labels_of_an_archive_may_be_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=DATA, y=np.arange(len(DATA))[:, None])
    found = open_dataset(tmp_path / "a.npz", ONE)
    assert found.labels is not None
    assert found.labels.tolist() == list(range(len(DATA)))


@pytest.mark.parametrize(
    "labels", [np.arange(2), np.eye(6, 3), np.float32(1)], ids=["few", "one hot", "scalar"]
)
def test_what_cannot_be_labels_is_said_and_left_out(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x=DATA, labels=labels)
    found = open_dataset(tmp_path / "a.npz", ONE)
    assert found.labels is None
    assert len(list(found)) == len(DATA)
    assert any("'labels' of" in text and "is not used as labels" in text for text in found.warnings)


@pytest.mark.parametrize("suffix", ["npy", "npz", "txt", "tsv", "csv", "array"])
def test_labels(tmp_path: Path, suffix: str) -> None:
    labels, path = np.arange(6) * 2, tmp_path / f"l.{suffix}"
    if suffix == "npy":
        np.save(path, labels)
    elif suffix == "npz":
        np.savez(path, y=labels)
    else:
        path.write_text(("label\n" if suffix == "csv" else "") + "\n".join(map(str, labels)) + "\n")
    found = open_dataset(DATA, ONE, labels=labels if suffix == "array" else path).labels
    assert found is not None
    assert found.tolist() == labels.tolist()
    assert found.dtype == np.int64
    with pytest.raises(UsageError, match="6 labels for 5"):
        open_dataset(DATA[:5], ONE, labels=labels if suffix == "array" else path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA.transpose(0, 2, 3, 1), r"use x.transpose\(0, 3, 1, 2\)"),
        (np.ones((2, 3, 4, 4), np.float32), "1x3x4x4.*takes 1x3x4x5"),
        (np.full((2, 3, 4, 5), np.nan), "infinite or undefined"),
        (np.full((2, 3, 4, 5), "a"), "not numbers"),
        ([], "no sample"),
        ("nowhere.npz", "no such file"),
        (7, "type int"),
        ([(DATA[0], 3)], "labels go to"),
    ],
)
def test_errors_say_what_to_do(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_dataset(data, ONE)
    assert caught.value.exit_code == 2


def test_normalisation_errors() -> None:
    with pytest.raises(UsageError, match="std may not be 0"):
        open_dataset(DATA, ONE, std=0)
    with pytest.raises(UsageError, match="2 numbers"):
        open_dataset(DATA, ONE, mean=[1, 2])


def test_bytes_of_images_are_warned_about_unless_normalised() -> None:
    data = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    assert "--mean" in open_dataset(data, ONE).warnings[0]
    assert not open_dataset(data, ONE, mean=127, std=128).warnings
    assert not open_dataset(data / 255, ONE).warnings
    resized = np.random.default_rng(0).random((2, 3, 4, 5)) * 255
    assert "--mean" in open_dataset(resized, ONE).warnings[0]
    assert not open_dataset(resized - 100, ONE).warnings


def test_tensorflow_wraps_the_function_in_an_object() -> None:
    wrapped = type(
        "RepresentativeDataset", (), {"input_gen": staticmethod(lambda: ([row] for row in DATA))}
    )()
    assert len(list(open_dataset(wrapped, ONE))) == len(DATA)


def test_random_samples_are_seeded(parse: Any) -> None:
    model = load(
        parse("g (float[n,3] x, int64[2] i) => (float[n,3] y, int64[2] j) { y = Relu(x) j = Identity(i) }")
    )
    first, again, other = (list(random_samples(model, 3, seed)) for seed in (1, 1, 2))
    assert len(first) == 3
    assert first[0]["x"].shape == (1, 3)
    assert set(first[0]["i"].tolist()) <= {0, 1}
    np.testing.assert_array_equal(first[2]["x"], again[2]["x"])
    assert not np.array_equal(first[0]["x"], other[0]["x"])


def test_text_is_not_data(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(UsageError, match=r"words.npy holds <U1, not numbers"):
        open_dataset(tmp_path / "words.npy", ONE)
