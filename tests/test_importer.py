"""Import: every form in which a model arrives becomes the one canonical form, and answers as before."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc import importer, ir, modelfile
from edgecc.analysis import shapes
from edgecc.datafiles import data_files, identity
from edgecc.errors import EdgeccError, ModelError, UsageError
from edgecc.pipeline import validate
from edgecc.runtime.ort import OrtRunner

Parse = Callable[..., onnx.ModelProto]
F = np.float32


def assert_canonical(model: ir.Model) -> None:
    validate(model)
    assert model.opset_imports[""] >= 21
    assert model.ir_version is not None
    assert model.ir_version >= 10
    assert not model.functions
    assert all(node.op_type != "Constant" for node in model.graph)
    names = [node.name for node in model.graph.all_nodes()]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not any(value.name in model.graph.initializers for value in model.graph.inputs)
    for value in shapes.node_outputs(model.graph):
        assert value.type is not None, value.name
        assert shapes.is_known(model, value), (value.name, value.shape)
    for value in model.graph.inputs:
        assert ir.is_static(value)


NETWORKS = {
    "ad_ae_from_tflite": {},
    "dnn_l": {},
    "ds_cnn_s": {},
    "efficientnet_lite0": {},
    "gru_s": {},
    "ic_resnet8": {},
    "kws_dscnn": {},
    "lenet_caffe": {},
    "mobilenet_v2_1.0": {},
    "mtcnn_onet": {},
    "ppocr_cls": {"x": (1, 3, 48, 192)},
    "resnet20": {},
    "resnet20_dyn": {},
    "resnet56": {},
    "sww_ref": {},
    "ultraface_rfb_320": {},
    "yolo_fastestv2_352": {},
}


@pytest.mark.parametrize("stem", NETWORKS)
def test_a_real_network_answers_as_its_file(
    stem: str, shared: Path, assert_same_answers: Callable[..., None]
) -> None:
    path = shared / "models" / f"{stem}.onnx"
    model = importer.load(path, input_shape=NETWORKS[stem])
    assert_canonical(model)
    original = onnx.load(path)
    weights = {tensor.name for tensor in original.graph.initializer}
    assert [v.name for v in model.graph.inputs] == [
        v.name for v in original.graph.input if v.name not in weights
    ]
    assert [v.name for v in model.graph.outputs] == [v.name for v in original.graph.output]
    assert_same_answers(path, model)


def test_a_network_with_branches_survives(shared: Path) -> None:
    path = shared / "models" / "silero_vad.onnx"
    model = importer.load(path, input_shape={"input": (1, 512), "state": (2, 1, 128)})
    random = np.random.default_rng(0)
    data = {
        "input": random.standard_normal((1, 512), F),
        "state": random.standard_normal((2, 1, 128), F),
        "sr": np.array(16000),
    }
    expected = OrtRunner.from_file(path, optimize=False).run(data)
    got = OrtRunner.from_model(model, optimize=False).run(data)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-6)


def test_import_is_quick(shared: Path) -> None:
    path = shared / "models" / "mobilenet_v2_1.0.onnx"
    importer.load(path)
    best = min(_seconds(path) for _ in range(5))
    assert best < 0.3


def _seconds(path: Path) -> float:
    started = time.process_time()
    importer.load(path)
    return time.process_time() - started


RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def test_path_bytes_proto_and_model_are_the_same(parse: Parse, tmp_path: Path) -> None:
    proto = parse(RELU)
    path = tmp_path / "relu.onnx"
    onnx.save(proto, path)
    forms: list[Any] = [path, str(path), proto.SerializeToString(), proto, ir.serde.deserialize_model(proto)]
    texts = {
        ir.serde.serialize_model(importer.load(form)).SerializeToString(deterministic=True) for form in forms
    }
    assert len(texts) == 1


def test_the_callers_model_is_not_modified(parse: Parse) -> None:
    proto = parse("g (float[2,3,4] x) => (float[2,3,4] y) { c = Constant <value_float = 2.0> ()\n"
                  "z = Mul(x, c)\n y = Softmax(z) }", 12)  # fmt: skip
    before = proto.SerializeToString(deterministic=True)
    model = ir.serde.deserialize_model(proto)
    model_before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    importer.load(proto)
    importer.load(model)
    assert proto.SerializeToString(deterministic=True) == before
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == model_before


def test_initializers_listed_as_inputs_are_constants(
    parse: Parse, assert_same_answers: Callable[..., None]
) -> None:
    proto = parse("g (float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", 8, {"w": np.ones(3, F)})
    assert len(proto.graph.input) == 2
    model = importer.load(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert_canonical(model)
    assert_same_answers(proto, model)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1, 2}", np.array([1, 2], F)),
        ("value_float = 1.5", np.array(1.5, F)),
        ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], F)),
        ("value_int = 3", np.array(3)),
        ("value_ints = [3, 4]", np.array([3, 4])),
        ("value_string = \"a\"", np.array("a", object)),
        ("value_strings = [\"a\", \"b\"]", np.array(["a", "b"], object)),
    ],
)  # fmt: skip
def test_constants_in_every_spelling(attribute: str, expected: np.ndarray[Any, Any], parse: Parse) -> None:
    kind = {"f": "float", "i": "int64", "O": "string"}[expected.dtype.kind]
    shape = f"[{expected.size}]" if expected.ndim else ""
    proto = parse(
        f"g (float[1] x) => ({kind}{shape} c, float[1] y) {{ c = Constant <{attribute}> ()\n y = Relu(x) }}"
    )
    model = importer.load(proto)
    assert [node.op_type for node in model.graph] == ["Relu"]
    array = OrtRunner.from_model(model).run({"x": np.ones(1, F)})["c"]
    assert array.shape == expected.shape
    np.testing.assert_array_equal(array, expected)


def test_functions_are_inlined_even_those_of_another_opset(assert_same_answers: Callable[..., None]) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[2,3,4] x) => (float[2,3,4] y) {
            a = own.half <factor = 0.5> (x)
            b = own.half <factor = 2.0> (a)
            y = own.twice (b)
        }
        <domain: "own", opset_import: ["": 17]>
        half <factor> (p) => (q) { k = Constant <value_float: float = @factor> ()
            q = Mul (p, k) }
        <domain: "own", opset_import: ["": 17, "own": 1]>
        twice (p) => (q) { r = own.half <factor = 3.0> (p)
            q = Softmax <axis = 1> (r) }
    """)
    model = importer.load(proto)
    assert_canonical(model)
    assert_same_answers(proto, model)
    proto.functions[0].opset_import[0].version = 16  # allowed where the operators did not change between
    other = importer.load(proto)
    assert_canonical(other)
    assert_same_answers(proto, other)


def test_nodes_out_of_order_are_sorted(parse: Parse) -> None:
    proto = parse("g (float[2] x) => (float[2] y) { z = Relu(x)\n y = Neg(z) }")
    nodes = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert [node.op_type for node in importer.load(proto).graph] == ["Relu", "Neg"]


def test_other_domains_stay_as_they_are(parse: Parse) -> None:
    text = "g (float[1,3] x) => (float[1,3] y) { y = com.microsoft.Gelu(x) }"
    model = importer.load(parse(text, domains=', "com.microsoft": 1'))
    node = model.graph.node(0)
    assert (node.domain, node.op_type) == ("com.microsoft", "Gelu")


def test_names_keep_their_control_characters(parse: Parse) -> None:
    proto = parse(RELU)
    proto.graph.node[0].name = "a\x1b[31m"
    proto.graph.output[0].name = proto.graph.node[0].output[0] = "y\n\x07"
    model = importer.load(proto)
    assert model.graph.node(0).name == "a\x1b[31m"
    assert model.graph.outputs[0].name == "y\n\x07"


# Dimensions


def shape_of(model: ir.Model, name: str) -> list[int | str | None]:
    values = [*model.graph.inputs, *shapes.node_outputs(model.graph)]
    value = next(value for value in values if value.name == name)
    assert value.shape is not None
    return [d if isinstance(d, int) else d.value for d in value.shape.dims]


def test_a_symbolic_batch_stays(parse: Parse) -> None:
    assert shape_of(importer.load(parse(RELU)), "y") == ["N", 3]


@pytest.mark.parametrize("dim", [-1, 0, "?", "unk__12", "", None])
def test_an_unknown_batch_is_called_batch_in_all_inputs(dim: int | str | None, parse: Parse) -> None:
    proto = parse("g (float[7,3] x, float[7,3] z) => (float[7,3] y) { y = Add(x, z) }")
    for info in (*proto.graph.input, *proto.graph.output):
        first = info.type.tensor_type.shape.dim[0]
        first.Clear()
        if isinstance(dim, int):
            first.dim_value = dim
        elif dim is not None:
            first.dim_param = dim
    model = importer.load(proto)
    assert [shape_of(model, name) for name in "xzy"] == [["batch", 3]] * 3


def test_input_shape_binds_a_symbol_wherever_it_stands(parse: Parse) -> None:
    text = "g (float[N,S] x, float[N,S] z) => (float[N,S] y) { y = Add(x, z) }"
    model = importer.load(parse(text), input_shape={"x": (4, 5)})
    assert [shape_of(model, name) for name in "xzy"] == [[4, 5]] * 3


def test_an_unbound_dimension_names_the_remedy(parse: Parse) -> None:
    with pytest.raises(ModelError, match="--input-shape x=") as caught:
        importer.load(parse("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }"))
    assert caught.value.node == "x"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"q": (1, 3)}, r"it has: x\[N, 3\]"),
        ({"x": (1, 4)}, r"fixed shape \[N, 3\], not \[1, 4\]"),
        ({"x": (1, 3, 1)}, r"shape \[N, 3\]"),
        ({"x": (0, 3)}, "not positive"),
    ],
)
def test_a_wrong_input_shape_is_refused(
    given: dict[str, tuple[int, ...]], message: str, parse: Parse
) -> None:
    with pytest.raises(UsageError, match=message):
        importer.load(parse(RELU), input_shape=given)


def test_one_symbol_cannot_be_two_numbers(parse: Parse) -> None:
    proto = parse("g (float[N,3] x, float[N,3] z) => (float[N,3] y) { y = Add(x, z) }")
    with pytest.raises(UsageError, match="N cannot be both 2 and 3"):
        importer.load(proto, input_shape={"x": (2, 3), "z": (3, 3)})


def test_an_input_of_unknown_rank_can_be_bound(parse: Parse) -> None:
    proto = parse("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError):
        importer.load(proto)
    assert shape_of(importer.load(proto, input_shape={"x": (2, 3)}), "y") == [2, 3]


def test_shapes_that_the_file_claims_are_not_believed(parse: Parse) -> None:
    proto = parse("g (float[N,3] x) => (float[1,3] y) { z = Relu(x)\n y = Neg(z) }")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("z", 1, [1, 3]))
    model = importer.load(proto)
    assert [shape_of(model, name) for name in "zy"] == [["N", 3]] * 2


# Shapes that static inference cannot tell

COMPUTED = """g (float[{batch},4,6] x) => (float[A,B] y) {{
    s = Shape (x)
    zero = Constant <value_ints = [0]> ()
    last = Constant <value_ints = [-1]> ()
    n = Gather <axis = 0> (s, zero)
    f = Cast <to = 1> (n)
    g1 = Exp (f)
    g2 = Log (g1)
    g3 = Round (g2)
    m = Cast <to = 7> (g3)
    t = Concat <axis = 0> (m, last)
    y = Reshape (x, t)
}}"""


@pytest.mark.parametrize(("batch", "expected"), [("2", [2, 24]), ("N", ["N", 24])])
def test_shapes_are_observed_where_inference_cannot_tell(
    batch: str, expected: list[Any], parse: Parse, assert_same_answers: Callable[..., None]
) -> None:
    proto = parse(COMPUTED.format(batch=batch))
    model = importer.load(proto)
    assert shape_of(model, "y") == expected
    assert_same_answers(proto, model)


def test_shapes_that_depend_on_data_stay_unknown(parse: Parse) -> None:
    model = importer.load(
        parse("""g (float[2,3] x, int64[1] n) => (int64[2,K] y, float[A,B] z) {
        y = NonZero (x)
        last = Constant <value_ints = [-1]> ()
        t = Concat <axis = 0> (n, last)
        z = Reshape (x, t)
    }""")
    )
    assert not any(isinstance(d, int) for d in shape_of(model, "z"))
    assert not isinstance(shape_of(model, "y")[1], int)


def test_a_run_that_would_fill_the_memory_is_refused(parse: Parse) -> None:
    text = """g (float[2,3] x) => (float[A] y) {
        s = Shape (x)
        f = Cast <to = 1> (s)
        big = Constant <value_float = 1000000.0> ()
        g1 = Mul (f, big)
        t = Cast <to = 7> (g1)
        y = ConstantOfShape (t)
    }"""
    with pytest.raises(ModelError, match="ConstantOfShape"):
        importer.load(parse(text))


# External data and size


def with_external_data(parse: Parse, folder: Path, rows: int = 64) -> Path:
    weights = np.random.default_rng(0).standard_normal((rows, 32)).astype(F)
    proto = parse(
        f"g (float[N,{rows}] x) => (float[N,32] y) {{ y = MatMul(x, w) }}", constants={"w": weights}
    )
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_small_data_beside_the_model_belong_to_it(parse: Parse, tmp_path: Path) -> None:
    """A file a tensor, also of a constant: all are sent to devices and are part of the model's identity."""
    proto = parse(
        "g (float[4] x) => (float[4] y) { c = Constant() h = Add(x, c) y = Add(h, b) }",
        constants={"b": np.ones(4, F)},
    )
    held = onnx.numpy_helper.from_array(np.ones(4, F), "c")
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("value", held))
    path = tmp_path / "model.onnx"
    onnx.save(
        proto, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert sorted(data_files(path)) == ["b", "c"]
    before = identity(path, modelfile.read(path))
    assert before[1] == path.stat().st_size + 32
    (tmp_path / "c").write_bytes(np.zeros(4, F).tobytes())
    assert identity(path, modelfile.read(path))[0] != before[0]


def test_external_data_is_mapped_from_any_working_folder(
    parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_same_answers: Callable[..., None]
) -> None:
    path = with_external_data(parse, tmp_path)
    monkeypatch.chdir(tmp_path)
    model = importer.load("model.onnx")
    monkeypatch.chdir("/")
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert_same_answers(path, model)


def test_a_model_beyond_the_limit_of_protobuf_is_read_without_a_copy(parse: Parse, tmp_path: Path) -> None:
    """2.5 GB of weights in a sparse file, which takes no room on the disk, and none in memory."""
    resource = pytest.importorskip("resource")
    rows = 20_000_000
    proto = parse(f"g (int64[N] i) => (float[N,32] y) {{ y = Gather(w, i) }}")  # noqa: F541
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[rows, 32], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(rows * 128))):
        tensor.external_data.add(key=key, value=value)
    proto.graph.initializer.append(tensor)
    path = tmp_path / "large.onnx"
    path.write_bytes(proto.SerializeToString())
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(rows * 128)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = importer.load(path)
    answer = OrtRunner.from_model(model, optimize=False).run({"i": np.array([3, rows - 1])})
    assert answer["y"].shape == (2, 32)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 500  # MB


def test_old_and_future_opsets_are_refused(parse: Parse) -> None:
    for version, remedy in ((6, "version_converter"), (29, "opset 21")):
        with pytest.raises(ModelError, match=f"opset {version}.*{remedy}"):
            importer.load(parse(RELU, version))
    with pytest.raises(EdgeccError):
        importer.load(parse(RELU, 99))


# Its static inference gives up at the first cast; each size depends on what is computed from the size before.
CHAIN = """g (float[N,3] x) => (float[A,B] y) {
    pair = Constant <value_ints = [0,0]> ()
    s = Shape (x)
    f = Cast <to = 1> (s)
    m = Exp (f)
    l = Log (m)
    r = Round (l)
    t = Cast <to = 7> (r)
    big = Expand (x, t)
    s2 = Shape (big)
    f2 = Cast <to = 1> (s2)
    half = Div (f2, two)
    h = Cast <to = 7> (half)
    pads = Concat <axis = 0> (pair, h)
    z = Pad (big, pads)
    w = Shape (z)
    f3 = Cast <to = 1> (w)
    t3 = Cast <to = 7> (f3)
    y = Tile (z, t3)
}"""


def chain(parse: Parse, divisor: float) -> onnx.ModelProto:
    return parse(CHAIN, 21, {"two": np.array(divisor, F)})


def test_each_part_is_loaded_once_for_each_batch(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = OrtRunner.from_model

    def counted(model: ir.Model, **options: Any) -> OrtRunner:
        loaded.extend(node.op_type for node in model.graph)
        return load(model, **options)

    monkeypatch.setattr(OrtRunner, "from_model", counted)
    model = importer.load(chain(parse, 2.0))
    assert shape_of(model, "z")[1] == 4  # 3 columns, padded by half as many
    assert [loaded.count(kind) for kind in ("Expand", "Pad", "Tile", "Exp")] == [2, 2, 2, 2]


def test_the_last_of_computed_sizes_is_refused_before_it_is_run(parse: Parse) -> None:
    with pytest.raises(ModelError, match="Tile asks for"):
        importer.load(chain(parse, 0.001))
