"""The built-in sample: what the running Python says about itself. Real prose about real things, with no download."""

import ast
import gc
import importlib
import inspect
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, DatasetDict
from datasets.utils import tqdm

SKIPPED_FOLDERS = {
    *("test", "tests", "idle_test", "site-packages", "dist-packages"),
    *("idlelib", "lib2to3", "turtledemo", "encodings", "__pycache__"),
}
VALIDATION_FRACTION = 0.05  # of the text


def python_docs() -> DatasetDict:
    """Documentation strings of the standard library and the topics of the language reference, about 2.5 MB of text.

    Returns:
        `train` and `validation` with the columns `text` and `module`. One row is one module (`gzip`) or one topic
        (`topics.assert`); a docstring follows its signature and appears once in all rows. The same interpreter always
        gives the same rows. `validation` has 5 % of the text: of the modules, the built-in modules and the topics each,
        long ones and short ones alike.
    """
    seen: set[str] = set()
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for documents in (_source_modules(), _builtin_modules(), _topics()):
        rows = []
        for module, entries in documents:
            fresh = [(title, doc) for title, doc in entries if doc not in seen and not seen.add(doc)]
            if fresh:
                rows.append({"text": "\n\n".join(f"{title}\n\n{doc}" for title, doc in fresh) + "\n", "module": module})
        _split(rows, parts)
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in parts.items()})


def _split(rows: list[dict[str, str]], parts: dict[str, list[dict[str, str]]]) -> None:
    """Deal `rows` out, from the longest to the shortest, so that validation has its share of every length."""
    held_out, due = set(), 0.0
    for row in sorted(rows, key=lambda row: (-len(row["text"]), row["module"])):
        due += VALIDATION_FRACTION * len(row["text"])
        if due >= len(row["text"]) / 2:
            held_out.add(row["module"])
            due -= len(row["text"])
    for row in rows:
        parts["validation" if row["module"] in held_out else "train"].append(row)


def _source_modules() -> list[tuple[str, list[tuple[str, str]]]]:
    """(module, [(title, docstring)]) for the .py files of the standard library, parsed and never imported."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = []
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]  # site-packages may be huge
        paths += [Path(folder, name) for name in files if name.endswith(".py")]
    modules = []
    collecting = gc.isenabled()
    gc.disable()  # it would walk every syntax tree again and again, and so double the time
    try:
        for path in tqdm(sorted(paths), desc="Reading the standard library", unit=" files", delay=2):
            source = path.read_bytes()
            if b'"""' in source or b"'''" in source:  # parsing is what takes the time
                parts = path.relative_to(library).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                modules.append((module, list(_docstrings(ast.parse(source), module))))
    finally:
        if collecting:
            gc.enable()
    return modules


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """(title, docstring) of `node` and of the classes and functions in its body, at any depth."""
    if doc := (ast.get_docstring(node) or "").strip():
        yield _title(node, name), doc
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child, f"{name}.{child.name}")


def _title(node: ast.AST, name: str) -> str:
    """How the library reference would head it: `class io.TextIOBase`, `gzip.compress(data, compresslevel=9)`."""
    if isinstance(node, ast.Module):
        return f"module {name}"
    return f"class {name}" if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"


def _builtin_modules() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The same for the modules written in C that are part of the interpreter itself; these are safe to import."""
    for name in sorted(sys.builtin_module_names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of modules soon to be removed
            module = importlib.import_module(name)
        entries = [(f"module {name}", module)]
        for key, value in sorted(vars(module).items()):
            if inspect.isclass(value):
                entries.append((f"class {name}.{key}", value))
                methods = sorted(method for method, item in vars(value).items() if inspect.isroutine(item))
                entries += [(f"{name}.{key}.{method}", getattr(value, method)) for method in methods]
            elif inspect.isbuiltin(value):
                entries.append((f"{name}.{key}", value))
        docs = [(title + _signature(item), (inspect.getdoc(item) or "").strip()) for title, item in entries]
        yield name, [(title, doc) for title, doc in docs if doc]


def _signature(item: object) -> str:
    try:
        return str(inspect.signature(item)) if inspect.isroutine(item) else ""
    except ValueError:  # written in C without one; the docstring then opens with it
        return "()"


def _topics() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The pages of the language reference that `help("TOPIC")` shows, without those that are a section of another."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return
    seen: set[str] = set()
    whole = []
    for topic, page in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        paragraphs = {" ".join(paragraph.split()) for paragraph in page.split("\n\n") if len(paragraph) > 80}
        if not paragraphs <= seen:  # else validation would repeat what is in train
            seen |= paragraphs
            whole.append(topic)
    for topic in sorted(whole):
        yield f"topics.{topic}", [(f"topic {topic}", inspect.cleandoc(topics[topic]).strip())]
