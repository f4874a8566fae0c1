"""Class numbers of samples, from the files in which people keep them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.errors import UsageError

LABEL_KEYS = ("labels", "label", "y")


def read_labels(labels: Any, names: Sequence[str] | None = None) -> ir.Array:
    """Class numbers, one a sample, from a file or a sequence.

    Args:
        labels: a path, or integers. A table may have a header with the columns file and label.
        names: file names of the samples, by which the rows of a table are matched.

    Returns:
        (samples,) int64.

    Raises:
        UsageError: they cannot be read, are not whole numbers, or a file has none.
    """
    if not isinstance(labels, (str, Path)):
        return _integers(np.asarray(labels), "labels")
    path = Path(labels)
    try:
        if path.suffix == ".npy":
            return _integers(np.load(path, allow_pickle=False), str(path))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                keys = [k for k in LABEL_KEYS if k in archive] or list(archive)
                if len(keys) != 1 and keys[0] not in LABEL_KEYS:
                    raise UsageError(f"several arrays could be meant: {', '.join(keys)}", node=str(path))
                return _integers(archive[keys[0]], str(path))
        if path.suffix in (".txt", ".tsv", ".csv"):
            with path.open(newline="", encoding="utf-8") as stream:
                rows = [r for r in csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",") if r]
            return _table_labels(rows, path, names)
    except (OSError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise UsageError(f"the labels cannot be read ({error})", node=str(path)) from error
    raise UsageError("labels are read from .npy, .npz, .txt, .tsv and .csv files", node=str(path))


def _table_labels(rows: list[list[str]], path: Path, names: Sequence[str] | None) -> ir.Array:
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = header.index("label") if "label" in header else -1
    body = rows[1:] if "label" in header else rows
    if names is None or ("file" not in header and len(header) < 2):
        return np.array([int(row[column]) for row in body], np.int64)
    first = header.index("file") if "file" in header else 0
    known = {Path(row[first]).name: int(row[column]) for row in body}
    missing = [n for n in names if n not in known]
    if missing:
        raise UsageError(f"{len(missing)} images have no label, the first is {missing[0]}", node=str(path))
    return np.array([known[n] for n in names], np.int64)


def _integers(array: ir.Array, where: str) -> ir.Array:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(
            f"labels are whole numbers, one a sample; here: {array.dtype} of shape {array.shape}", node=where
        )
    return array.astype(np.int64)
