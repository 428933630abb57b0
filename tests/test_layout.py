"""The layout of the package: rooms in one order, imports that run one way, files and functions of a readable length."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_llm"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")
# The map of CONTRIBUTING.md, from top to bottom: a room imports from itself and from those below it.
MAP = re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)[1]
ROOMS = [line.split()[0].removesuffix("/") for line in MAP.splitlines() if line[0] != " "]
MAX_LINES = {"models/loading.py": 500, "preparation/pipeline.py": 500, "arguments.py": 1200}  # others: 350
MAX_FUNCTION_LINES = 60


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(module: str) -> str:
    """`hf_llm.data.packing` -> `data`."""
    return module.split(".")[1]


def imported_modules(path: Path) -> list[tuple[int, str]]:
    """Line and name of every module of the package that the file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)}:{node.lineno}: write the module's whole name"
            modules = [f"hf_llm.{alias.name}" for alias in node.names] if node.module == "hf_llm" else [node.module]
            found += [(node.lineno, module) for module in modules]
    return [(line, module) for line, module in found if module.startswith("hf_llm.")]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_down_the_map(path):
    """No file imports from a room above its own, at its top or inside a function."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = [
        f"{name(path)}:{line}: {own} is below {room(module)}"
        for line, module in imported_modules(path)
        if ROOMS.index(room(module)) < ROOMS.index(own)
    ]
    assert not upward, "\n".join(upward)


def test_the_map_names_every_room_and_file():
    """A reader of CONTRIBUTING.md finds every file of the package."""
    assert sorted(ROOMS) == sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES})
    words = set(re.findall(r"\w+", MAP))
    listed = [path for path in FILES if path.stem != "__init__" and path.parent.name != "tasks"]
    assert [name(path) for path in listed if path.stem not in words] == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_are_short(path):
    """A file has at most 350 lines, but for those that are large and of one piece; a function at most 60."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES.get(name(path), 350)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_recipes_are_short(path):
    """A recipe has fewer than 60 lines and one function."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)] == ["main"]


def test_tests_mirror_the_package():
    """The tests of `hf_llm/data/packing.py` are in `tests/data/test_packing.py`."""
    folders = [path for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))]
    tests = {f"{path.parent.name}/{path.stem.removeprefix('test_')}" for path in (ROOT / "tests").glob("*/test_*.py")}
    assert {path.name for path in folders} <= set(ROOMS)
    contracts = {"tasks/tasks", "tasks/adding_a_task"}  # those of every application
    assert tests - contracts <= {name(path).removesuffix(".py") for path in FILES}
