"""The places data comes from: arrays, archives, folders of images, one-shot streams, label files."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgecc import ir
from edgecc.calibration.labels import LABEL_KEYS
from edgecc.errors import UsageError
from edgecc.runtime import TensorSpec


@dataclass(frozen=True)
class Source:
    """Raw items (arrays, sequences or dicts) before they are fitted to the model's inputs.

    Attributes:
        names: file name of each sample, where there is one: labels are matched by it.
        rows_per_sample: items of an array that make one sample of a model with a fixed batch.
        spool: where a one-shot stream is kept.
    """

    read: Callable[[], Iterator[Any]]
    description: str
    count: int | None = None
    labels: ir.Array | None = None
    warnings: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    rows_per_sample: int = 1
    spool: Spool | None = None


class Spool:
    """Keeps what a one-shot stream gave in a temporary file, so that it can be read again."""

    def __init__(self, items: Iterator[dict[str, ir.Array]]) -> None:
        self._items = items
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the data set
        self._offsets: list[int] = []
        self._names: list[str] = []
        self._done = False

    def __iter__(self) -> Iterator[dict[str, ir.Array]]:
        index = 0
        while True:
            if index < len(self._offsets):
                self._file.seek(self._offsets[index])
                yield {name: np.lib.format.read_array(self._file, allow_pickle=False) for name in self._names}
            else:
                item = next(self._items, None)
                if item is None:
                    self._done = True
                    return
                self._names = list(item)
                self._offsets.append(self._file.seek(0, 2))
                for array in item.values():
                    np.lib.format.write_array(self._file, array, allow_pickle=False)
                yield item
            index += 1

    def count(self) -> int | None:
        """The number of items, once all were read."""
        return len(self._offsets) if self._done else None


def spooled(
    items: Iterator[Any],
    inputs: Sequence[TensorSpec],
    description: str,
    by_name: Callable[[Any, Sequence[TensorSpec], int], dict[str, ir.Array]],
) -> Source:
    """A stream that can be read only once."""
    spool = Spool(by_name(item, inputs, index) for index, item in enumerate(items))
    return Source(spool.__iter__, description, spool=spool)


def open_path(path: Path, inputs: Sequence[TensorSpec]) -> Source:
    """An .npz or .npy file, or a folder of images.

    Raises:
        UsageError: it does not exist or cannot be read.
    """
    if path.is_dir():
        from edgecc.calibration.images import open_folder

        return open_folder(path, inputs)
    if not path.is_file():
        raise UsageError("there is no such file or folder", node=str(path))
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return pick_arrays({"": array}, inputs, path.name)
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.endswith(".npy")]
            return pick_arrays({n[:-4]: NpzMember(path, n) for n in names}, inputs, path.name)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"the file cannot be read ({error})", node=str(path)) from error
    raise UsageError(
        "data is read from .npz and .npy files, folders of images and module:function", node=str(path)
    )


class NpzMember:
    """An array of an .npz archive, read row by row: it may be larger than the memory."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            self.shape, self._fortran, self.dtype = self._header(stream)
        self.ndim = len(self.shape)

    @staticmethod
    def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        return read(stream)

    def numpy(self) -> ir.Array:
        """The whole array."""
        with np.load(self._path, allow_pickle=False) as archive:
            return np.asarray(archive[self._name[:-4]])

    def blocks(self, rows: int) -> Iterator[ir.Array]:
        """Consecutive pieces of `rows` along the first axis."""
        if self._fortran or self.dtype.hasobject:
            whole = self.numpy()
            yield from (whole[i : i + rows] for i in range(0, len(whole), rows))
            return
        size = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with zipfile.ZipFile(self._path) as archive, archive.open(self._name) as stream:
            self._header(stream)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = stream.read(size * count)
                if len(data) != size * count:
                    raise UsageError(
                        "the archive ends before its array does", node=f"{self._path}: {self._name}"
                    )
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


Rows = np.ndarray | NpzMember


def pick_arrays(arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], description: str) -> Source:
    """Finds the array of each input by its name, or by being the only one, and the labels.

    Raises:
        UsageError: an input has no array, or several could be meant.
    """
    names = {spec.name for spec in inputs}
    numeric = {k: a for k, a in arrays.items() if a.dtype.kind in "fiub"}
    chosen = {spec.name: numeric[spec.name] for spec in inputs if spec.name in numeric}
    if len(inputs) == 1 and not chosen:
        others = [k for k in numeric if k not in LABEL_KEYS]
        best = (
            others if len(others) == 1 else [k for k in others if k in ("x", "data", "images", "arr_0")][:2]
        )
        if len(best) == 1:
            chosen[inputs[0].name] = numeric[best[0]]
    missing = [spec.name for spec in inputs if spec.name not in chosen]
    if missing and arrays and not numeric:
        raise UsageError(
            f"{description} holds {', '.join(sorted({str(a.dtype) for a in arrays.values()}))}, not numbers",
            node=missing[0],
            remedy="store samples as arrays of numbers",
        )
    if missing:
        raise UsageError(
            f"no array of {description} is for this input; its keys are {', '.join(arrays) or 'none'}",
            node=missing[0],
            remedy=f"store the samples under the key {missing[0]!r}",
        )
    source = open_arrays(chosen, inputs, description)
    key = next((k for k in LABEL_KEYS if k in numeric and k not in names), None)
    return source if key is None else _labelled(source, key, numeric[key], description)


def _labelled(source: Source, key: str, array: Rows, description: str) -> Source:
    """With the labels, or with a warning that says why they are none: calibration does without."""
    whole = array.dtype.kind in "iu" and array.shape in ((source.count,), (source.count, 1))
    if whole:
        return replace(source, labels=np.asarray(_whole(array), np.int64).reshape(-1))
    found = f"{array.dtype} of shape {'x'.join(map(str, array.shape)) or '()'}"
    told = (
        f"{key!r} of {description} is not used as labels: they are whole numbers, one for each of the "
        f"{source.count} samples; here: {found}"
    )
    return replace(source, warnings=(*source.warnings, told))


def open_arrays(arrays: Mapping[str, Rows], inputs: Sequence[TensorSpec], description: str) -> Source:
    """Arrays whose first axis counts samples, one for each input; a scalar is the same in every sample."""
    steps: dict[str, int] = {}
    for spec in inputs:
        array, rank = arrays[spec.name], len(spec.shape)
        steps[spec.name] = (spec.shape[0] or 1) if rank and array.ndim == rank else 1
    counts = {n: a.shape[0] // steps[n] for n, a in arrays.items() if a.ndim}
    if len(set(counts.values())) > 1:
        raise UsageError(
            f"the arrays of {description} differ in the number of samples: "
            + ", ".join(f"{n} has {c}" for n, c in counts.items())
        )

    def read() -> Iterator[dict[str, ir.Array]]:
        streams = {spec.name: _rows(arrays[spec.name], steps[spec.name], len(spec.shape)) for spec in inputs}
        for _ in range(next(iter(counts.values()), 1)):
            yield {name: next(stream) for name, stream in streams.items()}

    rows = max(steps.values(), default=1)
    count = next(iter(counts.values()), 1)
    return Source(read, f"{count} samples of {description}", count * rows, rows_per_sample=rows)


def _rows(array: Rows, step: int, rank: int) -> Iterator[ir.Array]:
    if array.ndim == 0:
        while True:
            yield _whole(array)
    blocks = (
        array.blocks(step)
        if isinstance(array, NpzMember)
        else (array[i : i + step] for i in range(0, array.shape[0], step))
    )
    for block in blocks:
        yield block if array.ndim == rank else block[0]


def _whole(array: Rows) -> ir.Array:
    return array.numpy() if isinstance(array, NpzMember) else np.asarray(array)
