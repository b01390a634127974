"""The plan of the house, held against the code: which way imports point, how long files are, what is never used."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median

import pytest
from torch import nn

import vqmm

TOP = Path(__file__).resolve().parents[1]
FOLDERS = {"vqmm": "vqmm", "plugins": "vqmm.plugins", "kernels": "vqmm.kernels", "benchmarks": "vqmm.benchmarks"}
FILES = {file: folder for folder in FOLDERS for file in sorted((TOP / folder).rglob("*.py"))}

# From the ground up: a room imports from floors below its own, never from another room on its floor. Two rooms are
# above what ARCHITECTURE would need: `hookspecs` names the contracts, so it stands on them.
FLOORS = (
    "kernels",
    "nn utils",
    "contracts",
    "hookspecs",
    "data tokens",
    "registry",
    "quantizers decoders recipes",
    "tokenizer",
    "recipe",
    "generation",
    "compression evaluation testing measure",
    "pages plugins",
    "training",
    "commands",
    "comparison",
    "cli",
    "__main__ benchmarks",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
ALONE = {"__init__.py", "__main__.py", "hookspecs.py", "recipe.py", "registry.py", "testing.py"}  # files without a room


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def module_of(file: Path) -> str:
    folder = FILES[file]
    parts = file.relative_to(TOP / folder).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in parts if part != "__init__")])


MODULES = {module_of(file): file for file in FILES}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, wherever the import stands: in a function and under `TYPE_CHECKING` too."""
    found = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {home(node.module or "", alias.name) for alias in node.names}
    return found


def home(module: str, name: str) -> str:
    """The module that `from module import name` is about: for what `vqmm` offers, the file in which it lives."""
    if module == "vqmm" and name in vqmm._HOME:
        return vqmm._HOME[name]
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports of this project."""
    return {name: (imports(file) & MODULES.keys()) - {name, "vqmm"} for name, file in MODULES.items() if name != "vqmm"}


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_go_down_the_floors():
    upward = [
        f"{name} -> {other}"
        for name, others in graph().items()
        for other in others
        if room(name) != room(other) and FLOOR[room(name)] <= FLOOR[room(other)]
    ]
    assert upward == []


def test_training_knows_no_page():
    """It ends with numbers; the command makes the page of them."""
    assert "pages" not in rooms()["training"]


def test_no_import_goes_round():
    """Neither among files nor among rooms."""
    for arrows in (graph(), rooms()):
        done: set[str] = set()

        def walk(name: str, path: tuple[str, ...], arrows=arrows, done=done) -> None:
            assert name not in path, f"import cycle: {' -> '.join([*path, name])}"
            if name not in done:
                for other in arrows[name]:
                    walk(other, (*path, name))
                done.add(name)

        for name in arrows:
            walk(name, ())


def rooms() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {room(name): set() for name in graph()}
    for name, others in graph().items():
        found[room(name)] |= {room(other) for other in others} - {room(name)}
    return found


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("from vqmm import Tokenizer", "vqmm.tokenizer.tokenizer"),
        ("import vqmm.cli", "vqmm.cli"),
        ("from vqmm.nn import masks", "vqmm.nn.masks"),
        ("def later():\n    from vqmm.commands.encode import encode", "vqmm.commands.encode"),
        ("if TYPE_CHECKING:\n    from vqmm.registry import Registry", "vqmm.registry"),
    ],
)
def test_an_import_is_seen_wherever_it_stands(code, module, tmp_path):
    (tmp_path / "file.py").write_text(code)
    assert module in imports(tmp_path / "file.py")


def test_rooms_are_packages_and_the_hallway_is_short():
    assert {file.name for file in (TOP / "vqmm").glob("*.py")} == ALONE
    folders = {file.parent for file in FILES if file.parent.parent == TOP / "vqmm"}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    said = {folder.name: ast.get_docstring(parsed(folder / "__init__.py")) or "" for folder in folders}
    assert [name for name, words in said.items() if not words] == [], "each says in a line what happens in it"


def test_files_are_short():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = {str(file.relative_to(TOP)): length for file, length in lengths.items() if length > 400}
    assert not long and median(lengths.values()) <= 150
    assert lengths[TOP / "vqmm" / "hookspecs.py"] <= 100, "the seam fits on one page"


def undocumented(body: list[ast.stmt], within: str = "") -> list[str]:
    """The public classes, functions and methods of a body that have no docstring; of an overloaded one, the last."""
    found = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            overload = any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)
            if ast.get_docstring(node) is None and not overload:
                found.append(f"{within}{node.name}")
            if isinstance(node, ast.ClassDef):
                found += undocumented(node.body, f"{within}{node.name}.")
    return found


def test_public_names_have_docstrings():
    lacking = [
        f"{file.relative_to(TOP)}: {name}"
        for file, folder in FILES.items()
        if folder in ("vqmm", "plugins", "kernels")
        for name in undocumented(parsed(file).body)
    ]
    lacking += [str(file.relative_to(TOP)) for file in FILES if ast.get_docstring(parsed(file)) is None]
    assert lacking == []


def test_locals_and_arguments_say_what_they_hold():
    """None is called by a word that would fit anything."""
    vague = {"told", "found", "own", "one", "came"}
    named = []
    for file in FILES:
        nodes = [*ast.walk(parsed(file))]
        names = [(node.lineno, node.arg) for node in nodes if isinstance(node, ast.arg)]
        names += [(n.lineno, n.id) for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        named += [f"{file.relative_to(TOP)}:{line}: {name}" for line, name in names if name in vague]
    assert named == []


def test_nothing_is_unpickled():
    unpickling = {"torch.load", "pickle.load", "pickle.loads", "joblib.load"}
    for file in FILES:
        name = file.relative_to(TOP)
        calls = {ast.unparse(node.func) for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)}
        assert not unpickling & calls, f"{name}: {unpickling & calls}"
        assert "pickle" not in imports(file), f"{name} imports pickle"


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_vqmm_loads_nothing_else():
    told = fresh(
        "import sys, vqmm; print([m for m in ('torch', 'pydantic', 'vqmm.plugins', 'numpy') if m in sys.modules])"
    )
    assert told == "[]"


def test_type_checkers_see_what_vqmm_offers():
    """The imports that only they read are those that are made when a name is asked for."""
    tree = ast.parse((TOP / "vqmm" / "__init__.py").read_text(encoding="utf-8"))
    read = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    assert {alias.asname: node.module for node in read for alias in node.names} == vqmm._HOME


def test_files_that_are_listed_by_name_are_there():
    from tests.conftest import FIRST, OLDEST

    assert [name for name in FIRST if len([*(TOP / "tests").rglob(name)]) != 1] == []

    assert [name for name in OLDEST if not (TOP / "tests" / "kernels" / name).is_file()] == []


def test_networks_are_asked_by_their_class():
    """What `vqmm.nn.Network` says with a default is never probed for by `getattr` or `hasattr`."""
    from vqmm.nn import Network

    asked = {name for name in dir(Network) if not hasattr(nn.Module, name)}
    assert {"takes_mask", "causal", "receptive_field", "lookahead", "start", "step", "seen"} <= asked
    probed = [
        f"{module_of(file)}: {ast.unparse(node)}"
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value in asked | {"network"}
    ]
    assert probed == []
