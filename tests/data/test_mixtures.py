"""The YAML file of a mixture: settings of the sources, and what is refused in one line with the source."""

import json

import pytest

from hf_llm.arguments import DataArguments, TaskArguments, TextArguments
from hf_llm.data.mixtures import SOURCE, read_mixture
from hf_llm.data.rows import load_rows
from hf_llm.data.sources import load_splits
from hf_llm.tasks import load_task


def arguments(folder, text, kind=TextArguments, **settings):
    (folder / "mix.yaml").write_text(text)
    return kind(mixture=f"{folder / 'mix.yaml'}", **settings)


def test_a_source_has_the_settings_of_the_command_line_and_its_own(tmp_path):
    """Shares add up to 1; a single file needs no list."""
    text = "web: {train_file: a.txt, weight: 3, encoding: cp1252}\ncode: {dataset_name: user/code, weight: 1}\n"
    mixture = read_mixture(arguments(tmp_path, text, max_length=64, max_train_samples=7))
    web, code = mixture.sources.values()
    assert mixture.amounts == {"web": 0.75, "code": 0.25}
    assert (web.train_file, web.encoding, code.encoding, code.dataset_name) == (
        ["a.txt"],
        "cp1252",
        "utf-8",
        "user/code",
    )
    assert {(source.max_length, source.max_train_samples, source.mixture) for source in (web, code)} == {(64, 7, None)}


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "names no source: write"),
        ("- a.txt", "write lines `key: value`"),
        ("web: a.txt", "`web`: is `a.txt`: write settings such as"),
        (
            "web: {train_file: a.txt, weight: 0}",
            "`web`: `weight` is `0`: give a number above 0, or leave",
        ),
        ("web: {train_file: a.txt, weight: -1}", "`weight` is `-1`"),
        ("web: {train_file: a.txt, weight: .nan}", "`weight` is `nan`"),
        ("web: {train_file: a.txt, weight: .inf}", "`weight` is `inf`"),
        ("web: {train_file: a.txt, weight: much}", "`weight` is `much`"),
        ("web: {train_file: a.txt, weight: true}", "`weight` is `True`"),
        ("web: {train_file: a.txt}", "`web`: has no share: give either `weight` or `epochs`"),
        ("web: {train_file: a.txt, weight: 1, epochs: 1}", "has weight and epochs: give either"),
        (
            "web: {train_file: a.txt, weight: 1}\ncode: {train_file: a.txt, epochs: 1}",
            "`web` has a weight and `code` epochs: give all sources one of the two",
        ),
        ("web: {weight: 1}", "`web`: names no data: give `train_file` or `dataset_name`"),
        ("web: {train_file: a.txt, weigth: 1, weight: 1}", "unknown key `weigth`; the nearest is `weight`"),
        (
            "web: {train_file: a.txt, weight: 1, max_length: 9}",
            "`max_length` is the same for all sources: give",
        ),
        ("web: {train_file: 7, weight: 1}", "`train_file` is `7`: give texts"),
        ("web: {train_file: a.txt, weight: 1, max_train_samples: few}", "`max_train_samples` is `few`: give a whole"),
        (
            "web: {train_file: a.txt, weight: 1, max_train_samples: 0}",
            "`web`: `--max_train_samples` is 0: give",
        ),
        ("web: {train_file: a.txt, weight: 1, csv_escape: both}", "`csv_escape` is `both`: give none, backslash"),
        ("a/b: {train_file: a.txt, weight: 1}", "`a/b`: is part of the names of scores: take another one"),
        ("web: {train_file: nothing/*.txt, weight: 1}", "`web`: `--train_file` nothing/*.txt matches no file"),
    ],
)
def test_a_wrong_mixture_is_refused_with_its_source(text, message, tmp_path):
    """Before any data are read, or with the reader's own message."""
    with pytest.raises(ValueError) as error:
        load_splits(arguments(tmp_path, text), 0)
    assert message in str(error.value) and "mix.yaml" in str(error.value)


def test_flags_that_a_mixture_does_not_use_are_refused(tmp_path):
    """Other data, and the end of an epoch where there is none."""
    weights, epochs = (f"web: {{train_file: a.txt, {unit}: 1}}" for unit in ("weight", "epochs"))
    for text, settings, message in [
        (weights, {"train_file": ["a.txt"]}, "are both given"),
        (epochs, {"stopping_strategy": "all_exhausted"}, "no effect with `epochs` in the mixture"),
        (weights, {"stopping_strategy": "all_exhausted", "streaming": True}, "no effect with `--streaming`"),
        (epochs, {"streaming": True}, "a stream does not know"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_mixture(arguments(tmp_path, text, **settings))


def test_a_source_too_small_for_its_weight_is_refused(tmp_path):
    """It would not be in any epoch."""
    mixture = read_mixture(arguments(tmp_path, "a: {train_file: a, weight: 1000}\nb: {train_file: b, weight: 1}"))
    with pytest.raises(ValueError, match="`b` gets none of the 10 rows of an epoch: give it a larger `weight`, or"):
        mixture.rows_of_an_epoch({"a": 10, "b": 10})
    mixture.stopping_strategy = "all_exhausted"
    assert mixture.rows_of_an_epoch({"a": 10, "b": 10}) == {"a": 10_000, "b": 10}


def test_rows_of_a_task_come_from_sources_with_other_columns(tmp_path):
    """Each row has the name of its source."""
    for name, columns in (("a", ("instruction", "output")), ("b", ("ask", "reply"))):
        rows = [dict(zip(columns, (f"{name}{i}", "yes"), strict=True)) for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"""
a: {{train_file: {tmp_path}/a.jsonl, weight: 1, validation_fraction: 0.25}}
b: {{train_file: {tmp_path}/b.jsonl, weight: 1, column_mapping: {{ask: instruction, reply: output}}}}
"""
    rows = load_rows(arguments(tmp_path, text, DataArguments), TaskArguments("generation"), load_task("generation"), 0)
    assert [(len(split), split[SOURCE].count("b")) for split in (rows["train"], rows["validation"])] == [
        (34, 19),
        (6, 1),
    ]
    assert all(row["instruction"][0] == row[SOURCE] for split in rows.values() for row in split)
