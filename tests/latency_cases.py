"""What tests of predicted latency share: a network with a layer of each kind, and a device made of given figures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgecc.target import LatencySpec, Target

Parse = Callable[..., ModelProto]
_NETWORK = """g (float[1,8,10,10] x) => (float[1,4] y) {
    a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w3)
    b = Relu(a)
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>(b, wd)
    d = Conv<kernel_shape=[1,1]>(c, w1)
    e = Sigmoid(d)
    f = Flatten(e)
    y = MatMul(f, wf)
}"""


def write_network(parse: Parse, folder: Path) -> Path:
    """The network as a file; its Relu is part of the layer before it."""
    random = np.random.default_rng(0).standard_normal
    shapes = {"w3": (8, 8, 3, 3), "wd": (8, 1, 3, 3), "w1": (16, 8, 1, 1), "wf": (1600, 4)}
    model = parse(_NETWORK, constants={k: random(s).astype(np.float32) for k, s in shapes.items()})
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def device(*tables: LatencySpec, **given: object) -> Target:
    """A target for TFLite with these latency tables, and whatever else is given of it."""
    words = {"name": "t", "description": "d", "latency": tables, "runtimes": {"tflite": "LiteRT"}, **given}
    return Target(**words)  # type: ignore[arg-type]
