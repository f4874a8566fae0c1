"""What holds of every registered pass, whoever wrote it; and all exact passes over the reference networks."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc import ir
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.pipeline import EXACT_TOLERANCE, PassContext, Pipeline
from edgecc.registry import pass_class, pass_names

EXACT = (
    "clean_up",
    "fold_constants",
    "simplify_reshapes",
    "fuse_channel_shuffle",
    "merge_slices",
    "fuse_activation",
    "fuse_pad",
    "fold_batchnorm",
    "clean_up",
)

# Networks that hold every pattern of the built-in exact passes.
CASES: dict[str, str] = {
    "convolutions": """g (float[N,4,8,8] x) => (float[N,6] y) {
        p = Pad(x, pads) c = Conv(p, w) b = BatchNormalization(c, six, six, six, six_positive)
        a = Add(b, three) k = Clip(a, zero, top) m = Mul(b, k) h = Div(m, top)
        g = GlobalAveragePool(h) s = Shape(g) n = Gather(s, first) u = Unsqueeze(n, axis)
        t = Concat<axis = 0>(u, minus) y = Reshape(g, t) }""",
    "shuffle": """g (float[2,4,8,8] x) => (float[2,4,4,4] y) {
        r = Reshape(x, split) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) j = Reshape(t, joined)
        s = Slice(j, axis, end, two, two) y = Slice(s, axis, end, minus, two) }""",
    "products": """g (float[N,6] x) => (float[N,6] y, float[N,6] z) {
        i = Identity(x) m = MatMul(i, square) a = Add(m, six) r = Relu(a) q = Min(r, top)
        d = Dropout(q) y = Mul(d, six) e = Relu(x) f = Relu(x) o = Sqrt(six_positive) v = Add(e, f)
        z = Mul(v, o) }""",
}


def _constants() -> dict[str, Any]:
    random = np.random.default_rng(0)
    vector = random.standard_normal(6).astype(np.float32)
    return {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "w": random.standard_normal((6, 4, 3, 3)).astype(np.float32),
        "six": vector,
        "six_positive": np.abs(vector) + 0.5,
        "square": random.standard_normal((6, 6)).astype(np.float32),
        "three": np.float32(3).reshape(()),
        "zero": np.float32(0).reshape(()),
        "top": np.float32(6).reshape(()),
        "first": np.array(0),
        "axis": np.array([0]),
        "minus": np.array([-1]),
        "two": np.array([2]),
        "end": np.array([2**63 - 1]),
        "split": np.array([2, 2, 2, 8, 8]),
        "joined": np.array([2, 4, 8, 8]),
    }


@pytest.fixture(params=CASES)
def network(request: pytest.FixtureRequest, parse: Any) -> ir.Model:
    text = CASES[request.param]
    used = {k: v for k, v in _constants().items() if re.search(rf"\b{k}\b", text)}
    return load(parse(text, 21, used))


def _check(model: ir.Model) -> None:
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)


@pytest.mark.parametrize("name", pass_names())
def test_it_is_a_documented_frozen_dataclass(name: str) -> None:
    cls = pass_class(name)
    assert cls.name == name
    assert dataclasses.is_dataclass(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().name = "other"  # type: ignore[misc]
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")
    assert cls.apply.__doc__


@pytest.mark.parametrize("name", pass_names())
def test_options_make_the_same_pass_again(name: str) -> None:
    made = pass_class(name)()
    assert type(made)(**made.options()) == made


@pytest.mark.parametrize("name", pass_names())
def test_it_is_idempotent_and_leaves_a_valid_graph(name: str, network: ir.Model) -> None:
    step = pass_class(name)()
    names = [[v.name for v in values] for values in (network.graph.inputs, network.graph.outputs)]
    try:
        once, _ = Pipeline([step]).run(network)
    except UsageError as error:
        pytest.skip(f"needs more than a graph: {error}")
    _check(once)
    assert [[v.name for v in values] for values in (once.graph.inputs, once.graph.outputs)] == names
    assert all(v.shape is not None and v.type is not None for node in once.graph for v in node.outputs)
    _, log = Pipeline([step]).run(once)
    assert log.records[0].rewritten == 0


@pytest.mark.parametrize("order", [EXACT, EXACT[::-1]])
def test_all_exact_passes_together(order: tuple[str, ...], network: ir.Model) -> None:
    model, log = Pipeline([pass_class(name)() for name in order]).run(network)
    _check(model)
    assert max(record.error or 0.0 for record in log.records) < EXACT_TOLERANCE / 10
    assert model.graph.num_nodes() < network.graph.num_nodes()


# What is left of each network: nodes, and operators of which none may remain.
NETWORKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "efficientnet_lite0": (94, ("BatchNormalization", "Pad")),
    "kws_dscnn": (22, ("BatchNormalization",)),
    "mobilenet_v2_1.0": (100, ("BatchNormalization", "Flatten")),
    "ppocr_cls": (126, ("BatchNormalization", "Div", "Shape", "Slice", "Cast")),
    "resnet20": (54, ("BatchNormalization", "Shape", "Gather", "Concat")),
    "resnet20_dyn": (54, ("BatchNormalization", "Shape", "Gather", "Concat")),
    "sww_ref": (15, ("BatchNormalization",)),
    "ultraface_rfb_320": (125, ("BatchNormalization", "Shape", "Gather", "Unsqueeze")),
    "yolo_fastestv2_352": (180, ("BatchNormalization", "Gather", "Reshape")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks(shared: Path, name: str) -> None:
    shapes = {"x": (1, 3, 48, 192)} if name == "ppocr_cls" else None
    original = load(shared / "models" / f"{name}.onnx", input_shape=shapes)
    model, log = Pipeline([pass_class(step)() for step in EXACT]).run(original)
    nodes, gone = NETWORKS[name]
    assert model.graph.num_nodes() <= nodes
    assert not {node.op_type for node in model.graph} & set(gone)
    assert max(record.error or 0.0 for record in log.records) < EXACT_TOLERANCE / 10
    assert [v.name for v in model.graph.outputs] == [v.name for v in original.graph.outputs]


def test_a_graph_of_ten_thousand_nodes_takes_linear_time(parse: Any) -> None:
    def seconds(layers: int) -> float:
        model = load(parse("g (float[1,6] x) => (float[1,6] y) { y = Relu(x) }", 21))
        graph = model.graph
        value = graph.inputs[0]
        for i in range(layers):
            scale = ir.add_initializer(graph, np.full((6,), 0.9, np.float32), f"s{i}")
            weight = ir.add_initializer(graph, np.eye(6, dtype=np.float32), f"w{i}")
            for op_type, inputs in (("MatMul", [value, weight]), ("Mul", [None, scale]), ("Relu", [None])):
                out = ir.Value(name=f"{op_type}{i}", shape=ir.Shape([1, 6]), type=graph.inputs[0].type)
                graph.append(ir.Node("", op_type, [inputs[0] or value, *inputs[1:]], outputs=[out]))
                value = out
        graph.outputs[0] = value
        _, log = Pipeline([pass_class(name)() for name in EXACT]).run(model, PassContext(check=False))
        assert log.records[-1].nodes_after == 2 * layers
        return sum(record.seconds for record in log.records)

    seconds(10)
    few, many = seconds(800), seconds(3333)
    assert many < 12 * few  # 4.2 times the nodes; quadratic would be 17 times
