"""The TFLITE_METADATA buffer, read back by the layout of TFLite Support's metadata_schema.fbs."""

from pathlib import Path

import flatbuffers.number_types
import flatbuffers.table
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from tflite_cases import compiled, quantized

from edgecc import __version__
from edgecc.importer import load
from edgecc.runtime.litert_ports import read_metadata
from edgecc.tflite.lower import lower

MODELS = Path(__file__).resolve().parents[1] / "models"
PASSES = [
    "clean_up",
    "fold_constants",
    "simplify_reshapes",
    "fuse_gemm",
    "fold_batchnorm",
    "fuse_activation",
    "clean_up",
]


class Table:
    """A table of a flatbuffer without its generated class."""

    def __init__(self, data: bytes, position: int) -> None:
        self._table = flatbuffers.table.Table(bytearray(data), position)
        self._data = data

    def text(self, field: int) -> str | None:
        at = self._table.Offset(4 + 2 * field)
        return self._table.String(at + self._table.Pos).decode() if at else None

    def _items(self, field: int) -> list[int]:
        at = self._table.Offset(4 + 2 * field)
        if not at:
            return []
        start = self._table.Vector(at)
        return [start + 4 * i for i in range(self._table.VectorLen(at))]

    def tables(self, field: int) -> list["Table"]:
        return [Table(self._data, self._table.Indirect(item)) for item in self._items(field)]

    def texts(self, field: int) -> list[str]:
        return [self._table.String(item).decode() for item in self._items(field)]


def metadata_of(data: bytes) -> Table:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    entries = {m.name.decode(): model.buffers[m.buffer] for m in model.metadata}
    assert set(entries) == {"edgecc", "TFLITE_METADATA"}
    held = np.asarray(entries["TFLITE_METADATA"].data, np.uint8).tobytes()
    assert held[4:8] == b"M001"
    return Table(held, int.from_bytes(held[:4], "little"))


def test_names_and_descriptions_of_a_quantized_network() -> None:
    graph, _ = quantized(onnx.load(MODELS / "digits_cnn.onnx"), PASSES)
    artifact = lower(graph, precision="int8", target="arm", io_dtype="int8")
    found = metadata_of(artifact.data)
    assert found.text(0) == graph.graph.name
    assert found.text(1) == "compiled from an ONNX model"
    assert (found.text(2), found.text(7)) == (__version__, "1.0.0")
    (main,) = found.tables(3)
    (image,), (logits,) = main.tables(2), main.tables(3)
    port = artifact.inputs[0]
    assert (image.text(0), logits.text(0)) == ("image", "logits")
    text = image.text(1)
    assert text is not None
    assert text.startswith(f"int8, real value = {port.scale:g} * (stored - {port.zero_point})")
    if port.permutation is not None:
        assert image.texts(2) == ["batch", "height", "width", "channel"]


def test_edgecc_still_finds_its_own() -> None:
    data = compiled(load(MODELS / "digits_mlp.onnx")).data
    assert read_metadata(data)["precision"] == "fp32"
    assert len(metadata_of(data).tables(3)) == 1


def test_dimensions_are_named_only_where_they_moved() -> None:
    (main,) = metadata_of(compiled(load(MODELS / "digits_mlp.onnx")).data).tables(3)
    assert [t.texts(2) for t in main.tables(2)] == [[]]
