"""What `edgecc profile` tells of a file: measured here or on a device, or what targets take, as is asked for."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

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
    machine's; else computed or predicted for the targets; without any, measured here. An emulated device
    has no time: for targets that are named, its counts predict it.

    Args:
        path: a .tflite or .onnx file.
        targets: whose figures are told.
        device: as for `profile_on`, or "local".
        precision: that a prediction is for; None: the file's, else int8.
        runs: timed ones; None: as many as fit.
        threads: of the runtime.
        input_shape: sizes of inputs with symbolic dimensions.
        page: the figures are written there as HTML, too.

    Raises:
        UsageError: no such precision, or the page cannot be written.
        EdgeccError: no figure can be told.
    """
    if precision is not None:
        make_options({"precision": precision})  # which refuses what is none
    if page is not None:
        check_output(page.parent)  # before anything is measured
    found: Found
    if device not in (None, "local"):
        found = profile_on(device, path, runs=runs, threads=threads, input_shape=input_shape)
        found = _predicted(found, path, targets) if targets else found
    elif device is None and runs is None and targets and not _is_here(targets):
        found = side_by_side(path, targets, precision=precision, input_shape=input_shape)
    else:
        found = profile_artifact(path, runs=runs, threads=threads, input_shape=input_shape)
    if page is not None:
        write_file(page, found.page(str(path)).encode())
    return found


def _predicted(found: Found, path: Path, targets: Sequence[Target]) -> Found:
    from edgecc.profile.by_instructions import with_predictions
    from edgecc.profile.emulated import Emulated

    return with_predictions(found, path, targets) if isinstance(found, Emulated) else found


def _is_here(targets: Sequence[Target]) -> bool:
    machine = platform.machine().replace("_", "-").replace("AMD64", "x86-64")
    return [each.name for each in targets] == [machine]
