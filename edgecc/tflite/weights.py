"""Constant weights as kernels read them, and which kernels read them in 8 and in 4 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecc.analysis.sites import Operand
from edgecc.ir import Array
from edgecc.quant.int4 import BLOCK_OUTPUTS, BLOCK_SIZES
from edgecc.quant.params import QuantParams
from edgecc.tflite.builder import Builder, NeedsFloat
from edgecc.tflite.graph import Graph

# XNNPACK takes int4 in FULLY_CONNECTED alone; the built-in convolutions unpack their weights at every run.

# FULLY_CONNECTED on float32 alone reads int4 weights with a scale for each block of inputs. XNNPACK takes multiples of
# 32; the built-in kernel answers wrongly for fewer than 4 outputs, and leaves the fused activation out.


# Its kernel of dynamic range answers wrongly with one scale for the whole tensor (LiteRT 2.3: it reads one a channel).
_A_CHANNEL = "DEPTHWISE_CONV_2D"


def stored_weight(
    b: Builder, weight: Operand, code: str, *, whole: bool = True
) -> tuple[Array, QuantParams | None]:
    """Weights as the kernel of `code` reads them: integers with their scales, or real values.

    Integer weights under real activations stay integers: that is TFLite's dynamic range. int4 weights that the kernel
    takes in int8 only are the same integers in wider storage. In an integer site that is computed on real values the
    weights are real too, and so are those that no kernel takes: other types, a zero point (but see
    `Builder.unsigned`), blocks elsewhere.

    Args:
        whole: the kernel's columns are the operand's, in their order; in another one blocks would not be blocks.
    """
    assert weight.array is not None and b.site is not None
    quant = weight.quant
    if quant is None:
        return weight.array, None
    if b.unsigned:
        if quant.axis is not None or quant.dtype != "int8":
            raise NeedsFloat
        return (weight.array.astype(np.int16) + 128).astype(np.uint8), quant.as_unsigned()
    weight, quant = _centred(weight, quant)
    assert weight.array is not None
    stored = (
        next((t for t in _storage(quant) if _served(b, t, code, quant)), None) if quant.symmetric else None
    )
    if quant.block_size and (b.quantized or not whole or not _blocks_fit(weight, quant, code)):
        stored = None
    if b.quantized and stored is None:
        raise NeedsFloat
    if stored is not None and (b.quantized or not b.site.quantized):
        if not b.quantized and code == _A_CHANNEL and quant.axis is None:
            count = weight.array.shape[0]
            scale, zeros = (np.repeat(v, count) for v in (quant.scale, quant.zero_point))
            quant = replace(quant, scale=scale, zero_point=zeros, axis=0)
        return weight.array, replace(quant, dtype=stored)  # type: ignore[arg-type]
    return weight.real(), None


def _centred(weight: Operand, quant: QuantParams) -> tuple[Operand, QuantParams]:
    """Integers less their zero point, where int8 holds them: the same numbers without one."""
    if quant.symmetric or quant.dtype not in ("int4", "int8") or quant.block_size:
        return weight, quant
    assert weight.array is not None
    shape = [-1 if a == quant.axis else 1 for a in range(weight.array.ndim)]
    array = weight.array.astype(np.int64) - quant.zero_point.reshape(shape if quant.axis is not None else ())
    if array.min(initial=0) < -128 or array.max(initial=0) > 127:
        return weight, quant
    quant = replace(quant, zero_point=np.zeros_like(quant.zero_point), dtype="int8")
    return replace(weight, array=array.astype(np.int8), quant=quant), quant


def moved(quant: QuantParams, shape: tuple[int, ...], perm: tuple[int, ...]) -> QuantParams:
    """The parameters of an array of that shape after a transpose: axis i is then axis perm[i]."""
    if quant.axis is None:
        return quant
    scale, zeros = quant.scale, quant.zero_point
    if quant.block_size:
        blocks = quant.blocks(shape)
        scale, zeros = (v.reshape(blocks).transpose(perm) for v in (scale, zeros))
    return replace(quant, scale=scale, zero_point=zeros, axis=perm.index(quant.axis))


def remarks(graph: Graph) -> list[str]:
    """What to say of int4 weights beside the operators that read them: which are slow."""
    slow = sum(
        op.code in ("CONV_2D", "DEPTHWISE_CONV_2D") and graph.tensors[op.inputs[1]].dtype == "int4"
        for op in graph.operators
    )
    if not slow:
        return []
    return [
        f"{slow} convolutions with int4 weights are not 1x1: XNNPACK leaves them to built-in kernels of LiteRT, which"
        " unpack the weights at every run (12 times the time of int8 ones on integers, 50 times on float32, on x86)"
    ]


def _storage(quant: QuantParams) -> tuple[str, ...]:
    """In what the integers fit, narrowest first."""
    return ("int4", "int8") if quant.dtype == "int4" and not quant.block_size else (quant.dtype,)


def _served(b: Builder, stored: str, code: str, quant: QuantParams) -> bool:
    """Whether the target's kernel of `code` takes such weights beside the activations of the site."""
    data = b.site.inputs[0] if b.site is not None else None
    activations = f"q{data.quant.dtype}" if b.quantized and data is not None and data.quant else "float32"
    spread = not b.quantized and code == _A_CHANNEL
    cut = "/blocks" if quant.block_size else "/channel" if spread or quant.axis is not None else ""
    # tflite-runtime 2.14 is worth real weights in a transposed convolution, but not in matrix products, nor 4 bits.
    known = b.demanded if stored == "int4" or code == "FULLY_CONNECTED" else b.wanted
    return known.reach(code, f"{activations}*q{stored}{cut}") is not None


def _blocks_fit(weight: Operand, quant: QuantParams, code: str) -> bool:
    assert weight.array is not None and quant.axis is not None
    inputs = weight.array.shape[quant.axis]
    enough = weight.array.size // inputs >= BLOCK_OUTPUTS
    halves = quant.scale.astype(np.float16)  # as the file has them
    storable = bool((np.isfinite(halves) & (halves > 0)).all())
    return code == "FULLY_CONNECTED" and block_divides(quant.block_size, inputs) and enough and storable


def block_divides(block_size: int, inputs: int) -> bool:
    """Whether kernels take blocks of that many inputs, and a row is a whole number of them."""
    return block_size in BLOCK_SIZES and inputs % block_size == 0
