"""expand_functions: operators without a lowering become what the ONNX specification defines them with."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc.importer import load
from edgecc.passes.expand_functions import ExpandFunctions
from edgecc.pipeline import PassContext
from edgecc.tflite.lower import lowerings

Parse = Callable[..., onnx.ModelProto]


def _model(body: str, ports: str = "(float[2,4,6] x) => (float[] y)", **constants: Any) -> Any:
    text = f'<ir_version: 10, opset_import: ["": 23]> g {ports} {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    return made


def _operators(result: Any) -> list[str]:
    return [node.op_type for node in result.model.graph]


def test_the_definition_takes_the_place_of_the_operator(rewrite: Any) -> None:
    result = rewrite(_model("a = Neg(x) y = Shrink <lambd = 0.5, bias = 0.25> (a)"), ExpandFunctions())
    assert result.counts == [4]  # Shrink, and the three CastLike in its definition
    assert _operators(result) == ["Neg", "Less", "Add", "Sub", "Less", "Where", "Where"]
    assert [node.name for node in result.model.graph][1:3] == ["Shrink_1/Less", "Shrink_1/Add"]
    assert result.constant("Shrink_1/LambdCast") == np.float32(0.5)


def test_attributes_left_out_take_their_defaults(rewrite: Any) -> None:
    result = rewrite(_model("y = Shrink (x)"), ExpandFunctions())
    assert result.constant("Shrink_0/LambdCast") == np.float32(0.5)
    assert result.constant("Shrink_0/BiasCast") == np.float32(0)


def test_two_of_a_kind_have_names_of_their_own(rewrite: Any) -> None:
    result = rewrite(_model("a = Shrink <lambd = 0.5> (x) y = Shrink <lambd = 0.1> (a)"), ExpandFunctions())
    names = [out.name for node in result.model.graph for out in node.outputs]
    assert len(names) == len(set(names)) == 12
    assert {result.constant(f"Shrink_{i}/LambdCast").item() for i in (0, 1)} == {
        np.float32(0.5),
        np.float32(0.1),
    }


def test_sizes_in_definitions_are_folded(rewrite: Any) -> None:
    ones = np.ones(4, np.float32)
    body = "y = GroupNormalization <num_groups = 2> (x, scale, bias)"
    result = rewrite(_model(body, scale=ones, bias=ones), ExpandFunctions())
    operators = _operators(result)
    assert "Reshape" in operators
    assert not {"Shape", "Concat", "CastLike"} & set(operators)


ATTENTION = "(float[2,3,4,8] q, float[2,3,6,8] k, float[2,3,6,8] v) => (float[] y)"
WHOLE = {
    "attention": _model("y = Attention <is_causal = 1> (q, k, v)", ATTENTION),
    "second output only": _model(
        "y, a, b, c = Attention (q, k, v)", ATTENTION.replace("float[] y", "float[] y, float[] c")
    ),
    "mean and variance": _model("y = MeanVarianceNormalization <axes = [1]> (x)"),
    "free batch": _model("y = MeanVarianceNormalization <axes = [1]> (x)", "(float[N,4,6] x) => (float[] y)"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_operator_that_is_left_has_a_lowering_and_a_shape(rewrite: Any, name: str) -> None:
    result = rewrite(WHOLE[name], ExpandFunctions())
    served = lowerings()
    assert result.counts[0]
    assert [op for op in _operators(result) if op not in served] == []
    assert all(out.shape is not None for node in result.model.graph for out in node.outputs)


def test_what_has_a_lowering_stays() -> None:
    model = load(_model("a = HardSwish(x) y = Softmax(a)"))
    assert ExpandFunctions().apply(model, PassContext()).rewritten == 0
    assert [node.op_type for node in model.graph] == ["HardSwish", "Softmax"]


def test_random_operators_stay_with_a_reason() -> None:
    model = load(_model("y = Bernoulli(x)"))
    result = ExpandFunctions().apply(model, PassContext())
    assert result.rewritten == 0
    assert [refusal.reason for refusal in result.refused] == ["its definition has no kernels either"]


def test_a_network_in_expanded_form_gets_its_shapes() -> None:
    """Where the runtime cannot run a network, so that shapes cannot be observed, folding has to tell them."""
    body = """s = Shape <start = 1, end = 2> (x) h = Div(s, two) r = Concat <axis = 0> (two, h, two, m1)
              a = Reshape(x, r) y = Neg(a)"""
    model = load(_model(body, two=np.array([2]), m1=np.array([-1])))
    for node in model.graph:
        node.outputs[0].shape = None
    output = model.graph.outputs[0]
    ExpandFunctions().apply(model, PassContext())
    assert [node.op_type for node in model.graph] == ["Reshape", "Neg"]
    assert output.shape == (2, 2, 2, 6)
