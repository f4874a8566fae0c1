"""`inspect` of TFLite files: what is in them, who has kernels for it, what a microcontroller needs, and bad files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import Outcome

import edgecc
from edgecc.inspect_tflite import FileInspection, file_tables, inspect_file
from edgecc.options import Precision

Cli = Callable[..., Outcome]
MODELS = Path(__file__).resolve().parents[1] / "models"
WEIGHTS = ",".join(str((7 * i) % 5 / 8 - 0.25) for i in range(144))
NETWORK = f"""<ir_version: 10, opset_import: ["" : 21]>
g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,3,3] w = {{{WEIGHTS}}}> {{
    c = Conv<pads = [1, 1, 1, 1]>(x, w)
    y = Add(c, x)
}}"""
PLANE = 4 * 6 * 6


def compiled(folder: Path, precision: Precision) -> Path:
    small = precision != "dynamic"  # which leaves small layers in float
    edgecc.compile(
        onnx.parser.parse_model(NETWORK) if small else MODELS / "digits_cnn.onnx",
        precision=precision,
        random_data=precision == "int8",
        format="tflite",
        no_profile=True,
        no_verify=True,
        output=folder,
    )
    (made,) = folder.glob("*.tflite")
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By precision."""
    chosen: tuple[Precision, ...] = ("fp32", "int8", "dynamic")
    return {p: compiled(tmp_path_factory.mktemp(p), p) for p in chosen}


def changed(path: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """The file with something else in its tables."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "changed.tflite").write_bytes(bytes(builder.Output()))
    return folder / "changed.tflite"


def code_of(model: Any, builtin: int) -> Any:
    return next(code for code in model.operatorCodes if code.builtinCode == builtin)


def reasons(found: FileInspection, runtime: str) -> list[tuple[str, str]]:
    return [(each.op_type, each.reason) for each in found.runtimes[runtime]]


def test_work_sizes_and_types_are_those_of_the_file(files: dict[str, Path]) -> None:
    found = inspect_file(files["fp32"])
    assert found.precision == "fp32"
    assert found.macs == PLANE * 4 * 9
    assert found.parameters == 144 + 4  # TFLite's convolutions have a bias
    assert found.weight_bytes == 4 * found.parameters
    assert found.peak_activation_bytes == 3 * 4 * PLANE  # what Add reads and writes
    assert (found.model.inputs, found.types["x"]) == ({"x": (1, 6, 6, 4)}, "float32")
    assert [(o.code, o.stored, o.outputs) for o in found.operators] == [
        ("CONV_2D", "float32", ((1, 6, 6, 4),)),
        ("ADD", "float32", ((1, 6, 6, 4),)),
    ]
    assert not any(found.runtimes.values())


def test_precision_is_told_operator_by_operator(files: dict[str, Path]) -> None:
    found = inspect_file(files["int8"])
    stored = {o.code: o.stored for o in found.operators}
    assert found.precision == "int8"
    assert stored["CONV_2D"] == "quantized int8 with quantized int8 weights (a scale a channel)"
    assert stored["QUANTIZE"] == "float32 to quantized int8"
    assert found.weight_bytes == 144 + 4 * 4


def test_a_runtime_without_a_kernel_says_which(files: dict[str, Path]) -> None:
    found = inspect_file(files["dynamic"], ["arm", "cortex-m4"])
    lacking = (
        "CONV_2D has no kernel for float32 with quantized int8 weights (a scale a channel) in TFLite Micro"
    )
    assert reasons(found, "litert") == []
    assert ("CONV_2D", lacking) in reasons(found, "tflite-micro")
    arm, micro = found.targets
    assert (arm.target, arm.findings) == ("arm", ())
    assert (micro.target, micro.findings) == ("cortex-m4", found.runtimes["tflite-micro"])
    weighted = {o.name for o in found.operators if "weights" in o.stored}
    assert {f.node for f in micro.findings} == weighted


def test_versions_and_custom_operators_are_those_of_the_file(files: dict[str, Path], tmp_path: Path) -> None:
    def newer(model: Any) -> None:
        code_of(model, schema.BuiltinOperator.CONV_2D).version = 99

    def custom(model: Any) -> None:
        code = code_of(model, schema.BuiltinOperator.ADD)
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"Mine"

    def strange(model: Any) -> None:
        code = code_of(model, schema.BuiltinOperator.ADD)
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SKIP_GRAM

    ((code, reason),) = reasons(inspect_file(changed(files["fp32"], tmp_path, newer)), "litert")
    assert code == "CONV_2D"
    assert "version 99 is too new" in reason
    ((code, reason),) = reasons(inspect_file(changed(files["fp32"], tmp_path, custom)), "litert")
    assert code == "CUSTOM Mine"
    assert "must bring its kernel" in reason
    ((code, reason),) = reasons(inspect_file(changed(files["fp32"], tmp_path, strange)), "litert")
    assert code == "SKIP_GRAM"
    assert "not known" in reason


def test_a_microcontroller_gets_its_arena_and_an_npu_what_it_leaves(files: dict[str, Path]) -> None:
    from edgecc.micro import file_facts
    from edgecc.target import target

    found = inspect_file(files["int8"], ["nucleo-l4r5zi", "ethos-u55-128"])
    facts = found.memories["nucleo-l4r5zi"]
    assert facts == file_facts(files["int8"].read_bytes(), target("nucleo-l4r5zi"))
    assert list(found.memories) == ["nucleo-l4r5zi"]
    assert {f.op_type for f in found.targets[1].on_cpu} == {"QUANTIZE", "DEQUANTIZE"}
    text = [item for item in file_tables(found) if isinstance(item, str)]
    assert any(f"an arena of {facts.arena_bytes:,} bytes of the 655,360" in line for line in text)


def test_the_command_answers_like_that_of_onnx_files(cli: Cli, files: dict[str, Path]) -> None:
    told, original = (
        cli("inspect", files["fp32"], "--json"),
        cli("inspect", MODELS / "digits_cnn.onnx", "--json"),
    )
    assert told.code == 0, told.err
    assert set(original.json) <= set(told.json)
    assert set(original.json["targets"][0]) == set(told.json["targets"][0])
    shown = cli("inspect", files["dynamic"], "--target", "cortex-m4")
    assert shown.code == 0
    assert "cortex-m4, tflite dynamic has no kernel for" in shown.out
    assert re.search(r"TFLite Micro +lacks \d+ of \d+ +CONV_2D has no kernel", shown.out)
    assert "operators, in order" in cli("inspect", files["dynamic"], "--verbose").out


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello, world", "not a TFLite file"),
        (b"", "empty"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(64), "damaged"),
    ],
)
def test_what_is_no_tflite_file_is_exit_2(cli: Cli, tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    found = cli("inspect", path)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert str(path) in found.err
    assert reason in found.err


def test_damaged_tables_are_exit_2(cli: Cli, files: dict[str, Path], tmp_path: Path) -> None:
    def without_operands(model: Any) -> None:
        model.subgraphs[0].operators[0].inputs = []

    def without_weights(model: Any) -> None:
        model.subgraphs[0].operators[0].inputs = model.subgraphs[0].operators[0].inputs[:1]

    for change in (without_operands, without_weights):
        found = cli("inspect", changed(files["fp32"], tmp_path, change))
        assert found.code == 2, found.err
        assert "CONV_2D" in found.err or "operands" in found.err
    cut = tmp_path / "cut.tflite"
    whole = files["fp32"].read_bytes()
    for length in range(8, len(whole), len(whole) // 20):
        cut.write_bytes(whole[:length])
        assert cli("inspect", cut).code in (0, 2)


def test_what_is_asked_wrongly_is_exit_2(cli: Cli, files: dict[str, Path], tmp_path: Path) -> None:
    for words, reason in (
        ((tmp_path / "no.tflite",), "no such file"),
        ((files["fp32"], "--target", "z80"), "z80"),
        ((files["fp32"], "--input-shape", "x=1x4x6x6"), "--input-shape"),
    ):
        found = cli("inspect", *words)
        assert found.code == 2
        assert reason in found.err
