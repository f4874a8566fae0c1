"""The direction of imports (DESIGN §2) and the habits that a machine can check (STYLE), read from source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    [p for p in (ROOT / "edgecc").rglob("*.py") if p.relative_to(ROOT).parts[1] not in ("passes", "targets")]
    + [*(ROOT / "passes").glob("*.py"), *(ROOT / "targets").glob("*.py")]
)
RUNTIMES = ("onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow", "tflite_micro")


@dataclass(frozen=True)
class Import:
    """One imported module. `lazy`: inside a function; `typing`: only for type checkers."""

    name: str
    lazy: bool
    typing: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "edgecc" else ("edgecc", *parts))


def imports(path: Path) -> Iterator[Import]:
    """Every module that a file imports; `from edgecc import ir` counts as edgecc.ir."""

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(whole if whole in NAMES else base, lazy, typing)
        inner_lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner_lazy, typing or guard)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


NAMES = {module_name(p) for p in MODULES}
IMPORTS = {module_name(p): list(imports(p)) for p in MODULES}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def offenders(
    importers: tuple[str, ...], imported: tuple[str, ...], *, but: tuple[str, ...] = ()
) -> list[str]:
    return [
        f"{module} imports {each.name}"
        for module, found in IMPORTS.items()
        if any(inside(module, p) for p in importers) and not any(inside(module, p) for p in but)
        for each in found
        if not each.typing and any(inside(each.name, p) for p in imported)
    ]


def test_the_rules_see_the_code() -> None:
    assert {"edgecc.cli", "edgecc.passes.insert_qdq", "edgecc.tflite.lower", "edgecc.onnxrt.export"} <= NAMES
    assert Import("edgecc.ir", False, False) in IMPORTS["edgecc.pipeline"]
    assert offenders(("edgecc.runtime",), ("onnxruntime",))  # the rule below would find it


def test_edgecc_reaches_passes_and_targets_only_by_name() -> None:
    assert not offenders(
        ("edgecc",),
        ("edgecc.passes", "edgecc.targets", "passes", "targets"),
        but=("edgecc.passes", "edgecc.targets"),
    )


def test_analysis_knows_no_pass_and_nothing_that_comes_later() -> None:
    later = (
        "edgecc.passes",
        "edgecc.quant.plan",
        "edgecc.tflite",
        "edgecc.onnxrt",
        "edgecc.calibration",
        "edgecc.report",
    )
    assert not offenders(("edgecc.analysis",), later)


def test_lowering_knows_no_data() -> None:
    assert not offenders(("edgecc.tflite", "edgecc.onnxrt"), ("edgecc.calibration",))


def test_only_runtime_imports_a_runtime() -> None:
    format_only = {  # the file format's own classes
        "edgecc.tflite.writer", "edgecc.pack.weights", "edgecc.tflite.reader", "edgecc.simulate.isolate",
    }  # fmt: skip
    found = offenders(("edgecc",), RUNTIMES, but=("edgecc.runtime",))
    assert [text for text in found if not text.endswith("imports ai_edge_litert.schema_py_generated")
            and text not in {f"{name} imports ai_edge_litert" for name in format_only}] == []  # fmt: skip
    for name in format_only:
        assert len([each.name for each in IMPORTS[name] if "ai_edge_litert" in each.name]) == 1


def test_tensorflow_is_nowhere() -> None:
    assert not offenders(("edgecc",), ("tensorflow", "tf_keras", "keras"))


def test_nothing_imports_the_command_line() -> None:
    assert not offenders(("edgecc",), ("edgecc.cli", "click", "typer"), but=("edgecc.cli",))


def test_the_ir_has_one_door() -> None:
    top = [
        f"{module} imports {each.name}"
        for module, found in IMPORTS.items()
        if module != "edgecc.ir"
        for each in found
        if inside(each.name, "onnx_ir") and not (each.lazy or each.typing)
    ]
    assert not top  # edgecc.ir keeps sympy away: see docs/adr/0001-deferred-sympy.md


def test_imports_of_modules_form_no_circle() -> None:
    graph = {
        module: {e.name for e in found if e.name in NAMES and not (e.lazy or e.typing)} - {module}
        for module, found in IMPORTS.items()
    }
    while leaves := [module for module, needed in graph.items() if not needed & set(graph)]:
        for module in leaves:
            del graph[module]
    assert not graph


# Heavy packages that no command may pay for unless it uses them.
HEAVY = (
    "PIL", "ai_edge_litert", "jinja2", "networkx", "onnxruntime", "onnxscript", "plotly", "rich", "scipy",
    "sympy",
)  # fmt: skip


def test_heavy_packages_are_imported_where_they_are_needed() -> None:
    eager = {
        f"{module} imports {each.name}"
        for module, found in IMPORTS.items()
        for each in found
        if not (each.lazy or each.typing) and any(inside(each.name, heavy) for heavy in HEAVY)
    }
    # Writing TFLite is what its module is for: it needs the schema whenever it is imported.
    assert {
        text for text in eager if not text.startswith("edgecc.tflite.writer imports ai_edge_litert")
    } == set()


def calls(path: Path) -> Iterator[tuple[str, str, dict[str | None, str]]]:
    """Place, function and keywords of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            yield f"{module_name(path)}:{node.lineno}", ast.unparse(node.func), keywords


def test_only_the_command_line_prints_and_exits() -> None:
    # Each of the others runs as a process of its own.
    programs = ("edgecc.cli", "edgecc.runtime.stopwatch", "edgecc.runtime.arm_guest")
    forbidden = ("print", "sys.exit", "exit", "quit", "os._exit", "input")
    paths = [p for p in MODULES if module_name(p) not in programs]
    assert [where for path in paths for where, name, _ in calls(path) if name in forbidden] == []


def test_no_failure_is_swallowed() -> None:
    """`except Exception` stands only where it is raised again in other words, and in the command line; it says why."""
    swallowed, silent = [], []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                line = text.splitlines()[node.lineno - 1]
                if ast.unparse(node.type) in ("Exception", "BaseException") and "  # " not in line:
                    silent.append(f"{module_name(path)}:{node.lineno}")
            if not isinstance(node, ast.ExceptHandler) or module_name(path) == "edgecc.cli":
                continue
            caught = "" if node.type is None else ast.unparse(node.type)
            again = any(isinstance(step, ast.Raise) for step in ast.walk(node))
            if caught in ("", "Exception", "BaseException") and not again:
                swallowed.append(f"{module_name(path)}:{node.lineno}")
    assert swallowed == []
    assert silent == []


def test_no_shell_no_pickle_no_eval() -> None:
    """Model files are untrusted (DESIGN §3): nothing in them may become code."""
    forbidden = ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads")
    found = []
    for path in MODULES:
        for where, name, keywords in calls(path):
            loads = (
                name in ("np.load", "np.lib.format.read_array") and keywords.get("allow_pickle") != "False"
            )
            if name in forbidden or loads or keywords.get("shell") not in (None, "False"):
                found.append(f"{where} {name}")
    assert found == []


def test_no_module_keeps_state_but_the_registries() -> None:
    """A module's names in lower case that hold a list, dict or set could change; tables are in capitals."""
    found = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Dict, ast.Set)):
                names = [t.id for t in node.targets if isinstance(t, ast.Name) and t.id != "__all__"]
                found += [f"{module_name(path)}: {name}" for name in names if name.islower()]
            if any(isinstance(step, ast.Global) for step in ast.walk(node)):
                found.append(f"{module_name(path)}: global")
    assert found == []
