"""The last step for targets with a compiler of their own: Arm's Vela, which makes an Ethos-U's file of a .tflite."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from edgecc.artifact import Artifact
from edgecc.errors import BudgetError
from edgecc.options import CompileOptions
from edgecc.profile.npu import NpuFigures
from edgecc.target import Target

_KB = 1024
_INSTALL = "pip install 'edgecc[ethos]'"


def for_npu(
    device: Target, named: Mapping[str, Artifact], warnings: list[str]
) -> tuple[dict[str, Artifact], dict[str, bytes]]:
    """Compiles the .tflite artifacts for the target's NPU, if it has one.

    Args:
        device: the target.
        named: artifacts by file name.
        warnings: gets what is missing, and which operators are left to the CPU and why.

    Returns:
        The artifacts, whose notes have `npu` (the figures) and `vela` (what the manifest says), and the compiled
        files by name.

    Raises:
        UnsupportedError: Vela refuses a file, or leaves all of it to the CPU.
        ModelError: the target's configuration of Vela is wrong.
    """
    if device.vela is None:
        return dict(named), {}
    from edgecc.profile.vela import compile_with_vela, installed
    from edgecc.report.npu import cpu_lines

    if installed() is None:
        warnings.append(
            f"not compiled for the NPU of {device.name}: Arm's Vela is not installed ({_INSTALL}); as they are, the"
            " files would run on the CPU beside it"
        )
        warnings += _expected(device.vela.accelerator_config, named)
        return dict(named), {}
    made: dict[str, Artifact] = {}
    files: dict[str, bytes] = {}
    for name, artifact in named.items():
        if artifact.format != "tflite":
            made[name] = artifact
            continue
        figures, data = compile_with_vela(artifact.content(), device)
        file = f"{PurePath(name).stem}_vela.tflite"
        files[file] = data
        figures = replace(figures, file=file)
        made[name] = replace(
            artifact, notes={**artifact.notes, "npu": figures, "vela": _declared(figures, data)}
        )
        warnings += [f"{name}: {line}" for line in cpu_lines(figures)]
    return made, files


def _expected(accelerator_config: str, named: Mapping[str, Artifact]) -> list[str]:
    """What the NPU would leave to the CPU, by the limits that are known without Vela."""
    from edgecc.tflite.npu import left_to_cpu

    return [
        f"{name}: {found.op_type} {found.node!r} would be left to the CPU: {found.reason}"
        for name, artifact in named.items()
        if artifact.format == "tflite"
        for found in left_to_cpu(artifact.content(), accelerator_config)
    ]


def _declared(figures: NpuFigures, data: bytes) -> dict[str, object]:
    """What the manifest says of a compiled file."""
    return {
        "file": figures.file,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        figures.tool: figures.tool_version,
        "accelerator_config": figures.accelerator_config,
        "system_config": figures.system_config,
        "memory_mode": figures.memory_mode,
        "operators_on_cpu": [o.name for o in figures.on_cpu],
    }


def excess(options: CompileOptions, device: Target, named: Mapping[str, Artifact]) -> BudgetError | None:
    """The first memory of the target, or latency that was asked for, that the figures of an NPU exceed.

    A latency that nobody can tell is none that is kept.
    """
    from edgecc.report.npu import kib

    for name, artifact in named.items():
        figures = artifact.notes.get("npu")
        if not isinstance(figures, NpuFigures):
            if device.vela is not None and options.max_latency is not None and artifact.format == "tflite":
                return BudgetError("its latency is not known without Arm's Vela", node=name, remedy=_INSTALL)
            continue
        for taken, limit, what in (
            (figures.sram_bytes, device.ram_kb, "SRAM"),
            (figures.size_bytes, device.flash_kb, "flash"),
        ):
            if limit is not None and taken > limit * _KB:
                return BudgetError(
                    f"{kib(taken)} of {what} are taken ({figures.tier}), {device.name} has {limit} KiB",
                    node=figures.file or name,
                    remedy="prune channels, shrink the input, or choose another memory mode in the target's [vela]",
                )
        allowed = None if options.max_latency is None else 1e3 * options.max_latency
        if allowed is not None and figures.ms > allowed:
            return BudgetError(f"{figures.ms:.3g} ms ({figures.tier}), {allowed:g} ms allowed", node=name)
    return None
