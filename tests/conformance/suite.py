"""The ONNX project's own backend node tests, compiled to float TFLite and run in LiteRT.

Each case runs in a child process, which a crash of the interpreter takes down alone. Run as a program it writes the
lists of passing tests beside it:

    python tests/conformance/suite.py [bound|free] [SUBSTRING]
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

Form = Literal["bound", "free"]
HERE = Path(__file__).resolve().parent
FORMS: tuple[Form, ...] = ("bound", "free")
# Element types of ordinary tensors: float, uint8, int8, int16, int32, int64, bool, float16, double.
PLAIN = frozenset({1, 2, 3, 5, 6, 7, 9, 10, 11})
# Float kernels sum in another order than numpy does: not looser than this, not tighter than the test's own.
RELATIVE = 1e-3
SECONDS_PER_TEST = 30


def cases() -> dict[str, Any]:
    """The node tests of the default domain whose inputs and outputs are all plain tensors, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with contextlib.redirect_stdout(sys.stderr):
        found = collect_testcases(None)
    return {c.name: c for c in sorted(found, key=lambda c: str(c.name)) if _plain(c)}


def _plain(case: Any) -> bool:
    graph = case.model.graph
    domains = {node.domain for node in graph.node}
    types = [v.type for v in (*graph.input, *graph.output)]
    return domains <= {"", "ai.onnx"} and all(
        t.HasField("tensor_type") and t.tensor_type.elem_type in PLAIN for t in types
    )


def bound(case: Any) -> onnx.ModelProto:
    """The model with every input but the first made a constant, as in real networks."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs = case.data_sets[0][0]
    for value, array in list(zip(model.graph.input, inputs, strict=False))[1:]:
        model.graph.initializer.append(numpy_helper.from_array(_array(array), value.name))
    del model.graph.input[1:]
    return model


def _array(data: Any) -> Any:
    """The numbers of an input or output; some tests hold them as TensorProto."""
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def outcome(case: Any, form: Form) -> str:
    """`passed`, `refused: why`, or `wrong: why`."""
    from edgecc.compile import lower_float
    from edgecc.errors import EdgeccError
    from edgecc.runtime.litert import LiteRtRunner

    inputs, wanted = case.data_sets[0]
    model = bound(case) if form == "bound" else case.model
    names = [v.name for v in model.graph.input]
    try:
        artifact = lower_float(model, io_layout="onnx")
    except EdgeccError as error:
        return f"refused: {str(error).splitlines()[-1].strip()[:300]}"
    runner = LiteRtRunner(artifact.data, threads=1)
    got = runner.run({n: _array(a) for n, a in zip(names, inputs, strict=False)})
    for value, expected in zip(model.graph.output, wanted, strict=True):
        expected = _array(expected)
        found = got[value.name]
        if found.shape != expected.shape:
            return f"wrong: {value.name} has shape {found.shape}, not {expected.shape}"
        rtol = max(case.rtol, RELATIVE) if expected.dtype.kind == "f" else case.rtol
        close = np.isclose(
            found.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=case.atol, equal_nan=True
        )
        if not close.all():
            return f"wrong: {value.name} differs in {int((~close).sum())} of {close.size}"
    return "passed"


def serve(form: Form) -> None:
    """The child: reads names of tests, answers each with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what runtimes print is not an answer
    known = cases()
    for line in sys.stdin:
        name = line.strip()
        try:
            said = outcome(known[name], form)
        except Exception as error:  # noqa: BLE001 - whatever escapes is a finding
            said = f"defect: {type(error).__name__}: {str(error)[:300]}"
        answers.write(json.dumps([name, said]) + "\n")
        answers.flush()


def run(form: Form, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and outcome of each test; `crashed` where the child ended, `hung` where it did not answer in time."""
    waiting = list(names)
    while waiting:
        command = [sys.executable, __file__, "serve", form]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            os.set_blocking(child.stdout.fileno(), True)
            while waiting:
                name = waiting.pop(0)
                try:
                    child.stdin.write(name + "\n")
                    child.stdin.flush()
                    line = _read(child)
                except BrokenPipeError:
                    line = ""
                if not line:
                    how = "hung" if child.poll() is None else "crashed"
                    child.kill()
                    yield name, how
                    break
                yield tuple(json.loads(line))
            else:
                child.stdin.close()


def _read(child: subprocess.Popen[str]) -> str:
    import select

    assert child.stdout is not None
    limit = time.monotonic() + SECONDS_PER_TEST + 30
    while time.monotonic() < limit:
        if select.select([child.stdout], [], [], 1.0)[0]:
            return child.stdout.readline()
    return ""


def recorded(form: Form) -> list[str]:
    """The tests that passed when the list was written."""
    return (HERE / f"passing_{form}.txt").read_text(encoding="utf-8").split()


def main(arguments: list[str]) -> None:
    """Runs the forms named and rewrites their lists, or only prints, given a part of the tests' names."""
    if arguments[:1] == ["serve"]:
        serve(arguments[1])  # type: ignore[arg-type]
        return
    forms = [f for f in FORMS if f in arguments] or list(FORMS)
    part = next((a for a in arguments if a not in FORMS), "")
    names = [n for n in cases() if part in n]
    for form in forms:
        counts: dict[str, int] = {}
        passed = []
        for name, said in run(form, names):
            kind = said.split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
            if kind == "passed":
                passed.append(name)
            else:
                sys.stdout.write(f"{form} {name} {said}\n")
        share = 100 * len(passed) / max(len(names), 1)
        sys.stdout.write(f"{form}: {len(passed)} of {len(names)} ({share:.1f} %), {counts}\n")
        if not part:
            (HERE / f"passing_{form}.txt").write_text("\n".join(passed) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
