"""What `calibrate` refits to: networks that a user measured, or that are compiled and measured now, on a device."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgecc.errors import UsageError
from edgecc.profile import Profile, profile_artifact
from edgecc.profile.devices import profile_on
from edgecc.profile.rates import choose
from edgecc.profile.recalibrate import Measured, read_measured
from edgecc.target import target as find_target

_FLOATS = ("fp32", "fp16", "dynamic")  # that need no calibration data


def measured_rows(
    files: Sequence[str], device: str | None, *, target: str, precision: str, runtime: str | None
) -> list[Measured]:
    """Rows of one CSV, or, with a device, of ONNX networks that are compiled for the target and measured there.

    Args:
        files: the CSV, or the networks.
        device: as for `edgecc profile --device`, with "local".
        target: name or TOML file.
        precision: of the artifacts; what depends on data is calibrated with random data, as values change no time.
        runtime: whose rates are refitted; None: the target's first.

    Raises:
        UsageError: another number or kind of files, or the target's runtime is none that runs on such a device.
        EdgeccError: a network cannot be compiled or measured.
    """
    if device is None:
        if len(files) != 1:
            raise UsageError("give one CSV", remedy="or --device and the networks to measure there")
        return read_measured(Path(files[0]))
    for file in files:
        if Path(file).suffix != ".onnx":
            raise UsageError("what is measured now is a network as .onnx", node=file)
    found = find_target(target)
    runtime = runtime or found.runtimes.get(found.formats[0], "LiteRT")
    form = next((form for form in found.formats if found.runtimes.get(form) == runtime), None)
    if form is None or runtime not in ("LiteRT", "ONNX Runtime"):
        raise UsageError(
            f"{runtime} is not what runs there: LiteRT and ONNX Runtime do", node="--runtime",
            remedy="measure with its own tools, and give a CSV",
        )  # fmt: skip
    threads = choose(found, runtime, precision)[0].threads  # before anything is compiled
    return [_measure(file, device, target, precision, form, threads) for file in files]


def _measure(file: str, device: str, target: str, precision: str, form: str, threads: int) -> Measured:
    from edgecc.compile import compile_with
    from edgecc.options import make_options

    words = {"target": target, "precision": precision, "format": form, "no_verify": True, "no_profile": True,
             "random_data": precision not in _FLOATS}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgecc-") as folder:
        result = compile_with(file, make_options({**words, "output": str(Path(folder) / "out")}))
        path = result.artifacts[form].path
        assert path is not None
        found = (
            profile_artifact(path, threads=threads, operators=False)
            if device == "local"
            else profile_on(device, path, threads=threads)
        )
    if not isinstance(found, Profile):
        raise UsageError(f"{device} gives no times", node="--device", remedy="measure on a device that does")
    where = f"{found.typical_ms:.4g} ms, {found.tier}: {found.machine}, threads: {found.threads}"
    return Measured(Path(file), found.typical_ms, (where, *found.notes))
