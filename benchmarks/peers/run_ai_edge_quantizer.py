"""Run inside the environment of ai-edge-quantizer: FLOAT.tflite CALIBRATION.npy OUT.tflite (static int8)."""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found,unused-ignore]
from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-not-found,unused-ignore]

source, calibration, target = sys.argv[1:]
interpreter = Interpreter(source)
key, signature = next(iter(interpreter.get_signature_list().items()))
data = [{signature["inputs"][0]: sample[None]} for sample in np.load(calibration)]
work = quantizer.Quantizer(source)
work.load_quantization_recipe(recipe.static_wi8_ai8())
Path(target).unlink(missing_ok=True)
work.quantize(work.calibrate({key: data})).export_model(target)
