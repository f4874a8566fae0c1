"""Reads a model that nobody vouches for: every tensor is checked before it is touched (DESIGN §3)."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgecc import ir
from edgecc.errors import ModelError

# A protobuf message cannot be longer (protobuf's encoding guide, "size limits").
_PROTOBUF_LIMIT = 2**31 - 1
# Nesting of sub-graphs: real networks use 2 or 3; deeper ones only attack the stack. A guess, with a margin.
_DEEPEST = 16
# External tensors up to this size are read at once: shape inference wants to see them, and they may be many.
_SMALL_BYTES = 1024
_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def read(source: Path | str | bytes | onnx.ModelProto | ir.Model) -> ir.Model:
    """The model as it was written, with tensors whose size and place have been checked.

    External data is mapped into memory, not read. A given `ir.Model` or `onnx.ModelProto` stays as it is.

    Raises:
        ModelError: not a readable ONNX model, or external data outside the model's folder or beyond its file.
    """
    folder: Path | None = None
    if isinstance(source, ir.Model):
        model, folder = source.clone(), Path.cwd()
    else:
        if isinstance(source, onnx.ModelProto):
            proto = source
        elif isinstance(source, bytes):
            proto = parse(source, None)
        else:
            path = Path(source)
            proto = parse(read_bytes(path), str(path))
            folder = Path(os.path.abspath(path)).parent
        _check_proto(proto.graph)
        with _quiet():
            model = ir.serde.deserialize_model(proto)
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        _check_graph_tensors(graph, folder)
    return model


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file.

    Raises:
        ModelError: it is none that can be read.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise ModelError("this is a folder", node=str(path), remedy="name the .onnx file in it")
        if not stat.S_ISREG(found.st_mode):
            raise ModelError("this is not a regular file", node=str(path))
        if found.st_size == 0:
            raise ModelError("the file is empty", node=str(path))
        if found.st_size > _PROTOBUF_LIMIT:
            raise ModelError(
                "the file is larger than 2 GB, which protobuf cannot read",
                node=str(path),
                remedy="save the model with external data",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError("there is no such file", node=str(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ModelError(f"cannot read the file: {error}", node=str(path)) from error


def parse(data: bytes, name: str | None) -> onnx.ModelProto:
    """The protobuf in the bytes of a file, which is called `name`.

    Raises:
        ModelError: they are no ONNX model.
    """
    if data[4:8] == b"TFL3":
        raise ModelError(
            "this is a TFLite file, not an ONNX model",
            node=name,
            remedy="compile the ONNX model that it was made from; inspect, verify and profile take .tflite files",
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            "this is not an ONNX file, or it is truncated or damaged",
            node=name,
            remedy="copy or export it again, and compare its size",
        ) from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError("this is not an ONNX model: it holds no graph or no IR version", node=name)
    return proto


def _check_proto(graph: onnx.GraphProto, depth: int = 0) -> None:
    """What `onnx_ir` would read without complaint, or not at all."""
    if depth > _DEEPEST:
        raise ModelError(f"sub-graphs are nested more than {_DEEPEST} deep", node=graph.name)
    if graph.sparse_initializer:
        raise ModelError(
            "sparse initializers are not supported",
            node=graph.sparse_initializer[0].values.name,
            remedy="save the weights densely",
        )
    for what, names in (
        ("initializers", [tensor.name for tensor in graph.initializer]),
        ("inputs", [info.name for info in graph.input]),
        ("outputs", [info.name for info in graph.output]),
    ):
        if "" in names:
            raise ModelError(f"one of the graph's {what} has no name", node=graph.name)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError(f"two of the graph's {what} have the same name", node=twice)
    given = {info.name: info for info in graph.input}
    for info in graph.output:
        if info.name in given and _contradict(info, given[info.name]):
            raise ModelError("an input is an output of another type or shape", node=info.name)
    for tensor in graph.initializer:
        _check_entries(tensor, tensor.name)
    known = {tensor.name for tensor in graph.initializer} | {info.name for info in graph.input}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in known:
                raise ModelError("the graph defines this value twice", node=name)
            known.add(name)
        for attr in node.attribute:
            if attr.type == onnx.AttributeProto.TENSOR:
                _check_entries(attr.t, node.name or node.op_type)
            if attr.type in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
                raise ModelError("sparse constants are not supported", node=node.name or node.op_type)
            if attr.type == onnx.AttributeProto.GRAPH:
                _check_proto(attr.g, depth + 1)
            for inner in attr.graphs:
                _check_proto(inner, depth + 1)


def _contradict(one: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether two declarations of one tensor differ in type, rank or a known length."""
    a, b = one.type.tensor_type, other.type.tensor_type
    if not (one.type.HasField("tensor_type") and a.HasField("shape") and b.HasField("shape")):
        return False
    pairs = zip(a.shape.dim, b.shape.dim, strict=False)
    lengths = any(x.dim_value > 0 and y.dim_value > 0 and x.dim_value != y.dim_value for x, y in pairs)
    return a.elem_type != b.elem_type or len(a.shape.dim) != len(b.shape.dim) or lengths


def _check_entries(tensor: onnx.TensorProto, name: str) -> None:
    for entry in tensor.external_data:
        if entry.key in ("offset", "length") and not (entry.value.isascii() and entry.value.isdigit()):
            raise ModelError(f"the {entry.key} of the external data is {entry.value[:40]!r}", node=name)


def _check_graph_tensors(graph: ir.Graph, folder: Path | None) -> None:
    """Checks the initializers of one graph and the tensors in attributes; loads those inside the protobuf."""
    for name, value in graph.initializers.items():
        if value.const_value is None:
            raise ModelError("the initializer has no data", node=name)
        value.const_value = _checked(value.const_value, name, folder)
    for node in graph:
        for attr_name, attr in tuple(node.attributes.items()):
            if attr.is_ref():
                continue
            if attr.type == ir.AttributeType.TENSOR:
                tensor = _checked(attr.as_tensor(), ir.label(node), folder)
                if isinstance(tensor, ir.ExternalTensor):
                    tensor = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
                node.attributes[attr_name] = ir.Attr(attr_name, attr.type, tensor, attr.doc_string)
            elif attr.type == ir.AttributeType.TENSORS:
                for tensor in attr.as_tensors():
                    _checked(tensor, ir.label(node), folder)


def _checked(tensor: ir.TensorProtocol, name: str, folder: Path | None) -> ir.TensorProtocol:
    """The tensor, its bytes taken out of the protobuf once, as every later access would copy them."""
    shape = tuple(tensor.shape)
    if not all(isinstance(d, int) and d >= 0 for d in shape):
        raise ModelError(f"the tensor has the shape {list(shape)}", node=name)
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelError("the tensor has no type", node=name)
    if isinstance(tensor, ir.ExternalTensor):
        tensor = _checked_external(tensor, name, folder)
        if tensor.nbytes > _SMALL_BYTES:
            return tensor
        return ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)
    raw = tensor.raw
    if (
        isinstance(raw, onnx.TensorProto)
        and tensor.size
        and not (raw.HasField("raw_data") or any(len(getattr(raw, field)) for field in _TYPED_FIELDS))
    ):
        raise ModelError(f"the tensor of shape {list(shape)} holds no data", node=name)
    packed = tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8
    if packed or not isinstance(raw, onnx.TensorProto):
        return tensor
    try:
        array: ir.Array = np.asarray(tensor.numpy())
    except (ValueError, TypeError, AssertionError) as error:
        raise ModelError(f"the tensor's data does not fit its type and shape: {error}", node=name) from error
    return ir.Tensor(array, dtype=tensor.dtype, shape=ir.Shape(array.shape), name=tensor.name or name)


def _checked_external(tensor: ir.ExternalTensor, name: str, folder: Path | None) -> ir.ExternalTensor:
    """Only regular files inside the model's folder, links resolved, and only bytes that are there."""
    if folder is None:
        raise ModelError(
            "the tensor's data lies in a file beside the model, whose folder is not known",
            node=name,
            remedy="give the path of the model instead of its bytes",
        )
    base = Path(os.path.realpath(folder / tensor.base_dir))
    location = os.fspath(tensor.location)
    # Written for the folder it names, not for the one it resolves to: `a/../b` is refused like `../b`.
    if not location or os.path.isabs(location) or ".." in Path(location).parts or "\\" in location:
        raise ModelError(f"external data at {location!r} is outside the model's folder", node=name)
    try:
        path = Path(os.path.realpath(base / location))
        if not path.is_relative_to(base):
            raise ModelError(f"external data at {location!r} leads outside the model's folder", node=name)
        found = path.stat()
    except (OSError, ValueError) as error:
        raise ModelError(f"external data at {location!r} cannot be read: {error}", node=name) from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"external data at {location!r} is not a regular file", node=name)
    if found.st_nlink > 1:  # onnx_ir refuses it when it reads: a hard link can lead outside unseen
        raise ModelError(
            f"external data at {location!r} has several hard links", node=name, remedy="copy the file"
        )
    offset, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if length != tensor.nbytes:
        raise ModelError(f"{length} bytes of external data for a tensor of {tensor.nbytes}", node=name)
    if offset < 0 or offset + length > found.st_size:
        raise ModelError(
            f"external data in bytes {offset} to {offset + length} of {location!r}, {found.st_size} long",
            node=name,
        )
    return ir.ExternalTensor(
        location, offset, length, tensor.dtype, shape=tensor.shape, name=name, base_dir=base
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings of `onnx_ir` about what is refused here anyway off the terminal."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
