"""Compiles int8 TFLite files for Arm's Ethos-U with Arm's own compiler, Vela, and reads what it computes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from edgecc.errors import EdgeccError, Finding, ModelError, UnsupportedError, UsageError
from edgecc.profile.npu import NpuFigures, NpuOperator
from edgecc.profile.vela_files import Row, cpu_reasons, operator_rows, read_summary
from edgecc.target import Target, VelaSpec
from edgecc.tflite.reader import Operator, read_graph

PACKAGE = "ethos-u-vela"
INSTALL = "pip install 'edgecc[ethos]'"
NPU_CODE = "CUSTOM ethos-u"
"""What Vela puts in the place of the operators that it compiles."""

_LIMIT_SECONDS = 600.0
_OWN_CONFIG = "Arm/vela.ini"  # of the package
_WRONG_CONFIGURATION = ("CliOptionError", "ConfigOptionError", "InputFileError", "invalid choice")
_NOT_SAID = "Vela does not say why"
_SHOWN = 10  # operators that an error lists


def installed() -> str | None:
    """The version of Vela in this environment, None where there is none."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def profile_with_vela(path: Path, device: Target, *, limit_seconds: float = _LIMIT_SECONDS) -> NpuFigures:
    """What Vela computes for a file.

    Raises:
        UnsupportedError: it is no .tflite file.
        UsageError: it cannot be read.
        EdgeccError: as `compile_with_vela`.
    """
    if path.suffix != ".tflite":
        raise UnsupportedError(
            f"{device.name} runs what Vela makes of an int8 .tflite file, and {path} is none",
            remedy=f"`edgecc compile {path} --target {device.name} --data D` makes one, and tells these figures",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", node=str(path)) from error
    return compile_with_vela(data, device, limit_seconds=limit_seconds)[0]


def compile_with_vela(
    data: bytes, device: Target, *, limit_seconds: float = _LIMIT_SECONDS
) -> tuple[NpuFigures, bytes]:
    """Compiles a TFLite file for an Ethos-U.

    Args:
        data: the file, int8.
        device: a target with `vela`.
        limit_seconds: after which Vela is stopped.

    Returns:
        What Vela computed, and the file for the device.

    Raises:
        UsageError: Vela is not installed, or the target is no Ethos-U.
        ModelError: the file is damaged, the target's configuration wrong, or the file is compiled already.
        UnsupportedError: Vela refuses the file, or leaves all of it to the CPU, as it does with float networks.
        EdgeccError: Vela does not end in time, or writes what cannot be read.
    """
    spec, version = device.vela, installed()
    if spec is None:
        raise UsageError(f"{device.name} has no [vela] table", remedy="see docs/targets.md")
    if version is None:
        raise UsageError("Arm's Vela is not installed", node=device.name, remedy=INSTALL)
    operators = read_graph(data).operators
    if any(op.code == NPU_CODE for op in operators):
        raise ModelError("Vela compiled this file already", remedy="give the .tflite that it was made from")
    with tempfile.TemporaryDirectory(prefix="edgecc-vela-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        (folder / "network.tflite").write_bytes(data)
        said = _run(spec, folder, limit_seconds, device.name)
        try:
            compiled = (folder / "network_vela.tflite").read_bytes()
            facts = read_summary(next(folder.glob("network_summary_*.csv")))
            rows = operator_rows(folder / "network_debug.xml")
        except (OSError, StopIteration) as error:
            raise UnsupportedError(f"Vela made nothing of the file: {_last(said)}") from error
    figures = _figures(device.name, spec, version, facts, len(compiled))
    left = _left(compiled)
    placed = _operators(operators, rows, left, cpu_reasons(said), figures.ghz)
    figures = replace(figures, operators=placed, notes=_notes(placed, left))
    if len(figures.on_cpu) == len(placed):
        raise _all_on_cpu(figures)
    return figures, compiled


def command(spec: VelaSpec) -> list[str]:
    """The words that run Vela on network.tflite in the current folder."""
    return [
        sys.executable, "-P", "-m", "ethosu.vela", "network.tflite",
        "--config", spec.config or _OWN_CONFIG,
        "--accelerator-config", spec.accelerator_config,
        "--system-config", spec.system_config,
        "--memory-mode", spec.memory_mode,
        "--output-dir", ".", "--enable-debug-db",
    ]  # fmt: skip


def _run(spec: VelaSpec, folder: Path, limit_seconds: float, target: str) -> str:
    """What Vela wrote to its standard output."""
    if spec.config is not None and not Path(spec.config).is_file():
        raise ModelError("there is no such configuration of Vela", node=spec.config)
    try:
        done = subprocess.run(
            command(spec), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            encoding="utf-8", errors="replace", timeout=limit_seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise EdgeccError(f"Vela was stopped after {limit_seconds:g} s", node=target) from error
    if done.returncode == 0:
        return done.stdout
    last = _last(done.stderr) or _last(done.stdout) or f"it ended with {done.returncode}"
    if any(word in last for word in _WRONG_CONFIGURATION):
        raise ModelError(
            f"Vela does not take this configuration: {last}",
            node=target,
            remedy="see [vela] in docs/targets.md",
        )
    raise UnsupportedError(f"Vela refuses the network: {last}")


def _last(text: str) -> str:
    """The last line that says anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _left(compiled: bytes) -> frozenset[str]:
    """Names of the results of operators that are still TFLite's own in the compiled file."""
    operators = read_graph(compiled).operators
    return frozenset(_name(op) for op in operators if op.code != NPU_CODE)


def _name(op: Operator) -> str:
    """Of the result; operators that only assign have none."""
    return op.outputs[0].name if op.outputs else ""


def _figures(target: str, spec: VelaSpec, version: str, facts: Mapping[str, float], size: int) -> NpuFigures:
    """The figures of the whole network: `read_summary`'s memories are in KiB."""
    kib = {
        name: round(1024 * facts[f"{name}_memory_used"])
        for name in ("sram", "dram", "on_chip_flash", "off_chip_flash")
    }
    return NpuFigures(
        target=target, tool=PACKAGE, tool_version=version, accelerator_config=spec.accelerator_config,
        system_config=spec.system_config, memory_mode=spec.memory_mode, ghz=facts["core_clock"] / 1e9,
        cycles=round(facts["cycles_total"]), ms=1e3 * facts["cycles_total"] / facts["core_clock"],
        sram_bytes=kib["sram"], dram_bytes=kib["dram"],
        flash_bytes=kib["on_chip_flash"] + kib["off_chip_flash"], macs=round(facts["nn_macs"]), operators=(),
        size_bytes=size, tier=f"computed by Arm's Vela {version}",
    )  # fmt: skip


def _operators(
    operators: Sequence[Operator],
    rows: Mapping[int, Sequence[Row]],
    left: frozenset[str],
    reasons: Mapping[str, str],
    ghz: float,
) -> tuple[NpuOperator, ...]:
    total = sum(row.cycles for group in rows.values() for row in group) or 1
    made = []
    for op in operators:
        name, group = _name(op), rows.get(op.number, ())
        cycles, on_cpu = sum(row.cycles for row in group), name in left
        made.append(
            NpuOperator(
                index=op.number, name=name, type=op.code, placed="CPU" if on_cpu else "NPU", cycles=cycles,
                ms=cycles / (ghz * 1e6), share=cycles / total, macs=sum(row.macs for row in group),
                bound=_bound(group), reason=reasons.get(name, _NOT_SAID) if on_cpu else "",
            )
        )  # fmt: skip
    return tuple(made)


def _bound(group: Sequence[Row]) -> str:
    """What takes most cycles, summed over the commands that an operator became."""
    sums: dict[str, int] = {}
    for row in group:
        for part, cycles in row.parts.items():
            sums[part] = sums.get(part, 0) + cycles
    return max(sums, key=lambda part: sums[part]) if any(sums.values()) else ""


def _notes(operators: Sequence[NpuOperator], left: frozenset[str]) -> tuple[str, ...]:
    """What the figures leave out."""
    added = left - {o.name for o in operators}
    notes = [f"Vela adds an operator on the CPU: {name!r}" for name in sorted(added)]
    if left:
        notes.append(f"what the {len(left)} operators on the CPU take is not in these figures")
    return tuple(notes)


def _all_on_cpu(figures: NpuFigures) -> UnsupportedError:
    shown = figures.operators[:_SHOWN]
    more = len(figures.operators) - len(shown)
    return UnsupportedError(
        f"Vela leaves all {len(figures.operators)} operators to the CPU: {figures.target} would compute nothing"
        + (f" (the first {len(shown)}:)" if more > 0 else ""),
        [Finding(o.name, o.type, o.reason) for o in shown],
        remedy="the NPU computes in integers: `edgecc compile MODEL.onnx --target T --data D` makes an int8 file",
    )


def constraints(family: str) -> tuple[str, dict[str, list[str]]] | None:
    """What the installed Vela states of each operator of an architecture ("EthosU55"), after its own name and version.

    None where Vela is not installed, or states nothing of that architecture.
    """
    version = installed()
    if version is None:
        return None
    try:
        from ethosu import regor

        return f"{PACKAGE} {version}", dict(regor.tflite_operator_constraints(family))
    except (ImportError, AttributeError, ValueError):
        return None
