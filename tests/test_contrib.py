"""Operators of ONNX Runtime's own domain: LiteRT against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_cases import Array, assert_close, seeded

from edgecc.compile import lower_float
from edgecc.errors import UnsupportedError
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

B, S, D = 2, 5, 8
X = seeded(B, S, D)
GAMMA, BETA = seeded(D, seed=1) + 1, seeded(D, seed=2)
IDS = np.array([[1, 2, 3, 0, 1], [0, 3, 3, 2, 1]], np.int32)
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32)
KEYS, VALUES = seeded(B, 3, D, seed=3), seeded(B, 3, D, seed=4)
IMAGE, KERNEL = seeded(1, 4, 6, 6), seeded(4, 2, 3, 3, seed=5)

# Name, operands (the first computed, the others constant), attributes, outputs that are asked for.
CASES: list[Any] = [
    ("Gelu", [X], {}, ["y"]),
    ("QuickGelu", [X], {"alpha": 1.5}, ["y"]),
    ("FastGelu", [X], {}, ["y"]),
    ("FastGelu", [X, BETA], {}, ["y"]),
    ("BiasGelu", [X, BETA], {}, ["y"]),
    ("FusedMatMul", [X, seeded(B, 7, D)], {"transB": 1, "alpha": 0.25}, ["y"]),
    ("FusedMatMul", [X, seeded(B, S, 3)], {"transA": 1}, ["y"]),
    ("FusedGemm", [X[0], seeded(D, 3), seeded(3)], {"activation": "Relu", "alpha": 0.5, "beta": 2.0}, ["y"]),
    ("FusedGemm", [X[0], seeded(3, D)], {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1}, ["y"]),
    *(("FusedConv", [IMAGE, KERNEL, seeded(4), *more], {"activation": a, "group": 2, "pads": [1, 1, 1, 1], **p}, ["y"])
      for a, p, more in (("Relu", {}, []), ("Clip", {"activation_params": [0.0, 0.7]}, []), ("Sigmoid", {}, []),
                         ("LeakyRelu", {"activation_params": [0.2]}, []), ("Relu", {}, [seeded(1, 4, 6, 6, seed=8)]))),
    ("SkipLayerNormalization", [X, seeded(B, S, D, seed=9), GAMMA, BETA], {"epsilon": 1e-5}, ["y"]),
    ("SkipLayerNormalization", [X, seeded(B, S, D, seed=9), GAMMA], {}, ["y"]),
    ("SkipLayerNormalization", [X, X, GAMMA, BETA, BETA], {"epsilon": 1e-5}, ["y", "", "", "s"]),
    ("SkipSimplifiedLayerNormalization", [X, BETA + X, GAMMA], {"epsilon": 1e-5}, ["y", "", "", "s"]),
    ("EmbedLayerNormalization", [IDS, IDS % 2, seeded(4, D), seeded(9, D), seeded(2, D), GAMMA, BETA, MASK], {},
     ["y", "lengths"]),
    ("EmbedLayerNormalization", [IDS, None, seeded(4, D), seeded(9, D), None, GAMMA, BETA], {"epsilon": 1e-5},
     ["y", "_"]),
    ("Attention", [X, seeded(D, 3 * D) * 0.3, seeded(3 * D)], {"num_heads": 2}, ["y"]),
    ("Attention", [X, seeded(D, 3 * D) * 0.3, seeded(3 * D), MASK], {"num_heads": 4, "scale": 0.3}, ["y"]),
    ("Attention", [X, seeded(D, 3 * D) * 0.3, seeded(3 * D), None, None, seeded(B, 2, S, S)], {"num_heads": 2}, ["y"]),
    ("MultiHeadAttention", [X, KEYS, VALUES], {"num_heads": 2}, ["y"]),
    ("MultiHeadAttention", [X, KEYS, VALUES, seeded(3 * D), None, seeded(1, 1, S, 3)], {"num_heads": 4}, ["y"]),
]  # fmt: skip


def network(
    op: str, operands: list[Array | None], attributes: dict[str, Any], results: list[str]
) -> onnx.ModelProto:
    names = ["" if a is None else f"i{n}" for n, a in enumerate(operands)]
    kind = helper.np_dtype_to_tensor_dtype(operands[0].dtype)  # type: ignore[union-attr]
    inputs = [helper.make_tensor_value_info("i0", kind, operands[0].shape)]  # type: ignore[union-attr]
    constants = [
        numpy_helper.from_array(a, n) for n, a in list(zip(names, operands, strict=True))[1:] if a is not None
    ]
    node = helper.make_node(op, names, results, domain="com.microsoft", **attributes)
    kinds = {"lengths": onnx.TensorProto.INT32}
    outputs = [
        helper.make_tensor_value_info(r, kinds.get(r, onnx.TensorProto.FLOAT), None)
        for r in results
        if r.strip("_")
    ]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{len(c[1])}-{'-'.join(c[2])}")
def test_answers(case: tuple[str, list[Array | None], dict[str, Any], list[str]]) -> None:
    made = network(*case)
    (data, *_) = case[1]
    assert data is not None
    feeds = {"i0": data}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
    got = LiteRtRunner(lower_float(made, io_layout="onnx").data, threads=1).run(feeds)
    assert_close(got, wanted, 2e-5)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("Attention", {"num_heads": 2, "unidirectional": 1}), ("FusedGemm", {"activation": "Elu"})],
)
def test_forms_that_are_not_known_are_refused(op: str, attributes: dict[str, Any]) -> None:
    operands: list[Array | None] = (
        [X, seeded(D, 3 * D), seeded(3 * D)] if op == "Attention" else [X[0], seeded(D, 3)]
    )
    with pytest.raises(UnsupportedError, match=op):
        lower_float(network(op, operands, attributes, ["y"]))
