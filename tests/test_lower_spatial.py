"""Convolutions, pools, norms and samplings that are composed: ONNX Runtime against LiteRT."""

from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_cases import Case, assert_close, case, check, compiled, ints, model, seeded

from edgecc.errors import UnsupportedError
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

X, CUBE = (2, 3, 7, 8), (1, 2, 5, 6, 7)


def resized(*scales: float, **attributes: Any) -> Case:
    return case("Resize", X, None, np.array(scales, np.float32), **attributes)


POOLS = [
    case(op, shape, kernel_shape=kernel, **cast(dict[str, Any], more))
    for op in ("MaxPool", "AveragePool", "LpPool")
    for shape, kernel, more in (
        (CUBE, [2, 3, 2], {}), (CUBE, [3, 3, 3], {"strides": [2, 1, 2], "pads": [1, 1, 0, 1, 0, 1]}),
        (X, [2, 3], {"dilations": [2, 2]}), (X, [3, 3], {"dilations": [1, 2], "pads": [1, 2, 1, 2], "strides": [2, 2]}),
        ((2, 3, 9), [3], {"dilations": [2]}),
    )
]  # fmt: skip
CASES = [
    *POOLS,
    case("AveragePool", CUBE, kernel_shape=[3, 3, 3], pads=[1] * 6, count_include_pad=1),
    case("AveragePool", X, kernel_shape=[2, 2], dilations=[2, 2], pads=[1] * 4, strides=[2, 2],
    count_include_pad=1),
    case("MaxPool", X, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2], outputs=2),
    case("MaxPool", X, kernel_shape=[2, 2], storage_order=1, outputs=2),
    case("MaxPool", X, kernel_shape=[2, 2], dtype="uint8"),
    case("GlobalLpPool", X), case("LpPool", X, kernel_shape=[2, 2], p=1),
    case("LpPool", X, kernel_shape=[2, 2], p=3),
    case("Conv", CUBE, seeded(4, 2, 2, 3, 3), seeded(4), pads=[0, 1, 1, 1, 0, 1], strides=[1, 2, 1]),
    case("Conv", (1, 4, 5, 6, 7), seeded(4, 2, 2, 2, 2), group=2),
    case("Conv", CUBE, seeded(4, 2, 2, 2, 2), dilations=[2, 1, 2]),
    case("Conv", X, (4, 3, 3, 3), (4,), pads=[1] * 4),
    case("Conv", (2, 4, 6, 6), (6, 2, 3, 3), group=2, strides=[2, 2]),
    case("Conv", (2, 3, 9), (4, 3, 3)), case("Conv", X, seeded(4, 3, 3, 3), (4,)),
    case("ConvTranspose", CUBE, seeded(2, 3, 2, 3, 3), strides=[2, 2, 2], pads=[0, 1, 1, 1, 0, 1]),
    case("ConvTranspose", X, seeded(3, 2, 3, 3), dilations=[2, 2], strides=[2, 1], output_padding=[1, 0]),
    case("ConvTranspose", X, (3, 2, 3, 3), (2,), strides=[2, 2], pads=[1] * 4),
    case("ConvTranspose", (2, 4, 5, 5), (4, 3, 2, 2), group=2, strides=[2, 2]),
    case("InstanceNormalization", X, seeded(3), seeded(3)),
    case("InstanceNormalization", (2, 3, 9), (3,), (3,)),
    case("LRN", (2, 7, 4, 4), size=3), case("LRN", (2, 7, 4, 4), size=5, alpha=0.5, beta=0.5, bias=2.0),
    *(case("LpNormalization", X, axis=a, p=p) for a in (1, -1) for p in (1, 2)),
    case("Col2Im", (1, 12, 20), ints(6, 5), ints(2, 2)),
    case("Col2Im", (1, 8, 9), ints(5, 5), ints(2, 2), strides=[2, 2],
    pads=[0, 0, 1, 1]),
    resized(1, 1, 2, 1.5, mode="cubic"), resized(1, 1, 0.5, 0.6, mode="cubic"),
    resized(1, 1, 2, 1.5, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    resized(1, 1, 2, 3, mode="cubic", coordinate_transformation_mode="asymmetric"),
    resized(1, 1, 0.6, 0.7, mode="linear"), resized(1, 1, 0.6, 0.7, mode="linear", antialias=1),
    resized(1, 1, 0.6, 0.7, mode="cubic", antialias=1), resized(1, 2, 2, 1, mode="linear"),
    case("Resize", (2, 3, 9), None, np.array([1, 1, 2], np.float32), mode="linear"),
    case("Resize", X, np.array([0, 0, 0.2, 0.1, 1, 1, 0.8, 1.2], np.float32), None, ints(2, 3, 5, 6),
    mode="linear",
    coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0),
    *(case("GridSample", X, seeded(2, 4, 5, 2), mode=m, padding_mode=p, align_corners=a)
      for m in ("linear", "nearest", "cubic") for p in ("zeros", "border", "reflection") for a in (0, 1)),
    case("GridSample", X, (2, 4, 5, 2)),
    case("GridSample", X, (2, 4, 5, 2), mode="cubic", padding_mode="reflection"),
    case("AffineGrid", (2, 2, 3), ints(2, 3, 4, 5)),
    case("AffineGrid", (2, 3, 4), ints(2, 3, 2, 3, 4), align_corners=1),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=str)
def test_as_onnx_runtime(c: Case) -> None:
    if c.op == "AffineGrid":
        _against_reference(c)
    else:
        check(c, tolerance=3e-5)


def _against_reference(c: Case) -> None:
    """Where ONNX Runtime has no kernel."""
    from onnx.reference import ReferenceEvaluator

    made = model(c)
    feeds = {"x0": seeded(*made_shape(made))}
    wanted = np.asarray(next(iter(ReferenceEvaluator(made).run(None, feeds))))
    assert_close(LiteRtRunner(compiled(made).data, threads=1).run(feeds), {"y0": wanted})


def made_shape(made: onnx.ModelProto) -> list[int]:
    return [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    "c",
    [
        case("InstanceNormalization", X, seeded(3), seeded(3)),
        case("LpPool", X, kernel_shape=[2, 2]),
        resized(1, 1, 2, 1.5, mode="cubic"),
        case("Conv", (2, 2, 5, 6, 7), seeded(4, 2, 2, 2, 2)),
    ],
    ids=str,
)
def test_symbolic_batch(c: Case) -> None:
    made = model(c)
    for port in (*made.graph.input, *made.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    shape = made_shape(made)
    feeds = {"x0": seeded(5, *shape[1:])}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
    assert_close(LiteRtRunner(compiled(made).data, threads=1).run(feeds), wanted, 1e-4)


BYTES = np.random.default_rng(0)


def byte(*shape: int) -> np.ndarray:
    return BYTES.integers(0, 256, shape).astype(np.uint8)


SCALE, ZERO = np.array(0.02, np.float32), np.array(120, np.uint8)
INTEGERS = [
    case("MatMulInteger", (3, 5), byte(5, 4), ZERO, np.array(100, np.uint8), dtype="uint8"),
    case("QLinearMatMul", (3, 5), SCALE, ZERO, byte(5, 4), SCALE, ZERO, np.array(0.05, np.float32),
    ZERO, dtype="uint8"),
    case("ConvInteger", (1, 2, 6, 6), byte(3, 2, 3, 3), ZERO, ZERO, dtype="uint8", pads=[1] * 4),
    case("QLinearConv", (1, 2, 6, 6), SCALE, ZERO, byte(3, 2, 3, 3), SCALE, ZERO, np.array(0.1,
    np.float32), ZERO,
    np.array([5, -7, 100], np.int32), dtype="uint8", pads=[1] * 4, strides=[2, 2]),
    case("DynamicQuantizeLinear", (3, 7), outputs=3),
]  # fmt: skip


@pytest.mark.parametrize("c", INTEGERS, ids=str)
def test_operators_on_integers(c: Case) -> None:
    check(c, layouts=("onnx",))


def test_long_sums_of_integers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="not exact"):
        compiled(model(case("MatMulInteger", (3, 5000), byte(5000, 4), ZERO, ZERO, dtype="uint8")))


def test_scales_computed_at_run_time_are_refused() -> None:
    made = model(resized(1, 1, 2, 2, mode="linear"))
    kept = [t for t in made.graph.initializer if t.name != "c2"]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    made.graph.input.append(helper.make_tensor_value_info("c2", onnx.TensorProto.FLOAT, [4]))
    with pytest.raises(UnsupportedError, match="scales"):
        compiled(made)
