"""What `edgecc profile` tells of a file: measured here or on a device, or what targets take, as is asked for."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from edgecc.errors import UsageError
from edgecc.options import make_options
from edgecc.output import check_output, write_file
from edgecc.profile import profile_artifact
from edgecc.profile.devices import Found, profile_on
from edgecc.profile.side_by_side import side_by_side
from edgecc.target import Target


def figures(
    path: Path,
    targets: Sequence[Target] = (),
    *,
    device: str | None = None,
    precision: str | None = None,
    runs: int | None = None,
    threads: int = 1,
    input_shape: dict[str, tuple[int, ...]] | None = None,
    page: Path | None = None,
) -> Found:
    """The figures of one file, each with its tier.

    Measured on `device`, or here if that is "local", if `runs` are asked for, or if the only target is this
    machine's; else computed or predicted for the targets; without any, measured here.

    Args:
        path: a .tflite or .onnx file.
        targets: whose figures are told.
        device: as for `profile_on`, or "local".
        precision: that a prediction is for; None: the file's, else int8.
        runs: timed ones; None: as many as fit.
        threads: of the runtime.
        input_shape: sizes of inputs with symbolic dimensions.
        page: figures of targets are written there as HTML, too.

    Raises:
        UsageError: no such precision, a page of what would be measured, or one that cannot be written.
        EdgeccError: no figure can be told.
    """
    if precision is not None:
        make_options({"precision": precision})  # which refuses what is none
    measured = device is not None or runs is not None or not targets or _is_here(targets)
    if not measured:
        if page is not None:
            check_output(page.parent)
        told = side_by_side(path, targets, precision=precision, input_shape=input_shape)
        if page is not None:
            write_file(page, told.page(str(path)).encode())
        return told
    if page is not None:
        raise UsageError(
            "--html is for figures of --target", remedy="`compile` writes a page with what was measured"
        )
    if device in (None, "local"):
        return profile_artifact(path, runs=runs, threads=threads, input_shape=input_shape)
    return profile_on(device, path, runs=runs, threads=threads, input_shape=input_shape)


def _is_here(targets: Sequence[Target]) -> bool:
    machine = platform.machine().replace("_", "-").replace("AMD64", "x86-64")
    return [each.name for each in targets] == [machine]
