"""onnxsim's quantize_static with its defaults: FLOAT.onnx CALIBRATION.npy OUT.onnx."""

import sys

import numpy as np
import onnx
import onnxsim  # type: ignore[import-not-found,unused-ignore]

source, calibration, target = sys.argv[1:]
name = onnx.load(source, load_external_data=False).graph.input[0].name
samples = [{name: sample[None]} for sample in np.load(calibration)]
onnx.save(onnxsim.quantize_static(source, samples), target)
