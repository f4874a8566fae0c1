"""A device to compile for: TOML data read into one frozen value (DESIGN §3)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

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


class FactorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much longer another runtime takes than rates tell, and the mean relative error on devices left out."""

    factor: Annotated[float, msgspec.Meta(gt=0)]
    error: Annotated[float, msgspec.Meta(ge=0)]
    devices: Annotated[int, msgspec.Meta(ge=1)]


class LatencySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long layers take in one runtime and precision, by figures of a board.

    Attributes:
        runtime, precision: whose kernels.
        board, ghz: on which the figures were made, and its clock, of which rates are cycles.
        threads: of the figures.
        rates: rate of `analysis.workload.RATES` -> cycles for one.
        error: mean relative error on a network that was not measured on this board.
        error_new: likewise on one that was measured on none; None where that is unknown.
        error_other: likewise of other runtimes; None where the two were not compared.
        factors: runtime -> what its latencies are of those that the rates tell.
        networks: how many were measured.
        measured: of these, how many by the user, for `calibrate`.
        source: where the figures are from.
    """

    runtime: str
    precision: str
    board: str
    ghz: float
    threads: int = 1
    rates: dict[str, float]
    error: float
    error_new: float | None = None
    error_other: float | None = None
    factors: dict[str, FactorSpec] = {}
    networks: int
    measured: int = 0
    source: str


class InstructionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Instructions that one thread of a runtime executes a cycle: published latencies, and counts on an emulated core.

    Attributes:
        runtime, precision: whose kernels.
        level: of `emulated://`, where files are counted for it.
        per_cycle: instructions a cycle.
        error: mean relative error of latencies on devices and networks that it was not made of.
        figures, devices: how many it was made of.
        source: where they are from.
    """

    runtime: str
    precision: str
    level: str
    per_cycle: float
    error: float
    figures: int
    devices: int
    source: str


class BoardSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A board with this core: its name is taken by `--target`, too, and sets clock and memory."""

    description: str
    ghz: float
    ram_kb: int | None = None
    flash_kb: int | None = None
    source: str


class VelaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How Arm's compiler for Ethos-U, Vela, is called.

    Attributes:
        accelerator_config: the NPU, as `ethos-u55-128`.
        system_config: clock and memories, a section of the configuration file without `System_Config.`.
        memory_mode: what lies in which memory, likewise without `Memory_Mode.`.
        config: the configuration file; None: the one that comes with Vela.
        source: why these.
    """

    accelerator_config: str
    system_config: str
    memory_mode: str
    config: str | None = None
    source: str


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What edgecc knows about a device.

    Attributes:
        name, description, aliases: what users write and read.
        formats: of the artifacts that it runs, in the order in which they are written.
        precisions: that its kernels serve.
        only_as: the formats of a precision that not all formats have kernels for.
        io_dtype: of quantized inputs and outputs of TFLite files where the user does not say.
        activation_dtype: of ONNX Runtime's quantized activations (TFLite's are always int8).
        per_channel: one weight scale an output channel.
        vector_width: int8 elements of one vector register; channel counts are best multiples of it.
        micro_kernels: what TFLite Micro is linked with: its own kernels, those of CMSIS-NN for cores with DSP or
            MVE instructions; "vela" where an NPU's compiler takes the file and plans its memory.
        runtimes: format -> what runs it.
        pipeline: the float passes.
        cost: what operators take, for choosing precisions.
        latency: what layers take, by published or measured figures.
        instructions: that the core executes a cycle, likewise.
        vela: of an Ethos-U: how its files are compiled further; None for all others.
        facts: numbers with their sources.
        notes: what a user should know before choosing a precision.
        boards: with this core, by name.
        board: the one of them that was asked for.
        ghz: its clock, where no board gives one; None: not said.
        ram_kb, flash_kb: memory limits, None where there is none to speak of.
    """

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    formats: tuple[Literal["tflite", "onnx"], ...] = ("tflite",)
    precisions: tuple[str, ...] = ("fp32", "int8")
    only_as: dict[str, tuple[str, ...]] = {}
    io_dtype: Literal["float32", "int8", "uint8", "int16"] = "float32"
    activation_dtype: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    vector_width: int = 16
    micro_kernels: Literal["reference", "dsp", "mve", "vela"] = "reference"
    runtimes: dict[str, str] = {}
    pipeline: PipelineSpec = PipelineSpec()
    cost: CostSpec = CostSpec()
    latency: tuple[LatencySpec, ...] = ()
    instructions: tuple[InstructionSpec, ...] = ()
    vela: VelaSpec | None = None
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    boards: dict[str, BoardSpec] = {}
    board: str | None = None
    ghz: float | None = None
    ram_kb: int | None = None
    flash_kb: int | None = None

    @property
    def clock(self) -> float | None:
        """GHz of the board that was asked for, else its own."""
        return self.ghz if self.board is None else self.boards[self.board].ghz


def target(name: str) -> Target:
    """The target of that name or alias, or of a TOML file if the name ends in .toml.

    Raises:
        UsageError: there is none.
        ModelError: its file is malformed; the message names the key.
    """
    if not name.endswith(".toml") and name not in registry.target_files():  # no alias hides a name
        found = _aliases().get(name)
        if found is not None:
            return _on_board(read_target(registry.target_file(found)), name)
    return read_target(registry.target_file(name))


def _on_board(core: Target, name: str) -> Target:
    """The target with the memory of one of its boards; itself if the name is not a board's."""
    board = core.boards.get(name)
    if board is None:
        return core
    return msgspec.structs.replace(
        core,
        board=name,
        ram_kb=core.ram_kb if board.ram_kb is None else board.ram_kb,
        flash_kb=core.flash_kb if board.flash_kb is None else board.flash_kb,
    )


def read_target(path: Path) -> Target:
    """Reads a target file, with all that it extends.

    Raises:
        ModelError: the file is missing or malformed.
    """
    try:
        return msgspec.convert(_read(path, ()), Target)
    except msgspec.ValidationError as error:
        where = _line(path, str(error))
        raise ModelError(
            str(error),
            node=str(path) if where is None else f"{path}, line {where}",
            remedy="see docs/targets.md for the keys",
        ) from error


def _line(path: Path, message: str) -> int | None:
    """The line of the key that a message of msgspec names, if it stands in that file and not in one it extends."""
    steps = re.findall(r"\w+", (re.search(r"`\$([^`]*)`", message) or [""])[0])
    unknown = re.search(r"unknown field `([^`]+)`", message)
    keys = [s for s in steps if not s.isdigit()] + ([unknown[1]] if unknown else [])
    entry = next((int(s) for s in steps if s.isdigit()), 0)
    found, table, seen = None, "", -1
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        header = re.match(r"\s*\[(\[?)\s*([\w.\"-]+)", text)
        key = re.match(r"\s*\"?([\w-]+)\"?\s*=", text)
        if header:
            table = header[2].replace('"', "")
            seen += bool(header[1]) and bool(keys) and table == keys[0]
        here = [*table.split("."), key[1]] if table and key else [key[1]] if key else table.split(".")
        other_entry = bool(table) and seen >= 0 and table == (keys or [""])[0] and seen != entry
        if here and here[0] and here == keys[: len(here)] and not other_entry:
            found = number  # the innermost that is written, which the last match is
    return found


@cache
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, path in registry.target_files().items():
        data = _read(path, ())
        for alias in (*data.get("aliases", ()), *data.get("boards", {})):
            found.setdefault(alias, name)
    return found


def _beside(path: Path, name: str) -> Path:
    """The file that one extends: beside it, or, of a copy of a built-in target's file, beside the original."""
    built_in = registry.target_file("arm").with_name(name)
    return built_in if built_in.exists() and not (path.parent / name).exists() else path.parent / name


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The merged tables: a key of the file replaces the one it extends, tables are merged key by key."""
    if path in seen:
        raise ModelError(
            "a target extends itself", node=str(path), remedy="remove `extends` from one of them"
        )
    data = read_toml(path, "target")
    parent = data.pop("extends", None)
    vela = data.get("vela")
    if isinstance(vela, dict) and isinstance(vela.get("config"), str):
        vela["config"] = str((path.parent / vela["config"]).resolve())
    if parent is None:
        return data
    base = _beside(path, parent) if str(parent).endswith(".toml") else registry.target_file(str(parent))
    merged = _read(base, (*seen, path))
    for key in ("name", "aliases", "description", "boards", "board"):
        merged.pop(key, None)
    for key, value in data.items():
        merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
    return merged
