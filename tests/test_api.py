"""The public names: each is documented with arguments, returns and errors, and docs/api.md says the same."""

import dataclasses
import inspect
import re
import runpy
from pathlib import Path

import pytest

import hf_llm

MAKE_API = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "make_api.py"))
NAMES = sorted(hf_llm.__all__)


def parameters(thing: object) -> list[str]:
    """The names of a function's arguments, or of those of a class; of flags none, whose help explains each."""
    if dataclasses.is_dataclass(thing) and any("help" in field.metadata for field in dataclasses.fields(thing)):
        return []
    if inspect.isclass(thing) and thing.__init__ is object.__init__:
        return []
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "args", "kwargs")]


def body(thing: object) -> str:
    """The code that a caller runs: of a class its `__init__`, where it has one of its own."""
    if not inspect.isclass(thing):
        return inspect.getsource(thing)
    written = ["__post_init__"] if dataclasses.is_dataclass(thing) else ["__init__"]
    return "".join(inspect.getsource(vars(thing)[name]) for name in written if name in vars(thing))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_goes_in_what_comes_out_and_what_is_raised(name):
    """`Args:` explains each argument, `Returns:` what is returned, `Raises:` the errors that the code raises."""
    thing = getattr(hf_llm, name)
    doc = inspect.getdoc(thing)
    explained = set(re.findall(r"^ +([\w, *]+):", doc, re.MULTILINE))
    explained = {part.strip(" *") for names in explained for part in names.split(",")}
    assert [argument for argument in parameters(thing) if argument not in explained] == []
    if inspect.isfunction(thing) and thing.__annotations__.get("return") is not None:
        assert "Returns:" in doc
    if re.search(r"^ +raise \w+Error", body(thing), re.MULTILINE):
        assert "Raises:" in doc


def test_the_page_of_the_public_names_is_up_to_date():
    """docs/api.md is what `python docs/make_api.py` writes."""
    assert MAKE_API["API"].read_text(encoding="utf-8") == MAKE_API["api"]()


def test_importing_the_package_imports_nothing_heavy(processes, tmp_path):
    """A public name is imported when it is first used: `import hf_llm` alone brings neither torch nor transformers."""
    code = "import sys, hf_llm; print([m for m in ('torch', 'transformers', 'datasets', 'daft') if m in sys.modules])"
    assert processes.run(["python", "-c", code], tmp_path).stdout == "[]\n"
