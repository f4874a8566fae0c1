"""What the compiler of an NPU computes for a network: latency, memories, and what it leaves to the CPU."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc.report.terminal import Table


@dataclass(frozen=True)
class NpuOperator:
    """One operator of the TFLite file.

    Attributes:
        index: in the file.
        name: of its result.
        type: as TFLite calls it.
        placed: "NPU" or "CPU".
        cycles: of the NPU; 0 where the operator was merged into another, or runs on the CPU.
        ms: at the clock of the system configuration.
        share: of the sum over all operators, 0 to 1.
        macs: multiply-accumulates.
        bound: what takes longest: "NPU", "SRAM", "DRAM", "on-chip flash" or "off-chip flash"; empty without cycles.
        reason: why it is on the CPU; empty if it is not.
    """

    index: int
    name: str
    type: str
    placed: str
    cycles: int
    ms: float
    share: float
    macs: int
    bound: str
    reason: str = ""


@dataclass(frozen=True)
class NpuFigures:
    """What Vela computes for one file and target.

    Attributes:
        target: whose configuration it is.
        tool, tool_version: that computed.
        accelerator_config, system_config, memory_mode: as given to it.
        ghz: clock of the system configuration.
        cycles, ms: of one inference on the NPU; what runs on the CPU is not in them.
        sram_bytes, dram_bytes, flash_bytes: taken of each memory.
        macs: multiply-accumulates on the NPU.
        operators: of the TFLite file, in its order.
        size_bytes: of the compiled file, which is what goes onto the device.
        file: its name, where one was written.
        tier: that the vendor's tool computed it.
        notes: what else to know.
    """

    target: str
    tool: str
    tool_version: str
    accelerator_config: str
    system_config: str
    memory_mode: str
    ghz: float
    cycles: int
    ms: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    macs: int
    operators: tuple[NpuOperator, ...]
    size_bytes: int
    tier: str
    file: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> tuple[NpuOperator, ...]:
        """The operators that are left to the CPU."""
        return tuple(o for o in self.operators if o.placed == "CPU")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self)

    def tables(self, limit: int | None = 20, title: str = "") -> list[Table | str]:
        """The network in a line, then its slowest operators."""
        from edgecc.report.npu import npu_tables

        return npu_tables([self], limit, title)
