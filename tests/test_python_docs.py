"""The built-in sample is prose, the same every time, and its validation split is representative."""

import hashlib
import json
import subprocess
import sys

import pytest

from hf_llm.python_docs import python_docs, read_python_docs


@pytest.fixture(scope="session")
def sample():
    return python_docs()


def paragraphs(rows):
    return [paragraph for text in rows["text"] for paragraph in text.split("\n\n")]


def test_sample_has_two_splits_of_text_and_module(sample):
    """The columns are `text` and `module`, and there are 1.5 to 4 MB of text."""
    assert set(sample) == {"train", "validation"}
    assert all(split.column_names == ["text", "module"] for split in sample.values())
    assert 1.5e6 < sum(len(text) for split in sample.values() for text in split["text"]) < 4e6


def test_validation_is_five_percent_of_the_text_and_shares_no_module(sample):
    """Validation holds 4 to 6 % of the characters; no module is in both splits or twice in one."""
    train, validation = (sum(map(len, sample[split]["text"])) for split in ("train", "validation"))
    assert 0.04 < validation / (train + validation) < 0.06
    modules = [*sample["train"]["module"], *sample["validation"]["module"]]
    assert len(modules) == len(set(modules))


def test_validation_is_representative(sample):
    """Both splits have all three kinds and rows of similar length; four words of five are in train too."""
    for split in sample.values():
        assert any(module.startswith("topics.") for module in split["module"])
        assert any(module in sys.builtin_module_names for module in split["module"])
        assert any("." not in module and module not in sys.builtin_module_names for module in split["module"])
    train, validation = (sum(map(len, sample[split]["text"])) / len(sample[split]) for split in ("train", "validation"))
    assert 0.5 < validation / train < 2
    words = {word for text in sample["train"]["text"] for word in text.split()}
    held_out = [word for text in sample["validation"]["text"] for word in text.split()]
    assert sum(word in words for word in held_out) > 0.8 * len(held_out)


def test_validation_repeats_almost_nothing_of_train(sample):
    """At most 5 % of the long paragraphs of validation are in train as well."""
    known = set(paragraphs(sample["train"]))
    held_out = [paragraph for paragraph in paragraphs(sample["validation"]) if len(paragraph) > 80]
    assert sum(paragraph in known for paragraph in held_out) < 0.05 * len(held_out)


def test_text_reads_as_prose(sample):
    """The text of a module is its docstrings, one after the other, without indentation."""
    text = {
        module: text for split in sample.values() for module, text in zip(split["module"], split["text"], strict=True)
    }
    assert text["textwrap"].startswith("Text wrapping and filling.\n\n")
    assert "\n\nRemove any common leading whitespace" in text["textwrap"]
    assert "\n\nReturn the absolute value of the argument.\n\n" in text["builtins"]


def test_tests_and_installed_packages_are_left_out(sample):
    """Neither the interpreter's tests nor anything installed with pip is in the sample."""
    tops = {module.split(".")[0] for split in sample.values() for module in split["module"]}
    assert not tops & {"test", "idlelib", "lib2to3", "turtledemo", "encodings", "site-packages", "pytest", "numpy"}


def test_another_process_gives_the_same_rows(sample):
    """Nothing depends on hash randomisation, addresses or what is imported."""
    code = (
        "import hashlib, json; from hf_llm.python_docs import python_docs\n"
        "print(hashlib.sha256(json.dumps({k: v.to_dict() for k, v in python_docs().items()}).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    rows = json.dumps({name: split.to_dict() for name, split in sample.items()})
    assert other == hashlib.sha256(rows.encode()).hexdigest()


def test_a_python_without_pydoc_topics_gives_the_docstrings(monkeypatch):
    """Some distributions do not include `pydoc_data`."""
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr("hf_llm.python_docs.source_modules", lambda: [("m", ["Text."])])
    modules = [module for split in read_python_docs.__wrapped__().values() for module in split["module"]]
    assert "builtins" in modules and "m" in modules
    assert not any(module.startswith("topics.") for module in modules)
