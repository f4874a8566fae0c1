"""A compiled network as C++ sources for a microcontroller: the bytes, the arena and the operators that it needs.

Names of the methods: tensorflow/lite/micro/micro_mutable_op_resolver.h of tensorflow/tflite-micro (commit 90b983c).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from edgecc.analysis.flat import FlatNetwork
from edgecc.artifact import Artifact
from edgecc.micro import MemoryFacts

MOST_BYTES = 4 * 2**20
"""Larger files become no C array: compilers take minutes and gigabytes for them, and no board here has the flash."""

_ALIGNMENT = 16
_ROW = 24
_LONGEST = 60  # characters of an identifier

# BuiltinOperator -> method of MicroMutableOpResolver, where it is not "Add" and the name in camel case.
_METHODS = {
    "AVERAGE_POOL_2D": "AddAveragePool2D", "BATCH_MATMUL": "AddBatchMatMul", "CONV_2D": "AddConv2D",
    "CUMSUM": "AddCumSum", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "L2_POOL_2D": "AddL2Pool2D",
    "MAX_POOL_2D": "AddMaxPool2D", "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}  # fmt: skip
_CAMEL = frozenset({
    "ABS", "ADD", "ADD_N", "ARG_MAX", "ARG_MIN", "ASSIGN_VARIABLE", "BATCH_TO_SPACE_ND", "BROADCAST_ARGS",
    "BROADCAST_TO", "CALL_ONCE", "CAST", "CEIL", "CONCATENATION", "COS", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV",
    "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "EXPAND_DIMS", "FILL", "FLOOR", "FLOOR_DIV",
    "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "IF",
    "L2_NORMALIZATION", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR",
    "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "PACK", "PAD",
    "PRELU", "QUANTIZE", "READ_VARIABLE", "REDUCE_ALL", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RESHAPE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "ROUND", "RSQRT", "SELECT_V2", "SHAPE", "SIN", "SLICE",
    "SOFTMAX", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE",
    "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "SVDF", "TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK", "VAR_HANDLE",
    "WHILE", "ZEROS_LIKE",
})  # fmt: skip


@dataclass(frozen=True)
class Firmware:
    """The sources of a network.

    Attributes:
        identifier: what their names begin with.
        files: their bytes by file name.
    """

    identifier: str
    files: dict[str, bytes]


def method(code: str) -> str | None:
    """The resolver's method that registers an operator; None where it has none."""
    camel = "Add" + "".join(part.capitalize() for part in code.split("_")) if code in _CAMEL else None
    return _METHODS.get(code, camel)


def identifier(name: str) -> str:
    """What all names of the sources begin with, for any name: letters, digits and single underscores, at most 60.

    Names that are too long or have letters beyond ASCII get a part of their hash.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    found = re.sub(r"[^0-9A-Za-z]+", "_", plain).strip("_")
    if not found or found[0].isdigit():
        found = f"model_{found}".rstrip("_")
    if len(found) > _LONGEST or plain != name:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        found = f"{found[: _LONGEST - 9].rstrip('_')}_{digest[:8]}"
    return found


def arena_size(predicted: int) -> int:
    """Bytes to give the arena: a twentieth and 1 KiB more than predicted, in whole 16 bytes.

    Sizes of structures differ between versions of TFLite Micro, and CMSIS-NN's buffers between compilers.
    """
    return -(-(predicted * 21 // 20 + 1024) // _ALIGNMENT) * _ALIGNMENT


def attach(
    name: str, artifact: Artifact, memory: MemoryFacts
) -> tuple[Artifact, dict[str, bytes], str | None]:
    """The artifact, which then says in its notes what was written for firmware; the files; a warning or None.

    Args:
        name: of the artifact's file without its extension.
        artifact: a TFLite file for TFLite Micro.
        memory: its arena.
    """
    from edgecc.tflite.flat import read_network

    if artifact.size > MOST_BYTES:
        size = f"{artifact.size:,} bytes ({MOST_BYTES:,} at most)"
        return artifact, {}, f"{name}: no C array is written for {size}: link the file itself"
    data = artifact.content()
    network = read_network(data)
    unknown = sorted({o.code for o in network.operators if method(o.code) is None})
    if unknown:
        return (
            artifact,
            {},
            f"{name}: no C array is written, as no operator resolver registers {', '.join(unknown)}",
        )
    made = sources(name, data, network, memory)
    facts = [
        {"file": f, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for f, d in made.files.items()
    ]
    return replace(artifact, notes={**artifact.notes, "firmware": facts}), made.files, None


def sources(name: str, data: bytes, network: FlatNetwork, memory: MemoryFacts) -> Firmware:
    """The header and the source file of a network."""
    found = identifier(name)
    codes = sorted({o.code for o in network.operators})
    header = _header(found, len(data), [m for c in codes if (m := method(c)) is not None], memory)
    return Firmware(
        found,
        {
            f"{found}.h": header.encode(),
            f"{found}.cc": "".join(_source(found, data)).encode(),
        },
    )


def _header(name: str, size: int, methods: Iterable[str], memory: MemoryFacts) -> str:
    listed = list(methods)
    guard = f"EDGECC_{name.upper()}_H_"
    calls = "\n".join(f"  if (resolver.{m}() != kTfLiteOk) return kTfLiteError;" for m in listed)
    return f"""// Made by edgecc: do not edit.
#ifndef {guard}
#define {guard}

#include <cstddef>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// The TFLite file, aligned to {_ALIGNMENT} bytes. It must stay in memory as long as the interpreter.
extern const unsigned char {name}_model[];
constexpr std::size_t {name}_model_size = {size};

// Bytes for the tensor arena, which must be aligned to {_ALIGNMENT}. Predicted for
// {memory.basis}: {memory.arena_bytes};
// a twentieth and 1 KiB are added, as sizes differ between versions and compilers.
// The interpreter, the resolver and the stack come on top.
constexpr std::size_t {name}_arena_size = {arena_size(memory.arena_bytes)};

// The operators of the network, and the resolver that holds just these.
constexpr unsigned int {name}_operator_count = {len(listed)};
using {name}_resolver = tflite::MicroMutableOpResolver<{len(listed)}>;

inline TfLiteStatus {name}_register_operators({name}_resolver& resolver) {{
{calls}
  return kTfLiteOk;
}}

#endif  // {guard}
"""


def _source(name: str, data: bytes) -> Iterator[str]:
    yield f'// Made by edgecc: do not edit.\n#include "{name}.h"\n\n'
    yield f"alignas({_ALIGNMENT}) const unsigned char {name}_model[] = {{\n"
    words = [str(i) for i in range(256)]
    for start in range(0, len(data), _ROW):
        yield ",".join([words[byte] for byte in data[start : start + _ROW]]) + ",\n"
    yield f'}};\n\nstatic_assert(sizeof({name}_model) == {name}_model_size, "the array is the file");\n'
