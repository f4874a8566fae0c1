"""A network run piece by piece in ONNX Runtime, as far as asked: what comes later is neither loaded nor run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from edgecc import ir


class Pieces:
    """Runs each node once, up to the values asked for; what later nodes read of it is fed to the next piece.

    The runtime itself computes all of a network that it has loaded, whichever outputs are fetched.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Mapping[str, ir.Array],
        wanted: Iterable[ir.Value],
        contents: Container[ir.Value],
    ) -> None:
        """Starts with the inputs.

        Args:
            model: the network, not changed.
            feeds: an array for each input.
            wanted: values of which something is remembered as soon as a piece computes them.
            contents: of these the content is remembered, of others an empty stand-in of the shape.
        """
        self._model = model
        self._wanted, self._contents = set(wanted), contents
        self._held = {value: feeds[str(value.name)] for value in model.graph.inputs}
        self._found = dict(self._held)
        self._done: set[ir.Node] = set()
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            for value in reads(node):
                self._readers.setdefault(value, []).append(node)

    def reach(self, values: Sequence[ir.Value]) -> list[ir.Array]:
        """What is remembered of each value (of the inputs and weights: all), once what it needs was run.

        Raises:
            EdgeccError: the runtime cannot run it.
        """
        missing = [v for v in values if v not in self._found and v.producer() is not None]
        if missing:
            self._run(missing)
        found = []
        for value in values:
            array = self._found[value] if value in self._found else ir.constant(value)
            assert array is not None, value.name
            found.append(array)
        return found

    def _run(self, targets: Sequence[ir.Value]) -> None:
        """Computes `targets`, with whatever else of the piece is wanted or read later."""
        from edgecc.runtime.ort import OrtRunner

        nodes = self._between(targets)
        self._done.update(nodes)
        made = [out for node in nodes for out in node.outputs if out.name]
        kept = [v for v in made if v in targets or v in self._wanted or self._is_read_later(v)]
        arrays = [v for v in kept if v in self._contents or v.type is None or self._is_read_later(v)]
        shaped = [v for v in kept if v not in arrays and (v in targets or v in self._wanted)]
        piece = self._piece(nodes, arrays)
        names = _add_shapes(piece.graph, shaped)
        feeds = {str(v.name): a for v, a in self._held.items()}
        for value in piece.graph.inputs:
            value.shape = ir.Shape(feeds[str(value.name)].shape)
        runner = OrtRunner.from_model(piece, optimize=False)
        answers = runner.run({spec.name: feeds[spec.name] for spec in runner.inputs})
        for value in arrays:
            array = answers[str(value.name)]
            if self._is_read_later(value):
                self._held[value] = array
            self._found[value] = array if value in self._contents else _stand_in(array.dtype, array.shape)
        for value, name in zip(shaped, names, strict=True):
            self._found[value] = _stand_in(np.dtype(np.int8), answers[name])
        self._held = {v: a for v, a in self._held.items() if v.producer() is None or self._is_read_later(v)}

    def _between(self, targets: Sequence[ir.Value]) -> list[ir.Node]:
        """The nodes that compute `targets` from what is held, in the order of the graph."""
        found = ancestors(targets, self._held)
        return [node for node in self._model.graph if node in found]

    def _is_read_later(self, value: ir.Value) -> bool:
        """Whether a node not run yet reads the value, and it can be handed over; else it is computed again."""
        if not isinstance(value.type, ir.TensorType) or value.dtype in (None, ir.DataType.STRING):
            return False
        builtin = value.dtype is not None and value.dtype.numpy().isbuiltin == 1  # not bfloat16, int4
        return builtin and any(node not in self._done for node in self._readers.get(value, ()))

    def _piece(self, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> ir.Model:
        read = dict.fromkeys(value for node in nodes for value in reads(node))
        own = {out for node in nodes for out in node.outputs}
        graph = ir.GraphView(
            [v for v in read if v in self._held and v not in own],
            outputs,
            nodes=nodes,
            initializers=[v for v in read if v.is_initializer()],
            opset_imports=self._model.graph.opset_imports,
            name=self._model.graph.name,
        ).clone()
        return ir.Model(
            graph, ir_version=self._model.ir_version, functions=list(self._model.functions.values())
        )


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads of its graph: its inputs, and what its sub-graphs take from outside."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            bodies = (
                [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
            )
            inner = (v for body in bodies for n in body.all_nodes() for v in n.inputs)
            found += [v for v in inner if v is not None and v.graph is node.graph]
    return found


def ancestors(values: Iterable[ir.Value], held: Container[ir.Value] = ()) -> set[ir.Node]:
    """The nodes that compute values, up to those that are held."""
    found: set[ir.Node] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        node = None if value in held else value.producer()
        if node is not None and node not in found:
            found.add(node)
            stack.extend(reads(node))
    return found


def _add_shapes(graph: ir.Graph, values: Sequence[ir.Value]) -> list[str]:
    """Outputs that are the shapes of values: the runtime can free the values themselves."""
    mirror = {out.name: out for node in graph for out in node.outputs}
    names = []
    for value in values:
        names.append(ir.fresh_name(graph, f"{value.name}_shape"))
        out = ir.Value(name=names[-1], type=ir.TensorType(ir.DataType.INT64))
        graph.append(ir.Node("", "Shape", [mirror[value.name]], outputs=[out]))
        graph.outputs.append(out)
    return names


def _stand_in(dtype: np.dtype[np.generic], shape: Sequence[int] | ir.Array) -> ir.Array:
    return np.broadcast_to(np.empty((), dtype), tuple(int(d) for d in shape))
