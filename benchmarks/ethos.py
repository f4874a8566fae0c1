"""int8 networks on Ethos-U as Arm's Vela computes them: latency, memories, operators on the NPU and on the CPU.

    python benchmarks/ethos.py [NETWORK ...]       a row a network and target
    python benchmarks/ethos.py --limits            writes edgecc/tflite/ethosu.json from the installed Vela

The file is compiled once, verified in TFLite Micro on test samples, and handed to Vela for each target.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from networks import NETWORKS, Network

import edgecc
import edgecc.inspect
from edgecc.profile.npu import NpuFigures
from edgecc.profile.vela import compile_with_vela, constraints
from edgecc.target import target
from edgecc.tflite.npu import TABLE, parsed

CHOSEN = ("kws_dscnn", "ic_resnet8", "mobilenet_v2_1.0")
TARGETS = ("ethos-u55-128", "ethos-u65-512", "ethos-u85-256")
FAMILIES = ("EthosU55", "EthosU65", "EthosU85")
# Test samples, of networks with so many multiply-accumulates at most: TFLite Micro's kernels are slow on this machine.
TESTED = ((50e6, 50), (1e12, 10))


def main() -> None:
    if sys.argv[1:] == ["--limits"]:
        write_limits()
        return
    print(
        "| network | target | ms | cycles | SRAM KiB | DRAM KiB | flash KiB | NPU | CPU | SQNR dB | agreement |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    left = 0
    for name in sys.argv[1:] or CHOSEN:
        data, fidelity = compiled(NETWORKS[name])
        for device in TARGETS:
            figures, _ = compile_with_vela(data, target(device))
            left += len(figures.on_cpu)
            print(row(name, figures, fidelity), flush=True)
    sys.exit(1 if left else 0)


def compiled(network: Network) -> tuple[bytes, str]:
    """The .tflite file, and its SQNR and agreement on test samples as cells."""
    calibration, test, _ = network.split()
    macs = edgecc.inspect.inspect_model(network.path, targets=()).macs
    count = next(samples for most, samples in TESTED if macs <= most)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / "calibration.npy", calibration)
        np.save(folder / "test.npy", test[:: len(test) // count][:count])
        result = edgecc.compile(
            network.path, target=TARGETS[0], precision="int8", data=folder / "calibration.npy",
            eval_data=folder / "test.npy", input_shape=network.input_shape or None, no_profile=True,
            output=folder / "out",
        )  # fmt: skip
        fidelity = result.fidelity
        assert fidelity is not None
        agreement = "-" if fidelity.agreement is None else f"{100 * fidelity.agreement:.0f} %"
        return result.artifacts["tflite"].data, f"{fidelity.sqnr_db:.1f} | {agreement}"


def row(name: str, figures: NpuFigures, fidelity: str) -> str:
    left = len(figures.on_cpu)
    cells = [
        name, figures.target, f"{figures.ms:.3f}", f"{figures.cycles:,}", *(
            f"{size / 1024:.1f}" if size else "-"
            for size in (figures.sram_bytes, figures.dram_bytes, figures.flash_bytes)
        ), str(len(figures.operators) - left), str(left), fidelity,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def write_limits() -> None:
    """What the installed Vela states of each operator, as rules."""
    found = {family: constraints(family) for family in FAMILIES}
    stated = {family: each for family, each in found.items() if each is not None}
    if len(stated) < len(FAMILIES):
        sys.exit("Vela is not installed: pip install 'edgecc[ethos]'")
    table = {
        "source": next(iter(stated.values()))[0],
        "architectures": {family: parsed(each[1]) for family, each in stated.items()},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
