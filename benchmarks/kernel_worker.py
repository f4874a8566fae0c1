"""Runs files in one runtime and says which are answered rightly: a process of its own for `kernels.py`.

    python kernel_worker.py RUNTIME CASES SKIPPED

CASES is a pickle of [(key, rank, file, inputs, answers, tolerances)] where arrays are (bytes, type, shape). For each
case but those whose numbers SKIPPED lists (JSON) two lines are printed: its number before it runs, which is the last
thing said where the process aborts, and the verdict; or "again" and its number, when a new process must go on.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Sequence[Array]
Stored = tuple[bytes, str, tuple[int, ...]]


def litert(data: bytes, feeds: Feeds, resolver: str) -> list[Array]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = getattr(OpResolverType, resolver)
    return _tflite(Interpreter(model_content=data, num_threads=1, experimental_op_resolver_type=kind), feeds)


def old(data: bytes, feeds: Feeds) -> list[Array]:
    from tflite_runtime.interpreter import Interpreter

    return _tflite(Interpreter(model_content=data, num_threads=1), feeds)


def _tflite(interpreter: Any, feeds: Feeds) -> list[Array]:
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), feeds, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def micro(data: bytes, feeds: Feeds) -> list[Array]:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 22)
    for index, array in enumerate(feeds):
        interpreter.set_input(array, index)
    interpreter.invoke()
    graph = runtime.schema_fb.Model.GetRootAsModel(data, 0).Subgraphs(0)
    return [interpreter.get_output(i) for i in range(graph.OutputsLength())]


RUNTIMES = {
    "litert": lambda data, feeds: litert(data, feeds, "AUTO"),
    "litert-builtin": lambda data, feeds: litert(data, feeds, "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
    "tflite-runtime-2.14": old,
    "tflite-micro": micro,
}


def array(stored: Stored) -> Array:
    raw, dtype, shape = stored
    return np.frombuffer(raw, dtype).reshape(shape)


def verdict(
    run: Any, data: bytes, inputs: Sequence[Stored], answers: Sequence[Stored], tolerances: Sequence[float]
) -> str:
    try:
        got = run(data, [array(a) for a in inputs])
    except (RuntimeError, ValueError, TypeError) as error:
        return "refused: " + " ".join(str(error).split())[:300]
    for value, wanted, limit in zip(got, [array(a) for a in answers], tolerances, strict=True):
        if value.shape != wanted.shape:
            return f"wrong: shape {value.shape}, not {wanted.shape}"
        with np.errstate(all="ignore"):
            gap = np.abs(value.astype(np.float64) - wanted.astype(np.float64))
        if gap.size and not gap.max() <= limit:
            return f"wrong: off by {gap.max():.4g}, allowed {limit:.4g}"
    return "ok"


def main() -> None:
    run = RUNTIMES[sys.argv[1]]
    with open(sys.argv[2], "rb") as file:
        cases = pickle.load(file)
    passed: dict[Any, int] = {}
    dead: set[Any] = set()
    failed: dict[Any, set[int]] = {}
    with open(sys.argv[3]) as file:
        skipped = set(json.load(file))
    for number in range(len(cases)):
        if number in skipped:
            continue
        key, rank, *case = cases[number]
        # A kind's ranks come in order: what failed behind one that passed, or at three, need not be tried higher up.
        if key in dead or len(failed.get(key, ())) > 2:
            print(f"verdict {number} skipped", flush=True)
            continue
        print(f"start {number}", flush=True)
        found = verdict(run, *case)
        if "missing `self`" in found:  # what failed before left the binding in disorder
            print(f"again {number}", flush=True)
            return
        if found == "ok":
            passed.setdefault(key, rank)
        elif passed.get(key, rank) < rank:
            dead.add(key)
        else:
            failed.setdefault(key, set()).add(rank)
        print(f"verdict {number} {found}", flush=True)


main()
