"""What belongs to a model file: the files beside it that hold its data, and what tells it from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from edgecc import ir, modelfile
from edgecc.onnxfile import serialize


def data_files(path: Path) -> dict[str, Path]:
    """The files beside an ONNX file that hold weights and constants of it, by their names there; checked as by `read`.

    A model that holds its weights itself is searched, not read.

    Raises:
        ModelError: as `read`.
    """
    if not _mentions(path, b"location"):  # the key under which ONNX keeps the name of such a file
        return {}
    modelfile.read(path)  # which refuses what leads elsewhere; small tensors, however, lie in memory then
    proto = modelfile.parse(modelfile.read_bytes(path), str(path))
    nodes = (node for function in proto.functions for node in function.node)
    places = {Path(p) for p in (*_locations(proto.graph.node, proto.graph.initializer), *_locations(nodes))}
    return {place.as_posix(): path.absolute().parent / place for place in sorted(places)}


def _mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds a word; read a piece at a time, as mapped pages would count as memory."""
    with path.open("rb") as file:
        rest = b""
        while piece := file.read(1 << 22):
            if word in rest + piece:
                return True
            rest = piece[-len(word) :]
    return False


def _locations(nodes: Iterable[onnx.NodeProto], tensors: Iterable[onnx.TensorProto] = ()) -> Iterator[str]:
    """Where tensors have their data, those in attributes and sub-graphs included."""
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")
    for node in nodes:
        for attr in node.attribute:
            yield from _locations((), [attr.t, *attr.tensors])
            for graph in (attr.g, *attr.graphs):
                yield from _locations(graph.node, graph.initializer)


def identity(source: Path | str | bytes | onnx.ModelProto | ir.Model, model: ir.Model) -> tuple[str, int]:
    """sha256 and bytes of a model: of its file and its external data, else of its serialised form.

    Args:
        source: as it was given.
        model: as it was read.
    """
    if not isinstance(source, (str, Path)):
        data = source if isinstance(source, bytes) else serialize(model)
        return hashlib.sha256(data).hexdigest(), len(data)
    digest, size = hashlib.sha256(), 0
    for path in (Path(source), *data_files(Path(source)).values()):
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
                size += len(chunk)
    return digest.hexdigest(), size
