"""int8 files on emulated Arm: are the answers the same on every level, and how many instructions does one take?

    python benchmarks/emulated.py [ic_resnet8 kws_dscnn ...] [--images N] [--levels a53,a76] [--no-onnx-count]

Every network is compiled to int8 (calibrated as `networks.py` splits the data) and to fp32. A row is a network at a
level: elements of the int8 TFLite and ONNX outputs that differ from the same runtime on this machine, largest
difference in steps of the output's scale; elements and classes of the ONNX file against the TFLite file, both on Arm;
millions of instructions of one inference in the runtime's library. A line after them: whether each file's answers are
the same bytes on all levels. There are no times: an emulated processor has none.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from networks import NETWORKS

import edgecc
from edgecc.profile.emulated import Emulated, compare, differences, run_many
from edgecc.profile.tensors import ModelFile
from edgecc.report.emulated import difference

LEVELS = "a53,a72,a76,i8mm"


def files(name: str, folder: Path) -> dict[str, Path]:
    """The compiled files by label."""
    network = NETWORKS[name]
    samples = folder / f"{name}.npy"
    np.save(samples, network.split()[0])
    for precision in ("int8", "fp32"):
        edgecc.compile(
            network.path,
            data=str(samples),
            precision=precision,
            format="all",
            input_shape=network.input_shape,
            no_profile=True,
            no_verify=True,
            output=folder / name,
        )
    return {
        f"{p}.{f}": folder / name / f"{name}.{p}.{f}" for p in ("int8", "fp32") for f in ("tflite", "onnx")
    }


def instructions(found: Emulated, level: str) -> str:
    """Of one inference, in millions."""
    count = next(each.count for each in found.levels if each.level == level)
    assert count is not None
    return f"{count.instructions / 1e6:.3f}" + ("" if count.repeatable else " (not repeatable)")


def row(
    name: str, made: dict[str, Path], level: str, images: int, onnx_count: bool
) -> tuple[list[str], tuple[str, str]]:
    """One line of the table, and the digests of both files' answers."""
    x = NETWORKS[name].split()[1][:images]
    feeds = {_input(made["int8.onnx"]): x[:, None]}
    tflite = compare(made["int8.tflite"], [level], feeds)
    onnx = compare(made["int8.onnx"], [level], feeds, count=onnx_count)
    whole = compare(made["fp32.tflite"], [level], {k: v[:1] for k, v in feeds.items()})
    answers = {form: run_many(made[f"int8.{form}"], level, feeds) for form in ("tflite", "onnx")}
    classes = [next(iter(each.values())).reshape(len(x), -1).argmax(1) for each in answers.values()]
    scales = ModelFile.read(made["int8.tflite"]).scales
    cells = [
        name,
        level,
        difference(tflite.levels[0].differences[0]),
        difference(onnx.levels[0].differences[0]),
        difference(differences("TFLite", answers["onnx"], answers["tflite"], scales)),
        f"{int((classes[0] == classes[1]).sum())} of {len(x)}",
        instructions(whole, level),
        instructions(tflite, level),
        *([instructions(onnx, level)] if onnx_count else []),
    ]
    return cells, (tflite.levels[0].digest, onnx.levels[0].digest)


def _input(path: Path) -> str:
    from edgecc.runtime.ort import OrtRunner

    return OrtRunner.from_file(path).inputs[0].name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["kws_dscnn", "ic_resnet8", "mobilenet_v2_1.0"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--no-onnx-count", action="store_true", help="ONNX Runtime's count takes a minute")
    words = parser.parse_args()
    heads = [
        "network",
        "level",
        "int8 TFLite",
        "int8 ONNX",
        "ONNX against TFLite",
        "same class",
        "fp32 TFLite, M",
        "int8 TFLite, M",
    ]
    heads += [] if words.no_onnx_count else ["int8 ONNX, M"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in words.networks:
            made = files(name, Path(folder))
            digests = []
            for level in words.levels.split(","):
                cells, digest = row(name, made, level, words.images, not words.no_onnx_count)
                digests.append(digest)
                print("| " + " | ".join(cells) + " |", flush=True)
            for kind, found in zip(("TFLite", "ONNX"), zip(*digests, strict=True), strict=True):
                same = "the same bytes" if len(set(found)) == 1 else "NOT the same bytes"
                print(f"{name}, int8 {kind}: {same} on {words.levels}", flush=True)


if __name__ == "__main__":
    main()
