"""Counts what the layers of ncnn's benchmark networks compute, from their graph definitions (.param files).

    python benchmarks/ncnn_layers.py FOLDER > benchmarks/latency_networks.csv

FOLDER holds `benchmark/models/*.param` of ncnn's sources. The counts are those of `edgecc.analysis.workload`; they are
facts about public networks and contain nothing of the files.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from edgecc.analysis.workload import RATES, Layer, kind_of, total_amounts

SIZES = {
    "squeezenet": 227, "alexnet": 227, "squeezenet_ssd": 300, "mobilenet_ssd": 300, "mobilenet_yolo": 416,
    "mobilenetv2_yolov3": 352, "nanodet_m": 320, "yolo-fastest-1.1": 320, "yolo-fastestv2": 352,
    "yolov4-tiny": 416, "FastestDet": 352, "blazeface": 128,
}  # fmt: skip

Shape = tuple[int, int, int]


@dataclass
class _Row:
    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    options: dict[int, str]

    def number(self, key: int, default: int) -> int:
        return int(self.options.get(key, default))


def read_rows(path: Path) -> list[_Row]:
    """The layers of a .param file in order."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines()[2:]:
        words = line.split()
        if len(words) < 4:
            continue
        n_in, n_out = int(words[2]), int(words[3])
        blobs = words[4 : 4 + n_in + n_out]
        options = dict(w.split("=", 1) for w in words[4 + n_in + n_out :] if "=" in w)
        rows.append(
            _Row(words[0], words[1], blobs[:n_in], blobs[n_in:], {int(k): v for k, v in options.items()})
        )
    return rows


def _out(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    if pad in (-233, -234):  # SAME
        return -(-size // stride)
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def layers(path: Path, size: int) -> list[Layer]:
    """What each layer computes for a square picture."""
    shapes: dict[str, Shape] = {}
    found: list[Layer] = []
    for row in read_rows(path):
        given = [shapes[name] for name in row.inputs]
        out, layer = _compute(row, given, size)
        for i, name in enumerate(row.outputs):
            shapes[name] = out[min(i, len(out) - 1)]
        if layer is not None:
            found.append(layer)
    return found


def _elements(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def _compute(row: _Row, given: list[Shape], size: int) -> tuple[list[Shape], Layer | None]:
    if row.kind == "Input":
        return [(row.number(2, 3), row.number(1, size), row.number(0, size))], None
    if row.kind == "MemoryData":
        return [(row.number(2, 1), row.number(1, 1), row.number(0, 1))], None
    if row.kind in ("Convolution", "ConvolutionDepthWise", "DeconvolutionDepthWise"):
        out, layer = _convolution(row, given[0])
        return [out], layer
    if row.kind == "InnerProduct":
        count = row.number(2, 0)
        out = (row.number(0, 0), 1, 1)
        return [out], Layer(row.name, row.kind, "fc", count, _elements(given[0]) + out[0], count, out[0])
    out_shapes = _moved(row, given)
    if row.kind in ("Split", "Flatten", "Reshape", "Noop", "Dropout"):
        return out_shapes, None
    kind = "exp" if row.kind in ("Swish", "Sigmoid", "Softmax", "GELU") else "other"
    kind = "power" if row.kind == "LRN" else kind
    moved = sum(map(_elements, (*given, *out_shapes)))
    return out_shapes, Layer(row.name, row.kind, kind, 0, moved, 0, sum(map(_elements, out_shapes)))


def _convolution(row: _Row, given: Shape) -> tuple[Shape, Layer]:
    channels, kw, count = row.number(0, 0), row.number(1, 1), row.number(6, 0)
    kh, stride, dilation, pad = row.number(11, kw), row.number(3, 1), row.number(2, 1), row.number(4, 0)
    if row.kind.startswith("Deconv"):
        h, w = given[1] * stride, given[2] * stride
        macs = count * given[1] * given[2]
    else:
        h = _out(given[1], kh, row.number(13, stride), row.number(14, pad), dilation)
        w = _out(given[2], kw, stride, pad, dilation)
        macs = count * h * w
    group = row.number(7, 1)
    per_group = given[0] // group
    kind = kind_of((kh, kw), stride, dilation, group, per_group, channels)
    out = (channels, h, w)
    return out, Layer(
        row.name, row.kind, kind, macs, _elements(given) + _elements(out), count, _elements(out)
    )


def _moved(row: _Row, given: list[Shape]) -> list[Shape]:
    c, h, w = given[0]
    if row.kind == "Pooling":
        if row.number(4, 0):
            return [(c, 1, 1)]
        kernel, stride, pad = row.number(1, 1), row.number(2, 1), row.number(3, 0)
        if row.number(5, 0) == 0:  # full padding rounds up
            high, wide = (-(-(n + 2 * pad - kernel) // stride) + 1 for n in (h, w))
            return [(c, high, wide)]
        if row.number(5, 0) in (2, 3):
            return [(c, -(-h // stride), -(-w // stride))]
        return [(c, _out(h, kernel, stride, pad, 1), _out(w, kernel, stride, pad, 1))]
    if row.kind == "Concat" and row.number(0, 0) == 0:
        return [(sum(g[0] for g in given), h, w)]
    if row.kind == "Slice":
        return [(c // len(row.outputs), h, w)] * len(row.outputs)
    if row.kind == "Interp":
        if row.number(3, 0):
            return [(c, row.number(3, 0), row.number(4, 0))]
        return [(c, int(h * float(row.options.get(1, 1))), int(w * float(row.options.get(2, 1))))]
    if row.kind == "Padding":
        rows, columns = row.number(0, 0) + row.number(1, 0), row.number(2, 0) + row.number(3, 0)
        return [(c, h + rows, w + columns)]
    if row.kind == "BinaryOp" and len(given) > 1:
        return [max(given, key=_elements)]
    if row.kind == "Reduction":
        return [(c, 1, 1)]
    return [given[0]]


def main() -> None:
    """Writes the table."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["model", *RATES])
    for path in sorted(Path(sys.argv[1]).glob("*.param")):
        if path.stem.endswith("_int8") or path.stem == "vision_transformer":
            continue  # the same graphs; one whose attention is no layer of these kinds
        counted = total_amounts(layers(path, SIZES.get(path.stem, 224)))
        writer.writerow([path.stem, *(int(counted[name]) for name in RATES)])


if __name__ == "__main__":
    main()
