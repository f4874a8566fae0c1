"""What the tests of the simulator share: a file in a runtime, every tensor of it against the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.tflm import MicroRunner
from edgecc.simulate.network import Network
from edgecc.simulate.runner import SimulatedRunner
from edgecc.tflite.reader import Operator, read_graph

Array = npt.NDArray[Any]


def differences(data: bytes, feeds: Mapping[str, Array], *, micro: bool = False) -> tuple[list[str], int]:
    """Operators with a tensor that is not equal in LiteRT's reference kernels (or TFLite Micro); numbers compared."""
    simulated = SimulatedRunner(data)
    runner: LiteRtRunner | MicroRunner
    runner = MicroRunner(data, layers=True) if micro else LiteRtRunner(data, layers=True, reference=True)
    runner.run(feeds)
    wrong: list[str] = []
    compared = 0

    def check(op: Operator, found: list[Array]) -> None:
        nonlocal compared
        for tensor, got in zip(op.outputs, found, strict=True):
            wanted = runner.stored(tensor.index)
            compared += got.size
            assert got.dtype == wanted.dtype, op.label
            if micro and got.shape != wanted.shape:  # of a scalar it says (1,)
                wanted = wanted.reshape(got.shape)
            assert got.shape == wanted.shape, op.label
            if not np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f"):
                count = np.count_nonzero(got != wanted)
                wrong.append(f"{op.label}: {count} of {got.size}")

    Network(simulated.graph, micro).run(simulated.stored(feeds), check)
    return wrong, compared


def random_feeds(data: bytes, seed: int, spread: float = 1.0, batch: int = 2) -> dict[str, Array]:
    """Normal values for every input of a file, the float ones."""
    random = np.random.default_rng(seed)
    specs = SimulatedRunner(data).inputs
    return {
        s.name: (spread * random.standard_normal([d or batch for d in s.shape])).astype(s.dtype)
        for s in specs
    }


def rescaled(data: bytes, seed: int, fixed: frozenset[str]) -> bytes:
    """The file with other scales and zero points of its int8 activations, outputs of `fixed` operators excepted."""
    random = np.random.default_rng(seed)
    graph = read_graph(data)
    held = {t.index for op in graph.operators if op.code in fixed for t in op.outputs}
    held |= {
        t.index for op in graph.operators if op.code in fixed for t in op.inputs if t and t.data is not None
    }
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for tensor, facts in zip(model.subgraphs[0].tensors, graph.tensors, strict=True):
        if facts.dtype == "int8" and facts.data is None and len(facts.scales) and facts.index not in held:
            tensor.quantization.scale = [float(np.float32(facts.scale * 2.0 ** random.uniform(-1, 1)))]
            tensor.quantization.zeroPoint = [int(random.integers(-128, 128))]
    model.metadata = model.metadataBuffer = None
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
