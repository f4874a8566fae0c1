"""Writes a `Graph` as a flatbuffer with LiteRT's own schema classes.

Layout of the file: https://www.tensorflow.org/lite schema.fbs, version 3. See buffers.py for where constants lie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecc.errors import UnsupportedError
from edgecc.ir import Array
from edgecc.tflite.buffers import Buffers
from edgecc.tflite.graph import Graph, Operator, Tensor
from edgecc.tflite.sparse import Compressed, compressed

SCHEMA_VERSION = 3
METADATA_NAME = "edgecc"
# A flatbuffer's offsets are 32 bit and signed.
MAX_BYTES = 2**31 - 1

# BuiltinOperator -> its options table, where the name does not follow from the operator's.
_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_ALL": "ReducerOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "PADV2": "PadV2Options",
    "GELU": "GeluOptions",
    "CONV_3D": "Conv3DOptions",
    "TOPK_V2": "TopKV2Options",
    "NON_MAX_SUPPRESSION_V4": "NonMaxSuppressionV4Options",
}


def write(
    graph: Graph, *, description: str, metadata: Mapping[str, Any], more: Mapping[str, bytes] | None = None
) -> bytes:
    """The bytes of a .tflite file; the same graph gives the same bytes.

    Args:
        graph: what to write.
        description: human-readable text of the model table.
        metadata: JSON-serialisable facts, stored under the metadata name `edgecc`.
        more: other entries of the metadata table, by name.

    Raises:
        UnsupportedError: the file would exceed 2 GB.
    """
    check_size(graph)
    model = schema.ModelT(version=SCHEMA_VERSION, description=description)
    buffers = Buffers()
    model.operatorCodes, code_index = _operator_codes(graph)
    subgraph = schema.SubGraphT(
        tensors=_tensors(graph.tensors, buffers),
        inputs=np.array(graph.inputs, np.int32),
        outputs=np.array(graph.outputs, np.int32),
        operators=[_operator(op, code_index[op.code, op.version]) for op in graph.operators],
        name="main",
    )
    model.subgraphs = [subgraph]
    model.signatureDefs = [
        schema.SignatureDefT(
            inputs=[schema.TensorMapT(n, i) for n, i in zip(graph.input_names, graph.inputs, strict=True)],
            outputs=[schema.TensorMapT(n, i) for n, i in zip(graph.output_names, graph.outputs, strict=True)],
            signatureKey="serving_default",
            subgraphIndex=0,
        )
    ]
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    model.metadata = [
        schema.MetadataT(name, buffers.add(np.frombuffer(held, np.uint8)))
        for name, held in {METADATA_NAME: text, **(more or {})}.items()
    ]
    model.buffers = [_Buffer(), *(_Buffer(data=data) for data in buffers.contents)]
    builder = flatbuffers.Builder(512 * len(graph.tensors) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return buffers.behind(builder.Output(), [b.place for b in model.buffers[1:]])


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose reference to its data is filled in later.

    Attributes:
        place: of that reference, in bytes from the end of the tables.
    """

    place = 0

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the name is the schema's
        schema.BufferStart(builder)
        if self.data is not None:
            builder.PrependUint32Slot(0, 1, 0)
            self.place = builder.Offset()
        return int(schema.BufferEnd(builder))


def check_size(graph: Graph) -> None:
    """Refuses, before any constant is touched, a graph whose file would not fit.

    Raises:
        UnsupportedError: the file would exceed 2 GB.
    """
    held = {id(t.data): t.data.nbytes >> (t.dtype == "int4") for t in graph.tensors if t.data is not None}
    size = sum(held.values()) + 512 * len(graph.tensors)
    if size > MAX_BYTES - 2**20:
        raise UnsupportedError(
            f"constants of {size / 1e9:.1f} GB do not fit into a TFLite file, which ends at 2 GB",
            remedy="choose a narrower --precision, or --format onnx",
        )


def _operator_codes(graph: Graph) -> tuple[list[Any], dict[tuple[str, int], int]]:
    codes: list[Any] = []
    index: dict[tuple[str, int], int] = {}
    for op in graph.operators:
        key = (op.code, op.version)
        if key in index:
            continue
        number = getattr(schema.BuiltinOperator, op.code)
        index[key] = len(codes)
        # Readers older than the 32-bit field look at the deprecated byte, where 127 means "see builtin_code".
        codes.append(
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(number, 127), builtinCode=number, version=op.version
            )
        )
    return codes, index


def _operator(op: Operator, code: int) -> Any:
    name = _OPTIONS.get(op.code) or "".join(p.capitalize() for p in re.split("_", op.code)) + "Options"
    packed = schema.OperatorT(
        opcodeIndex=code, inputs=np.array(op.inputs, np.int32), outputs=np.array(op.outputs, np.int32)
    )
    table = getattr(schema, f"{name}T", None)
    if table is None:
        if op.options:
            raise ValueError(f"{op.code} has no options table")
        return packed
    packed.builtinOptionsType = getattr(schema.BuiltinOptions, name)
    packed.builtinOptions = table(**op.options)
    return packed


def tensor_type(dtype: str) -> int:
    """The schema's number of a numpy type name."""
    return int(getattr(schema.TensorType, dtype.upper()))


def packed_int4(stored: Array) -> Array:
    """4-bit integers two to a byte, the first in the low half; rows follow each other without padding.

    Args:
        stored: any shape, int8, each from -8 to 7.

    Returns:
        (ceil(size / 2),) uint8.
    """
    flat = np.ascontiguousarray(stored, np.int8).reshape(-1).view(np.uint8) & np.uint8(15)
    even, odd = flat[::2], flat[1::2]
    both = even.copy()
    both[: odd.size] |= odd << np.uint8(4)
    return both


def _tensors(tensors: Sequence[Tensor], buffers: Buffers) -> list[Any]:
    """The tensor table; scales of blocks are tensors of their own behind those of the graph."""
    found = [_tensor(t, buffers) for t in tensors]
    for tensor, packed in zip(tensors, list(found), strict=True):
        quant = tensor.quant
        if quant is None or not quant.block_size:
            continue
        scales = quant.scale.reshape(quant.blocks(tensor.shape)).astype(np.float16)
        packed.quantization = schema.QuantizationParametersT(
            detailsType=schema.QuantizationDetails.BlockwiseQuantization,
            details=schema.BlockwiseQuantizationT(
                scales=len(found), zeroPoints=-1, blockSize=quant.block_size
            ),
        )
        found.append(_tensor(Tensor(f"{tensor.name}_scales", scales.shape, "float16", scales), buffers))
    return found


def _sparsity(shape: Sequence[int], held: Compressed) -> Any:
    last = schema.DimensionMetadataT(format=schema.DimensionType.SPARSE_CSR)
    last.arraySegmentsType, last.arraySegments = _index_vector(held.segments)
    last.arrayIndicesType, last.arrayIndices = _index_vector(held.indices)
    dense = [schema.DimensionMetadataT(denseSize=size) for size in shape[:-1]]
    return schema.SparsityParametersT(
        traversalOrder=np.arange(len(shape), dtype=np.int32), dimMetadata=[*dense, last]
    )


def _index_vector(numbers: Array) -> tuple[int, Any]:
    """The type and the table of an index vector."""
    name = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}[str(numbers.dtype)]
    return getattr(schema.SparseIndexVector, name), getattr(schema, f"{name}T")(values=numbers)


def _tensor(tensor: Tensor, buffers: Buffers) -> Any:
    data = packed_int4(tensor.data) if tensor.dtype == "int4" and tensor.data is not None else tensor.data
    held = compressed(data) if tensor.sparse and data is not None else None
    data = data if held is None else held.values
    packed = schema.TensorT(
        shape=np.array(tensor.shape, np.int32),
        type=tensor_type(tensor.dtype),
        buffer=0 if data is None else buffers.add(data),
        name=tensor.name,
        hasRank=True,
    )
    if held is not None:
        packed.sparsity = _sparsity(tensor.shape, held)
    if tensor.batched:
        packed.shapeSignature = np.array((-1, *tensor.shape[1:]), np.int32)
    if tensor.quant is not None and not tensor.quant.block_size:
        packed.quantization = schema.QuantizationParametersT(
            scale=np.asarray(tensor.quant.scale, np.float32).reshape(-1),
            zeroPoint=np.asarray(tensor.quant.zero_point, np.int64).reshape(-1),
            quantizedDimension=tensor.quant.axis or 0,
        )
    return packed
