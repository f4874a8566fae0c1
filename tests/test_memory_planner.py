"""The arena of TFLite Micro: predicted as it is read back, lowered by the order of operators, refused if too large."""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgecc
from edgecc.analysis import cmsis_nn
from edgecc.analysis.flat import FlatNetwork, FlatOperator, FlatTensor
from edgecc.analysis.memory import Buffer, place, predict
from edgecc.analysis.micro_kernels import HOST, Machine, scratch_bytes
from edgecc.analysis.micro_structs import EVAL_TENSOR, NODE_AND_REGISTRATION, TENSOR, align_of, size_of
from edgecc.analysis.schedule import Task, best_order
from edgecc.errors import BudgetError, ModelError
from edgecc.tflite.flat import read_network

Parse = Callable[..., onnx.ModelProto]
MODELS = Path(__file__).resolve().parents[1] / "models"
# Of ../shared/models: what TFLite Micro runs and is quick to compile; benchmarks/arena.py has them all.
NETWORKS = (
    "ad_ae_from_tflite",
    "ds_cnn_s",
    "ic_resnet8",
    "kws_dscnn",
    "lenet_caffe",
    "mtcnn_onet",
    "sww_ref",
)
PRECISIONS = ("int8", "fp32", "int16x8")
DSP, MVE, PLAIN = Machine(4, "dsp"), Machine(4, "mve"), Machine(4, "reference")


def compiled(model: Any, folder: Path, **words: Any) -> edgecc.CompileResult:
    given: dict[str, Any] = {"target": "cortex-m4", "random_data": True, "no_profile": True, **words}
    if given.get("precision") == "fp32":
        del given["random_data"]
    return edgecc.compile(model, output=folder / "out", **given)


def read_back(data: bytes) -> int:
    pytest.importorskip("tflite_micro", reason="tflite-micro has wheels for Linux on x86-64 only")
    from edgecc.runtime.tflm import MicroRunner

    found = MicroRunner(data).arena_bytes
    assert found is not None
    return found


# ---- predicted and read back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_own_networks_are_predicted_to_the_byte(name: str, precision: str, tmp_path: Path) -> None:
    result = compiled(MODELS / f"{name}.onnx", tmp_path, precision=precision, no_verify=True)
    data = result.artifacts["tflite"].data
    assert predict(read_network(data), HOST).used == read_back(data)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks_are_predicted(shared: Path, name: str, precision: str, tmp_path: Path) -> None:
    path = shared / "models" / f"{name}.onnx"
    data = compiled(path, tmp_path, precision=precision, no_verify=True).artifacts["tflite"].data
    memory, found = predict(read_network(data), HOST), read_back(data)
    assert abs(memory.used - found) <= 0.01 * found
    assert not memory.unknown


def test_an_arena_as_predicted_is_enough_and_a_smaller_one_is_not(tmp_path: Path) -> None:
    runtime = pytest.importorskip("tflite_micro").runtime
    result = compiled(MODELS / "digits_cnn.onnx", tmp_path, precision="int8", no_verify=True)
    data = result.artifacts["tflite"].data
    size = predict(read_network(data), HOST).arena
    runtime.Interpreter.from_bytes(data, arena_size=size + 64).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(data, arena_size=size - 64)


def test_a_device_has_smaller_structures() -> None:
    assert [size_of(EVAL_TENSOR, p) for p in (4, 8)] == [12, 24]
    assert [size_of(NODE_AND_REGISTRATION, p) for p in (4, 8)] == [32, 64]
    assert [size_of(TENSOR, p) for p in (4, 8)] == [40, 64]
    assert (size_of("bd", 4), size_of("3hihi", 4), align_of("2b", 8), size_of("", 4)) == (16, 20, 1, 0)


# ---- the planner -------------------------------------------------------------------------------------------------


def test_the_largest_buffer_is_placed_first_and_gaps_are_filled() -> None:
    buffers = [Buffer("a", 16, 0, 1), Buffer("b", 64, 1, 2), Buffer("c", 32, 2, 3), Buffer("d", 16, 3, 4)]
    assert place(buffers) == [64, 0, 64, 0]


def test_buffers_that_live_together_never_overlap() -> None:
    chance = random.Random(0)
    for _ in range(60):
        buffers = []
        for i in range(chance.randint(1, 25)):
            first = chance.randint(0, 12)
            buffers.append(Buffer(str(i), 16 * chance.randint(1, 9), first, first + chance.randint(0, 5)))
        offsets = place(buffers)
        for (a, x), (b, y) in itertools.combinations(zip(buffers, offsets, strict=True), 2):
            together = a.first <= b.last and b.first <= a.last
            assert not together or x + a.bytes <= y or y + b.bytes <= x


def conv(
    shape: tuple[int, ...], filters: tuple[int, ...], **options: int
) -> tuple[FlatNetwork, FlatOperator]:
    """An int8 convolution with SAME padding, or a depthwise one where the filters' first axis is 1."""
    depthwise = filters[0] == 1 and filters[3] == shape[3] > 1
    stride = options.get("strideH", 1), options.get("strideW", 1)
    result = (
        1,
        -(-shape[1] // stride[0]),
        -(-shape[2] // stride[1]),
        filters[3] if depthwise else filters[0],
    )
    tensors = (
        FlatTensor("x", shape, 1, "int8", scales=1),
        FlatTensor("w", filters, 1, "int8", constant=True, scales=result[3]),
        FlatTensor("y", result, 1, "int8", scales=1),
    )
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    operator = FlatOperator(code, (0, 1), (2,), {"padding": 0, "strideH": 1, "strideW": 1, **options})
    return FlatNetwork(tensors, (operator,), (0,), (2,)), operator


@pytest.mark.parametrize(
    ("shape", "filters", "dsp", "mve"),
    [
        # Of arm_convolve_s8_get_buffer_size: two columns of int16, or four of int8 in whole vectors.
        ((1, 8, 8, 3), (4, 3, 3, 3), 2 * 28 * 2, 4 * 32),
        ((1, 8, 8, 16), (4, 3, 3, 16), 2 * 144 * 2, 4 * 144),
        # 1x1: nothing, but for Arm's compiler with DSP.
        ((1, 8, 8, 16), (4, 1, 1, 16), 4 * 16, 0),
        # Depthwise: 3x3 needs nothing with DSP; 5x5 a column of int16; MVE blocks of 124 channels.
        ((1, 8, 8, 16), (1, 3, 3, 16), 0, 4 * 124 * 9),
        ((1, 8, 8, 16), (1, 5, 5, 16), 2 * 16 * 25, 4 * 124 * 25),
    ],
)  # fmt: skip
def test_scratch_buffers_of_cmsis_nn(shape: Any, filters: Any, dsp: int, mve: int) -> None:
    network, operator = conv(shape, filters)
    assert sum(scratch_bytes(network, operator, DSP)) == dsp
    assert sum(scratch_bytes(network, operator, MVE)) == mve
    assert scratch_bytes(network, operator, PLAIN) == []
    assert sum(cmsis_nn.scratch(network, operator, mve=True)) == mve


# ---- the order ---------------------------------------------------------------------------------------------------


def orders(tasks: Sequence[Task]) -> Iterator[list[int]]:
    """Every order in which the tasks can run."""
    maker = {t: i for i, task in enumerate(tasks) for t in task.makes}
    needs = [{maker[t] for t in task.reads if t in maker} for task in tasks]

    def behind(done: list[int]) -> Iterator[list[int]]:
        if len(done) == len(tasks):
            yield done
        for i in range(len(tasks)):
            if i not in done and needs[i] <= set(done):
                yield from behind([*done, i])

    return behind([])


def simulated(tasks: Sequence[Task], sizes: Sequence[int], given: frozenset[int], kept: frozenset[int],
              order: Sequence[int]) -> int:  # fmt: skip
    """The peak, from lifetimes that are written down and not from sets."""
    first, last = dict.fromkeys(given, 0), dict.fromkeys(given, 0)
    for step, number in enumerate(order, 1):
        for tensor in tasks[number].makes:
            first[tensor] = step
        for tensor in tasks[number].reads | tasks[number].makes:
            last[tensor] = step
    last |= dict.fromkeys(kept, len(order))
    own = [0, *(tasks[n].own for n in order)]
    return max(
        sum(sizes[t] for t in first if first[t] <= step <= last[t]) + own[step] for step in range(len(own))
    )


def test_no_order_is_better_than_the_one_that_is_found() -> None:
    chance, gained = random.Random(3), 0
    for _ in range(120):
        count = chance.randint(2, 7)
        sizes = [chance.randint(1, 9) for _ in range(count + 2)]
        tasks = [
            Task(
                frozenset(chance.sample(range(i + 2), chance.randint(1, min(3, i + 2)))),
                frozenset([i + 2]),
                chance.choice([0, 0, 3]),
            )
            for i in range(count)
        ]
        given, kept = frozenset([0, 1]), frozenset([count + 1])
        order, peak = best_order(tasks, sizes, given=given, kept=kept)
        peaks = [simulated(tasks, sizes, given, kept, o) for o in orders(tasks)]
        assert peak == simulated(tasks, sizes, given, kept, order) == min(peaks)
        before = simulated(tasks, sizes, given, kept, range(count))
        assert order == list(range(count)) if before == min(peaks) else peak < before
        gained += peak < before
    assert gained > 20


def test_beyond_its_limit_the_search_never_makes_it_worse() -> None:
    chance = random.Random(1)
    for _ in range(40):
        count = 14
        sizes = [chance.randint(1, 99) for _ in range(count + 1)]
        tasks = [
            Task(frozenset(chance.sample(range(i + 1), min(2, i + 1))), frozenset([i + 1]))
            for i in range(count)
        ]
        given, kept = frozenset([0]), frozenset([count])
        order, peak = best_order(tasks, sizes, given=given, kept=kept, states=3)
        assert sorted(order) == list(range(count))
        assert peak <= simulated(tasks, sizes, given, kept, range(count))


@pytest.fixture(scope="module")
def branches(parse: Parse) -> onnx.ModelProto:
    """Four branches, each wide at first and narrow then, written breadth first as exporters may."""
    weights: Mapping[str, Any] = {
        f"{kind}{i}": np.random.default_rng(i).standard_normal(shape).astype(np.float32) / 4
        for i in range(4)
        for kind, shape in (("w", (24 + 8 * i, 4, 1, 1)), ("n", (2, 24 + 8 * i, 3, 3)))
    }
    wide = " ".join(f"a{i} = Conv(x, w{i}) b{i} = Relu(a{i})" for i in range(4))
    narrow = " ".join(f"c{i} = Conv<strides=[2,2], pads=[1,1,1,1]>(b{i}, n{i})" for i in range(4))
    return parse(
        f"g (float[1,4,16,16] x) => (float[1,8,8,8] y) {{ {wide} {narrow} y = Concat<axis=1>(c0, c1, c2, c3) }}",
        constants=weights,
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_branches_run_one_after_the_other(branches: onnx.ModelProto, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    result = compiled(branches, tmp_path, precision=precision)
    facts = result.report.artifacts[0]
    assert facts.memory is not None and facts.memory.given_order_bytes is not None
    assert facts.memory.head_bytes < 0.7 * facts.memory.given_order_bytes
    assert facts.arena_bytes == facts.memory.here_bytes
    assert result.fidelity is not None and result.fidelity.sqnr_db > (100 if precision == "fp32" else 25)
    again = compiled(branches, tmp_path / "again", precision=precision)
    assert again.artifacts["tflite"].data == result.artifacts["tflite"].data


def test_other_targets_keep_their_order(branches: onnx.ModelProto, tmp_path: Path) -> None:
    result = compiled(branches, tmp_path, precision="fp32", target="arm", format="tflite", no_verify=True)
    assert "reordered" not in result.artifacts["tflite"].notes
    assert result.report.artifacts[0].memory is None
    assert not list(result.output.glob("*.cc"))


# ---- limits ------------------------------------------------------------------------------------------------------


def board(folder: Path, **limits: int) -> str:
    path = folder / "board.toml"
    lines = [f"{key} = {value}" for key, value in limits.items()]
    path.write_text("\n".join(['extends = "cortex-m4"', 'name = "myboard"', 'description = "x"', *lines]))
    return str(path)


def test_what_exceeds_the_ram_is_refused_before_it_is_verified(tmp_path: Path) -> None:
    stages: list[str] = []
    from edgecc.compile import compile_with
    from edgecc.options import make_options

    options = make_options(
        {"target": board(tmp_path, ram_kb=128), "precision": "fp32", "output": str(tmp_path / "out")}
    )
    with pytest.raises(BudgetError) as caught:
        compile_with(MODELS / "digits_cnn.onnx", options, stages.append)
    text = str(caught.value)
    assert caught.value.exit_code == 5
    assert "bytes of RAM" in text and "131,072" in text
    assert "PAD block2.depthwise.output/padded" in text  # the layer
    assert "--precision int8, predicted to take about 7" in text and "fits" in text
    assert "disco-f746ng (320 KiB)" in text
    assert "verify" not in stages and "profile" not in stages
    assert not (tmp_path / "out").exists()
    report = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert report["failure"] and report["artifacts"][0]["memory"]["ram_bytes"] == 131072
    assert not (tmp_path / "out.failed" / "manifest.json").exists()


def test_what_int8_takes_is_told_rightly(tmp_path: Path) -> None:
    """The estimate in the refusal above is what the int8 file then takes, but for the conversions at its ends."""
    floats = compiled(MODELS / "digits_cnn.onnx", tmp_path, precision="fp32", no_verify=True)
    told = predict(read_network(floats.artifacts["tflite"].data).narrowed(1, "int8"), DSP).arena
    int8 = compiled(MODELS / "digits_cnn.onnx", tmp_path, precision="int8", no_verify=True)
    made = predict(read_network(int8.artifacts["tflite"].data), DSP).arena
    assert abs(told - made) < 0.02 * made


def test_what_exceeds_the_flash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BudgetError, match=r"bytes of flash, myboard has 65,536 .*: [\d,]+ too many"
    ) as caught:
        compiled(
            MODELS / "digits_cnn.onnx",
            tmp_path,
            precision="fp32",
            target=board(tmp_path, flash_kb=64, ram_kb=999),
        )
    assert "--precision int8" in str(caught.value) and "max_size=65536" in str(caught.value)


def test_what_fits_is_told_with_its_limits(tmp_path: Path) -> None:
    result = compiled(
        MODELS / "digits_mlp.onnx", tmp_path, precision="int8", target="nucleo-l4r5zi", no_verify=True
    )
    memory = result.report.artifacts[0].memory
    assert memory is not None
    assert (memory.board, memory.ram_bytes, memory.flash_limit) == ("nucleo-l4r5zi", 655360, 2097152)
    assert memory.flash_bytes == result.artifacts["tflite"].size
    assert memory.arena_bytes >= memory.head_bytes + memory.tail_bytes
    assert memory.head_bytes >= memory.live_bytes == max(live for _, live in memory.operators)
    assert sum(size for _, size in memory.peak.buffers) == memory.peak.live == memory.live_bytes


def test_the_report_shows_it(tmp_path: Path) -> None:
    from edgecc.report.html import figures, render_html
    from edgecc.report.tables import report_tables

    jsonschema = pytest.importorskip("jsonschema")
    result = compiled(MODELS / "digits_cnn.onnx", tmp_path, precision="int8", no_verify=True)
    schema = json.loads((Path(edgecc.__file__).parent / "report" / "report.schema.json").read_text())
    jsonschema.validate(json.loads((result.output / "report.json").read_text()), schema)
    memory = result.report.artifacts[0].memory
    assert memory is not None
    bar = figures(result.report)["memory0"]["data"][0]
    assert max(bar["y"]) == memory.live_bytes and len(bar["x"]) == len(memory.operators)
    page = render_html(result.report)
    assert "Memory of each operator" in page and memory.peak.buffers[0][0] in page
    said = [item for item in report_tables(result.report) if isinstance(item, str)]
    assert any(f"an arena of {memory.arena_bytes:,} bytes" in line for line in said)
    assert any("most memory lives during PAD block2.depthwise.output/padded" in line for line in said)


def test_without_the_package_the_prediction_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    words = {"precision": "fp32", "no_verify": True}
    with pytest.raises(BudgetError):
        compiled(MODELS / "digits_cnn.onnx", tmp_path, target=board(tmp_path, ram_kb=128), **words)
    result = compiled(MODELS / "digits_cnn.onnx", tmp_path, target=board(tmp_path, ram_kb=512), **words)
    facts = result.report.artifacts[0]
    assert facts.arena_bytes is None and facts.memory is not None


# ---- reading files -----------------------------------------------------------------------------------------------


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    data = (
        compiled(MODELS / "digits_mlp.onnx", tmp_path, precision="int8", no_verify=True)
        .artifacts["tflite"]
        .data
    )
    with pytest.raises(ModelError, match="TFL3"):
        read_network(b"nothing at all")
    for cut in (8, 60, 300, 1000):
        with pytest.raises(ModelError):
            read_network(data[:cut])


def test_the_reader_and_the_writer_agree(tmp_path: Path) -> None:
    from edgecc.importer import load
    from edgecc.tflite.flat import network_of
    from edgecc.tflite.lower import lower, lower_graph

    model = load(MODELS / "digits_cnn.onnx")
    written = network_of(lower_graph(model).graph)
    read = read_network(lower(model, precision="fp32", target="arm").data)
    assert read.tensors == written.tensors
    assert [(o.code, o.inputs, o.outputs) for o in read.operators] == [
        (o.code, o.inputs, o.outputs) for o in written.operators
    ]
    assert (read.inputs, read.outputs) == (written.inputs, written.outputs)
    for stored, given in zip(read.operators, written.operators, strict=True):
        assert {k: np.asarray(stored.options[k]).tolist() for k in given.options} == {
            k: np.asarray(v).tolist() for k, v in given.options.items()
        }
