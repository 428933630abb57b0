"""The built-in sample: the documentation of the running Python, which needs no download."""

import ast
import functools
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
    """Documentation strings of the standard library and the topics of the language reference, about 2.2 MB of text.

    Returns:
        `train` and `validation` with the columns `text` and `module`. One row is one module (`gzip`) or one topic
        (`topics.assert`); a docstring appears once in all rows. The same interpreter always gives the same rows.
        `validation` has 5 % of the text of the modules, of the built-in modules and of the topics, both long and
        short ones.
    """
    return DatasetDict({**read_python_docs()})


@functools.cache
def read_python_docs() -> dict[str, Dataset]:
    """Read the splits of `python_docs` once per process, which takes a second."""
    seen: set[str] = set()
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for documents in (source_modules(), builtin_modules(), reference_topics()):
        rows = []
        for module, docs in documents:
            new = [doc for doc in docs if doc not in seen and not seen.add(doc)]
            if new:
                rows.append({"text": "\n\n".join(new) + "\n", "module": module})
        split_by_length(rows, splits)
    return {name: Dataset.from_list(rows) for name, rows in splits.items()}


def split_by_length(rows: list[dict[str, str]], splits: dict[str, list[dict[str, str]]]) -> None:
    """Assign rows to the splits, from the longest to the shortest, so that validation has rows of every length."""
    held_out, due = set(), 0.0
    for row in sorted(rows, key=lambda row: (-len(row["text"]), row["module"])):
        due += VALIDATION_FRACTION * len(row["text"])
        if due >= len(row["text"]) / 2:
            held_out.add(row["module"])
            due -= len(row["text"])
    for row in rows:
        splits["validation" if row["module"] in held_out else "train"].append(row)


def source_modules() -> list[tuple[str, list[str]]]:
    """Return (module, docstrings) of the .py files of the standard library, which are parsed, not imported."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = []
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]  # site-packages may be huge
        paths += [Path(folder, name) for name in files if name.endswith(".py")]
    modules = []
    collecting = gc.isenabled()
    gc.disable()  # it would scan the syntax trees repeatedly and double the time
    try:
        for path in tqdm(sorted(paths), desc="Reading the standard library", unit=" files", delay=2):
            source = path.read_bytes()
            if b'"""' in source or b"'''" in source:  # parsing takes most of the time
                names = path.relative_to(library).with_suffix("").parts
                module = ".".join(names[:-1] if names[-1] == "__init__" else names)
                modules.append((module, list(docstrings(ast.parse(source)))))
    finally:
        if collecting:
            gc.enable()
    return modules


def docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield the docstrings of `node` and of the classes and functions in its body, at any depth."""
    if doc := (ast.get_docstring(node) or "").strip():
        yield doc
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from docstrings(child)


def builtin_modules() -> Iterator[tuple[str, list[str]]]:
    """Yield (module, docstrings) of the modules in C that are part of the interpreter; these are safe to import."""
    for name in sorted(sys.builtin_module_names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of modules soon to be removed
            module = importlib.import_module(name)
        items: list[object] = [module]
        for _, value in sorted(vars(module).items()):
            if inspect.isclass(value):
                methods = sorted(method for method, item in vars(value).items() if inspect.isroutine(item))
                items += [value, *(getattr(value, method) for method in methods)]
            elif inspect.isbuiltin(value):
                items.append(value)
        yield name, [doc for item in items if (doc := (inspect.getdoc(item) or "").strip())]


def reference_topics() -> Iterator[tuple[str, list[str]]]:
    """Yield (topic, [page]) of the language reference that `help("TOPIC")` shows.

    Pages that are a section of another page are left out: validation would repeat text of train.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions do not include it
        return
    seen: set[str] = set()
    complete = []
    for topic, page in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        paragraphs = {" ".join(paragraph.split()) for paragraph in page.split("\n\n") if len(paragraph) > 80}
        if not paragraphs <= seen:
            seen |= paragraphs
            complete.append(topic)
    for topic in sorted(complete):
        yield f"topics.{topic}", [inspect.cleandoc(topics[topic]).strip()]
