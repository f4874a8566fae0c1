"""Train a small vision transformer on scikit-learn's digits and write it as ONNX.

Needs `pip install torch scikit-learn onnx onnxruntime`, takes about two minutes on two CPU cores, and
downloads nothing. Run `python models/train_digits_vit.py`. The nodes are written one by one, as torch's
exporter writes such a network with a free batch: LayerNormalization as an operator, GELU by its definition with
Erf, one product for query, key and value, and the sizes of reshapes and of the expanded class token computed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from train_digits import SEED, Floats, OnnxWriter, Split, check, digits, write_data

NAME = "digits_vit"
INPUT, OUTPUT = "image", "logits"
WIDTH, DEPTH, HEADS, HIDDEN = 64, 3, 4, 128
PATCH, TOKENS = 2, 17  # 4x4 patches of 2x2 pixels, and the class token
EPSILON = 1e-6
EPOCHS, BATCH, RATE = 60, 64, 2e-3


# --- the network ----------------------------------------------------------------------------------------


class Block(nn.Module):  # type: ignore[misc]
    """One encoder block with the norms in front (Dosovitskiy et al. 2021, figure 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=EPSILON) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`: (n, tokens, width) -> the same shape."""
        heads = self.qkv(self.norm1(x)).reshape(len(x), TOKENS, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query * (WIDTH // HEADS) ** -0.5 @ key.transpose(-2, -1)).softmax(-1)
        x = x + self.proj((weights @ value).transpose(1, 2).reshape(len(x), TOKENS, WIDTH))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):  # type: ignore[misc]
    """Patches by a convolution, a class token, learned positions, blocks, and a linear head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH, eps=EPSILON), nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`: (n, 1, 8, 8) -> (n, 10) logits."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def distort(x: torch.Tensor) -> torch.Tensor:
    """Turn each image by up to 11 degrees, scale by up to 10 % and move by up to 3/4 of its 8 pixels."""
    count = len(x)
    angle = (torch.rand(count) * 2 - 1) * 0.19
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    move = (torch.rand(count, 2) * 2 - 1) * (2 * 0.75 / 8)  # affine_grid's width is 2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack((cos, -sin, move[:, 0]), 1), torch.stack((sin, cos, move[:, 1]), 1))
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)


def train(split: Split) -> Transformer:
    """Train for a fixed number of epochs; the held-out images play no part."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # so small that threads only wait for each other
    network = Transformer()
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            logits = network(distort(images[batch]))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 9:
            print(f"{NAME}: epoch {epoch + 1} of {EPOCHS}, training loss {total / steps:.4f}")
    network.eval()
    return network


# --- the ONNX side --------------------------------------------------------------------------------------


class TransformerWriter(OnnxWriter):
    """Writes the parts of the network from its parameters by name."""

    def __init__(self, arrays: Mapping[str, Floats]) -> None:
        super().__init__()
        self.arrays = arrays

    def integers(self, name: str, *values: int) -> str:
        """A vector of int64."""
        return self.constant(name, np.array(values, np.int64))

    def number(self, name: str, value: float) -> str:
        """A float scalar."""
        return self.constant(name, np.asarray(value, np.float32))

    def parameter(self, name: str) -> str:
        """A trained array as it is."""
        return self.constant(name, self.arrays[name])

    def sizes(self, name: str, like: str, *rest: int) -> str:
        """The shape (batch of `like`, *rest), computed."""
        shape = self.node("Shape", f"{name}/shape", [like])
        batch = self.node("Gather", f"{name}/batch", [shape, self.integers(f"{name}/first", 0)], axis=0)
        return self.node("Concat", f"{name}/sizes", [batch, self.integers(f"{name}/rest", *rest)], axis=0)

    def linear(self, name: str, x: str) -> str:
        """MatMul and Add, as a Linear on three axes is exported."""
        weight = self.constant(f"{name}.weight_transposed", self.arrays[f"{name}.weight"].T)
        product = self.node("MatMul", f"{name}/product", [x, weight])
        return self.node("Add", f"{name}/output", [self.parameter(f"{name}.bias"), product])

    def norm(self, name: str, x: str) -> str:
        """LayerNormalization over the last axis."""
        parameters = [self.parameter(f"{name}.{key}") for key in ("weight", "bias")]
        return self.node("LayerNormalization", f"{name}/output", [x, *parameters], axis=-1, epsilon=EPSILON)

    def gelu(self, name: str, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt(2)))."""
        ratio = self.node("Div", f"{name}/ratio", [x, self.number(f"{name}/root", 2**0.5)])
        erf = self.node("Erf", f"{name}/erf", [ratio])
        factor = self.node("Add", f"{name}/factor", [erf, self.number(f"{name}/one", 1.0)])
        product = self.node("Mul", f"{name}/product", [x, factor])
        return self.node("Mul", f"{name}/output", [product, self.number(f"{name}/half", 0.5)])

    def attention(self, name: str, x: str) -> str:
        """Softmax(q k^T / sqrt(d)) v of every head."""
        size = WIDTH // HEADS
        qkv = self.linear(f"{name}.qkv", x)
        shape = self.sizes(f"{name}/heads", x, TOKENS, 3, HEADS, size)
        heads = self.node("Reshape", f"{name}/heads/output", [qkv, shape])
        moved = self.node("Transpose", f"{name}/heads/moved", [heads], perm=[2, 0, 3, 1, 4])
        query, key, value = (self.taken(f"{name}/{part}", moved, i) for i, part in enumerate("qkv"))
        query = self.node("Mul", f"{name}/scaled", [query, self.number(f"{name}/scale", size**-0.5)])
        key = self.node("Transpose", f"{name}/key", [key], perm=[0, 1, 3, 2])
        scores = self.node("MatMul", f"{name}/scores", [query, key])
        weights = self.node("Softmax", f"{name}/weights", [scores], axis=-1)
        mixed = self.node("MatMul", f"{name}/mixed", [weights, value])
        back = self.node("Transpose", f"{name}/back", [mixed], perm=[0, 2, 1, 3])
        joined = self.node("Reshape", f"{name}/joined", [back, self.sizes(f"{name}/join", x, TOKENS, WIDTH)])
        return self.linear(f"{name}.proj", joined)

    def taken(self, name: str, x: str, index: int) -> str:
        """One position of axis 0."""
        place = self.constant(f"{name}/index", np.asarray(index, np.int64))
        return self.node("Gather", name, [x, place], axis=0)

    def block(self, name: str, x: str) -> str:
        """One encoder block."""
        mixed = self.attention(name, self.norm(f"{name}.norm1", x))
        x = self.node("Add", f"{name}/sum1", [x, mixed])
        hidden = self.gelu(f"{name}/gelu", self.linear(f"{name}.fc1", self.norm(f"{name}.norm2", x)))
        return self.node("Add", f"{name}/sum2", [x, self.linear(f"{name}.fc2", hidden)])


def write(network: Transformer, path: Path) -> None:
    """Write the trained network; the batch is the symbol N."""
    arrays = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    w = TransformerWriter(arrays)
    convolved = w.node(
        "Conv",
        "embed/output",
        [INPUT, w.parameter("embed.weight"), w.parameter("embed.bias")],
        kernel_shape=[PATCH] * 2,
        strides=[PATCH] * 2,
    )
    flat = w.node("Reshape", "embed/flat", [convolved, w.sizes("embed/flatten", convolved, WIDTH, -1)])
    patches = w.node("Transpose", "embed/patches", [flat], perm=[0, 2, 1])
    token = w.node("Expand", "token/expanded", [w.parameter("token"), w.sizes("token", patches, 1, WIDTH)])
    x = w.node("Concat", "tokens", [token, patches], axis=1)
    x = w.node("Add", "positions/sum", [x, w.parameter("positions")])
    for number in range(DEPTH):
        x = w.block(f"blocks.{number}", x)
    place = w.constant("head/index", np.asarray(0, np.int64))
    first = w.node("Gather", "head/token", [w.norm("norm", x), place], axis=1)
    w.gemm("head", first, arrays["head.weight"], arrays["head.bias"], OUTPUT)
    sample: Sequence[int | str] = ["N", 1, 8, 8]
    w.save(path, (INPUT, list(sample)), (OUTPUT, ["N", 10]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the vision transformer and write it as ONNX.")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent, help="where to write")
    path: Path = parser.parse_args().output / f"{NAME}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    first, second = (Split(split.images[:, None], split.labels) for split in digits())
    network = train(first)
    write(network, path)
    write_data(path, INPUT, first.images, second)
    with torch.no_grad():
        reference = network(torch.from_numpy(second.images)).numpy()
    check(path, second, reference)


if __name__ == "__main__":
    main()
