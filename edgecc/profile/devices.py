"""Where else a file can be measured: `--device SCHEME://PLACE`, a module a scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgecc.errors import UsageError
from edgecc.profile import Profile
from edgecc.profile.work import with_work

if TYPE_CHECKING:
    from edgecc.report.terminal import Table

SCHEMES: dict[str, str] = {
    "ssh": "edgecc.profile.over_ssh",
    "adb": "edgecc.profile.over_adb",
    "emulated": "edgecc.profile.emulated",
}
"""Scheme -> the module that measures there, which is a `Device`."""


class Found(Protocol):
    """What was measured; every figure carries its tier."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        ...

    def tables(self, limit: int | None = 20, title: str = "") -> list[Table | str]:
        """What a terminal shows: at most `limit` operators, all if None."""
        ...

    def page(self, title: str) -> str:
        """One self-contained HTML page."""
        ...


class Device(Protocol):
    """A module of `SCHEMES`."""

    def profile(
        self,
        path: Path,
        place: str,
        *,
        runs: int | None,
        threads: int,
        input_shape: Mapping[str, Sequence[int]],
    ) -> Found:
        """Measures a .tflite or .onnx file at `place`, what stands behind `SCHEME://`."""
        ...


def profile_on(
    device: str,
    path: Path,
    *,
    runs: int | None = None,
    threads: int = 1,
    input_shape: Mapping[str, Sequence[int]] | None = None,
) -> Found:
    """Measures a file on a device that is not this machine.

    Args:
        device: `SCHEME://PLACE`.
        path: of a .tflite or .onnx file.
        runs: timed runs; None: as many as fit.
        threads: of the runtime.
        input_shape: sizes of inputs with symbolic dimensions.

    Raises:
        UsageError: no such scheme, a place that begins with `-`, or no such file.
        EdgeccError: the device cannot be reached, or cannot run the file.
    """
    scheme, separator, place = device.partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(["local", *(f"{name}://" for name in SCHEMES)])
        raise UsageError(f"{device!r} cannot be reached", node="--device", remedy=f"known: {known}")
    if not place or place.startswith("-") or not place.isprintable() or " " in place:
        raise UsageError(f"{place!r} is no name of a device", node="--device")
    if not path.is_file():
        raise UsageError("there is no such file", node=str(path))
    module = cast(Device, import_module(SCHEMES[scheme]))
    found = module.profile(path, place, runs=runs, threads=threads, input_shape=input_shape or {})
    return with_work(found, path, input_shape) if isinstance(found, Profile) else found
