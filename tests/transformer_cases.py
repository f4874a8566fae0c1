"""Transformers as exporters write them, small and with random weights: what the tests of attention compile.

Each function makes a network with a free batch `N`; `TRANSFORMERS` lists them with the most TRANSPOSE operators that
the float file may have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
D, H, T = 32, 4, 10  # width, heads, length of the sequence
K = D // H


class Net:
    """Collects nodes; every method returns the name of its result."""

    def __init__(self, opset: int = 17, **inputs: tuple[Any, ...]) -> None:
        self.opset, self.nodes, self.constants = opset, list[onnx.NodeProto](), list[onnx.TensorProto]()
        self.inputs = [self._input(name, list(shape)) for name, shape in inputs.items()]
        self.random = np.random.default_rng(0)

    def _input(self, name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        kind = TensorProto.INT64 if shape[0] == "ids" else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shape[1:] if shape[0] == "ids" else shape)

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def c(self, values: Any, dtype: Any = np.int64) -> str:
        """A constant."""
        array = np.asarray(values, dtype if not isinstance(values, np.ndarray) else values.dtype)
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return f"c{len(self.constants) - 1}"

    def f(self, value: float) -> str:
        """A float scalar."""
        return self.c(value, np.float32)

    def w(self, *shape: int, scale: float = 0.3) -> str:
        """Random weights."""
        return self.c((self.random.standard_normal(shape) * scale).astype(np.float32))

    def sizes(self, like: str, *rest: int) -> Any:
        """(batch of `like`, *rest), computed."""
        batch = self("Gather", self("Shape", like), self.c(0), axis=0)
        return self("Concat", self("Unsqueeze", batch, self.c([0])), self.c(list(rest)), axis=0)

    def reshape(self, x: str, *shape: int) -> Any:
        return self("Reshape", x, self.c(list(shape)))

    def t(self, x: str, *perm: int) -> Any:
        return self("Transpose", x, perm=perm)

    def linear(self, x: str, width: int = D, out: int = D) -> Any:
        return self("Add", self.w(out), self("MatMul", x, self.w(width, out)))

    def norm(self, x: str, width: int = D) -> Any:
        return self("LayerNormalization", x, self.w(width), self.w(width), axis=-1)

    def spelt_norm(self, x: str, width: int = D) -> Any:
        """As exporters wrote it before opset 17."""
        centred = self("Sub", x, self("ReduceMean", x, axes=[-1]))
        variance = self("ReduceMean", self("Pow", centred, self.f(2.0)), axes=[-1])
        normal = self("Div", centred, self("Sqrt", self("Add", variance, self.f(1e-5))))
        return self("Add", self("Mul", normal, self.w(width)), self.w(width))

    def rms(self, x: str) -> Any:
        square = self("ReduceMean", self("Pow", x, self.f(2.0)), axes=[-1])
        inverse = self("Reciprocal", self("Sqrt", self("Add", square, self.f(1e-6))))
        return self("Mul", self.w(D), self("Mul", x, inverse))

    def gelu(self, x: str) -> Any:
        erf = self("Erf", self("Div", x, self.f(2**0.5)))
        return self("Mul", self("Mul", x, self("Add", erf, self.f(1.0))), self.f(0.5))

    def silu(self, x: str) -> Any:
        return self("Mul", x, self("Sigmoid", x))

    def mlp(self, x: str, act: Callable[[str], str] | None = None) -> Any:
        return self.linear((act or self.gelu)(self.linear(x, D, 64)), 64, D)

    def heads(self, x: str, count: int = H) -> Any:
        """(N, T, width) -> (N, heads, T, size)."""
        return self.t(self("Reshape", x, self.sizes(x, -1, count, K)), 0, 2, 1, 3)

    def attend(self, q: str, k: str, v: str, mask: str | None = None, scale: float = K**-0.5) -> Any:
        """(N, heads, T, size) each -> (N, T, width)."""
        scores = self("Mul", self("MatMul", q, self.t(k, 0, 1, 3, 2)), self.f(scale))
        scores = self("Add", scores, mask) if mask else scores
        mixed = self("MatMul", self("Softmax", scores, axis=-1), v)
        back = self.t(mixed, 0, 2, 1, 3)
        return self("Reshape", back, self.sizes(back, -1, D))

    def model(self, *outputs: str) -> onnx.ModelProto:
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "transformer", self.inputs, results, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def bert() -> onnx.ModelProto:
    """Embeddings of ids, an additive mask from an attention mask, norms behind, a pooler."""
    n = Net(input_ids=("ids", "N", T), attention_mask=("ids", "N", T), token_type_ids=("ids", "N", T))
    word, kind = n("Gather", n.w(50, D), "input_ids"), n("Gather", n.w(2, D), "token_type_ids")
    x = n.norm(n("Add", n("Add", word, kind), n.w(1, T, D)))
    mask = n("Unsqueeze", n("Unsqueeze", "attention_mask", n.c([1])), n.c([2]))
    mask = n("Mul", n("Sub", n.f(1.0), n("Cast", mask, to=TensorProto.FLOAT)), n.f(-10000.0))
    for _ in range(2):
        q, k, v = (n.heads(n.linear(x)) for _ in range(3))
        x = n.spelt_norm(n("Add", x, n.linear(n.attend(q, k, v, mask))))
        x = n.spelt_norm(n("Add", x, n.mlp(x)))
    pooled = n("Tanh", n("Gemm", n("Gather", x, n.c(0), axis=1), n.w(D, D), n.w(D), transB=1))
    return n.model(x, pooled)


def vit() -> onnx.ModelProto:
    """Patches by a convolution, a class token expanded over the batch, one product for query, key and value."""
    n = Net(image=("N", 3, 16, 16))
    x = n("Conv", "image", n.w(D, 3, 4, 4), n.w(D), strides=[4, 4])
    x = n.t(n("Reshape", x, n.sizes(x, D, -1)), 0, 2, 1)
    wanted = n.sizes(x, -1, -1)  # torch's expand(n, -1, -1)
    ones = n(
        "ConstantOfShape", n("Shape", wanted), value=helper.make_tensor("v", TensorProto.INT64, [1], [1])
    )
    wanted = n("Where", n("Equal", wanted, n("Mul", ones, n.c(-1))), ones, wanted)
    x = n("Add", n("Concat", n("Expand", n.w(1, 1, D), wanted), x, axis=1), n.w(1, 17, D))
    for split in (True, False):
        h = n.norm(x)
        qkv = n.t(n("Reshape", n.linear(h, D, 3 * D), n.sizes(h, 17, 3, H, K)), 2, 0, 3, 1, 4)
        if split:
            parts = [n("Squeeze", p, n.c([0])) for p in n("Split", qkv, n.c([1, 1, 1]), outputs=3, axis=0)]
        else:
            parts = [n("Gather", qkv, n.c(i), axis=0) for i in range(3)]
        x = n("Add", x, n.linear(n.attend(*parts)))
        x = n("Add", x, n.mlp(n.norm(x)))
    return n.model(n("Gemm", n("Gather", n.norm(x), n.c(0), axis=1), n.w(5, D), n.w(5), transB=1))


def sequence_first() -> onnx.ModelProto:
    """torch.nn.MultiheadAttention: (T, N, D), heads joined with the batch, a Gemm on (T * N, D)."""
    n = Net(x=("N", T, D))
    x = n.t("x", 1, 0, 2)
    shape = n("Shape", x)
    batch = n("Unsqueeze", n("Gather", shape, n.c(1), axis=0), n.c([0]))
    qkv = n.reshape(n.linear(x, D, 3 * D), 0, 0, 3, D)
    qkv = n("Squeeze", n.t(n("Unsqueeze", qkv, n.c([0])), 3, 1, 2, 0, 4), n.c([3]))
    joined = n("Concat", n.c([T]), n("Mul", batch, n.c([H])), n.c([K]), axis=0)
    q, k, v = (n.t(n("Reshape", n("Gather", qkv, n.c(i), axis=0), joined), 1, 0, 2) for i in range(3))
    scores = n("Softmax", n("MatMul", n("Mul", q, n.f(K**-0.5)), n.t(k, 0, 2, 1)), axis=-1)
    mixed = n.t(n("MatMul", scores, v), 1, 0, 2)
    flat = n("Reshape", mixed, n("Concat", n("Mul", n.c([T]), batch), n.c([D]), axis=0))
    out = n("Gemm", flat, n.w(D, D), n.w(D), transB=1)
    out = n("Reshape", out, n("Concat", n.c([T]), batch, n.c([D]), axis=0))
    return n.model(n.norm(n("Add", "x", n.t(out, 1, 0, 2))))


def dynamo() -> onnx.ModelProto:
    """scaled_dot_product_attention of PyTorch's newer exporter: slices, both factors scaled, keys by three axes."""
    n = Net(x=("N", T, D))
    qkv = n.t(n("Reshape", n.linear("x", D, 3 * D), n.sizes("x", T, 3, H, K)), 2, 0, 3, 1, 4)
    parts = [n("Slice", qkv, n.c([i]), n.c([i + 1]), n.c([0])) for i in range(3)]
    q, k, v = (n("Squeeze", part, n.c([0])) for part in parts)
    shape = n("Shape", k)
    last, rows, lead = (
        n("Slice", shape, n.c([a]), n.c([b])) for a, b in ((-1, 2**40), (-2, -1), (-(2**40), -2))
    )
    k = n.t(n("Reshape", k, n("Concat", n.c([-1]), rows, last, axis=0)), 0, 2, 1)
    k = n("Reshape", k, n("Concat", lead, last, rows, axis=0))
    root = n.f(K**-0.25)
    weights = n("Softmax", n("MatMul", n("Mul", q, root), n("Mul", k, root)), axis=-1)
    back = n.t(n("MatMul", weights, v), 0, 2, 1, 3)
    return n.model(n.linear(n("Reshape", back, n.sizes("x", T, D))))


def swin() -> onnx.ModelProto:
    """Windows by reshapes to six axes, a cyclic shift by slices, a mask a window, patch merging."""
    n = Net(image=("N", 3, 32, 32))
    x = n.t(n("Conv", "image", n.w(D, 3, 4, 4), n.w(D), strides=[4, 4]), 0, 2, 3, 1)
    skip, h = x, n.norm(x)

    def roll(y: str, by: int) -> Any:
        for axis in (1, 2):
            ends = [n("Slice", y, n.c([a]), n.c([b]), n.c([axis])) for a, b in ((by, 2**40), (0, by))]
            y = n("Concat", *ends, axis=axis)
        return y

    h = n.t(n.reshape(roll(h, 2), -1, 2, 4, 2, 4, D), 0, 1, 3, 2, 4, 5)
    h = n.reshape(h, -1, 16, D)
    qkv = n.t(n.reshape(n.linear(h, D, 3 * D), -1, 16, 3, H, K), 2, 0, 3, 1, 4)
    q, k, v = (n("Gather", qkv, n.c(i), axis=0) for i in range(3))
    scores = n("Add", n("MatMul", q, n.t(k, 0, 1, 3, 2)), n.w(1, H, 16, 16))
    scores = n("Add", n.reshape(scores, -1, 4, H, 16, 16), n.w(1, 4, 1, 16, 16, scale=10))
    mixed = n("MatMul", n("Softmax", n.reshape(scores, -1, H, 16, 16), axis=-1), v)
    h = n.linear(n.reshape(n.t(mixed, 0, 2, 1, 3), -1, 16, D))
    h = n.t(n.reshape(h, -1, 2, 2, 4, 4, D), 0, 1, 3, 2, 4, 5)
    x = n("Add", skip, roll(n.reshape(h, -1, 8, 8, D), -2))
    corners = [
        n("Slice", x, n.c([a, b]), n.c([8, 8]), n.c([1, 2]), n.c([2, 2])) for b in (0, 1) for a in (0, 1)
    ]
    merged = n.norm(n("Concat", *corners, axis=-1), 4 * D)
    return n.model(n("MatMul", merged, n.w(4 * D, 2 * D)))


def gpt() -> onnx.ModelProto:
    """A causal mask by Trilu and Where, tanh GELU, logits with the embedding's transpose."""
    n = Net(ids=("ids", "N", T))
    table = n.w(50, D)
    x = n("Add", n("Gather", table, "ids"), n.w(1, T, D))
    q, k, v = n("Split", n.linear(n.norm(x), D, 3 * D), n.c([D] * 3), outputs=3, axis=2)
    q, k, v = (n.heads(p) for p in (q, k, v))
    scores = n("Div", n("MatMul", q, n.t(k, 0, 1, 3, 2)), n.f(K**0.5))
    past = n("Trilu", n.c(np.ones((T, T), np.float32)), upper=0)
    hidden = n("Equal", n("Reshape", past, n.c([1, 1, T, T])), n.f(0.0))
    scores = n("Where", hidden, n.f(float("-inf")), scores)
    back = n.t(n("MatMul", n("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    x = n("Add", x, n.linear(n("Reshape", back, n.sizes(back, T, D))))

    def tanh_gelu(y: str) -> Any:
        cubic = n("Mul", n("Pow", y, n.f(3.0)), n.f(0.044715))
        inner = n("Tanh", n("Mul", n("Add", y, cubic), n.f((2 / np.pi) ** 0.5)))
        return n("Mul", n("Mul", y, n.f(0.5)), n("Add", inner, n.f(1.0)))

    x = n("Add", x, n.mlp(n.norm(x), tanh_gelu))
    return n.model(n("MatMul", x, n.t(table, 1, 0)))


def llama(length: int = 3) -> onnx.ModelProto:
    """Rotary positions, two heads of keys for four of queries, a cache as inputs and outputs, a gated MLP."""
    past = 6
    n = Net(
        x=("N", length, D),
        position_ids=("ids", "N", length),
        past_k=("N", 2, past, K),
        past_v=("N", 2, past, K),
    )
    h = n.rms("x")
    q = n.heads(n("MatMul", h, n.w(D, D)))
    k, v = (n.heads(n("MatMul", h, n.w(D, 2 * K)), 2) for _ in range(2))
    place = n("Cast", n("Unsqueeze", "position_ids", n.c([2])), to=TensorProto.FLOAT)
    angle = n("Mul", place, n.c((1e4 ** (-np.arange(0, K, 2) / K)).astype(np.float32)))
    angle = n("Concat", angle, angle, axis=-1)
    cos, sin = (n("Unsqueeze", n(op, angle), n.c([1])) for op in ("Cos", "Sin"))

    def turned(y: str) -> Any:
        first, second = n("Split", y, n.c([K // 2, K // 2]), outputs=2, axis=-1)
        return n("Add", n("Mul", y, cos), n("Mul", n("Concat", n("Neg", second), first, axis=-1), sin))

    q, k = turned(q), turned(k)
    k, v = n("Concat", "past_k", k, axis=2), n("Concat", "past_v", v, axis=2)
    total = past + length

    def repeated(y: str) -> Any:
        wide = n("Expand", n("Unsqueeze", y, n.c([2])), n.sizes(y, 2, 2, total, K))
        return n("Reshape", wide, n.sizes(y, H, total, K))

    mask = n.c(np.triu(np.full((length, total), np.finfo(np.float32).min, np.float32), past + 1))
    x = n("Add", "x", n("MatMul", n.attend(q, repeated(k), repeated(v), mask), n.w(D, D)))
    h = n.rms(x)
    gated = n("Mul", n.silu(n("MatMul", h, n.w(D, 64))), n("MatMul", h, n.w(D, 64)))
    return n.model(n("Add", x, n("MatMul", gated, n.w(64, D))), k, v)


def convnext() -> onnx.ModelProto:
    """A norm over channels in front, a depthwise 7x7, then channels last for norm and products."""
    n = Net(image=("N", 3, 32, 32))
    x = n("Conv", "image", n.w(D, 3, 4, 4), n.w(D), strides=[4, 4])
    centred = n("Sub", x, n("ReduceMean", x, axes=[1]))
    variance = n("ReduceMean", n("Pow", centred, n.f(2.0)), axes=[1])
    x = n("Div", centred, n("Sqrt", n("Add", variance, n.f(1e-6))))
    x = n("Add", n("Mul", n.w(D, 1, 1), x), n.w(D, 1, 1))
    h = n.t(n("Conv", x, n.w(D, 1, 7, 7), n.w(D), pads=[3] * 4, group=D), 0, 2, 3, 1)
    h = n.t(n("Mul", n.w(D), n.mlp(n.norm(h))), 0, 3, 1, 2)
    return n.model(n("ReduceMean", n("Add", x, h), axes=[2, 3], keepdims=0))


def mobilevit() -> onnx.ModelProto:
    """Unfolding to patches with batch and patch joined, attention over patches, folding back."""
    n = Net(image=("N", 3, 16, 16))
    skip = x = n("Conv", "image", n.w(D, 3, 3, 3), n.w(D), strides=[2, 2], pads=[1] * 4)
    x = n.t(n.reshape(x, -1, 2, 4, 2), 0, 2, 1, 3)
    x = n.t(n.reshape(x, -1, D, 16, 4), 0, 3, 2, 1)
    x = n.norm(n.reshape(x, -1, 16, D))
    parts = [n.t(n.reshape(n.linear(x), -1, 16, H, K), 0, 2, 1, 3) for _ in range(3)]
    scores = n("Softmax", n("MatMul", parts[0], n.t(parts[1], 0, 1, 3, 2)), axis=-1)
    mixed = n.reshape(n.t(n("MatMul", scores, parts[2]), 0, 2, 1, 3), -1, 16, D)
    x = n("Add", x, n.linear(mixed))
    x = n.t(n.reshape(x, -1, 4, 16, D), 0, 3, 2, 1)
    x = n.t(n.reshape(x, -1, 4, 2, 2), 0, 2, 1, 3)
    x = n.silu(n("Conv", n.reshape(x, -1, D, 8, 8), n.w(D, D, 1, 1), n.w(D)))
    return n.model(n("Conv", n("Concat", skip, x, axis=1), n.w(D, 2 * D, 3, 3), n.w(D), pads=[1] * 4))


def detr() -> onnx.ModelProto:
    """Learned queries repeated over the batch attend to image features; classes and boxes come out."""
    n = Net(image=("N", 3, 32, 32))
    x = n("Conv", "image", n.w(D, 3, 8, 8), n.w(D), strides=[8, 8])
    memory = n("Add", n.t(n.reshape(x, 0, D, 16), 2, 0, 1), n.w(16, 1, D))  # (16, N, D)
    batch = n("Unsqueeze", n("Gather", n("Shape", "image"), n.c(0), axis=0), n.c([0]))
    queries = n("Tile", n.w(7, 1, D), n("Concat", n.c([1]), batch, n.c([1]), axis=0))  # (7, N, D)

    def split(y: str, length: int) -> Any:
        joined = n("Concat", n.c([length]), n("Mul", batch, n.c([H])), n.c([K]), axis=0)
        return n.t(n("Reshape", n.linear(y), joined), 1, 0, 2)

    q, k, v = split(queries, 7), split(memory, 16), split(memory, 16)
    scores = n("Softmax", n("MatMul", q, n.t(k, 0, 2, 1)), axis=-1)
    mixed = n.t(n("MatMul", scores, v), 1, 0, 2)
    mixed = n("Reshape", mixed, n("Concat", n.c([7]), batch, n.c([D]), axis=0))
    x = n.t(n.norm(n("Add", queries, n.linear(mixed))), 1, 0, 2)
    return n.model(n.linear(x, D, 5), n("Sigmoid", n.linear(x, D, 4)))


def conformer() -> onnx.ModelProto:
    """Half a feed-forward step, then gated pointwise and depthwise convolutions along the sequence."""
    n = Net(x=("N", T, D))
    x = n("Add", "x", n("Mul", n.mlp(n.norm("x"), n.silu), n.f(0.5)))
    q, k, v = (n.heads(n.linear(x)) for _ in range(3))
    x = n("Add", x, n.linear(n.attend(q, k, v)))
    h = n("Conv", n.t(n.norm(x), 0, 2, 1), n.w(2 * D, D, 1), n.w(2 * D))
    value, gate = n("Split", h, n.c([D, D]), outputs=2, axis=1)
    h = n("Conv", n("Mul", value, n("Sigmoid", gate)), n.w(D, 1, 7), n.w(D), pads=[3, 3], group=D)
    variance = n.c(np.abs(n.random.standard_normal(D)).astype(np.float32) + 0.5)
    h = n.silu(n("BatchNormalization", h, n.w(D), n.w(D), n.w(D), variance))
    h = n("Conv", h, n.w(D, D, 1), n.w(D))
    return n.model(n("Add", x, n.t(h, 0, 2, 1)))


def linear_attention() -> onnx.ModelProto:
    """EfficientViT: no Softmax, keys times values first, on the maps of convolutions."""
    n = Net(image=("N", 3, 32, 32))
    x = n("Conv", "image", n.w(D, 3, 4, 4), n.w(D), strides=[4, 4])
    qkv = n.t(n.reshape(n("Conv", x, n.w(3 * D, D, 1, 1)), 0, H, 3 * K, 64), 0, 1, 3, 2)
    q, k, v = n("Split", qkv, n.c([K] * 3), outputs=3, axis=3)
    q, k = n("Add", n("Relu", q), n.f(0.1)), n("Add", n("Relu", k), n.f(0.1))
    v = n("Pad", v, n.c([0, 0, 0, 0, 0, 0, 0, 1]), n.f(1.0))
    out = n("MatMul", q, n("MatMul", n.t(k, 0, 1, 3, 2), v))
    value = n("Slice", out, n.c([0]), n.c([-1]), n.c([3]))
    total = n("Slice", out, n.c([-1]), n.c([2**40]), n.c([3]))
    out = n.reshape(n.t(n("Div", value, total), 0, 1, 3, 2), 0, D, 8, 8)
    return n.model(n("Add", x, n("Conv", out, n.w(D, D, 1, 1), n.w(D))))


def einsum() -> onnx.ModelProto:
    """T5: products as Einsum, a bias from a table of relative positions, no scale."""
    n = Net(ids=("ids", "N", T))
    x = n.rms(n("Gather", n.w(50, D), "ids"))
    q, k, v = (n("Reshape", n("MatMul", x, n.w(D, D)), n.sizes(x, T, H, K)) for _ in range(3))
    buckets = np.clip(np.arange(T)[None] - np.arange(T)[:, None] + 8, 0, 15)
    bias = n("Unsqueeze", n.t(n("Gather", n.w(16, H), n.c(buckets)), 2, 0, 1), n.c([0]))
    weights = n("Softmax", n("Add", n("Einsum", q, k, equation="bnhd,bmhd->bhnm"), bias), axis=-1)
    mixed = n("Einsum", weights, v, equation="bhnm,bmhd->bnhd")
    return n.model(n("Reshape", mixed, n.sizes(x, T, D)))


def operators() -> onnx.ModelProto:
    """Opset 23: RMSNormalization, RotaryEmbedding and Attention as operators, the last with a causal mask."""
    n = Net(23, x=("N", T, D))
    h = n("RMSNormalization", "x", n.w(D), axis=-1, epsilon=1e-6)
    q, k, v = (n.heads(n("MatMul", h, n.w(D, D))) for _ in range(3))
    angle = np.arange(T)[:, None] * 1e4 ** (-np.arange(0, K, 2) / K)
    # the caches are (N, T, size / 2): those of position_ids, here spread by an Expand
    tables = [
        n("Expand", n.c(fn(angle)[None].astype(np.float32)), n.sizes("x", T, K // 2))
        for fn in (np.cos, np.sin)
    ]
    q, k = (n("RotaryEmbedding", y, *tables) for y in (q, k))
    mixed = n.t(n("Attention", q, k, v, is_causal=1), 0, 2, 1, 3)
    return n.model(n("Add", "x", n("MatMul", n("Reshape", mixed, n.sizes(mixed, T, D)), n.w(D, D))))


# network -> most TRANSPOSE operators of its float file
TRANSFORMERS: Mapping[Callable[[], onnx.ModelProto], int] = {
    bert: 8, vit: 4, sequence_first: 4, dynamo: 2, swin: 4, gpt: 4, llama: 6, convnext: 0, mobilevit: 10, detr: 4,
    conformer: 4, linear_attention: 5, einsum: 4, operators: 4,
}  # fmt: skip


def feeds(model: onnx.ModelProto, batch: int, seed: int = 0) -> dict[str, Array]:
    """Random inputs: ids below 50, masks that end somewhere, positions behind the cache."""
    random = np.random.default_rng((seed, batch))
    found: dict[str, Array] = {}
    for value in model.graph.input:
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            found[value.name] = random.standard_normal(shape).astype(np.float32)
        elif "mask" in value.name:
            found[value.name] = (np.arange(shape[1]) < random.integers(4, shape[1], (batch, 1))).astype(
                np.int64
            )
        elif "position" in value.name:
            found[value.name] = np.broadcast_to(np.arange(6, 6 + shape[1]), shape).copy()
        else:
            found[value.name] = random.integers(0, 2 if "type" in value.name else 50, shape)
    return found
