"""What ONNX's own shape inference gets wrong, written so that it does not."""

from __future__ import annotations

from edgecc import ir


def spell_out_padding(model: ir.Model) -> None:
    """Gives ConvTranspose with auto_pad SAME its pads, in place, where it has an output_padding too.

    The specification makes the result stride times the input, so pads are output_padding + (kernel - 1) dilation + 1 -
    stride in all, whatever the input's length; shape inference (onnx 1.23) adds output_padding once more.
    """
    for graph in model.graphs():
        for node in graph:
            mode = ir.attribute(node, "auto_pad", "NOTSET")
            added = [int(p) for p in ir.attribute(node, "output_padding", ())]
            if (
                node.op_type != "ConvTranspose"
                or node.domain
                or not mode.startswith("SAME")
                or not any(added)
            ):
                continue
            kernel = ir.attribute(node, "kernel_shape", None) or _kernel(node)
            if kernel is None or ir.attribute(node, "output_shape", None) is not None:
                continue
            ones = [1] * len(added)
            strides, dilations = (ir.attribute(node, n, ones) for n in ("strides", "dilations"))
            total = [
                max(a + (int(k) - 1) * int(d) + 1 - int(s), 0)
                for a, k, d, s in zip(added, kernel, dilations, strides, strict=True)
            ]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            del node.attributes["auto_pad"]
            pads = [*less, *more] if mode == "SAME_UPPER" else [*more, *less]
            node.attributes.add(ir.Attr("pads", ir.AttributeType.INTS, pads))


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    weights = node.inputs[1]
    shape = None if weights is None else ir.dims(weights)
    return None if shape is None or None in shape else tuple(int(d or 0) for d in shape[2:])
