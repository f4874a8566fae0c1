"""Pages that are made from the code are what the code makes now."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_operator_page_is_not_stale(generate: ModuleType) -> None:
    held = (DOCS / "operators.md").read_text(encoding="utf-8")
    assert held == generate.page(), "run `python docs/generate.py`"


def test_rows_say_what_the_tables_say(generate: ModuleType) -> None:
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in generate.page().splitlines()}
    assert "| LOGISTIC |" in rows["Sigmoid"] and rows["Sigmoid"].count("fixed scale") == 3
    assert rows["Conv"].count("yes \\*") == 3 and "weights" in rows["Conv"]
    assert rows["LSTM"].count("float") >= 3
    assert rows["GELU"].endswith("| - |")  # TFLite Micro has none
    assert "of different shapes up to 4" in rows["POW"]
