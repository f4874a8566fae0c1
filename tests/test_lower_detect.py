"""Suppression of overlapping boxes: ONNX Runtime against LiteRT."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tflite_cases import Array

from edgecc.compile import lower_float
from edgecc.errors import UnsupportedError
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner


def detector(rows: int | str, images: int, classes: int, count: int, limit: int, overlap: float, least: float,
             center: int, *, boxes: Array | None = None) -> onnx.ModelProto:  # fmt: skip
    """Boxes and scores to the boxes that stay."""
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (images, count, 4)),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, (images, classes, count)),
    ]
    constants = [
        numpy_helper.from_array(np.array(v, d), n)
        for n, v, d in (
            ("limit", limit, np.int64),
            ("overlap", overlap, np.float32),
            ("least", least, np.float32),
        )
    ]
    node = helper.make_node(
        "NonMaxSuppression",
        ["boxes", "scores", "limit", "overlap", "least"],
        ["kept"],
        center_point_box=center,
    )
    result = helper.make_tensor_value_info("kept", TensorProto.INT64, (rows, 3))
    graph = helper.make_graph([node], "g", inputs, [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize(
    ("limit", "overlap", "least"), [(3, 0.5, 0.2), (50, 0.3, 0.0), (0, 0.5, 0.0), (5, 0.0, 0.9)]
)
def test_as_many_boxes_as_stay(limit: int, overlap: float, least: float, center: int) -> None:
    random = np.random.default_rng((limit, center))
    boxes = random.random((2, 30, 4)).astype(np.float32)
    if not center:
        boxes[..., 2:] += boxes[..., :2]
    feeds = {"boxes": boxes, "scores": random.random((2, 3, 30)).astype(np.float32)}
    made = detector("N", 2, 3, 30, limit, overlap, least, center)
    wanted = OrtRunner.from_bytes(made.SerializeToString()).run(feeds)["kept"]
    for rows in ("N", max(len(wanted), 1)):
        made = detector(rows, 2, 3, 30, limit, overlap, least, center)
        got = LiteRtRunner(lower_float(made, io_layout="onnx").data, threads=1).run(feeds)["kept"]
        np.testing.assert_array_equal(got, wanted)


def test_a_count_that_depends_on_the_data_has_a_remedy() -> None:
    made = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[2,5] x) => (int64[2,N] y) { y = NonZero (x) }
    """)
    with pytest.raises(UnsupportedError, match="end the network before it"):
        lower_float(made)
