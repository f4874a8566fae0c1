"""Which channels go together, and that a network without some answers as one that has them and does not read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.analysis.channels import Channels, find_channels
from edgecc.analysis.cost import total_macs
from edgecc.analysis.shrunk_cost import ShrunkCost
from edgecc.calibration.dataset import random_samples
from edgecc.importer import load
from edgecc.options import make_options
from edgecc.passes._shrink import shrink
from edgecc.pipeline import PassContext, Pipeline, infer_shapes, relative_error, validate
from edgecc.presets import float_passes
from edgecc.runtime.ort import OrtRunner
from edgecc.target import CostSpec, target

# Name -> network, shapes of its weights, channels of each group that may go.
NETWORKS: dict[str, tuple[str, dict[str, tuple[int, ...]], list[int]]] = {
    "chain": (
        "g (float[1,3,8,8] x) => (float[1,5,8,8] y) { a = Conv(x, v, vb) r = Relu(a) y = Conv(r, w) }",
        {"v": (6, 3, 1, 1), "vb": (6,), "w": (5, 6, 1, 1)},
        [6],
    ),
    "residual": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) b = Conv(a, s) r = Relu(b)
        c = Conv(r, t) d = Add(a, c) y = Conv(d, w) }""",
        {"v": (6, 3, 1, 1), "s": (4, 6, 1, 1), "t": (6, 4, 1, 1), "w": (2, 6, 1, 1)},
        [4, 6],
    ),
    "concat and depthwise": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) b = Conv(x, s) c = Concat<axis=1>(a, b)
        d = Conv<group=10>(c, t) y = Conv(d, w) }""",
        {"v": (6, 3, 1, 1), "s": (4, 3, 1, 1), "t": (10, 1, 1, 1), "w": (2, 10, 1, 1)},
        [4, 6],
    ),
    "depth multiplier": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) d = Conv<group=6>(a, t) y = Conv(d, w) }""",
        {"v": (6, 3, 1, 1), "t": (12, 1, 1, 1), "w": (2, 12, 1, 1)},
        [6],
    ),
    "groups": (
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) d = Conv<group=2>(a, t) y = Conv(d, w) }",
        {"v": (8, 3, 1, 1), "t": (6, 4, 1, 1), "w": (2, 6, 1, 1)},
        [3, 4],
    ),
    "transposed": (
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) d = ConvTranspose(a, t) y = Conv(d, w) }",
        {"v": (8, 3, 1, 1), "t": (8, 6, 1, 1), "w": (2, 6, 1, 1)},
        [6, 8],
    ),
    "shuffle": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) r = Reshape(a, split)
        t = Transpose<perm = [0, 2, 1, 3, 4]>(r) j = Reshape(t, joined) y = Conv(j, w) }""",
        {"v": (8, 3, 1, 1), "w": (2, 8, 1, 1)},
        [4],
    ),
    "chosen channels": (
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) j = Gather<axis=1>(a, some) y = Conv(j, w) }",
        {"v": (8, 3, 1, 1), "w": (2, 4, 1, 1)},
        [4, 4],
    ),
    "halves": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) b = Slice(a, zero, four, one)
        c = Slice(a, four, end, one) d = Conv(b, t) e = Add(c, d) y = Conv(e, w) }""",
        {"v": (8, 3, 1, 1), "t": (4, 4, 1, 1), "w": (2, 4, 1, 1)},
        [4, 4],
    ),
    "every other": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) b = Slice(a, zero, end, one, two)
        c = Slice(a, one, end, one, two) e = Conv(b, s) f = Conv(c, t) y = Add(e, f) }""",
        {"v": (8, 3, 1, 1), "s": (2, 4, 1, 1), "t": (2, 4, 1, 1)},
        [4, 4],
    ),
    "split and pad": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) b, c = Split<axis=1>(a, parts)
        d = Pad(b, pads) e = Conv(d, s) f = Conv(c, t) y = Add(e, f) }""",
        {"v": (8, 3, 1, 1), "s": (2, 6, 1, 1), "t": (2, 5, 1, 1)},
        [3, 3, 5],
    ),
    "flattened": (
        "g (float[1,3,4,4] x) => (float[1,2] y) { a = Conv(x, v) f = Flatten(a) y = Gemm<transB=1>(f, w) }",
        {"v": (6, 3, 1, 1), "w": (2, 96)},
        [6],
    ),
    "squeeze and excite": (
        """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) p = GlobalAveragePool(a) q = Conv(p, s)
        r = Relu(q) u = Conv(r, t) z = Sigmoid(u) m = Mul(a, z) y = Conv(m, w) }""",
        {"v": (6, 3, 1, 1), "s": (4, 6, 1, 1), "t": (6, 4, 1, 1), "w": (2, 6, 1, 1)},
        [4, 6],
    ),
    "matrices": (
        "g (float[3,5] x) => (float[3,2] y) { a = MatMul(x, v) b = Add(a, vb) r = Relu(b) y = MatMul(r, w) }",
        {"v": (5, 6), "vb": (6,), "w": (6, 2)},
        [6],
    ),
    "normalised over": (
        """g (float[3,5] x) => (float[3,2] y) { a = MatMul(x, v) n = LayerNormalization(a, vb) y = MatMul(n, w) }""",
        {"v": (5, 6), "vb": (6,), "w": (6, 2)},
        [],
    ),
    "softmax over channels": (
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) s = Softmax<axis=1>(a) y = Conv(s, w) }",
        {"v": (6, 3, 1, 1), "w": (2, 6, 1, 1)},
        [],
    ),
    "an output": (
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y, float[1,6,8,8] a) { a = Conv(x, v) y = Conv(a, w) }",
        {"v": (6, 3, 1, 1), "w": (2, 6, 1, 1)},
        [],
    ),
    "unknown operator": (
        "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, v) l = LRN<size = 3>(a) y = Conv(l, w) }",
        {"v": (6, 3, 1, 1), "w": (2, 6, 1, 1)},
        [],
    ),
}
INTEGERS = {
    "split": [1, 2, 4, 8, 8], "joined": [1, 8, 8, 8], "some": [6, 1, 2, 5], "zero": [0], "four": [4], "one": [1],
    "end": [2**31], "two": [2], "parts": [3, 5], "pads": [0, 2, 0, 0, 0, 1, 0, 0],
}  # fmt: skip


def _network(parse: Any, name: str) -> ir.Model:
    body, shapes, _ = NETWORKS[name]
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    arrays |= {k: np.array(v) for k, v in INTEGERS.items() if k in words}
    model = load(parse(body, 21, arrays))
    infer_shapes(model)
    return model


def _masked(model: ir.Model, kept: Any) -> ir.Model:
    """The network with zeros for all weights that what goes would meet."""
    copy = model.clone()
    for (value, axis), indices in kept.items():
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT:
            other = copy.graph.initializers[value.name]
            array = np.moveaxis(other.const_value.numpy().copy(), axis, 0)  # type: ignore[union-attr]
            array[np.setdiff1d(np.arange(len(array)), indices)] = 0
            other.const_value = ir.Tensor(np.moveaxis(array, 0, axis), name=other.name)
    return copy


def _some(channels: Channels, seed: int = 0) -> set[int]:
    random = np.random.default_rng(seed)
    chosen = [random.choice(g.units, len(g.units) // 2, replace=False).tolist() for g in channels.groups]
    return {u for units in chosen for u in units}


def _answers(model: ir.Model, feeds: Any) -> dict[str, Any]:
    return OrtRunner.from_model(model, optimize=False).run(feeds)


def _check(model: ir.Model, seed: int = 0) -> None:
    """Removes some channels; shapes are as declared, answers as with zeros."""
    channels = find_channels(model)
    kept = channels.kept(_some(channels, seed))
    feeds = next(iter(random_samples(model, 1, 0)))
    want = _answers(_masked(model, kept), feeds)
    macs = ShrunkCost(model, CostSpec(), set(channels.unit)).macs(
        {axis: len(channels.unit[axis]) - len(left) for axis, left in kept.items()}
    )
    shrink(model, kept)
    validate(model)
    assert total_macs(model) == pytest.approx(macs)
    inner = {str(v.name): v for node in model.graph for v in node.outputs}
    got = OrtRunner.from_model(model, optimize=False, extra_outputs=list(inner)).run(feeds)
    for name, array in want.items():
        assert relative_error(array, got[name]) < 1e-5
    for name, value in inner.items():
        assert value.shape is None or ir.static_dims(value) == got[name].shape


@pytest.mark.parametrize("name", NETWORKS)
def test_groups(parse: Any, name: str) -> None:
    channels = find_channels(_network(parse, name))
    assert sorted(len(g.units) for g in channels.groups) == sorted(NETWORKS[name][2])


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network[2]])
@pytest.mark.parametrize("seed", range(3))
def test_without_some_channels(parse: Any, name: str, seed: int) -> None:
    _check(_network(parse, name), seed)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("normalised over", "normalises over it"),
        ("softmax over channels", "sums over it"),
        ("an output", "is an output of the network"),
        ("unknown operator", "(LRN) needs it whole"),
    ],
)
def test_why_channels_stay(parse: Any, name: str, reason: str) -> None:
    model = _network(parse, name)
    channels = find_channels(model)
    first = next(iter(model.graph)).outputs[0]
    assert reason in channels.reasons[first, 1]


def _prepared(path: Path, shape: Any = None) -> ir.Model:
    passes = Pipeline(float_passes(target("arm"), make_options({})))
    return passes.run(load(path, input_shape=shape), PassContext(check=False))[0]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "digits_vit"])
def test_own_networks(name: str) -> None:
    _check(_prepared(Path(__file__).parents[1] / "models" / f"{name}.onnx"))


@pytest.mark.parametrize(
    "name",
    ["resnet20", "ic_resnet8", "kws_dscnn", "lenet_caffe", "mtcnn_onet", "yolo_fastestv2_352", "ultraface_rfb_320",
     "mobilenet_v2_1.0", "ppocr_cls", "gru_s", "sww_ref", "ds_cnn_s"],
)  # fmt: skip
def test_real_networks(shared: Path, name: str) -> None:
    model = _prepared(
        shared / "models" / f"{name}.onnx", {"x": (1, 3, 48, 192)} if name == "ppocr_cls" else None
    )
    before = total_macs(model)
    _check(model)
    assert total_macs(model) < 0.6 * before
