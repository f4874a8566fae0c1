"""Mutated networks: each is refused with an EdgeccError, or answers as ONNX Runtime does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_cases import Array, seeded

from edgecc.compile import lower_float
from edgecc.errors import EdgeccError
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

pytestmark = pytest.mark.usefixtures("no_terminal_noise")
ROUNDS = 60  # mutants of each network and seed: about five seconds

IMAGES = """
    (float[N,4,8,8] x, bool training) => (float[N,5] y) {
        p = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 0, 1}> ()
        q = Pad (x, p)
        c = Conv <strides = [2, 2], group = 2> (q, w, b)
        n = BatchNormalization (c, s, s, b, s)
        lo = Constant <value_float = 0.0> ()
        hi = Constant <value_float = 6.0> ()
        r = Clip (n, lo, hi)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (r)
        u = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
        z = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (m, , u)
        k = Concat <axis = 1> (z, z)
        h = Sigmoid (k)
        g = GlobalAveragePool (h)
        f = Flatten (g)
        l = Gemm <transB = 1> (f, v, t)
        y = If (training) <then_branch = a () => (float[N,5] yes) { yes = Relu (l) },
                           else_branch = e () => (float[N,5] no) { no = Softmax <axis = -1> (l) }>
    }
"""
TOKENS = """
    (int64[2,6] ids, float[2,6] mask) => (float[2,6,8] y) {
        e = Gather (w, ids)
        n = LayerNormalization <axis = -1, epsilon = 0.00001> (e, s, s)
        q = MatMul (n, v)
        shape = Shape (q)
        zero = Constant <value = int64[1] {0}> ()
        one = Constant <value = int64[1] {1}> ()
        rows = Gather (shape, zero)
        steps = Gather (shape, one)
        heads = Constant <value = int64[2] {2, 4}> ()
        split = Concat <axis = 0> (rows, steps, heads)
        r = Reshape (q, split)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        k = Transpose <perm = [0, 2, 3, 1]> (r)
        qk = MatMul (t, k)
        axes = Constant <value = int64[2] {1, 2}> ()
        wide = Unsqueeze (mask, axes)
        sum = Add (qk, wide)
        p = Softmax <axis = -1> (sum)
        o = MatMul (p, t)
        b = Transpose <perm = [0, 2, 1, 3]> (o)
        back = Constant <value = int64[3] {0, 0, -1}> ()
        y = Reshape (b, back)
    }
"""
NUMBERS = """
    (float[3,7] x, int64[3,7] i) => (float[3,4] y, int64[3,2] z) {
        k = Constant <value = int64[1] {4}> ()
        top, where = TopK <axis = 1> (x, k)
        seven = Constant <value = int64 {7}> ()
        d = Div (i, seven)
        r = Mod (i, seven)
        both = Add (d, r)
        start = Constant <value = int64[1] {1}> ()
        end = Constant <value = int64[1] {5}> ()
        axis = Constant <value = int64[1] {1}> ()
        cut = Slice (both, start, end, axis)
        real = Cast <to = 1> (cut)
        less = Less (real, top)
        y = Where (less, real, top)
        total = ReduceSum <keepdims = 1> (cut, axis)
        high = ReduceMax <keepdims = 1> (where, axis)
        z = Concat <axis = 1> (total, high)
    }
"""
WEIGHTS: dict[str, dict[str, Array]] = {
    IMAGES: {"w": seeded(6, 2, 3, 3), "b": seeded(6, seed=1), "s": np.abs(seeded(6, seed=2)) + 0.5,
             "v": seeded(5, 12, seed=3), "t": seeded(5, seed=4)},
    TOKENS: {"w": seeded(9, 8), "s": seeded(8, seed=1), "v": seeded(8, 8, seed=2)},
    NUMBERS: {},
}  # fmt: skip
INTEGERS = (-(2**31), -7, -2, -1, 0, 1, 2, 3, 9, 2**31, 2**62)
REALS = (float("nan"), float("inf"), -1.0, 0.0, 1e-30, 0.5, 3.0, 1e30)
TEXTS = ("", "SAME_UPPER", "reflect", "linear", "align_corners", "ceil", "frobnicate")
KINDS = (1, 2, 3, 5, 6, 7, 9, 10, 11, 16)


def base(text: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g ' + text)
    made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in WEIGHTS[text].items())
    return made


def _attribute(made: onnx.ModelProto, r: random.Random) -> None:
    nodes = [n for n in made.graph.node if n.attribute]
    node = r.choice(nodes or list(made.graph.node))
    if not node.attribute or r.random() < 0.1:
        node.attribute.append(
            helper.make_attribute(r.choice(["axis", "keepdims", "depth", "mode"]), r.choice(INTEGERS))
        )
        return
    attribute = r.choice(node.attribute)
    kind = attribute.type
    if r.random() < 0.15:
        node.attribute.remove(attribute)
    elif kind == onnx.AttributeProto.INT:
        attribute.i = r.choice(INTEGERS)
    elif kind == onnx.AttributeProto.FLOAT:
        attribute.f = r.choice(REALS)
    elif kind == onnx.AttributeProto.STRING:
        attribute.s = r.choice(TEXTS).encode()
    elif kind == onnx.AttributeProto.INTS and attribute.ints:
        attribute.ints[r.randrange(len(attribute.ints))] = r.choice(INTEGERS)
        if r.random() < 0.3:
            attribute.ints.append(r.choice(INTEGERS))
    elif kind == onnx.AttributeProto.TENSOR:
        attribute.t.CopyFrom(_changed(attribute.t, r))
    else:
        attribute.type = r.choice([1, 2, 3, 7])


def _changed(tensor: onnx.TensorProto, r: random.Random) -> onnx.TensorProto:
    """Other numbers, another shape, or another type; the data fit the shape."""
    array = numpy_helper.to_array(tensor).copy()
    what = r.randrange(4)
    if what == 0 and array.size:
        flat = array.reshape(-1)
        flat[r.randrange(array.size)] = r.choice(REALS if array.dtype.kind == "f" else INTEGERS[3:9])
    elif what == 1:
        array = array.reshape(r.choice([(-1,), (1, *array.shape), array.shape[::-1], (*array.shape, 1)]))
    elif what == 2:
        array = array[: r.randrange(len(array) + 1)] if array.ndim else array
    else:
        array = array.astype(r.choice(["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]))
    return numpy_helper.from_array(np.ascontiguousarray(array), tensor.name)


def _weight(made: onnx.ModelProto, r: random.Random) -> None:
    if made.graph.initializer:
        tensor = r.choice(made.graph.initializer)
        tensor.CopyFrom(_changed(tensor, r))


def _shape(made: onnx.ModelProto, r: random.Random) -> None:
    value = r.choice([*made.graph.input, *made.graph.output])
    dims = value.type.tensor_type.shape.dim
    what = r.randrange(4)
    if what == 0 or not dims:
        dims.add().dim_value = r.choice([0, 1, 3])
    elif what == 1:
        del dims[r.randrange(len(dims))]
    elif what == 2:
        dims[r.randrange(len(dims))].dim_param = r.choice(["N", "M", "?"])
    else:
        dims[r.randrange(len(dims))].dim_value = r.choice([-1, 0, 1, 2, 7, 16])


def _type(made: onnx.ModelProto, r: random.Random) -> None:
    r.choice([*made.graph.input, *made.graph.output]).type.tensor_type.elem_type = r.choice(KINDS)


def _values(made: onnx.ModelProto) -> list[str]:
    names = [o for n in made.graph.node for o in n.output] + [v.name for v in made.graph.input]
    return [*names, *(t.name for t in made.graph.initializer)]


def _rewire(made: onnx.ModelProto, r: random.Random) -> None:
    """Another operand, none, or one from further down: a cycle."""
    node = r.choice(made.graph.node)
    if node.input:
        node.input[r.randrange(len(node.input))] = r.choice([*_values(made), "", "nowhere"])
    else:
        node.input.append(r.choice(_values(made)))


def _operands(made: onnx.ModelProto, r: random.Random) -> None:
    node = r.choice([n for n in made.graph.node if n.input])
    what = r.randrange(3)
    if what == 0:
        del node.input[r.randrange(len(node.input))]
    elif what == 1:
        node.input.append(r.choice(_values(made)))
    else:
        kept = list(node.input)[::-1]
        del node.input[:]
        node.input.extend(kept)


def _names(made: onnx.ModelProto, r: random.Random) -> None:
    """Two things of one name, or a name that is odd."""
    node = r.choice(made.graph.node)
    node.output[r.randrange(len(node.output))] = r.choice([*_values(made), "", "\x1b[31m", "a/b"])


def _node(made: onnx.ModelProto, r: random.Random) -> None:
    nodes = made.graph.node
    what, node = r.randrange(4), r.choice(nodes)
    if what == 0:
        nodes.remove(node)
    elif what == 1:
        node.op_type = r.choice(
            [*(n.op_type for n in nodes), "Frobnicate", "Exp", "NonZero", "Loop", "Identity"]
        )
    elif what == 2:
        node.domain = r.choice(["com.microsoft", "own", "ai.onnx"])
    else:
        nodes.add().CopyFrom(node)


def _ports(made: onnx.ModelProto, r: random.Random) -> None:
    ports = r.choice([made.graph.input, made.graph.output])
    what, port = r.randrange(3), r.choice(ports)
    if what == 0:
        ports.remove(port)
    elif what == 1:
        ports.add().CopyFrom(port)
    else:
        port.name = r.choice(_values(made))


def _version(made: onnx.ModelProto, r: random.Random) -> None:
    made.opset_import[0].version = r.choice([1, 6, 7, 10, 13, 18, 22, 99])


MUTATIONS: Sequence[Callable[[onnx.ModelProto, random.Random], None]] = (
    _attribute, _attribute, _weight, _shape, _type, _rewire, _operands, _names, _node, _ports, _version
)  # fmt: skip


def mutant(text: str, r: random.Random) -> onnx.ModelProto:
    made = base(text)
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        with suppress(IndexError, ValueError, OverflowError):  # nothing is left to change
            r.choice(MUTATIONS)(made, r)
    return made


def feeds(runner: OrtRunner, seed: int) -> dict[str, Array]:
    """Small numbers of the types that the network takes."""
    found = {}
    for place, spec in enumerate(runner.inputs):
        shape = tuple(2 if d is None else d for d in spec.shape)
        dtype = np.dtype(spec.dtype)
        draw = np.random.default_rng((seed, place))
        array = (
            draw.standard_normal(shape)
            if dtype.kind == "f"
            else draw.integers(0, 2 if dtype.kind == "b" else 6, shape)
        )
        found[spec.name] = array.astype(dtype)
    return found


def outcome(made: onnx.ModelProto, seed: int) -> str:
    """What became of a network; asserts that it is refused in order or answers alike."""
    try:
        artifact = lower_float(made.SerializeToString(), io_layout="onnx")
    except EdgeccError as error:
        message = str(error)
        return "refused" if error.exit_code in (2, 3) and message else f"exit {error.exit_code}: {message}"
    try:
        reference = OrtRunner.from_bytes(made.SerializeToString(), optimize=False)
        given = feeds(reference, seed)
        wanted = reference.run(given)
    except EdgeccError:
        return "no reference"  # the runtime has no kernel, or the data leave the network's domain
    got = LiteRtRunner(artifact.data, threads=1).run(given)
    for name, array in wanted.items():
        if got[name].shape != array.shape:
            return f"{name} has the shape {got[name].shape}, not {array.shape}"
        real, expected = got[name].astype(np.float64), array.astype(np.float64)
        real = np.where(np.isnan(expected), np.nan, real)  # RELU kernels make a number of what is none
        largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
        if not np.allclose(real, expected, rtol=1e-3, atol=1e-4 * max(largest, 1), equal_nan=True):
            return f"{name} is {real.reshape(-1)[:4]}, not {expected.reshape(-1)[:4]}"
    return "alike"


@pytest.mark.parametrize("text", [IMAGES, TOKENS, NUMBERS], ids=["images", "tokens", "numbers"])
def test_the_networks_themselves_are_sound(text: str) -> None:
    assert outcome(base(text), 0) == "alike"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("text", [IMAGES, TOKENS, NUMBERS], ids=["images", "tokens", "numbers"])
def test_mutants(text: str, seed: int) -> None:
    """Nothing but EdgeccError comes out; whatever compiles answers as the original does."""
    r, seen = random.Random(seed), dict.fromkeys(("alike", "refused", "no reference"), 0)
    for turn in range(ROUNDS):
        made = mutant(text, r)
        said = outcome(made, turn)
        assert said in seen, f"mutant {turn}: {said}\n{onnx.printer.to_text(made.graph)}"
        seen[said] += 1
    assert seen["alike"] > ROUNDS // 20
    assert seen["refused"] > ROUNDS // 5
