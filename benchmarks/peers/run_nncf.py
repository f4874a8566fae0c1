"""NNCF's post-training quantization of ONNX with its defaults: FLOAT.onnx CALIBRATION.npy OUT.onnx."""

import sys

import nncf  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import onnx

source, calibration, target = sys.argv[1:]
model = onnx.load(source)
name = model.graph.input[0].name
dataset = nncf.Dataset(np.load(calibration), lambda sample: {name: sample[None]})
onnx.save(nncf.quantize(model, dataset), target)
