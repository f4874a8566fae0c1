"""Runs one file in the runtime of the environment that it is started in: a process of its own for `devices.py`.

    python tflite_runtime_worker.py MODEL.tflite INPUTS.npz OUTPUTS.npz

INPUTS holds an array (samples, ...) a position, as the tensors hold them; so does OUTPUTS then. Ends with exit code 1
and the runtime's words where the file is refused.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from tflite_runtime.interpreter import Interpreter


def main(model: str, inputs: str, outputs: str) -> None:
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    with np.load(inputs, allow_pickle=False) as held:
        samples = {int(name): held[name] for name in held.files}
    takes, gives = interpreter.get_input_details(), interpreter.get_output_details()
    answers: list[list[np.ndarray[Any, np.dtype[Any]]]] = [[] for _ in gives]
    for i in range(len(samples[0])):
        for position, detail in enumerate(takes):
            interpreter.set_tensor(detail["index"], samples[position][i])
        interpreter.invoke()
        for kept, detail in zip(answers, gives, strict=False):
            kept.append(interpreter.get_tensor(detail["index"]).copy())
    found: dict[str, Any] = {str(i): np.stack(kept) for i, kept in enumerate(answers)}
    np.savez(outputs, **found)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (RuntimeError, ValueError) as error:
        sys.exit(" ".join(str(error).split()))
