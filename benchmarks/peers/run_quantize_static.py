"""onnxruntime's quantize_static: FLOAT.onnx CALIBRATION.npy OUT.onnx (QDQ, S8S8, min-max) [tensor: not per channel]."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

source, calibration, target, *words = sys.argv[1:]
name = onnx.load(source, load_external_data=False).graph.input[0].name


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """One sample after the other."""

    def __init__(self) -> None:
        self.samples = iter(np.load(calibration))

    def get_next(self) -> dict[str, object] | None:
        """The next sample, or None."""
        sample = next(self.samples, None)
        return None if sample is None else {name: sample[None]}


prepared = f"{target}.prepared.onnx"
quant_pre_process(source, prepared, skip_symbolic_shape=True)
quantize_static(
    prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel="tensor" not in words,
    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
)  # fmt: skip
Path(prepared).unlink()
