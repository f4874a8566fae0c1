"""What a command does not need is not imported: `edgecc --help` answers at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
# Each costs a tenth of a second or more, or brings something that does.
HEAVY = {
    "PIL", "ai_edge_litert", "jinja2", "networkx", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript",
    "plotly", "pydantic", "rich", "scipy", "sympy", "msgspec", "tensorflow", "torch",
}  # fmt: skip


def imported(*words: str) -> set[str]:
    """The heavy packages that a command imports, in a process of its own."""
    program = (
        "import json, sys\n"
        "from edgecc.cli import main\n"
        "try:\n"
        "    main(json.loads(sys.argv[1]))\n"
        "except SystemExit:\n"
        "    pass\n"
        "sys.stderr.write('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(words)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(json.loads(done.stderr.splitlines()[-1])) & HEAVY


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("compile", "--help"), ("verify", "--help")])
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    assert imported(*words) == set()


def test_wrong_words_are_told_before_anything_is_loaded() -> None:
    assert imported("compile", "model.onnx", "--format", "tfl") == set()
    assert imported("compile", "model.onnx", "--min-agreement", "2") == set()


def test_import_of_the_package_costs_nothing() -> None:
    program = "import sys, edgecc; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(done.stdout.split()) & HEAVY == set()


def test_a_plain_compilation_leaves_out_what_it_does_not_use(tmp_path: Path) -> None:
    model = str(MODELS / "digits_mlp.onnx")
    words = ("compile", model, "--format", "tflite", "--precision", "fp32", "--no-verify", "--no-profile")
    found = imported(*words, "-q", "-o", str(tmp_path / "o"))
    assert found <= {
        "numpy",
        "onnx",
        "onnx_ir",
        "ai_edge_litert",
        "msgspec",
        "jinja2",
        "scipy",
        "networkx",
        "plotly",
    }
    assert not found & {"onnxruntime", "sympy", "rich", "PIL", "pydantic"}
