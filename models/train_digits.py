"""Train the two networks of this folder on scikit-learn's digits and write them as ONNX.

Needs `pip install torch scikit-learn onnx onnxruntime`, takes about two minutes on two CPU cores, and
downloads nothing: the data ship inside scikit-learn. Run `python models/train_digits.py`; everything random
is seeded, so the same machine and package versions give the same bytes again.

The ONNX graphs are written node by node from the trained parameters rather than by an exporter, so that
BatchNormalization stays a node of its own, as in a network that comes straight from a training team.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from torch import nn

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Attribute = int | float | list[int]

SEED = 0
TEST_IMAGES = 450
CALIBRATION_STEP = 13  # every 13th training image: 104 of 1347
OPSET = 17
IR_VERSION = 8
BATCHNORM_EPSILON = 1e-3  # what the MobileNet papers' own code uses; torch's default is 1e-5

CNN_INPUT, CNN_OUTPUT = "image", "logits"
MLP_INPUT, MLP_OUTPUT = "pixels", "probabilities"
CNN_EPOCHS, CNN_BATCH = 40, 64
MLP_HIDDEN = (512, 256)
LEAST_ACCURACY = {"digits_cnn": 0.98, "digits_mlp": 0.96, "digits_vit": 0.97}


# --- data -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Digits in [0, 1]: images (count, 8, 8) or as a network takes them, float32; labels (count,) int64."""

    images: Floats
    labels: Labels


def digits() -> tuple[Split, Split]:
    """Return the training and the held-out split, 1347 and 450 images, each class in proportion."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)  # the pixels count 0..16
    labels = data.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SEED)
    train_images, test_images, train_labels, test_labels = parts
    return Split(train_images, train_labels), Split(test_images, test_labels)


def upsample(images: Floats, factor: int = 4) -> Floats:
    """Enlarge (count, h, w) to (count, 1, h*factor, w*factor) bilinearly, pixel centres at half integers."""
    size = images.shape[1]
    position = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    # Row i of `weights` holds the share of each source pixel in target pixel i; edges are repeated.
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size)[None, :])).astype(np.float32)
    enlarged: Floats = weights @ images @ weights.T
    return enlarged[:, None]


def flatten(images: Floats) -> Floats:
    """Return (count, 8, 8) as (count, 64)."""
    return images.reshape(len(images), -1)


def shifted(split: Split) -> Split:
    """Return the split five times: as it is and moved by one pixel to each side, zeros moving in."""
    padded = np.pad(split.images, ((0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    images = np.concatenate([padded[:, y : y + 8, x : x + 8] for y, x in corners])
    return Split(images, np.tile(split.labels, len(corners)))


# --- the ONNX side --------------------------------------------------------------------------------------


class OnnxWriter:
    """Collects the nodes and initializers of one graph; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, array: Floats) -> str:
        """Add an initializer."""
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, op_type: str, name: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """Add a node whose one output has this name."""
        node = helper.make_node(op_type, inputs, [name], name=f"{name}/{op_type}")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def gemm(self, name: str, x: str, weight: Floats, bias: Floats, output: str | None = None) -> str:
        """`weight`: (out, in), as torch's Linear has it."""
        parameters = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.node("Gemm", output or f"{name}.output", [x, *parameters], transB=1)

    def save(self, path: Path, x: tuple[str, list[int | str]], y: tuple[str, list[int | str]]) -> None:
        """Check the graph, infer its shapes and write it; `x` and `y`: name and shape of input and output."""
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (x, y)]
        graph = helper.make_graph(self.nodes, path.stem, ends[:1], ends[1:], self.initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgecc/models/train_digits.py"
        )
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


# --- the convolutional network --------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """One convolution, its BatchNorm and, if `relu6`, its activation; the padding is half the kernel."""

    name: str
    channels_in: int
    channels_out: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    relu6: bool = True


@dataclass(frozen=True)
class Block:
    """Units in a row; `residual` adds the input of the first to the output of the last."""

    units: tuple[Unit, ...]
    residual: bool = False


def inverted_residual(name: str, channels: int, hidden: int, out: int, stride: int = 1) -> Block:
    """MobileNetV2's block (Sandler et al. 2018, section 3.3): expand, filter each channel, project."""
    units = (
        Unit(f"{name}.expand", channels, hidden),
        Unit(f"{name}.depthwise", hidden, hidden, kernel=3, stride=stride, groups=hidden),
        Unit(f"{name}.project", hidden, out, relu6=False),
    )
    return Block(units, residual=stride == 1 and channels == out)


NETWORK = (
    Block((Unit("stem", 1, 16, kernel=3, stride=2),)),  # 32x32 -> 16x16
    Block((Unit("block1.depthwise", 16, 16, kernel=3, groups=16), Unit("block1.pointwise", 16, 24))),
    inverted_residual("block2", 24, 96, 32, stride=2),  # -> 8x8
    inverted_residual("block3", 32, 128, 32),
    inverted_residual("block4", 32, 128, 48, stride=2),  # -> 4x4
    inverted_residual("block5", 48, 192, 48),
    Block((Unit("head", 48, 160),)),
)
CLASSIFIER = "classifier"


def make_layers() -> dict[str, nn.Module]:
    """Return the trainable layers by name: NAME.conv and NAME.bn of every unit, and the classifier."""
    layers: dict[str, nn.Module] = {}
    for unit in (unit for block in NETWORK for unit in block.units):
        layers[f"{unit.name}.conv"] = nn.Conv2d(
            unit.channels_in,
            unit.channels_out,
            unit.kernel,
            stride=unit.stride,
            padding=unit.kernel // 2,
            groups=unit.groups,
            bias=False,
        )
        layers[f"{unit.name}.bn"] = nn.BatchNorm2d(unit.channels_out, eps=BATCHNORM_EPSILON)
    layers[CLASSIFIER] = nn.Linear(NETWORK[-1].units[-1].channels_out, 10)
    return layers


def forward(layers: Mapping[str, nn.Module], x: torch.Tensor) -> torch.Tensor:
    """`x`: (n, 1, 32, 32) -> (n, 10) logits."""
    for block in NETWORK:
        start = x
        for unit in block.units:
            x = layers[f"{unit.name}.bn"](layers[f"{unit.name}.conv"](x))
            x = nn.functional.relu6(x) if unit.relu6 else x
        x = x + start if block.residual else x
    logits: torch.Tensor = layers[CLASSIFIER](x.mean(dim=(2, 3)))
    return logits


def distort(x: torch.Tensor) -> torch.Tensor:
    """Turn each image by up to 11 degrees, scale by up to 10 % and move by up to 3 of its 32 pixels."""
    count = len(x)
    angle = (torch.rand(count) * 2 - 1) * 0.19
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    move = (torch.rand(count, 2) * 2 - 1) * (2 * 3 / 32)  # affine_grid's width is 2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack((cos, -sin, move[:, 0]), 1), torch.stack((sin, cos, move[:, 1]), 1))
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)


def train_cnn(train: Split) -> dict[str, nn.Module]:
    """Train for a fixed number of epochs; the held-out images play no part."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    layers = make_layers()
    images, labels = torch.from_numpy(upsample(train.images)), torch.from_numpy(train.labels)
    steps = len(images) // CNN_BATCH
    parameters = [parameter for layer in layers.values() for parameter in layer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=CNN_EPOCHS * steps)
    for epoch in range(CNN_EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images))[: steps * CNN_BATCH].split(CNN_BATCH):
            logits = forward(layers, distort(images[batch]))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 9:
            print(f"digits_cnn: epoch {epoch + 1} of {CNN_EPOCHS}, training loss {total / steps:.4f}")
    for layer in layers.values():
        layer.eval()
    return layers


def write_cnn(layers: Mapping[str, nn.Module], path: Path) -> None:
    """Write the network as torch's exporter would in eval mode with constant folding off."""
    writer = OnnxWriter()
    arrays: dict[str, Floats] = {
        f"{layer}.{key}": tensor.detach().numpy()
        for layer, module in layers.items()
        for key, tensor in module.state_dict().items()
    }
    bounds = {"relu6.min": np.asarray(0, np.float32), "relu6.max": np.asarray(6, np.float32)}
    limits = [writer.constant(name, bound) for name, bound in bounds.items()]
    x = CNN_INPUT
    for number, block in enumerate(NETWORK):
        start = x
        for unit in block.units:
            x = write_unit(writer, unit, x, arrays, limits)
        x = writer.node("Add", f"block{number}.sum", [start, x]) if block.residual else x
    x = writer.node("GlobalAveragePool", "pool.output", [x])
    x = writer.node("Flatten", "flatten.output", [x], axis=1)
    writer.gemm(CLASSIFIER, x, arrays[f"{CLASSIFIER}.weight"], arrays[f"{CLASSIFIER}.bias"], CNN_OUTPUT)
    writer.save(path, (CNN_INPUT, [1, 1, 32, 32]), (CNN_OUTPUT, [1, 10]))


def write_unit(
    writer: OnnxWriter, unit: Unit, x: str, arrays: Mapping[str, Floats], limits: Sequence[str]
) -> str:
    """Write Conv, BatchNormalization and Clip of one unit and return the name of the result."""
    conv, norm = f"{unit.name}.conv", f"{unit.name}.bn"
    x = writer.node(
        "Conv",
        f"{conv}.output",
        [x, writer.constant(f"{conv}.weight", arrays[f"{conv}.weight"])],
        kernel_shape=[unit.kernel] * 2,
        strides=[unit.stride] * 2,
        pads=[unit.kernel // 2] * 4,
        dilations=[1, 1],
        group=unit.groups,
    )
    keys = ("weight", "bias", "running_mean", "running_var")
    statistics = [writer.constant(f"{norm}.{key}", arrays[f"{norm}.{key}"]) for key in keys]
    x = writer.node("BatchNormalization", f"{norm}.output", [x, *statistics], epsilon=BATCHNORM_EPSILON)
    return writer.node("Clip", f"{unit.name}.output", [x, *limits]) if unit.relu6 else x


# --- the network of Gemms -------------------------------------------------------------------------------


def train_mlp(train: Split) -> MLPClassifier:
    """Train 64-512-256-10 on the shifted training images for a fixed number of epochs."""
    larger = shifted(train)
    network = MLPClassifier(
        MLP_HIDDEN, alpha=1e-3, batch_size=128, max_iter=30, n_iter_no_change=30, random_state=SEED
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 30 epochs are all that we want
        network.fit(flatten(larger.images), larger.labels)
    return network


def write_mlp(network: MLPClassifier, path: Path) -> None:
    """Write Gemm and Relu for each hidden layer, then Gemm and Softmax; the batch dimension is symbolic."""
    writer = OnnxWriter()
    x = MLP_INPUT
    last = len(network.coefs_) - 1
    for number, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        x = writer.gemm(f"fc{number + 1}", x, weight.T.astype(np.float32), bias.astype(np.float32))
        if number < last:
            x = writer.node("Relu", f"relu{number + 1}.output", [x])
    writer.node("Softmax", MLP_OUTPUT, [x], axis=-1)
    writer.save(path, (MLP_INPUT, ["N", 64]), (MLP_OUTPUT, ["N", 10]))


# --- files and checks -----------------------------------------------------------------------------------


def write_data(model: Path, name: str, train: Floats, test: Split) -> None:
    """Write beside the model STEM_calib.npz (every 13th training image) and STEM_test.npz (all of `test`).

    The images are stored under `name`, the model's input, as the model takes them.
    """
    calibration: dict[str, Any] = {name: train[::CALIBRATION_STEP]}
    held_out: dict[str, Any] = {name: test.images, "labels": test.labels}
    np.savez_compressed(model.with_name(f"{model.stem}_calib.npz"), **calibration)
    np.savez_compressed(model.with_name(f"{model.stem}_test.npz"), **held_out)


def answers(path: Path, x: Floats) -> Floats:
    """Run the file one sample at a time with ONNX Runtime: (count, ...) -> (count, 10)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))])


def check(path: Path, test: Split, reference: Floats) -> None:
    """Compare the file with the trainer's own answers and with the labels; raise RuntimeError if it fails."""
    got = answers(path, test.images)
    error = float(np.abs(got - reference).max())
    accuracy = float((got.argmax(1) == test.labels).mean())
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes, accuracy {accuracy:.4f}, largest difference from training {error:.1e}")
    if error > 1e-4 or accuracy < LEAST_ACCURACY[path.stem]:
        raise RuntimeError(f"{path.name} is not good enough: accuracy {accuracy:.4f}, error {error:.1e}")


def make_cnn(folder: Path, train: Split, test: Split) -> None:
    path = folder / "digits_cnn.onnx"
    layers = train_cnn(train)
    write_cnn(layers, path)
    test = Split(upsample(test.images), test.labels)
    write_data(path, CNN_INPUT, upsample(train.images), test)
    with torch.no_grad():
        reference = forward(layers, torch.from_numpy(test.images)).numpy()
    check(path, test, reference)


def make_mlp(folder: Path, train: Split, test: Split) -> None:
    path = folder / "digits_mlp.onnx"
    network = train_mlp(train)
    write_mlp(network, path)
    test = Split(flatten(test.images), test.labels)
    write_data(path, MLP_INPUT, flatten(train.images), test)
    check(path, test, network.predict_proba(test.images).astype(np.float32))


MAKERS: Mapping[str, Callable[[Path, Split, Split], None]] = {"cnn": make_cnn, "mlp": make_mlp}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the networks of this folder and write them as ONNX.")
    parser.add_argument("networks", nargs="*", metavar="cnn|mlp", help="which to make (default: both)")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent, help="where to write")
    options = parser.parse_args()
    unknown = set(options.networks) - set(MAKERS)
    if unknown:
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    options.output.mkdir(parents=True, exist_ok=True)
    train, test = digits()
    for name in options.networks or MAKERS:
        MAKERS[name](options.output, train, test)


if __name__ == "__main__":
    main()
