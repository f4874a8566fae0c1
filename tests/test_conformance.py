"""The ONNX project's node tests: what passed once goes on passing, and nothing is answered wrongly."""

from __future__ import annotations

import pytest
from conformance import suite


@pytest.mark.parametrize("form", suite.FORMS)
def test_the_list_only_grows(form: suite.Form) -> None:
    names = list(suite.cases())
    said = dict(suite.run(form, names))
    assert len(said) == len(names) == 1557
    kinds = {name: text.split(":")[0] for name, text in said.items()}
    lost = [f"{name} {said[name]}" for name in suite.recorded(form) if kinds.get(name) != "passed"]
    assert not lost
    wrong = {n for n, kind in kinds.items() if kind not in ("passed", "refused")}
    assert not wrong, {n: said[n] for n in wrong}
