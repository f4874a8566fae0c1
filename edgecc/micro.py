"""Whether a network fits a microcontroller: RAM and flash, predicted, against what the board has (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgecc import registry
from edgecc.analysis.flat import FlatNetwork
from edgecc.analysis.memory import Memory, Step, predict
from edgecc.analysis.micro_kernels import HOST, Machine
from edgecc.artifact import Artifact
from edgecc.errors import BudgetError
from edgecc.target import Target, read_target
from edgecc.tflite.kernels import MICRO, runtime_id

KIB = 1024
_TOLD = 4  # tensors of the peak that a message names
_BOARDS = 3  # likewise
_WORDS = {
    "reference": "TFLite Micro's reference kernels",
    "dsp": "CMSIS-NN's kernels for DSP instructions",
    "mve": "CMSIS-NN's kernels for MVE (Helium)",
}


@dataclass(frozen=True)
class MemoryFacts:
    """What TFLite Micro takes for a file on a device, predicted.

    Attributes:
        basis: what the figures are computed for.
        arena_bytes: RAM that the arena must have on the device.
        head_bytes: of it, tensors and scratch buffers.
        tail_bytes: of it, structures and parameters.
        live_bytes: the most that lives at once; where it is less than `head_bytes`, the planner leaves gaps.
        here_bytes: the prediction for this machine, beside which `arena_bytes` of the runtime stands.
        given_order_bytes: the head where the operators had kept their order; None: they did.
        peak: the operator during which the most lives, with the tensors that do.
        operators: memory that lives while each runs, in order: name and bytes.
        flash_bytes: of the file. The code of the runtime and its kernels comes on top and is not known here.
        board, ram_bytes, flash_limit: what it must fit; None where nothing is known of it.
        uncounted: operators whose own buffers are not in the figures.
    """

    basis: str
    arena_bytes: int
    head_bytes: int
    tail_bytes: int
    live_bytes: int
    here_bytes: int
    given_order_bytes: int | None
    peak: Step
    operators: tuple[tuple[str, int], ...]
    flash_bytes: int
    board: str | None = None
    ram_bytes: int | None = None
    flash_limit: int | None = None
    uncounted: tuple[str, ...] = ()


def runs_in_micro(target: Target, form: str) -> bool:
    """Whether the target runs the format in TFLite Micro, with kernels whose memory is known."""
    return is_micro(target, form) and target.micro_kernels != "vela"


def is_micro(target: Target, form: str) -> bool:
    """Whether the target runs the format in TFLite Micro, whose kernels here are not those of the device."""
    return form == "tflite" and runtime_id(target.runtimes.get(form, "LiteRT")) == MICRO


def machine_of(target: Target) -> Machine:
    """A 32-bit core with the target's kernels."""
    assert target.micro_kernels != "vela"
    return Machine(4, target.micro_kernels)


def memory_facts(artifacts: Mapping[str, Artifact], target: Target) -> dict[str, MemoryFacts]:
    """By format, for what the target runs in TFLite Micro."""
    return {f: _facts(a, target) for f, a in artifacts.items() if runs_in_micro(target, f)}


def _facts(artifact: Artifact, target: Target) -> MemoryFacts:
    reordered = artifact.notes.get("reordered")
    given = None if reordered is None else int(reordered[0])
    return _of_network(_network(artifact), artifact.size, target, given)


def file_facts(data: bytes, target: Target) -> MemoryFacts:
    """Of a TFLite file, for a target that runs it in TFLite Micro.

    Raises:
        ModelError: the file cannot be read.
    """
    from edgecc.tflite.flat import read_network

    return _of_network(read_network(data), len(data), target, None)


def _of_network(network: FlatNetwork, size: int, target: Target, given_order: int | None) -> MemoryFacts:
    memory = predict(network, machine_of(target))
    return MemoryFacts(
        basis=f"a 32-bit core with {_WORDS[target.micro_kernels]}",
        arena_bytes=memory.arena,
        head_bytes=memory.head,
        tail_bytes=memory.tail,
        live_bytes=memory.live,
        here_bytes=predict(network, HOST).used,
        given_order_bytes=given_order,
        peak=memory.peak,
        operators=tuple((s.operator, s.live) for s in memory.steps),
        flash_bytes=size,
        board=target.board,
        ram_bytes=None if target.ram_kb is None else KIB * target.ram_kb,
        flash_limit=None if target.flash_kb is None else KIB * target.flash_kb,
        uncounted=memory.unknown,
    )


def _network(artifact: Artifact) -> FlatNetwork:
    from edgecc.tflite.flat import read_network

    return read_network(artifact.content())


def refusal(
    artifacts: Mapping[str, Artifact], memories: Mapping[str, MemoryFacts], target: Target, name: str
) -> BudgetError | None:
    """Why an artifact does not fit the target's memory, and what would; None where all fit.

    Args:
        artifacts, memories: by format.
        target: with its limits.
        name: of the network, for the message.
    """
    for form, facts in memories.items():
        artifact = artifacts[form]
        where = f"{name}.{artifact.precision}.{form}"
        ram, flash = excess(facts, target.board or target.name)
        if ram is not None:
            peak = f"{ram}. The most lives during {peak_text(facts.peak)}"
            return BudgetError(peak, node=where, remedy=_what_fits(artifact, facts, target))
        if flash is not None:
            return BudgetError(flash, node=where, remedy=_smaller_file(artifact, facts, target))
    return None


def excess(facts: MemoryFacts, device: str) -> tuple[str | None, str | None]:
    """Why RAM and flash of the device do not hold it; None where they do, or no limit is known."""
    ram = flash = None
    if facts.ram_bytes is not None and facts.arena_bytes > facts.ram_bytes:
        ram = (
            f"the arena takes {facts.arena_bytes:,} bytes of RAM (predicted for {facts.basis}), {device} has"
            f" {facts.ram_bytes:,}: {facts.arena_bytes - facts.ram_bytes:,} too many"
        )
    if facts.flash_limit is not None and facts.flash_bytes > facts.flash_limit:
        flash = (
            f"the file takes {facts.flash_bytes:,} bytes of flash, {device} has {facts.flash_limit:,}"
            f" (the runtime's code comes on top): {facts.flash_bytes - facts.flash_limit:,} too many"
        )
    return ram, flash


def peak_text(peak: Step) -> str:
    """Which operator holds the peak, with the tensors that live there."""
    parts = [f"{name} {size:,}" for name, size in peak.buffers[:_TOLD]]
    more = len(peak.buffers) - _TOLD
    return (
        f"{peak.operator}: {peak.live:,} bytes ({', '.join(parts)}{f' and {more} more' if more > 0 else ''})"
    )


def _what_fits(artifact: Artifact, facts: MemoryFacts, target: Target) -> str:
    assert facts.ram_bytes is not None
    found = []
    if artifact.precision in ("fp32", "int16x8", "int16", "mixed"):
        int8 = predict(_network(artifact).narrowed(1, "int8"), machine_of(target))
        verb = "fits" if int8.arena <= facts.ram_bytes else "does not fit either"
        found.append(f"--precision int8, predicted to take about {int8.arena:,} bytes, {verb}")
    spare = facts.ram_bytes - facts.tail_bytes
    if 0 < spare < facts.head_bytes:
        found.append(
            f"an input of {100 * (spare / facts.head_bytes) ** 0.5:.0f} % of the width and height,"
            f" or {100 * spare / facts.head_bytes:.0f} % of the channels at the peak"
            f" (--pass prune_channels:ratio=..), would bring the activations down to what is free"
        )
    return "; ".join([*found, _boards(facts, target)])


def _smaller_file(artifact: Artifact, facts: MemoryFacts, target: Target) -> str:
    found = [] if artifact.precision in ("int8", "int4") else ["--precision int8 stores a weight in one byte"]
    found.append(f"--pass prune_channels:max_size={facts.flash_limit} removes channels until it fits")
    return "; ".join([*found, _boards(facts, target)])


def _boards(facts: MemoryFacts, target: Target) -> str:
    fitting = sorted(
        (board.ram_bytes, board.name)
        for board in known_boards()
        if board.ram_bytes >= facts.arena_bytes and board.flash_bytes >= facts.flash_bytes
    )
    if not fitting:
        return "no board that edgecc knows would hold it"
    names = [f"{name} ({ram // KIB:,} KiB)" for ram, name in fitting[:_BOARDS]]
    return f"of the boards that edgecc knows, these would hold it: {', '.join(names)}"


@dataclass(frozen=True)
class Board:
    """RAM and flash of a board by its name, in bytes."""

    name: str
    ram_bytes: int
    flash_bytes: int


def known_boards() -> Iterator[Board]:
    """Of the built-in targets that run TFLite Micro; boards whose flash is unknown count as boards without any."""
    for path in registry.target_files().values():
        target = read_target(path)
        if runs_in_micro(target, "tflite"):
            for name, board in target.boards.items():
                if board.ram_kb is not None:
                    yield Board(name, KIB * board.ram_kb, KIB * (board.flash_kb or 0))


__all__ = [
    "Memory",
    "MemoryFacts",
    "excess",
    "file_facts",
    "is_micro",
    "known_boards",
    "machine_of",
    "memory_facts",
    "peak_text",
    "refusal",
    "runs_in_micro",
]
