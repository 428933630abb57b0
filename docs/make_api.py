"""Write docs/api.md from the docstrings of the public names.

python docs/make_api.py
"""

import dataclasses
import inspect
from pathlib import Path

import hf_llm

API = Path(__file__).parent / "api.md"
HEADER = """# Public names

Written by `python docs/make_api.py` from the docstrings; a test compares the two. Each name is imported from `hf_llm`:
`from hf_llm import PackingCollator, pack`.
"""


def api() -> str:
    """The text of docs/api.md."""
    return "\n".join([HEADER, *map(entry, sorted(hf_llm.__all__, key=str.lower))])


def entry(name: str) -> str:
    """Signature, module and docstring of one public name; of a class its public methods' first lines too."""
    thing = getattr(hf_llm, name)
    lines = [f"## {name}", "", f"`{thing.__module__}`", "", "```text", f"{name}{signature(thing)}", ""]
    lines += [inspect.cleandoc(thing.__doc__)]
    if dataclasses.is_dataclass(thing):
        helps = {field.name: field.metadata["help"] for field in dataclasses.fields(thing) if "help" in field.metadata}
        lines += ["", "Args:", *(f"    {name}: {text}" for name, text in helps.items())] if helps else []
    methods = vars(thing) if inspect.isclass(thing) else {}
    for method, function in methods.items():
        if inspect.isfunction(function) and not method.startswith(("_", "on_")) and function.__doc__:
            lines += ["", f".{method}{signature(function)}", f"    {function.__doc__.splitlines()[0]}"]
    return "\n".join([*lines, "```", ""])


def signature(thing: object) -> str:
    """The parameters with their defaults, without annotations, which the docstring explains."""
    parameters = inspect.signature(thing).parameters.values()
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters if each.name != "self"]
    return str(inspect.Signature(plain))


if __name__ == "__main__":
    API.write_text(api(), encoding="utf-8")
