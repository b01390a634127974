"""The plan of the house, held against the code: which way imports point, how long files are, what is never used."""

import ast
import subprocess
import sys
from collections.abc import Container
from functools import cache
from pathlib import Path
from statistics import median

TOP = Path(__file__).resolve().parents[1]
FOLDERS = {"vqmm": "vqmm", "plugins": "vqmm.plugins", "kernels": "vqmm.kernels", "benchmarks": "vqmm.benchmarks"}
FILES = {file: folder for folder in FOLDERS for file in sorted((TOP / folder).rglob("*.py"))}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands."""
    found = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_imports_point_one_way():
    wrong = []
    for file, folder in FILES.items():
        name = file.relative_to(TOP)
        for module in imports(file):
            if folder == "vqmm" and within(module, "vqmm.plugins"):
                wrong.append(f"{name}: the core imports a plugin: {module}")
            if folder in ("vqmm", "plugins", "kernels") and within(module, "vqmm.benchmarks"):
                wrong.append(f"{name} imports a benchmark: {module}")
            if folder == "kernels" and within(module, "vqmm") and not within(module, "vqmm.kernels"):
                wrong.append(f"{name}: a kernel imports the core: {module}")
    assert not wrong


def test_there_is_no_cycle_among_the_cores_modules():
    graph: dict[str, set[str]] = {}
    names = {}
    for file, folder in FILES.items():
        parts = file.relative_to(TOP / folder).with_suffix("").parts
        names[".".join([FOLDERS[folder], *(part for part in parts if part != "__init__")])] = file
    for name, file in names.items():
        graph[name] = toplevel_imports(file, names) - {name, "vqmm"}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in graph[name]:
                walk(other, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def toplevel_imports(file: Path, names: Container[str]) -> set[str]:
    """The modules that importing a file imports: not what its functions do, nor what only a type checker sees."""
    found = set()
    for node in parsed(file).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {alias: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in names else node.module or "" for module in inner.values()}
    return {module for module in found if module in names}


def test_files_are_short():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = {str(file.relative_to(TOP)): length for file, length in lengths.items() if length > 400}
    assert not long and median(lengths.values()) <= 150
    assert lengths[TOP / "vqmm" / "hookspecs.py"] <= 100, "the seam fits on one page"


def test_nothing_is_unpickled():
    unpickling = {"torch.load", "pickle.load", "pickle.loads", "joblib.load"}
    for file in FILES:
        name = file.relative_to(TOP)
        calls = {ast.unparse(node.func) for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)}
        assert not unpickling & calls, f"{name}: {unpickling & calls}"
        assert not any(within(module, "pickle") for module in imports(file)), f"{name} imports pickle"


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_vqmm_loads_nothing_else():
    told = fresh(
        "import sys, vqmm; print([m for m in ('torch', 'pydantic', 'vqmm.plugins', 'numpy') if m in sys.modules])"
    )
    assert told == "[]"


def test_files_that_are_listed_by_name_are_there():
    from tests.conftest import FIRST, OLDEST

    assert [name for name in FIRST if len([*(TOP / "tests").rglob(name)]) != 1] == []
    assert [name for name in OLDEST if not (TOP / "tests" / "kernels" / name).is_file()] == []
