"""Old forms of operators: each answers as before in the canonical form, and no change is overlooked."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.defs
import pytest

from edgecc import importer, opset
from edgecc.errors import ModelError

# Changes of attributes, inputs or outputs that mean the same without a rewrite, and why.
ADDED = "a new attribute whose default is what was done before"
OPTIONAL = "an input became optional"
COMPATIBLE = {
    ("ArgMax", 12): ADDED,
    ("ArgMin", 12): ADDED,
    ("AveragePool", 10): ADDED,
    ("AveragePool", 19): ADDED,
    ("BatchNormalization", 14): "the inference form: the training form is refused",
    ("Cast", 19): ADDED,
    ("CastLike", 19): ADDED,
    ("Constant", 11): "becomes an initializer",
    ("Constant", 12): "becomes an initializer",
    ("DepthToSpace", 11): ADDED,
    ("DequantizeLinear", 13): ADDED,
    ("DequantizeLinear", 21): ADDED,
    ("GRU", 14): ADDED,
    ("GatherND", 12): ADDED,
    ("Gemm", 11): OPTIONAL,
    ("LSTM", 14): ADDED,
    ("LpPool", 18): ADDED,
    ("MaxPool", 8): ADDED,
    ("MaxPool", 10): ADDED,
    ("OptionalHasElement", 18): OPTIONAL,
    ("Pad", 18): "a new input that may be left out",
    ("QuantizeLinear", 13): ADDED,
    ("QuantizeLinear", 19): ADDED,
    ("QuantizeLinear", 21): ADDED,
    ("RNN", 14): ADDED,
    ("ReduceSum", 13): "new attribute noop_with_empty_axes, 0 as before; axes have a row",
    ("Reshape", 14): ADDED,
    ("Resize", 18): ADDED,
    ("ScatterElements", 16): ADDED,
    ("ScatterND", 16): ADDED,
    ("Shape", 15): ADDED,
    ("TopK", 11): ADDED,
}


def _form(schema: onnx.defs.OpSchema) -> tuple[Any, ...]:
    def default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
        held = attribute.default_value
        return onnx.helper.get_attribute_value(held) if held.name else None

    attributes = {
        name: (str(attr.type), attr.required, default(attr)) for name, attr in schema.attributes.items()
    }
    inputs = [str(formal.option) for formal in schema.inputs]
    return schema.deprecated, attributes, inputs, [str(formal.option) for formal in schema.outputs]


def test_every_change_of_form_is_upgraded_or_known_to_be_compatible() -> None:
    history: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= opset.CANONICAL:
            history.setdefault(schema.name, []).append(schema)
    changed = set()
    for name, schemas in history.items():
        schemas.sort(key=lambda schema: schema.since_version)
        for old, new in itertools.pairwise(schemas):
            if new.since_version > opset.OLDEST and _form(old) != _form(new):
                changed.add((name, new.since_version))
    rows = {(row.op_type, row.version) for row in opset.UPGRADES}
    assert changed - rows - set(COMPATIBLE) == set()
    assert set(COMPATIBLE) - changed == set()


def test_the_rows_of_an_operator_are_in_the_order_of_versions() -> None:
    for name in {row.op_type for row in opset.UPGRADES}:
        versions = [row.version for row in opset.UPGRADES if row.op_type == name]
        assert versions == sorted(versions)


F = np.float32
CASES = {
    "clip": (7, "float[2,4] x", "float[2,4] y", "y = Clip <min = -0.5, max = 0.25> (x)"),
    "clip_open": (7, "float[2,4] x", "float[2,4] y", "y = Clip <max = 0.25> (x)"),
    "dropout": (7, "float[2,4] x", "float[2,4] y", "y, mask = Dropout <ratio = 0.3> (x)"),
    "dropout_10": (10, "float[2,4] x", "float[2,4] y", "y = Dropout <ratio = 0.3> (x)"),
    "pad": (8, "float[2,3,4] x", "float[4,3,7] y", "y = Pad <pads = [1,0,1,1,0,2], value = 1.5> (x)"),
    "pad_reflect": (
        8,
        "float[2,3,4] x",
        "float[2,3,7] y",
        'y = Pad <pads = [0,0,1,0,0,2], mode = "reflect"> (x)',
    ),
    "slice": (
        9,
        "float[4,5] x",
        "float[2,3] y",
        "y = Slice <starts = [1,-4], ends = [3,4], axes = [0,1]> (x)",
    ),
    "slice_no_axes": (9, "float[4,5] x", "float[2,4] y", "y = Slice <starts = [1,0], ends = [3,-1]> (x)"),
    "split": (11, "float[4,6] x", "float[4,2] y, float[4,4] z", "y, z = Split <axis = 1, split = [2,4]> (x)"),
    "split_even": (11, "float[4,6] x", "float[4,3] y, float[4,3] z", "y, z = Split <axis = 1> (x)"),
    "split_13": (13, "float[4,6] x", "float[2,6] y, float[2,6] z", "y, z = Split (x)"),
    "squeeze": (11, "float[1,4,1] x", "float[4,1] y", "y = Squeeze <axes = [0]> (x)"),
    "squeeze_all": (11, "float[1,4,1] x", "float[4] y", "y = Squeeze (x)"),
    "unsqueeze": (11, "float[4] x", "float[1,4,1] y", "y = Unsqueeze <axes = [0,2]> (x)"),
    "reduce_sum": (11, "float[2,3,4] x", "float[2,1,4] y", "y = ReduceSum <axes = [1]> (x)"),
    "reduce_sum_all": (11, "float[2,3,4] x", "float y", "y = ReduceSum <keepdims = 0> (x)"),
    "reduce_mean": (17, "float[2,3,4] x", "float[2] y", "y = ReduceMean <axes = [1,-1], keepdims = 0> (x)"),
    "reduce_max": (13, "float[2,3,4] x", "float[1,1,1] y", "y = ReduceMax (x)"),
    "topk": (9, "float[2,6] x", "float[2,3] y, int64[2,3] i", "y, i = TopK <k = 3> (x)"),
    "upsample_7": (
        7,
        "float[1,2,3,4] x",
        "float[1,2,6,8] y",
        "y = Upsample <scales = [1.0,1.0,2.0,2.0]> (x)",
    ),
    "upsample_linear": (
        9,
        "float[1,2,3,4] x",
        "float[1,2,6,12] y",
        'k = Constant <value = float[4] {1, 1, 2, 3}> ()\n y = Upsample <mode = "linear"> (x, k)',
    ),
    "resize_10": (
        10,
        "float[1,2,3,4] x",
        "float[1,2,7,10] y",
        "k = Constant <value = float[4] {1, 1, 2.5, 2.6}> ()\n y = Resize (x, k)",
    ),
    "resize_10_smaller": (
        10,
        "float[1,2,6,9] x",
        "float[1,2,4,4] y",
        "k = Constant <value = float[4] {1, 1, 0.7, 0.5}> ()\n y = Resize (x, k)",
    ),
    "resize_10_linear": (
        10,
        "float[1,2,6,9] x",
        "float[1,2,4,13] y",
        'k = Constant <value = float[4] {1, 1, 0.7, 1.5}> ()\n y = Resize <mode = "linear"> (x, k)',
    ),
    "softmax_last": (11, "float[2,5] x", "float[2,5] y", "y = Softmax (x)"),
    "softmax_flattened": (11, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax (x)"),
    "softmax_flattened_batch": (11, "float[N,3,4] x", "float[N,3,4] y", "y = Softmax <axis = -2> (x)"),
    "softmax_ones": (11, "float[2,5,1,1] x", "float[2,5,1,1] y", "y = Softmax (x)"),
    "softmax_axis_0": (7, "float[2,3] x", "float[2,3] y", "y = Softmax <axis = 0> (x)"),
    "log_softmax": (9, "float[2,3,4] x", "float[2,3,4] y", "y = LogSoftmax (x)"),
    "hardmax": (11, "float[2,3,4] x", "float[2,3,4] y", "y = Hardmax (x)"),
    "softmax_13": (13, "float[2,3,4] x", "float[2,3,4] y", "y = Softmax <axis = 1> (x)"),
    "gemm": (7, "float[2,3] a, float[3,4] b, float[4] c", "float[2,4] y", "y = Gemm <alpha = 0.5> (a, b, c)"),
    "average_pool": (7, "float[1,2,5,5] x", "float[1,2,4,4] y", "y = AveragePool <kernel_shape = [2,2]> (x)"),
    "max_pool": (
        7,
        "float[1,2,5,5] x",
        "float[1,2,2,2] y",
        "y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)",
    ),
    "cast": (7, "float[2,3] x", "int32[2,3] y", "y = Cast <to = 6> (x)"),
    "grid_sample": (
        16,
        "float[1,2,4,4] x, float[1,3,3,2] g",
        "float[1,2,3,3] y",
        'y = GridSample <mode = "bilinear", align_corners = 1> (x, g)',
    ),
    "grid_sample_cubic": (
        16,
        "float[1,2,4,4] x, float[1,3,3,2] g",
        "float[1,2,3,3] y",
        'y = GridSample <mode = "bicubic"> (x, g)',
    ),
    "scatter": (9, "float[3] x, int64[2] i, float[2] u", "float[3] y", "y = Scatter (x, i, u)"),
    "roi_align": (
        10,
        "float[1,2,8,8] x, float[2,4] r, int64[2] b",
        "float[2,2,3,3] y",
        "z = Mul (b, b)\n i = Sub (b, z)\n y = RoiAlign <output_height = 3, output_width = 3> (x, r, i)",
    ),
    "depth_to_space": (9, "float[1,8,2,3] x", "float[1,2,4,6] y", "y = DepthToSpace <blocksize = 2> (x)"),
    "dft": (17, "float[1,8,4,1] x", "float[1,8,4,2] y", "y = DFT (x)"),
    "in_a_branch": (
        11,
        "float[2,3,4] x, bool c",
        "float[2,3,4] y",
        "y = If (c) <then_branch = t () => (float[2,3,4] p) { p = Softmax (x) },"
        " else_branch = e () => (float[2,3,4] q) { q = Softmax <axis = 0> (x) }>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_old_form_answers_as_before(
    case: str, parse: Callable[..., onnx.ModelProto], assert_same_answers: Callable[..., None]
) -> None:
    version, inputs, outputs, body = CASES[case]
    original = parse(f"g ({inputs}) => ({outputs}) {{ {body} }}", version)
    model = importer.load(original)
    assert model.opset_imports[""] == opset.CANONICAL
    assert [v.name for v in model.graph.outputs] == [v.name for v in original.graph.output]
    assert_same_answers(original, model)


def test_batch_normalization_drops_what_only_training_used(
    parse: Callable[..., onnx.ModelProto], assert_same_answers: Callable[..., None]
) -> None:
    original = parse(
        "g (float[2,3,4,4] x) => (float[2,3,4,4] y) { y = BatchNormalization <spatial = 1> (x, s, b, m, v) }",
        7,
        {name: np.array([1, 2, 3], F) for name in "sbmv"},
    )
    model = importer.load(original)
    assert "spatial" not in model.graph.node(0).attributes
    assert_same_answers(original, model)


def test_group_normalization_gets_one_scale_a_channel(parse: Callable[..., onnx.ModelProto]) -> None:
    text = "g (float[2,6,3] x) => (float[2,6,3] y) { y = GroupNormalization <num_groups = 3> (x, s, b) }"
    constants = {"s": np.array([1, 2, 3], F), "b": np.array([0, 1, 0], F)}
    model = importer.load(parse(text, 18, constants))
    scale = model.graph.node(0).inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    np.testing.assert_array_equal(scale.const_value.numpy(), [1, 1, 2, 2, 3, 3])


def test_a_softmax_over_one_axis_stays_one_node(parse: Callable[..., onnx.ModelProto]) -> None:
    model = importer.load(parse("g (float[N,5,1,1] x) => (float[N,5,1,1] y) { y = Softmax (x) }", 11))
    assert [node.op_type for node in model.graph] == ["Softmax"]
    assert model.graph.node(0).attributes["axis"].as_int() == 1


REFUSED = {
    "spatial": (
        7,
        "g (float[2,3] x, float[3] s) => (float[2,3] y)"
        " { y = BatchNormalization <spatial = 0> (x, s, s, s, s) }",
        "spatial=0",
    ),
    "training": (
        9,
        "g (float[2,3] x, float[3] s) => (float[2,3] y, float[3] n)"
        " { y, n, o, p, q = BatchNormalization (x, s, s, s, s) }",
        "training",
    ),
    "mask": (7, "g (float[2,3] x) => (float[2,3] y, float[2,3] m) { y, m = Dropout (x) }", "mask"),
    "mixed_resize": (
        10,
        "g (float[1,1,4,4] x) => (float[1,1,8,2] y)"
        " { k = Constant <value = float[4] {1, 1, 2, 0.5}> ()\n y = Resize (x, k) }",
        "enlarges",
    ),
    "tf_half_pixel_for_nn": (
        11,
        "g (float[1,1,4,4] x, float[8] r) => (float[1,1,8,8] y)"
        " { k = Constant <value = float[4] {1, 1, 2, 2}> ()"
        '\n y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, k) }',
        "tf_half_pixel_for_nn",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_form_without_an_equivalent_is_refused(case: str, parse: Callable[..., onnx.ModelProto]) -> None:
    version, text, cause = REFUSED[case]
    original = parse(text, version)
    original.graph.node[-1].name = "culprit"
    with pytest.raises(ModelError, match=cause) as caught:
        importer.load(original)
    assert caught.value.node == "culprit"
