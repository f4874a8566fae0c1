"""Files that are damaged or made to harm: one clear error with exit code 2, quickly, and nothing else."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgecc import importer
from edgecc.errors import EdgeccError, ModelError

Parse = Callable[..., onnx.ModelProto]
pytestmark = pytest.mark.usefixtures("no_terminal_noise")
F = np.float32
RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def refused(source: Any, match: str, **options: Any) -> ModelError:
    started = time.perf_counter()
    with pytest.raises(ModelError, match=match) as caught:
        importer.load(source, **options)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1500
    assert time.perf_counter() - started < 5
    return caught.value


# What is no model


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"hello, world", "not an ONNX"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(64), "TFLite"),
        (b"\x08\x08", "no graph"),
    ],
)
def test_a_file_that_is_no_model(data: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert refused(path, match).node == str(path)


def test_a_missing_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.onnx", "no such file")
    refused(tmp_path, "folder")
    refused("a\0b.onnx", "cannot read|no such file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "not a regular file")


def test_a_file_beyond_the_limit_of_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    refused(path, "2 GB")


# Graphs that are none


def test_a_cycle(parse: Parse) -> None:
    refused(parse("g (float[2] x) => (float[2] y) { y = Add(x, z)\n z = Relu(y) }"), "cycle")


def test_a_dangling_input(parse: Parse) -> None:
    refused(parse("g (float[2] x) => (float[2] y) { y = Add(x, nowhere) }"), "nothing computes 'nowhere'")


def test_an_output_that_nothing_computes(parse: Parse) -> None:
    proto = parse(RELU)
    proto.graph.output[0].name = "nowhere"
    refused(proto, "nothing computes 'nowhere'")


def test_a_value_computed_twice(parse: Parse) -> None:
    refused(parse("g (float[2] x) => (float[2] y) { y = Relu(x)\n y = Neg(x) }"), "twice")


def test_a_node_that_overwrites_an_input_or_a_weight(parse: Parse) -> None:
    refused(parse("g (float[2] x) => (float[2] x) { x = Relu(x) }"), "twice")
    refused(parse("g (float[2] x) => (float[2] w) { w = Relu(x) }", constants={"w": np.ones(2, F)}), "twice")


def test_two_initializers_inputs_or_outputs_of_one_name(parse: Parse) -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }", constants={"w": np.ones(2, F)})
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, "same name")
    proto = parse(RELU)
    proto.graph.input.append(proto.graph.input[0])
    refused(proto, "same name")
    proto = parse(RELU)
    proto.graph.output.append(proto.graph.output[0])
    refused(proto, "same name")


def test_wrong_types(parse: Parse) -> None:
    refused(parse("g (float[2] x, int64[2] i) => (float[2] y) { y = Add(x, i) }"), "types or shapes")
    refused(parse("g (string[2] x) => (string[2] y) { y = Relu(x) }"), "types or shapes|Relu")


def test_shapes_that_do_not_fit(parse: Parse) -> None:
    refused(parse("g (float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul(x, w) }"), "types or shapes")


def test_unknown_operators_attributes_and_counts(parse: Parse) -> None:
    refused(parse("g (float[2] x) => (float[2] y) { y = Frobnicate(x) }"), "Frobnicate")
    refused(parse("g (float[2] x) => (float[2] y) { y = Relu <depth = 3> (x) }"), "depth")
    refused(parse("g (float[2] x) => (float[2] y) { y = Relu(x, x) }"), "Relu")


def test_recursive_functions() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[2] x) => (float[2] y) { y = own.a (x) }
        <domain: "own", opset_import: ["": 17, "own": 1]> a (p) => (q) { q = own.b (p) }
        <domain: "own", opset_import: ["": 17, "own": 1]> b (p) => (q) { q = own.a (p) }
    """)
    refused(proto, ".")


def test_sequences_are_no_input(parse: Parse) -> None:
    refused(parse("g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }"), "not a tensor")


def test_deeply_nested_graphs(parse: Parse) -> None:
    proto = parse("g (bool c, float[2] x) => (float[2] y) { y = Relu(x) }")
    inner = proto.graph
    for depth in range(60):
        branch = helper.make_graph([], "t", [], [helper.make_tensor_value_info(f"y{depth}", 1, [2])])
        node = helper.make_node("If", ["c"], [f"z{depth}"], then_branch=branch, else_branch=branch)
        inner.node.append(node)
        inner = inner.node[-1].attribute[0].g
    refused(proto, "nested")
    refused(proto.SerializeToString(), "nested|not an ONNX")


def test_sparse_weights(parse: Parse) -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    values = helper.make_tensor("w", 1, [1], [1.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", 7, [1], [0]), [2])
    proto.graph.sparse_initializer.append(sparse)
    refused(proto, "sparse")
    proto = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    refused(proto, "sparse")


# Tensors that lie


@pytest.mark.parametrize("dims", [[3], [1 << 40], [1 << 20, 1 << 20, 1 << 20], [-1], [-2, -1], [2, -1]])
@pytest.mark.parametrize("kind", ["raw", "typed", "absent"])
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_a_tensor_whose_shape_is_not_that_of_its_data(
    dims: list[int], kind: str, place: str, parse: Parse
) -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=dims)
    if kind == "raw":
        tensor.raw_data = bytes(8)
    elif kind == "typed":
        tensor.float_data.extend([0, 0])
    proto = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    if place == "initializer":
        proto.graph.initializer.append(tensor)
    else:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    refused(proto, ".")


@pytest.mark.parametrize("data_type", [0, 99, 8, 23])
def test_a_tensor_of_an_odd_type(data_type: int, parse: Parse) -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    proto.graph.initializer.append(
        onnx.TensorProto(name="w", data_type=data_type, dims=[2], raw_data=bytes(2))
    )
    refused(proto, ".")


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1000000,1000000] x) => (float[1000000,1000000] y) { y = Relu(x) }",
        "g (float[1,3] x) => (float[N] y) { s = Constant <value_ints = [1000000,1000000]> ()\n"
        " y = ConstantOfShape (s) }",
        "g (float[1,3] x) => (float[N] y) { s = Constant <value_ints = [4611686018427387904,4]> ()\n"
        " y = Expand (x, s) }",
        "g (float[1,3] x) => (float[N] y) { s = Constant <value_ints = [1000000,1000000]> ()\n"
        " y = Tile (x, s) }",
        "g (float[1,1,3,3] x) => (float[N] y) { s = Constant <value = float[4] {1, 1, 1000000, 1000000}> ()\n"
        " y = Resize (x, , s) }",
        "g (float[1,1,3,3] x) => (float[N] y)"
        " { p = Constant <value_ints = [0,0,100000,100000,0,0,100000,100000]> ()\n y = Pad (x, p) }",
    ],
)
def test_absurd_dimensions(text: str, parse: Parse) -> None:
    refused(parse(text), ".")


# External data


def external(parse: Parse, folder: Path, **changes: str | None) -> Path:
    proto = parse("g (float[N,4] x) => (float[N,4] y) { y = Add(x, w) }")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    fields: dict[str, str | None] = {"location": "w.bin", "offset": "8", "length": "16", **changes}
    for key, value in fields.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    proto.graph.initializer.append(tensor)
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(np.arange(6, dtype=F).tobytes())
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_within_bounds_is_read(parse: Parse, tmp_path: Path) -> None:
    for length in ("16", None):
        tensor = importer.load(external(parse, tmp_path, length=length)).graph.initializers["w"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), [2, 3, 4, 5])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "../w.bin"}, "outside"),
        ({"location": "sub/../../model/w.bin"}, "outside"),
        ({"location": "..\\w.bin"}, "outside"),
        ({"location": ""}, "outside"),
        ({"location": None}, "."),
        ({"location": "nothing.bin"}, "cannot be read"),
        ({"location": "w.bin\0.txt"}, "cannot be read"),
        ({"location": "."}, "not a regular file"),
        ({"location": "/dev/zero"}, "outside"),
        ({"location": "link.bin"}, "leads outside"),
        ({"location": "folder/secret.bin"}, "leads outside"),
        ({"offset": "12"}, "bytes 12 to 28"),
        ({"offset": "9223372036854775807"}, "bytes"),
        ({"offset": "-8"}, "offset"),
        ({"offset": "eight"}, "offset"),
        ({"length": "12"}, "12 bytes .* tensor of 16"),
        ({"length": "24"}, "24 bytes .* tensor of 16"),
        ({"length": "-16"}, "length"),
        ({"length": "0x10"}, "length"),
    ],
)
def test_external_data_elsewhere(
    changes: dict[str, str | None], match: str, parse: Parse, tmp_path: Path
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    path = external(parse, tmp_path / "model", **changes)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (path.parent / "folder").symlink_to(tmp_path)
    refused(path, match)


def test_a_hard_link_is_refused_and_a_link_inside_the_folder_is_not(parse: Parse, tmp_path: Path) -> None:
    path = external(parse, tmp_path / "model", location="inner.bin")
    (path.parent / "inner.bin").symlink_to("w.bin")
    importer.load(path)
    (path.parent / "inner.bin").unlink()
    (path.parent / "inner.bin").hardlink_to(path.parent / "w.bin")
    refused(path, "hard links")


def test_external_data_of_a_model_without_a_folder(parse: Parse, tmp_path: Path) -> None:
    path = external(parse, tmp_path)
    error = refused(path.read_bytes(), "folder is not known")
    assert error.node == "w"
    refused(onnx.load(path, load_external_data=False), "folder is not known")


def test_external_data_in_a_constant_is_checked_too(parse: Parse, tmp_path: Path) -> None:
    path = external(parse, tmp_path, location="../w.bin")
    proto = onnx.load(path, load_external_data=False)
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=proto.graph.initializer.pop())
    proto.graph.node.insert(0, node)
    path.write_bytes(proto.SerializeToString())
    refused(path, "outside")


# Damage


def _small_model(parse: Parse) -> bytes:
    random_weights = np.random.default_rng(0)
    proto = parse(
        """g (float[N,2,6,6] x, bool c) => (float[N,5] y) {
            z = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b)
            r = Clip <min = 0.0, max = 6.0> (z)
            p = GlobalAveragePool (r)
            s = Constant <value = int64[2] {-1, 4}> ()
            f = Reshape (p, s)
            g1 = Gemm <transB = 1> (f, v, k)
            q = Softmax (g1)
            y = If (c) <then_branch = t () => (float[N,5] a) { a = Neg (q) },
                        else_branch = e () => (float[N,5] d) { d = Abs (q) }>
        }""",
        10,
        {
            "w": random_weights.standard_normal((4, 2, 3, 3)).astype(F),
            "b": np.zeros(4, F),
            "k": np.zeros(5, F),
            "v": random_weights.standard_normal((5, 4)).astype(F),
        },
    )
    return bytes(proto.SerializeToString())


def _survives(data: bytes) -> bool:
    try:
        importer.load(data)
    except EdgeccError as error:
        if error.exit_code != 2 or not error.message:
            raise
        return False
    return True


def test_the_model_of_the_damage_tests_is_sound(parse: Parse) -> None:
    importer.load(_small_model(parse))


def test_truncated_files_are_refused(parse: Parse) -> None:
    data = _small_model(parse)
    cuts = sorted(random.Random(0).sample(range(len(data)), 200))
    assert sum(_survives(data[:cut]) for cut in cuts) < 20  # a cut between fields leaves a message


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_are_refused_or_harmless(seed: int, parse: Parse) -> None:
    data = _small_model(parse)
    generator = random.Random(seed)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        _survives(bytes(damaged))
