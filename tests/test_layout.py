"""The choice of layouts: the cheapest by brute force, carried through what can carry it, and fast."""

import itertools
import math
import time
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import pytest
from tflite_cases import Array, assert_close, compiled, feed, seeded

from edgecc import ir
from edgecc.analysis.layout import choose_layout
from edgecc.analysis.sites import SiteGraph, site_graph
from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

OWN, LAST = (0, 1, 2, 3), (0, 2, 3, 1)
Shape = tuple[int, ...]


def both(rank: int) -> tuple[Shape, Shape]:
    """ONNX's own order and channels last."""
    return tuple(range(rank)), (0, *range(2, rank), 1)


def network(text: str, **constants: Array) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return made


# ---- optimality ---------------------------------------------------------------------------------------------------


def random_network(seed: int, rank: int) -> onnx.ModelProto:
    """At most 12 operators: Conv and MaxPool bind the layout, Relu, Add and Concat carry it, Reshape fixes it."""
    random = np.random.default_rng(seed)
    made: Shape
    start = (1, 4, 6, 6, 6)[:rank]
    shapes: dict[str, Shape] = {"x0": start, "x1": start}
    lines, constants, used = [], {}, set()
    for i in range(int(random.integers(4, 13))):
        recent = list(shapes)[-4:] if random.random() < 0.8 else list(shapes)
        a = str(random.choice(recent))
        shape, out = shapes[a], f"v{i}"
        kind = str(
            random.choice(["Conv", "Relu", "Relu", "Add", "Add", "Concat", "Reshape", "Reshape", "MaxPool"])
        )
        others = [n for n in shapes if shapes[n] == shape]
        b = str(random.choice(others))
        if kind == "MaxPool" and min(shape[2:]) >= 2:
            twos = [2] * (rank - 2)
            text = f"MaxPool<kernel_shape={twos},strides={twos}>({a})"
            made = (1, shape[1], *(d // 2 for d in shape[2:]))
        elif kind == "Add":
            text, made = f"Add({a},{b})", shape
        elif kind == "Concat" and shape[1] <= 16:
            text, made = f"Concat<axis=1>({a},{b})", (1, 2 * shape[1], *shape[2:])
        elif kind == "Conv":
            constants[f"w{i}"] = seeded(4, shape[1], *[1] * (rank - 2))
            text, made = f"Conv({a},w{i})", (1, 4, *shape[2:])
        elif kind == "Reshape":
            made = (1, shape[2], shape[1], *shape[3:])
            constants[f"s{i}"] = np.array(made)
            text = f"Reshape({a},s{i})"
        else:
            text, made = f"Relu({a})", shape
        used.update({a, b} if kind in ("Add", "Concat") else {a})
        lines.append(f"{out} = {text}")
        shapes[out] = made
    ends = [n for n in shapes if n not in used and n.startswith("v")]

    def say(n: str) -> str:
        return f"float[{','.join(map(str, shapes[n]))}] {n}"

    head = f"g ({say('x0')}, {say('x1')}) => ({', '.join(map(say, ends))})"
    return network(f"{head} {{ {' '.join(lines)} }}", **constants)


def price(shape: Shape) -> float:
    moved = [[a for a in order if shape[a] != 1] for order in both(len(shape))]
    return 1 if moved[0] == moved[1] else 1024 + 4 * math.prod(shape)


def cost(graph: SiteGraph, orders: Mapping[ir.Value, Shape], ports: Shape | None) -> float:
    """Bytes of the transposes: once a value that has a reader who needs the other order."""
    other = set()
    for site in graph.sites:
        for operand in site.inputs:
            if operand is None or operand.array is not None:
                continue
            kind = site.op_type
            own, last = both(len(ir.static_dims(operand.value)))
            needed = (
                last
                if kind in ("Conv", "MaxPool")
                else own
                if kind == "Reshape"
                else orders[site.outputs[0].value]
            )
            if orders[operand.value] != needed:
                other.add(operand.value)
    other.update(o.value for _, o in graph.outputs if ports is not None and orders[o.value] != ports)
    return sum(price(ir.static_dims(v)) for v in other)


def labellings(graph: SiteGraph, ports: Shape | None) -> Iterator[dict[ir.Value, Shape]]:
    own, last = both(len(ir.static_dims(graph.inputs[0])))
    choices: dict[ir.Value, tuple[Shape, ...]] = dict.fromkeys(
        graph.inputs, (own, last) if ports is None else (ports,)
    )
    bound: dict[str, tuple[Shape, ...]] = {"Conv": (last,), "MaxPool": (last,), "Reshape": (own,)}
    for site in graph.sites:
        choices[site.outputs[0].value] = bound.get(site.op_type, (own, last))
    for labels in itertools.product(*choices.values()):
        yield dict(zip(choices, labels, strict=True))


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("seed", range(60))
def test_cheapest(seed: int, rank: int) -> None:
    graph = site_graph(load(random_network(seed, rank)))
    own, last = both(rank)
    ports = {"auto": None, "onnx": own, "nhwc": last}
    io_layout = list(ports)[seed % 3]
    layout = choose_layout(graph, io_layout)
    chosen = {v: layout.of(v) for v in (*graph.inputs, *(s.outputs[0].value for s in graph.sites))}
    best = min(cost(graph, orders, ports[io_layout]) for orders in labellings(graph, ports[io_layout]))
    assert cost(graph, chosen, ports[io_layout]) == best  # type: ignore[arg-type]


# ---- what carries a layout ----------------------------------------------------------------------------------------


def answers(made: onnx.ModelProto, io_layout: str = "auto") -> dict[str, int]:
    """Compares with ONNX Runtime; the operators of the file."""
    artifact = compiled(made, io_layout)
    feeds = feed(made)
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
    assert_close(LiteRtRunner(artifact.data).run(feeds), wanted)
    found: dict[str, int] = artifact.notes["operators"]
    return found


@pytest.mark.parametrize(
    ("text", "layout", "expected"),
    [
        # a network whose author transposed to channels-last and back
        ("t = Transpose<perm=[0,3,1,2]>(x) c = Conv(t, w) r = Relu(c) y = Transpose<perm=[0,2,3,1]>(r)", "onnx",
        {"CONV_2D": 1}),
        ("a = Relu(x) t = Transpose<perm=[0,3,1,2]>(a) c = Conv(t, w) y = Transpose<perm=[0,2,3,1]>(c)", "auto",
        {"RELU": 1, "CONV_2D": 1}),
        ("t = Transpose<perm=[0,3,1,2]>(x) c = Conv(t, w) u = Transpose<perm=[0,2,3,1]>(c) y = Softmax<axis=3>(u)",
        "onnx", {"CONV_2D": 1, "SOFTMAX": 1}),
        ("t = Transpose<perm=[0,3,1,2]>(x) c = Conv(t, w) u = Transpose<perm=[0,2,3,1]>(c) y = Concat<axis=1>(u, u)",
        "onnx", {"CONV_2D": 1, "CONCATENATION": 1}),
    ],
)  # fmt: skip
def test_transposes_cancel(text: str, layout: str, expected: dict[str, int]) -> None:
    made = network(f"g (float[2,6,5,3] x) => (float[2,n,5,k] y) {{ {text} }}", w=seeded(3, 3, 1, 1))
    assert answers(made, layout) == expected


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("c = Conv(x, w) t = Transpose<perm=[0,2,1,3]>(c) y = Relu(t)", "2,6,3,5"),
        ("c = Conv(x, w) t = Transpose<perm=[0,3,2,1]>(c) y = Conv(t, v)", "2,4,6,3"),
        (
            "c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) a = ReduceMean<keepdims=0>(t, axes) y = Exp(a)",
            "2,5,3",
        ),
        ("c = Conv(x, w) t = Transpose<perm=[1,0,3,2]>(c) y = Sigmoid(t)", "3,2,5,6"),
        ("c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) y = Reshape(t, s)", "2,90"),
        ("t = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,2,1,3]>(t)", "2,5,6,3"),
        (
            "t = Transpose<perm=[0,2,3,1]>(x) u = Relu(t) a = Add(x, x) b = Transpose<perm=[0,2,3,1]>(a) y = Add(u, b)",
            "2,6,5,3",
        ),
    ],
)
@pytest.mark.parametrize("layout", ["auto", "onnx", "nhwc"])
def test_other_transposes(text: str, shape: str, layout: str) -> None:
    made = network(
        f"g (float[2,3,6,5] x) => (float[{shape}] y) {{ {text} }}",
        w=seeded(3, 3, 1, 1), v=seeded(4, 5, 1, 1), axes=np.array([1]), s=np.array([2, -1]),
    )  # fmt: skip
    answers(made, layout)


def test_flatten_carries_the_layout_into_gemm() -> None:
    made = network(
        "g (float[2,3,6,5] x) => (float[2,4] y, float[2,2] z) "
        "{ c = Conv(x, w) f = Reshape(c, s) y = Gemm<transB=1>(f, a, b) z = Gemm(f, d) }",
        w=seeded(7, 3, 1, 1), s=np.array([2, -1]), a=seeded(4, 210), b=seeded(4), d=seeded(210, 2),
    )  # fmt: skip
    assert answers(made) == {"FULLY_CONNECTED": 2, "CONV_2D": 1}


@pytest.mark.parametrize("layout", ["auto", "onnx", "nhwc"])
@pytest.mark.parametrize("perm", list(itertools.permutations(range(4))), ids=str)
@pytest.mark.parametrize("source", ["x", "c"])
def test_flatten_of_any_transposition(source: str, perm: tuple[int, ...], layout: str) -> None:
    """Also where the rows of the matrix are not the batch: sequences for a recurrent network."""
    shape = (2, 3, 4, 5)
    rows = shape[perm[0]]
    made = network(
        f"g (float[2,3,4,5] x) => (float[{rows},4] y) {{ c = Conv(x, w)"
        f" t = Transpose<perm={list(perm)}>({source}) f = Reshape(t, s) y = Gemm<transB=1>(f, a) }}",
        w=seeded(3, 3, 1, 1), s=np.array([rows, -1]), a=seeded(4, 120 // rows),
    )  # fmt: skip
    answers(made, layout)


def test_flatten_that_others_read_too_does_not() -> None:
    made = network(
        "g (float[2,3,6,5] x) => (float[2,4] y, float[2,210] z) "
        "{ c = Conv(x, w) f = Reshape(c, s) y = Gemm<transB=1>(f, a) z = Relu(f) }",
        w=seeded(7, 3, 1, 1), s=np.array([2, -1]), a=seeded(4, 210),
    )  # fmt: skip
    assert answers(made)["TRANSPOSE"] == 1


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("axis", [1, -1])
def test_attention_of_every_rank(rank: int, axis: int) -> None:
    """Softmax(q) * v between values that a channels-last producer may feed: ranks 3 to 5."""
    shape = (2, 3, 4, 2, 3)[:rank]
    dims = ",".join(map(str, shape))
    made = network(
        f"g (float[{dims}] x) => (float[{dims}] y) "
        f"{{ a = GlobalAveragePool(x) q = Mul(x, a) s = Softmax<axis={axis}>(q) y = Mul(s, x) }}"
    )
    for layout in ("auto", "onnx", "nhwc"):
        answers(made, layout)


def test_ports() -> None:
    made = network("g (float[2,3,6,5] x) => (float[2,4,6,5] y) { y = Conv(x, w) }", w=seeded(4, 3, 1, 1))
    kept, free, last = (compiled(made, layout) for layout in ("onnx", "auto", "nhwc"))
    assert kept.notes["operators"] == {"TRANSPOSE": 2, "CONV_2D": 1}
    assert [t["value"] for t in kept.notes["transposes"]] == ["x", "y"]
    assert free.notes["operators"] == last.notes["operators"] == {"CONV_2D": 1}
    assert (kept.inputs[0].shape, free.inputs[0].shape) == ((2, 3, 6, 5), (2, 6, 5, 3))
    assert (kept.inputs[0].permutation, free.inputs[0].permutation) == (None, LAST)
    assert free.outputs[0].onnx_shape == (2, 4, 6, 5)


def test_auto_keeps_the_ports_of_what_needs_no_other_layout() -> None:
    made = network("g (float[2,3,6,5] x) => (float[2,3,6,5] y) { y = Relu(x) }")
    artifact = compiled(made)
    assert artifact.inputs[0].permutation is None
    assert artifact.outputs[0].permutation is None


# ---- speed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 10])
def test_long_chains_are_fast(every: int) -> None:
    """3000 Conv + Relu; with a Reshape after each tenth, nothing of it can be settled without the cut."""
    lines, last = [], "x"
    for i in range(3000):
        lines.append(f"c{i} = Conv({last}, w) r{i} = Relu(c{i}) a{i} = Add(r{i}, {last})")
        last = f"a{i}"
        if every and i % every == 0:
            lines.append(f"s{i} = Reshape(a{i}, shape)")
            last = f"s{i}"
    made = network(
        f"g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{ {' '.join(lines)} y = Relu({last}) }}",
        w=seeded(4, 4, 1, 1), shape=np.array([1, 4, 8, 8]),
    )  # fmt: skip
    graph = site_graph(load(made))
    start = time.process_time()
    choose_layout(graph)
    assert time.process_time() - start < 5
