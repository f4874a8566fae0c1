"""A device to compile for: TOML data read into one frozen value (DESIGN §3)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgecc import registry
from edgecc.errors import ModelError
from edgecc.tomlfile import read_toml


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number about the device, and where it is from."""

    name: str
    value: float
    unit: str
    source: str


class PipelineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The float passes in the order in which they run, as `--pass` takes them; other such lists by name."""

    passes: tuple[str, ...] = ()
    presets: dict[str, tuple[str, ...]] = {}


def _by_width(fp32: float, int8: float, int16x8: float) -> Any:
    return msgspec.field(default_factory=lambda: {"fp32": fp32, "int8": int8, "int16x8": int16x8})


class CostSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cycles that operators take in a precision (fp32, int8, int16x8), for weighing one against another.

    The defaults are no measurement: elements of a precision in a vector of 16 bytes, and bytes moved. `channels` is
    how many output channels a product computes at once: fewer take as long.
    """

    mac: dict[str, float] = _by_width(4 / 16, 1 / 16, 2 / 16)
    byte: dict[str, float] = _by_width(1 / 16, 1 / 16, 1 / 16)
    channels: dict[str, int] = {}
    conversion: float = 5 / 16
    operator: float = 0.0
    source: str = "elements in a vector of 16 bytes; not measured"


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What edgecc knows about a device.

    Attributes:
        name, description, aliases: what users write and read.
        formats: of the artifacts that it runs, in the order in which they are written.
        precisions: that its kernels serve.
        only_as: the formats of a precision that not all formats have kernels for.
        activation_dtype: of ONNX Runtime's quantized activations (TFLite's are always int8).
        per_channel: one weight scale an output channel.
        vector_width: int8 elements of one vector register; channel counts are best multiples of it.
        runtimes: format -> what runs it.
        pipeline: the float passes.
        cost: what operators take, for choosing precisions.
        facts: numbers with their sources.
        ram_kb, flash_kb: memory limits, None where there is none to speak of.
    """

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    formats: tuple[Literal["tflite", "onnx"], ...] = ("tflite",)
    precisions: tuple[str, ...] = ("fp32", "int8")
    only_as: dict[str, tuple[str, ...]] = {}
    activation_dtype: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    vector_width: int = 16
    runtimes: dict[str, str] = {}
    pipeline: PipelineSpec = PipelineSpec()
    cost: CostSpec = CostSpec()
    facts: tuple[Fact, ...] = ()
    ram_kb: int | None = None
    flash_kb: int | None = None


def target(name: str) -> Target:
    """The target of that name or alias, or of a TOML file if the name ends in .toml.

    Raises:
        UsageError: there is none.
        ModelError: its file is malformed; the message names the key.
    """
    if not name.endswith(".toml") and name not in registry.target_files():  # no alias hides a name
        name = _aliases().get(name, name)
    return read_target(registry.target_file(name))


def read_target(path: Path) -> Target:
    """Reads a target file, with all that it extends.

    Raises:
        ModelError: the file is missing or malformed.
    """
    try:
        return msgspec.convert(_read(path, ()), Target)
    except msgspec.ValidationError as error:
        raise ModelError(str(error), node=str(path), remedy="see docs/targets.md for the keys") from error


@cache
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, path in registry.target_files().items():
        for alias in _read(path, ()).get("aliases", ()):
            found.setdefault(alias, name)
    return found


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The merged tables: a key of the file replaces the one it extends, tables are merged key by key."""
    if path in seen:
        raise ModelError(
            "a target extends itself", node=str(path), remedy="remove `extends` from one of them"
        )
    data = read_toml(path, "target")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    base = path.parent / parent if str(parent).endswith(".toml") else registry.target_file(str(parent))
    merged = _read(base, (*seen, path))
    for key in ("name", "aliases", "description"):
        merged.pop(key, None)
    for key, value in data.items():
        merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
    return merged
