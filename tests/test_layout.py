"""The shape of the repository: sizes, packages, import laws, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "operator/penstock_operator", ROOT / "runtime/penstock", ROOT / "kernels/penstock_kernels")
SOURCES = sorted(path for folder in (*PACKAGES, ROOT / "tests", ROOT / "bench") for path in folder.rglob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 350, 50, 6
MAX_KERNEL = 150  # lines of a GPU kernel, which cannot be cut where its state is in registers

# What may be larger, and why. An entry that is no longer needed fails the test.
ALLOWED: dict[str, str] = {}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def oversize() -> dict[str, str]:
    """Everything over the limits: place -> what is too large."""
    found = {}
    for path in SOURCES:
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_FILE:
            found[name(path)] = f"{lines} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                place = f"{name(path)}:{node.name}"
                is_kernel = any(ast.unparse(one).startswith("triton.jit") for one in node.decorator_list)
                if (length := (node.end_lineno or 0) - node.lineno + 1) > (MAX_KERNEL if is_kernel else MAX_FUNCTION):
                    found[place] = f"{length} lines"
                positional = [a for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
                if len(positional) > MAX_PARAMETERS and not is_kernel:
                    found[place] = f"{len(positional)} positional parameters"
    return found


def test_files_and_functions_stay_small():
    found = oversize()
    assert {place: size for place, size in found.items() if place not in ALLOWED} == {}
    assert [place for place in ALLOWED if place not in found] == [], "remove what is no longer over the limit"


def test_every_package_folder_has_an_init_file_and_nothing_else_has():
    for package in PACKAGES:
        folders = {path.parent for path in package.rglob("*.py")}
        assert [name(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
    forbidden = [ROOT / top / "__init__.py" for top in ("operator", "runtime", "kernels")]
    forbidden += (ROOT / "tests").rglob("__init__.py")
    assert [name(path) for path in forbidden if path.exists()] == []


def test_import_laws_hold():
    # importlinter's command takes a shortcut when called as a module, so its console script's function is called.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module",
    ["penstock", "penstock.core.scheduler", "penstock.engine.core", "penstock.cli", "penstock_operator"],
)
def test_modules_that_must_stay_light_leave_torch_out(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_nothing_unpickles_evaluates_or_trusts_remote_code():
    banned = {"pickle", "cPickle", "dill", "shelve", "marshal", "multiprocessing"}
    problems = []
    for path in (path for path in SOURCES if "tests" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names) if banned & {alias.name.split(".")[0] for alias in names}:
                    problems.append(f"{name(path)}:{node.lineno} imports {names[0].name}")
                case ast.ImportFrom(module=str(module)) if module.split(".")[0] in banned:
                    problems.append(f"{name(path)}:{node.lineno} imports {module}")
                case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__")):
                    problems.append(f"{name(path)}:{node.lineno} runs code from text")
                case ast.keyword(arg="trust_remote_code", value=ast.Constant(value=True)):
                    problems.append(f"{name(path)}:{node.lineno} trusts remote code")
                case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
                    problems.append(f"{name(path)}:{node.lineno} may unpickle")
    assert problems == []


def test_only_envs_reads_the_environment():
    readers = [
        name(path)
        for path in SOURCES
        if "runtime" in path.parts and path.name != "envs.py" and "os.environ" in path.read_text()
    ]
    assert readers == []
