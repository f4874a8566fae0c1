"""Which operator of a TFLite file each row of LiteRT's profile executes.

LiteRT counts built-in kernels by the operator's place in the file. XNNPACK counts what it made of its part: reshapes
and clamps come along, others are merged. Products it neither adds nor drops, and it keeps the order in which they are
executed: they are told apart by that order, if their number and the kind of each agree, and so are simpler kinds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgecc.analysis.tflite_workload import bytes_of, layer_of
from edgecc.profile import OperatorTime
from edgecc.profile.work import Work
from edgecc.tflite.reader import Graph, Operator, read_graph

_PLACE = re.compile(r"[#:](\d+)$")
_PRODUCTS = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL", "CONV_3D"}
)
_PRODUCT_ROWS = re.compile(r"(Dynamic )?(Convolution|Deconvolution|Fully Connected|Batch Matrix Multiply)\b")
# How the rows of other kinds begin -> operators that they may execute. (ai-edge-litert 2.3)
_OTHERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("Add (", frozenset({"ADD"})),
    ("Multiply (", frozenset({"MUL"})),
    ("Subtract (", frozenset({"SUB"})),
    ("Mean (", frozenset({"MEAN"})),
    ("Max Pooling (", frozenset({"MAX_POOL_2D"})),
    ("Average Pooling (", frozenset({"AVERAGE_POOL_2D"})),
    ("Softmax (", frozenset({"SOFTMAX"})),
    ("Sigmoid (", frozenset({"LOGISTIC"})),
    ("HardSwish (", frozenset({"HARD_SWISH"})),
    ("Resize Bilinear (", frozenset({"RESIZE_BILINEAR"})),
    ("Constant Pad (", frozenset({"PAD"})),
    ("Convert (", frozenset({"QUANTIZE", "DEQUANTIZE"})),
)


def matched(rows: Sequence[OperatorTime], data: bytes) -> list[Work | None]:
    """For each row the work of its operator, None where that is not certain.

    Args:
        rows: in order of execution.
        data: the TFLite file.

    Raises:
        ModelError: the file cannot be read.
    """
    graph = read_graph(data)
    found: list[Operator | None] = [_builtin(row, graph) for row in rows]
    inner = [i for i, row in enumerate(rows) if row.source == "xnnpack"]
    if any(op is None for i, op in enumerate(found) if i not in inner):
        return [None] * len(rows)  # what XNNPACK has got is not certain
    alone = {op.number for op in found if op is not None}
    delegated = [op for op in executed(graph, alone) if op.number not in alone]
    products = [i for i in inner if _PRODUCT_ROWS.match(rows[i].type)]
    _pair(found, rows, products, [op for op in delegated if op.code in _PRODUCTS])
    for start, codes in _OTHERS:
        chosen = [i for i in inner if rows[i].type.startswith(start)]
        _pair(found, rows, chosen, [op for op in delegated if op.code in codes])
    return [None if op is None else _work(op) for op in found]


def executed(graph: Graph, alone: set[int]) -> list[Operator]:
    """The operators in the order in which TFLite executes them when all but `alone` belong to a delegate.

    TFLite cuts the graph into parts of one kind, each as large as dependencies allow: as
    `PartitionGraphIntoIndependentNodeSubsets` (lite/graph_info.cc) does.
    """
    made = {t.index for op in graph.operators for t in op.outputs}
    waiting, order = list(graph.operators), []
    while waiting:
        kind: bool | None = None
        taken = True
        while taken:
            taken = False
            for op in list(waiting):
                own = op.number in alone
                if kind in (None, own) and not any(t is not None and t.index in made for t in op.inputs):
                    kind, taken = own, True
                    waiting.remove(op)
                    order.append(op)
                    made -= {t.index for t in op.outputs}
        if kind is None:
            return []  # a cycle: the file is damaged
    return order


def _builtin(row: OperatorTime, graph: Graph) -> Operator | None:
    place = _PLACE.search(row.name)
    if row.source != "builtin" or place is None or int(place[1]) >= len(graph.operators):
        return None
    op = graph.operators[int(place[1])]
    return op if op.code == row.type else None


def _pair(
    found: list[Operator | None], rows: Sequence[OperatorTime], chosen: Sequence[int], ops: Sequence[Operator]
) -> None:
    if len(chosen) == len(ops) and all(_agree(rows[i].type, op) for i, op in zip(chosen, ops, strict=True)):
        for i, op in zip(chosen, ops, strict=True):
            found[i] = op


def _agree(kernel: str, op: Operator) -> bool:
    """Whether a kernel may be an operator's: products must be of one kind."""
    if op.code not in _PRODUCTS:
        return True
    name = kernel.removeprefix("Dynamic ")
    if name.startswith("Fully Connected"):  # also what a 1x1 convolution becomes
        shape = op.given(1).shape
        return op.code == "FULLY_CONNECTED" or (op.code == "CONV_2D" and shape[1:3] == (1, 1))
    if name.startswith("Convolution"):
        return op.code == ("DEPTHWISE_CONV_2D" if name.endswith("DWConv") else "CONV_2D")
    return op.code == ("TRANSPOSE_CONV" if name.startswith("Deconvolution") else "BATCH_MATMUL")


def _work(op: Operator) -> Work:
    layer = layer_of(op)
    name = op.outputs[0].name if op.outputs else op.code
    return Work(name, 0 if layer is None else layer.macs, bytes_of(op))
