"""Compares the observers on real networks, in both runtimes: the evidence for the default.

    python benchmarks/observers.py [mobilenet_v2_1.0 efficientnet_lite0 ...]

Every fifth image of ../shared/data/imagenet_dev calibrates, the other 400 test. Agreement and SQNR are
against the float network in ONNX Runtime.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import edgecc
from edgecc import ir
from edgecc.calibration.observers import collect
from edgecc.onnxrt.export import export
from edgecc.options import make_options
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower

SHARED = Path(__file__).resolve().parents[2] / "shared"
MEAN_STD = {
    "efficientnet_lite0": (127.0, 128.0),
    "mobilenet_v2_1.0": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
}
OBSERVERS: tuple[dict[str, Any], ...] = (
    {"observer": "robust"},
    {"observer": "minmax"},
    {"observer": "percentile", "percentile": 99.99},
    {"observer": "percentile", "percentile": 99.999},
)


def images(name: str) -> list[Any]:
    mean, std = MEAN_STD[name]
    files = sorted((SHARED / "data" / "imagenet_dev").glob("*.jpg"))
    pixels = (np.asarray(Image.open(f).convert("RGB")) for f in files)
    return [np.ascontiguousarray(((p - mean) / std).transpose(2, 0, 1)[None], np.float32) for p in pixels]


def answers(runner: Any, name: str, rows: list[Any]) -> Any:
    return np.concatenate([next(iter(runner.run({name: row}).values())) for row in rows])


def artifact(floats: ir.Model, plan: QuantPlan, runtime: Any) -> Any:
    target = edgecc.target("arm")
    model = floats.clone()
    InsertQDQ().apply(model, PassContext(plan=plan.for_runtime(runtime, floats, target)))
    if runtime == "onnx":
        return OrtRunner.from_bytes(export(model, precision="int8", target=target).data)
    return LiteRtRunner(lower(model, precision="int8", target="arm").data)


def main() -> None:
    for network in sys.argv[1:] or list(MEAN_STD):
        model = edgecc.load(SHARED / "models" / f"{network}.onnx")
        passes = float_passes(edgecc.target("arm"), make_options({}))
        floats, _ = Pipeline(passes).run(model, PassContext(check=False))
        name, rows = str(model.graph.inputs[0].name), images(network)
        test = [row for i, row in enumerate(rows) if i % 5]
        want = answers(OrtRunner.from_model(model), name, test)
        for options in OBSERVERS:
            started = time.perf_counter()
            plan = make_plan(floats, collect(floats, ({name: row} for row in rows[::5]), **options))
            seconds = time.perf_counter() - started
            for runtime in ("onnx", "tflite"):
                got = answers(artifact(floats, plan, runtime), name, test)
                agreement = 100 * np.mean(got.argmax(-1) == want.argmax(-1))
                sqnr = 10 * np.log10(np.sum(want**2) / np.sum((got - want) ** 2))
                words = " ".join(map(str, options.values()))
                found = f"agreement {agreement:.2f} % SQNR {sqnr:.2f} dB, calibrated in {seconds:.1f} s"
                print(f"{network} {runtime:6} {words:18} {found}", flush=True)


if __name__ == "__main__":
    main()
