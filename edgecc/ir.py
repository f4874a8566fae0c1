"""The one IR: `onnx_ir` under a short name, and the few questions every part asks of a graph.

Import `onnx_ir` through this module inside edgecc: it keeps sympy (1.7 s of a 2.3 s import, needed only for
arithmetic on symbolic dimensions) unloaded until it is used. See docs/adr/0001-deferred-sympy.md.
"""

from __future__ import annotations

import gc
import importlib
import mmap
import sys
import weakref
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


class _DeferredSympy(ModuleType):
    """Stands in for sympy while onnx_ir is imported; loads the real one when it is first called."""

    # Bound by onnx_ir._symbolic_shapes when it is imported, called only when a symbolic expression is parsed.
    _functions = frozenset({"Max", "Min", "floor", "sqrt", "Mod"})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._functions:
            return lambda *args: getattr(importlib.import_module("sympy"), name)(*args)  # noqa: PLW0108
        return getattr(importlib.import_module("sympy"), name)


if "onnx_ir" not in sys.modules and "sympy" not in sys.modules:
    sys.modules["sympy"] = _DeferredSympy("sympy")
    try:
        import onnx_ir
    finally:
        del sys.modules["sympy"]
else:
    import onnx_ir  # noqa: F401

from onnx_ir import (  # noqa: E402
    Attr,
    AttributeType,
    DataType,
    ExternalTensor,
    Graph,
    GraphView,
    Model,
    Node,
    Shape,
    StringTensor,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    Value,
    convenience,
    passes,
    serde,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "LARGE_BYTES",
    "Array",
    "Attr",
    "AttributeType",
    "DataType",
    "ExternalTensor",
    "Graph",
    "GraphView",
    "Model",
    "Node",
    "Shape",
    "StringTensor",
    "SymbolicDim",
    "Tensor",
    "TensorProtocol",
    "TensorType",
    "Value",
    "add_initializer",
    "attribute",
    "byte_pieces",
    "can_bypass",
    "constant",
    "consumers",
    "convenience",
    "dims",
    "fresh_name",
    "is_static",
    "label",
    "passes",
    "release",
    "release_source",
    "replace",
    "serde",
    "single_consumer",
    "static_dims",
    "weight_bytes",
]


def constant(value: Value | None) -> Array | None:
    """The array of an initializer, or None where `value` is absent or computed. Never copies the weights."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def dims(value: Value) -> tuple[int | None, ...] | None:
    """The shape with None for each symbolic dimension; None where even the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape.dims)


def is_static(value: Value) -> bool:
    """Whether every dimension but a leading (batch) one is a number."""
    shape = dims(value)
    return shape is not None and all(d is not None for d in shape[1:])


def static_dims(value: Value) -> tuple[int, ...]:
    """The shape with a symbolic batch counted as 1.

    Raises:
        ValueError: the rank or a dimension other than the first is unknown.
    """
    shape = dims(value)
    if shape is None or not is_static(value):
        raise ValueError(f"{value.name} has no static shape: {value.shape}")
    return tuple(1 if d is None else d for d in shape)


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The Python value of an attribute: int, float, str, tuple of these, tensor or graph."""
    attr = node.attributes.get(name)
    if attr is None:
        return default
    value = attr.value
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return value


def label(node: Node) -> str:
    """What messages call a node: its name, else its first output's."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def consumers(value: Value) -> list[Node]:
    """The nodes that read `value`, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def single_consumer(value: Value) -> Node | None:
    """The only node that reads `value`, or None if there are several, none, or it is a graph output."""
    nodes = consumers(value)
    return nodes[0] if len(nodes) == 1 and not value.is_graph_output() else None


_NAMES = "edgecc.names"
# Constants up to this size are made contiguous, which is faster; larger ones may be views, such as a transpose.
_SMALL_BYTES = 1 << 20
_CHUNK = 1 << 24
# From this many bytes of weights on, memory counts for more than time: they are not held twice.
LARGE_BYTES = 1 << 28


def _names(graph: Graph) -> set[str | None]:
    """The names in use, kept with the graph so that asking for many fresh names stays linear."""
    kept = graph.meta.get(_NAMES)
    if kept is not None and kept[0]() is graph:  # a clone carries its original's store: not its own
        names: set[str | None] = kept[1]
        return names
    names = {v.name for v in graph.inputs} | set(graph.initializers)
    names.update(out.name for node in graph for out in node.outputs)
    graph.meta[_NAMES] = (weakref.ref(graph), names)
    return names


def fresh_name(graph: Graph, stem: str) -> str:
    """`stem`, or `stem` with a number, such that no value of the graph has or was given that name.

    Names of values that were added without asking here are seen only by the first call: ask before adding.
    """
    taken = _names(graph)
    name, count = stem, 0
    while name in taken or name in graph.initializers:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def add_initializer(graph: Graph, array: Array, name: str) -> Value:
    """Adds a constant, without a copy of it. `name` must be free: see `fresh_name`."""
    if name in graph.initializers:
        raise ValueError(f"the graph already has an initializer {name!r}")
    if array.nbytes <= _SMALL_BYTES and array.ndim:
        array = np.ascontiguousarray(array)
    tensor = Tensor(array, dtype=DataType.from_numpy(array.dtype), name=name)
    value = Value(name=name, shape=Shape(array.shape), type=TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def weight_bytes(model: Model) -> int:
    """Of all constants of the graph."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def release(model: Model) -> None:
    """Gives memory back, if the weights of `model` are large: that of models which nothing refers to any more, and that
    in which external data was read, which is read again from its file where it is needed.
    """
    if weight_bytes(model) < LARGE_BYTES:
        return
    gc.collect()  # the nodes and values of a graph refer to each other
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ExternalTensor) and tensor.raw is not None:
                _forget(tensor.raw)


def release_source(array: Array) -> None:
    """Gives back the memory of the file that an array is a view of, if it is one; it is read again where needed."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    _forget(owner.obj if isinstance(owner, memoryview) else owner)


def _forget(mapped: Any) -> None:
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def byte_pieces(data: Array) -> Iterator[memoryview]:
    """The bytes of an array in order; one that is not contiguous is made so a piece at a time."""
    if data.flags.c_contiguous or data.nbytes <= _CHUNK:
        yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        return
    rows = max(1, _CHUNK * len(data) // data.nbytes)
    for start in range(0, len(data), rows):
        part = data[start : start + rows]
        if rows == 1 and part.ndim > 1:
            yield from byte_pieces(part[0])
        else:
            yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def replace(old: Iterable[Node], new: Iterable[Node], outputs: dict[Value, Value]) -> None:
    """Moves all uses of the keys of `outputs` to its values, which `new` nodes compute, and deletes `old`.

    The new nodes stand where the first replaced output was computed, so all that `old` read is there. A new
    value takes the name of the one it replaces; a value that was in the graph before keeps its own, unless it
    becomes a graph output, whose names are part of the contract with the user.

    Raises:
        ValueError: a graph output would become an input, a constant or a second output (see `can_bypass`).
    """
    old, new = list(old), list(new)
    graph = old[0].graph
    assert isinstance(graph, Graph)
    anchors = {producer for value in outputs if (producer := value.producer()) is not None} or set(old)
    first = next(iter(anchors)) if len(anchors) == 1 else next(node for node in graph if node in anchors)
    graph.insert_before(first, new)
    created = {out for node in new for out in node.outputs}
    for before, after in outputs.items():
        if not can_bypass(before, after):
            raise ValueError(f"the output {before.name} cannot become {after.name}: both names must stay")
        if after.shape is None:
            after.shape = before.shape
        if after.type is None:
            after.type = before.type
        if after in created or before.is_graph_output():
            name, before.name = before.name, None
            after.name = name
        convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def holds_graph(node: Node) -> bool:
    """Whether an attribute of the node is a graph or several (If, Loop, Scan)."""
    return any(a.type in (AttributeType.GRAPH, AttributeType.GRAPHS) for a in node.attributes.values())


def can_bypass(before: Value, after: Value) -> bool:
    """Whether `after` can take the place of `before`: two names that the user sees cannot become one."""
    if not before.is_graph_output():
        return True
    return not (after.is_graph_input() or after.is_initializer() or after.is_graph_output())
