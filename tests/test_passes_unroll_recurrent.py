"""unroll_recurrent: LSTM, GRU and RNN as their steps, against ONNX Runtime's own kernels."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecc.compile import lower_float
from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.passes.unroll_recurrent import UnrollRecurrent
from edgecc.pipeline import PassContext, Pipeline
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, WIDTH, HIDDEN = 5, 2, 3, 4


def network(
    kind: str, *, states: bool = False, bias: bool = True, peepholes: bool = False, layout: int = 0,
    batch: int | str = BATCH, steps: int | str = STEPS, lengths: Any = None, computed: bool = False, scale: float = 1.0,
    **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """One layer whose first input is computed, and which returns all that it can."""
    random = np.random.default_rng(1)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    size = GATES[kind] * HIDDEN

    def made(*shape: int) -> np.ndarray[Any, Any]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    arrays: dict[str, Any] = {"W": made(directions, size, WIDTH), "R": made(directions, size, HIDDEN)}
    names = ["X", "W", "R", "", "", "", "", ""]
    if bias:
        arrays["B"], names[3] = made(directions, 2 * size), "B"
    if lengths is not None:
        arrays["L"], names[4] = np.asarray(lengths, np.int32), "L"
    if states:
        shape = (BATCH, directions, HIDDEN) if layout else (directions, BATCH, HIDDEN)
        arrays["H"], names[5] = made(*shape), "H"
        if kind == "LSTM":
            arrays["C"], names[6] = made(*shape), "C"
    if peepholes:
        arrays["P"], names[7] = made(directions, 3 * HIDDEN), "P"
    while not names[-1]:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, names, outputs, "layer", hidden_size=HIDDEN, layout=layout, **attributes)
    x = [batch, steps, WIDTH] if layout else [steps, batch, WIDTH]
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, x)]
    if computed:
        inputs += [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, arrays.pop(k).shape) for k in ("W", "R", "B")
        ]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, k) for k, a in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "states": {"states": True},
    "reverse": {"direction": "reverse", "states": True},
    "bidirectional": {"direction": "bidirectional", "states": True},
    "no states in two directions": {"direction": "bidirectional"},
    "clip": {"clip": 0.4, "states": True, "scale": 2.0},
    "full lengths": {"lengths": [STEPS] * BATCH},
    "computed weights": {"computed": True},
    "one sequence": {"batch": 1},
    "one step": {"steps": 1},
}
SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "peepholes": ("LSTM", {"peepholes": True, "states": True}),
    "peepholes without states": ("LSTM", {"peepholes": True, "direction": "bidirectional"}),
    "input forget": ("LSTM", {"input_forget": 1, "states": True}),
    "clipped peepholes": ("LSTM", {"peepholes": True, "states": True, "clip": 0.3, "scale": 2.0}),
    "reset after": ("GRU", {"linear_before_reset": 1}),
    "reset after, states": ("GRU", {"linear_before_reset": 1, "states": True, "direction": "bidirectional"}),
    "reset after, no bias": ("GRU", {"linear_before_reset": 1, "states": True, "bias": False}),
    "activations of an LSTM": (
        "LSTM",
        {"states": True, "direction": "bidirectional",
         "activations": ["HardSigmoid", "Softsign", "Relu", "Sigmoid", "LeakyRelu", "Softplus"],
         "activation_alpha": [0.3, 0.1], "activation_beta": [0.4]},
    ),
    "activations of a GRU": ("GRU", {"states": True, "activations": ["HardSigmoid", "Elu"]}),
    **{
        name: ("RNN", {"states": True, "activations": [name], **more})
        for name, more in {
            "Affine": {"activation_alpha": [0.5], "activation_beta": [0.1]},
            "Elu": {"activation_alpha": [0.7]},
            "HardSigmoid": {},
            "LeakyRelu": {},
            "Relu": {},
            "ScaledTanh": {"activation_alpha": [0.9], "activation_beta": [0.6]},
            "Sigmoid": {},
            "Softplus": {},
            "Softsign": {},
            "ThresholdedRelu": {"activation_alpha": [0.2]},
        }.items()
    },
}  # fmt: skip


def _all() -> list[Any]:
    common = [pytest.param(kind, more, id=f"{kind} {name}") for kind in GATES for name, more in CASES.items()]
    return common + [pytest.param(kind, more, id=name) for name, (kind, more) in SPECIAL.items()]


@pytest.mark.parametrize(("kind", "more"), _all())
def test_it_answers_as_the_layer(
    kind: str, more: dict[str, Any], rewrite: Any, assert_same_answers: Any
) -> None:
    proto = network(kind, **more)
    result = rewrite(proto, UnrollRecurrent())
    assert result.counts == [1], result.reasons
    assert not {node.op_type for node in result.model.graph} & set(GATES)
    assert_same_answers(proto, result.model)


def _batch_first(array: Any) -> Any:
    return array.transpose(2, 0, 1, 3) if array.ndim == 4 else array.transpose(1, 0, 2)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("batch", [BATCH, "N"])
def test_batch_first(kind: str, direction: str, batch: int | str) -> None:
    """ONNX Runtime has no layout 1: the same layer with layout 0 is what it must equal."""
    states = batch == BATCH
    wanted = OrtRunner.from_bytes(network(kind, direction=direction, bias=True).SerializeToString())
    first = network(kind, direction=direction, layout=1, batch=batch)
    if states:
        assert load(first).graph.inputs[0].shape == [BATCH, STEPS, WIDTH]
    model, log = Pipeline([UnrollRecurrent()]).run(load(first), PassContext(check=False))
    assert log.records[0].rewritten == 1
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, WIDTH)).astype(np.float32)
    expected = wanted.run({"X": x})
    got = OrtRunner.from_model(model).run({"X": x.transpose(1, 0, 2)})
    tflite = LiteRtRunner(lower_float(first, io_layout="onnx").data).run({"X": x.transpose(1, 0, 2)})
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], _batch_first(array), atol=1e-5, err_msg=name)
        np.testing.assert_allclose(tflite[name], _batch_first(array), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_as_tflite(kind: str, direction: str) -> None:
    proto = network(kind, direction=direction, states=True)
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, WIDTH)).astype(np.float32)
    expected = OrtRunner.from_bytes(proto.SerializeToString()).run({"X": x})
    got = LiteRtRunner(lower_float(proto, io_layout="onnx").data).run({"X": x})
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5, err_msg=name)


def test_all_steps_share_one_product_with_the_input_weights(rewrite: Any) -> None:
    lines = rewrite(network("LSTM"), UnrollRecurrent()).lines
    assert sum("Gemm" in line for line in lines) == 1
    assert sum("MatMul" in line for line in lines) == STEPS - 1  # the first state is zero


NEAR_MISSES: dict[str, tuple[dict[str, Any], str]] = {
    "shorter sequences": ({"lengths": [STEPS, 3]}, "its sequences have the lengths [3, 5], not all 5 steps"),
    "open length": ({"steps": "T"}, "the length of its sequence is not known when compiling"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(case: str) -> None:
    more, reason = NEAR_MISSES[case]
    _, log = Pipeline([UnrollRecurrent()]).run(load(network("GRU", **more)))
    assert [r.reason for r in log.records[0].refused] == [reason]


def test_the_number_of_steps_is_limited(rewrite: Any) -> None:
    result = rewrite(network("GRU"), UnrollRecurrent(max_steps=4))
    assert result.reasons == ["it has 5 steps; max_steps is 4"]
    assert result.counts == [0]


def test_what_is_left_is_named_with_its_reason() -> None:
    with pytest.raises(UnsupportedError, match=r"lengths \[3, 5\], not all 5 steps \(export it with a fixed"):
        lower_float(network("LSTM", lengths=[STEPS, 3]))


def test_sequences_are_refused(parse: Any) -> None:
    proto = parse(
        "g (float[2,3] x) => (float[2,3] y) { s = SequenceConstruct(x, x) y = SequenceAt(s, at) }",
        21,
        {"at": np.array(1)},
    )
    with pytest.raises(UnsupportedError, match="it works on a sequence of tensors") as raised:
        lower_float(proto)
    assert raised.value.exit_code == 3
