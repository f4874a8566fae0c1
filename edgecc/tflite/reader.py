"""Reads of a TFLite file what memory planning must know: tensors, operators and their options, no constants."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from edgecc.analysis.flat import FlatNetwork, FlatOperator, FlatTensor
from edgecc.errors import ModelError
from edgecc.tflite.graph import Graph, itemsize

# Of the schema's types that numpy does not name alike.
_ITEMS = {"INT4": 1, "UINT4": 1, "INT2": 1, "BFLOAT16": 2, "STRING": 1, "RESOURCE": 4, "VARIANT": 8}


def network_of(graph: Graph) -> FlatNetwork:
    """A graph that is about to be written, as it will stand in the file."""
    tensors = tuple(
        FlatTensor(
            t.name, tuple(t.shape), itemsize(t.dtype), t.dtype, constant=t.data is not None,
            scales=0 if t.quant is None else int(np.size(t.quant.scale)),
        )
        for t in graph.tensors
    )  # fmt: skip
    operators = tuple(FlatOperator(o.code, o.inputs, o.outputs, dict(o.options)) for o in graph.operators)
    return FlatNetwork(tensors, operators, tuple(graph.inputs), tuple(graph.outputs))


def read_network(data: bytes) -> FlatNetwork:
    """The main graph of a TFLite file.

    Raises:
        ModelError: the file is not one, or is damaged.
    """
    import ai_edge_litert.schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ModelError("this is not a TFLite file: the identifier TFL3 is missing")
    try:
        model = schema.Model.GetRootAsModel(data, 0)
        graph = model.Subgraphs(0)
        if graph is None:
            raise ModelError("the file has no graph")
        kinds = {n: name for name, n in vars(schema.TensorType).items() if name.isupper()}
        codes = {n: name for name, n in vars(schema.BuiltinOperator).items() if name.isupper()}
        filled = [model.Buffers(i).DataLength() > 0 or model.Buffers(i).Offset() > 1
                  for i in range(model.BuffersLength())]  # fmt: skip
        tensors = tuple(_tensor(graph.Tensors(i), kinds, filled) for i in range(graph.TensorsLength()))
        operators = tuple(
            _operator(schema.OperatorT.InitFromObj(graph.Operators(i)), model, codes)
            for i in range(graph.OperatorsLength())
        )
        inputs = tuple(graph.Inputs(i) for i in range(graph.InputsLength()))
        outputs = tuple(graph.Outputs(i) for i in range(graph.OutputsLength()))
        network = FlatNetwork(tensors, operators, inputs, outputs, model.SubgraphsLength())
        _check(network)
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, UnicodeError) as error:
        raise ModelError(f"the TFLite file is damaged: {error}") from error
    return network


def _tensor(tensor: Any, kinds: dict[int, str], filled: list[bool]) -> FlatTensor:
    kind = kinds[tensor.Type()]
    quant = tensor.Quantization()
    has = quant is not None and quant.ScaleLength() and quant.ZeroPointLength()
    return FlatTensor(
        (tensor.Name() or b"").decode(),
        tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength())),
        _ITEMS.get(kind) or int(np.dtype(kind.lower()).itemsize),
        kind.lower(),
        constant=filled[tensor.Buffer()],
        variable=bool(tensor.IsVariable()),
        scales=int(quant.ScaleLength()) if has else 0,
    )


def _operator(operator: Any, model: Any, codes: dict[int, str]) -> FlatOperator:
    code = model.OperatorCodes(operator.opcodeIndex)
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    custom = (code.CustomCode() or b"").decode()
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    return FlatOperator(
        custom or codes[number],
        tuple(int(i) for i in _listed(operator.inputs)),
        tuple(int(i) for i in _listed(operator.outputs)),
        dict(options),
    )


def _listed(found: Any) -> Any:
    return () if found is None else found


def _check(network: FlatNetwork) -> None:
    count = len(network.tensors)
    for operator in network.operators:
        indices = (*operator.outputs, *(i for i in operator.inputs if i != -1))
        if any(not 0 <= i < count for i in indices):
            raise ModelError(f"{operator.code} names a tensor that the file does not have")
    if any(not 0 <= i < count for i in (*network.inputs, *network.outputs)):
        raise ModelError("an input or output names a tensor that the file does not have")
    if any(d < 0 for t in network.tensors for d in t.shape):
        raise ModelError("a tensor has a negative dimension")
