"""Operators of ONNX Runtime's own domain, com.microsoft, written in those of ONNX.

ONNX Runtime's optimizer writes them into networks that it saves. Source: the operators' documentation
(ContribOperators.md of ONNX Runtime), checked against the runtime by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from edgecc import ir

MICROSOFT = "com.microsoft"
_OPSET = 21
Body = list[str]


def definition(node: ir.Node) -> onnx.FunctionProto | None:
    """The function that defines a node of com.microsoft; None where it is not known or has a form that is not."""
    rule = _RULES.get(node.op_type)
    if rule is None or any(v is not None and v.shape is None for v in node.inputs):
        return None
    lines = rule(node)
    if lines is None:
        return None
    inputs = ", ".join(f"i{n}" for n in range(len(node.inputs)))
    outputs = ", ".join(f"o{n}" for n in range(len(node.outputs)))
    text = f'<domain: "edgecc", opset_import: ["": {_OPSET}]> body ({inputs}) => ({outputs}) {{ {"".join(lines)} }}'
    return onnx.parser.parse_function(text)


def _has(node: ir.Node, position: int) -> bool:
    return len(node.inputs) > position and node.inputs[position] is not None


def _wants(node: ir.Node, position: int) -> bool:
    """Whether an output is asked for."""
    if len(node.outputs) <= position:
        return False
    value = node.outputs[position]
    return bool(value.name) and (bool(value.uses()) or value.is_graph_output())


def _number(node: ir.Node, name: str, default: float) -> str:
    return f"{float(ir.attribute(node, name, default)):.9e}"


def _shape(node: ir.Node, position: int) -> tuple[int | None, ...]:
    value = node.inputs[position]
    return () if value is None else ir.dims(value) or ()


def _ints(name: str, values: Sequence[int]) -> str:
    listed = ", ".join(map(str, values))
    return f"{name} = Constant <value_ints = [{listed}]> ()\n"


def _float(name: str, like: str, value: str) -> str:
    return f"{name}_f = Constant <value_float = {value}> ()\n{name} = CastLike ({name}_f, {like})\n"


def _bias_gelu(node: ir.Node) -> Body:
    return ["s = Add (i0, i1)\n", "o0 = Gelu (s)\n"]


def _fast_gelu(node: ir.Node) -> Body:
    add = "s = Add (i0, i1)\n" if _has(node, 1) else "s = Identity (i0)\n"
    return [add, 'o0 = Gelu <approximate = "tanh"> (s)\n']


def _quick_gelu(node: ir.Node) -> Body:
    alpha = _number(node, "alpha", 1.702)
    return [_float("a", "i0", alpha), "m = Mul (i0, a)\n", "g = Sigmoid (m)\n", "o0 = Mul (i0, g)\n"]


_ACTIVATIONS: dict[str, Callable[[Sequence[float]], str]] = {
    "Relu": lambda p: "Relu",
    "Tanh": lambda p: "Tanh",
    "Sigmoid": lambda p: "Sigmoid",
    "LeakyRelu": lambda p: f"LeakyRelu <alpha = {(p or [0.01])[0]:.9e}>",
    "HardSigmoid": lambda p: (
        f"HardSigmoid <alpha = {(p or [0.2])[0]:.9e}, beta = {p[1] if len(p) > 1 else 0.5:.9e}>"
    ),
}


def _activated(node: ir.Node, params: Sequence[float]) -> Body | None:
    name = ir.attribute(node, "activation", "")
    if name == "Clip" and len(params) == 2:
        bounds = [_float(n, "z", f"{p:.9e}") for n, p in zip(("lo", "hi"), params, strict=True)]
        return [*bounds, "o0 = Clip (z, lo, hi)\n"]
    if name and name not in _ACTIVATIONS:
        return None
    return [f"o0 = {_ACTIVATIONS[name](params) if name else 'Identity'} (z)\n"]


def _fused_conv(node: ir.Node) -> Body | None:
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    given = [f"{n} = {_text(ir.attribute(node, n))}" for n in names if n in node.attributes]
    after = _activated(node, [float(p) for p in ir.attribute(node, "activation_params", ())])
    bias = ", i2" if _has(node, 2) else ""
    conv = f"c = Conv <{', '.join(given)}> (i0, i1{bias})\n"
    return (
        None
        if after is None
        else [conv, "z = Add (c, i3)\n" if _has(node, 3) else "z = Identity (c)\n", *after]
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str([int(v) for v in value]) if isinstance(value, (list, tuple)) else str(value)


def _fused_gemm(node: ir.Node) -> Body | None:
    params = [float(ir.attribute(node, f"activation_{n}", d)) for n, d in (("alpha", 0.01), ("beta", 0.5))]
    after = _activated(node, params)
    given = ", ".join(f"{n} = {_number(node, n, 1.0)}" for n in ("alpha", "beta"))
    turns = ", ".join(f"{n} = {int(ir.attribute(node, n, 0))}" for n in ("transA", "transB"))
    bias = ", i2" if _has(node, 2) else ""
    return None if after is None else [f"z = Gemm <{given}, {turns}> (i0, i1{bias})\n", *after]


def _fused_matmul(node: ir.Node) -> Body | None:
    if ir.attribute(node, "transBatchA", 0) or ir.attribute(node, "transBatchB", 0):
        return None
    lines = []
    for letter, position in (("A", 0), ("B", 1)):
        rank = len(_shape(node, position))
        turned = ir.attribute(node, f"trans{letter}", 0) and rank > 1
        perm = [*range(rank - 2), rank - 1, rank - 2] if turned else list(range(rank))
        lines.append(f"t{letter} = Transpose <perm = {perm}> (i{position})\n")
    alpha = _number(node, "alpha", 1.0)
    return [*lines, "p = MatMul (tA, tB)\n", _float("a", "p", alpha), "o0 = Mul (p, a)\n"]


def _normalized(
    node: ir.Node, sources: str, *, simple: bool, gamma: int, beta: int | None, default: float
) -> Body:
    """o0 = the layer normalization of s, by the mean square alone where `simple`."""
    epsilon = _number(node, "epsilon", default)
    if not simple:
        shift = "" if beta is None or not _has(node, beta) else f", i{beta}"
        return [sources, f"o0 = LayerNormalization <axis = -1, epsilon = {epsilon}> (s, i{gamma}{shift})\n"]
    return [
        sources, _ints("last", [-1]), "sq = Mul (s, s)\n", "m = ReduceMean (sq, last)\n", _float("e", "s", epsilon),
        "v = Add (m, e)\n", "d = Sqrt (v)\n", "n = Div (s, d)\n", f"o0 = Mul (n, i{gamma})\n",
    ]  # fmt: skip


def _skip_norm(node: ir.Node, *, simple: bool) -> Body | None:
    if _wants(node, 1) or _wants(node, 2):
        return None
    bias = 3 if simple else 4
    total = f"r = Add (i0, i1)\ns = Add (r, i{bias})\n" if _has(node, bias) else "s = Add (i0, i1)\n"
    lines = _normalized(node, total, simple=simple, gamma=2, beta=None if simple else 3, default=1e-12)
    return [*lines, "o3 = Identity (s)\n"] if _wants(node, 3) else lines


def _embedding(node: ir.Node) -> Body | None:
    """Words, positions and segments, added and normalized; the mask's length a row."""
    total = "o2 = Identity (s)\n" if _wants(node, 2) else ""
    if not all(_has(node, n) for n in (0, 2, 3, 5, 6)) or None in _shape(node, 0)[1:]:
        return None
    length = _shape(node, 0)[1]
    lines = ["w = Gather <axis = 0> (i2, i0)\n"]
    if _has(node, 8):
        lines.append("p = Gather <axis = 0> (i3, i8)\n")
    else:
        lines += [_ints("b", [0]), _ints("l", [length or 0]), _ints("x", [0]), "p = Slice (i3, b, l, x)\n"]
    lines.append("wp = Add (w, p)\n")
    if _has(node, 1) and _has(node, 4):
        lines.append("g = Gather <axis = 0> (i4, i1)\ns = Add (wp, g)\n")
    else:
        lines.append("s = Identity (wp)\n")
    lines += [*_normalized(node, "", simple=False, gamma=5, beta=6, default=1e-12), total]
    if _wants(node, 1):
        if not _has(node, 7):
            return None
        lines += [_ints("one", [1]), "o1 = ReduceSum <keepdims = 0> (i7, one)\n"]
    return lines


def _heads(source: str, target: str, heads: int, *, keys: bool = False) -> str:
    """(batch, length, width) to (batch, heads, length, width / heads); keys with the last two axes swapped."""
    perm = "[0, 2, 3, 1]" if keys else "[0, 2, 1, 3]"
    shape = _ints(f"{target}_s", [0, 0, heads, -1])
    return f"{shape}{target}_r = Reshape ({source}, {target}_s)\n{target} = Transpose <perm = {perm}> ({target}_r)\n"


def _attended(node: ir.Node, heads: int, width: int, bias: str | None, mask: int | None) -> Body | None:
    """o0 = softmax(q k / sqrt(d) + bias) v from q, k and v of three axes."""
    scale = float(ir.attribute(node, "scale", 0.0)) or (width / heads) ** -0.5
    lines = [_heads("q", "qh", heads), _heads("k", "kh", heads, keys=True), _heads("v", "vh", heads)]
    lines += ["qk = MatMul (qh, kh)\n", _float("sc", "qk", f"{scale:.9e}"), "a0 = Mul (qk, sc)\n"]
    lines.append(f"a1 = Add (a0, {bias})\n" if bias else "a1 = Identity (a0)\n")
    if mask is None:
        lines.append("a2 = Identity (a1)\n")
    else:
        if len(_shape(node, mask)) != 2 or _shape(node, mask)[-1] in (None, 1):
            return None  # a length a row, or a mask of three axes
        lines += [
            f"mb = Cast <to = 9> (i{mask})\n", "mn = Not (mb)\n", "mf = CastLike (mn, qk)\n", _ints("mx", [1, 2]),
            "mu = Unsqueeze (mf, mx)\n", _float("low", "qk", _number(node, "mask_filter_value", -10000.0)),
            "ml = Mul (mu, low)\n", "a2 = Add (a1, ml)\n",
        ]  # fmt: skip
    lines += ["pr = Softmax <axis = -1> (a2)\n", "y = MatMul (pr, vh)\n"]
    joined = "yt = Transpose <perm = [0, 2, 1, 3]> (y)\n" + _ints("ys", [0, 0, -1])
    return [*lines, joined, "o0 = Reshape (yt, ys)\n"]


def _attention(node: ir.Node) -> Body | None:
    heads, weights = int(ir.attribute(node, "num_heads", 0)), _shape(node, 1)
    plain = not any(ir.attribute(node, n, 0) for n in ("unidirectional", "do_rotary"))
    sizes = ir.attribute(node, "qkv_hidden_sizes", None)
    if not heads or not plain or any(_has(node, n) for n in (4, 6)) or _wants(node, 1) or None in weights:
        return None
    widths = [int(s) for s in sizes] if sizes else [(weights[1] or 0) // 3] * 3
    bias = "z = Add (m, i2)\n" if _has(node, 2) else "z = Identity (m)\n"
    lines = ["m = MatMul (i0, i1)\n", bias, _ints("sz", widths), "q, k, v = Split <axis = -1> (z, sz)\n"]
    rest = _attended(node, heads, widths[0], "i5" if _has(node, 5) else None, 3 if _has(node, 3) else None)
    return None if rest is None else [*lines, *rest]


def _multi_head(node: ir.Node) -> Body | None:
    heads, query = int(ir.attribute(node, "num_heads", 0)), _shape(node, 0)
    if (
        not heads
        or ir.attribute(node, "unidirectional", 0)
        or any(_has(node, n) for n in range(6, len(node.inputs)))
    ):
        return None
    if (
        not (_has(node, 1) and _has(node, 2))
        or any(len(_shape(node, n)) != 3 for n in range(3))
        or _wants(node, 1)
    ):
        return None
    width, values = query[-1] or 0, _shape(node, 2)[-1] or 0
    lines = []
    if _has(node, 3):
        lines.append(_ints("sz", [width, width, values]) + "bq, bk, bv = Split <axis = 0> (i3, sz)\n")
    for n, letter in enumerate("qkv"):
        lines.append(
            f"{letter} = Add (i{n}, b{letter})\n" if _has(node, 3) else f"{letter} = Identity (i{n})\n"
        )
    rest = _attended(node, heads, width, "i5" if _has(node, 5) else None, 4 if _has(node, 4) else None)
    return None if rest is None else [*lines, *rest]


_RULES: dict[str, Callable[[ir.Node], Body | None]] = {
    "Attention": _attention,
    "BiasGelu": _bias_gelu,
    "EmbedLayerNormalization": _embedding,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": lambda node: ["o0 = Gelu (i0)\n"],
    "MultiHeadAttention": _multi_head,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": lambda node: _skip_norm(node, simple=False),
    "SkipSimplifiedLayerNormalization": lambda node: _skip_norm(node, simple=True),
    "TransposeMatMul": _fused_matmul,
}
