"""Rows are loaded with the task's column names, from the usual layouts, and missing columns are named."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tiny import new_tokenizer

from hf_llm.arguments import DataArguments, TaskArguments
from hf_llm.data.examples import encode_prompts
from hf_llm.data.few_shot import draw_shots
from hf_llm.data.prompting import Prompter
from hf_llm.data.rows import load_rows, to_task_columns
from hf_llm.messages import ORIGIN
from hf_llm.tasks import load_task


def load(task, mapping=None, seed=42, **files):
    arguments = TaskArguments(task=task, column_mapping=mapping)
    return load_rows(DataArguments(**files), arguments, load_task(task), seed)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


SQUAD = {"id": "1", "title": "Rain", "context": "It rained.", "question": "What?", "answers": {"text": ["It"]}}
HUB_LAYOUTS = {
    "XSum": ("summarization", {"document": "Long.", "summary": "Short.", "id": "1"}),
    "CNN/DailyMail": ("summarization", {"article": "Long.", "highlights": "Short.", "id": "1"}),
    "SAMSum": ("summarization", {"id": "1", "dialogue": "A: Hi.", "summary": "A greets."}),
    "SciTLDR": ("summarization", {"document": "Long.", "summary": ["Short.", "Brief."]}),
    "SQuAD 1.1": ("question_answering", SQUAD),
    "SQuAD 2.0": ("question_answering", SQUAD | {"answers": {"text": [], "answer_start": []}}),
    "WMT": ("translation", {"translation": {"en": "one", "de": "eins"}}),
    "SST-2": ("understanding", {"sentence": "Fine.", "label": 1, "idx": 0}),
    "MNLI": ("understanding", {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "idx": 0}),
    "QQP": ("understanding", {"question1": "Who?", "question2": "What?", "label": 0, "idx": 0}),
    "QNLI": ("understanding", {"question": "Who?", "sentence": "She did.", "label": 0, "idx": 0}),
    "Alpaca": ("generation", {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "..."}),
    "Dolly": ("generation", {"instruction": "Add.", "context": "1, 2", "response": "3", "category": "sums"}),
    "prompt and completion": ("generation", {"prompt": "Add 1, 2.", "completion": "3"}),
    "CrowS-Pairs": ("bias", {"sent_more": "a", "sent_less": "b", "bias_type": "age"}),
}


@pytest.mark.parametrize("layout", HUB_LAYOUTS)
def test_the_hubs_usual_layouts_work_as_they_are(layout, tmp_path):
    """Every text of the row that the task uses is in its prompt or completion."""
    task, row = HUB_LAYOUTS[layout]
    loaded = load_task(task)
    rows = load_rows(
        DataArguments(validation_file=write(tmp_path / "a.jsonl", [row])), TaskArguments(task=task), loaded, 42
    )
    example = loaded.to_example(rows["validation"][0])
    unused = {"id", "title", "idx", "text", "bias_type", "category", "sent_less"}
    texts = [value for name, value in row.items() if name not in unused and isinstance(value, str)]
    for text in texts:
        assert text in example["prompt"] + example["completion"]


def test_columns_are_renamed_by_a_mapping():
    """The mapping takes precedence over a column that has the task's name already."""
    rows = Dataset.from_list([{"body": "Long.", "document": "3", "tldr": "Short."}])
    mapping = {"body": "document", "tldr": "summary"}
    assert to_task_columns(rows, "train", load_task("summarization"), mapping)[0] == {
        "document": "Long.",
        "summary": "Short.",
    }


def test_numbered_labels_become_their_names(caplog):
    """The names are those of a Hub data set; rows with a hidden label, -1, are dropped and counted."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    task = load_task("understanding")
    assert to_task_columns(rows, "train", task, {})["label"][:] == ["good", "bad"]
    assert "train: 1 of 3 rows dropped, whose labels are hidden" in caplog.text
    with pytest.raises(ValueError, match="`test`: the labels of all 1 rows are hidden"):
        to_task_columns(rows.select([2]), "test", task, {})


@pytest.mark.parametrize(
    "mapping, message",
    [
        ({"text": "document"}, "`--column_mapping` text=document: `validation` has no such column, only body, tldr"),
        (
            {"body": "article"},
            "`--column_mapping` body=article: the task has no column article, only document, summary",
        ),
        (
            {"body": "document"},
            "`validation` has no column `summary`, only body, tldr: choose with `--column_mapping NAME",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_with_the_columns(mapping, message, tmp_path):
    """One line with the columns of both sides."""
    files = write(tmp_path / "a.jsonl", [{"body": "Long.", "tldr": "Short."}])
    with pytest.raises(ValueError) as error:
        load("summarization", mapping, validation_file=files)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl` line 2: Expecting value"),
        (
            "a.json",
            '[{"a": 1}, 2]',
            "a.json` row 1: found int, not an object: give one JSON object a line",
        ),
        ("a.txt", "text", "a.txt` has no columns: give .jsonl, .json, .csv or .parquet"),
        ("a.jsonl", "", "a.jsonl` is empty: remove it from the list"),
        ("a.csv", "text,label\na,b\nc,d,e\n", "a.csv` line 3 has 3 values, and the first line names 2 columns"),
        ("a.jsonl", '{"text": null, "label": "b"}', "a.jsonl` line 1: `text` is `None`, not text"),
        ("a.jsonl", '{"text": 5, "label": "b"}', "a.jsonl` line 1: `text` is `5`, not text"),
        ("a.jsonl", '{"text": 1}\n{"text": "b"}\n', "the values of column `text` are of several types"),
        ("a.jsonl", '{"text": "a", "label": 123456789012345678901234567890}', "the values of column `label` are"),
        ("a.jsonl", '{"text": "\\ud800", "label": "a"}', "a.jsonl` line 1: `text` holds half of a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": ["b"]}', "`label` is `['b']`: give one text or number in each row"),
    ],
)
def test_a_broken_file_is_named_with_its_line(name, content, message, tmp_path):
    """And with the remedy."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as error:
        load("understanding", validation_file=[str(tmp_path / name)])
    assert message in str(error.value)


@pytest.mark.parametrize("row", [5, 49])
def test_a_quotation_mark_that_is_not_closed_is_refused(row, tmp_path):
    """The rows after it are not read as one field: rows would be missing, and nothing would say so."""
    rows = [f'"text {number}",{"good" if number % 2 else "bad"}\n' for number in range(50)]
    rows[row] = rows[row].replace('",', ",")
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(rows))
    with pytest.raises(ValueError, match=f"a.csv` line {row + 2}: the row that begins here has"):
        load("understanding", validation_file=[str(tmp_path / "a.csv")])


def test_a_row_without_all_values_is_refused(tmp_path):
    """The missing label is not taken for a hidden one."""
    (tmp_path / "a.csv").write_text("text,label\na,good\nb\nc,bad\n")
    with pytest.raises(ValueError, match=r"a.csv` line 3 has 1 values, and the first line names 2 columns"):
        load("understanding", validation_file=[str(tmp_path / "a.csv")])


def test_the_same_rows_come_from_every_format(tmp_path):
    """JSON Lines, a list in JSON, CSV and Parquet."""
    rows = [{"text": "It's, well", "label": "good"}, {"text": 'a "b"\nc', "label": "bad"}]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    Dataset.from_list(rows).to_csv(str(tmp_path / "a.csv"))
    Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    expected = {"jsonl": ["line 1", "line 2"], "json": ["row 0", "row 1"], "csv": ["line 2", "line 4"]}
    for kind in ("jsonl", "json", "csv", "parquet"):
        read = load("understanding", validation_file=[str(tmp_path / f"a.{kind}")])["validation"]
        assert read.remove_columns(ORIGIN).to_list() == rows
        assert read[ORIGIN][:] == [f"`{tmp_path}/a.{kind}` {origin}" for origin in expected.get(kind, expected["json"])]


def test_errors_name_the_origin_of_a_row_however_it_was_drawn(tmp_path):
    """Split off, drawn with the seed, or left after solved examples were taken: the file and line of the bad row."""
    rows = [{"document": f"Text {number}.", "summary": "Short." * (number != 37)} for number in range(50)]
    files, task = write(tmp_path / "a.jsonl", rows), load_task("summarization")
    for given in (
        {"train_file": files, "validation_fraction": 0.9},
        {"validation_file": files, "max_eval_samples": 48},
    ):
        splits = load_rows(DataArguments(**given), TaskArguments(task="summarization"), task, 0)
        _, splits = draw_shots(splits, task, 2, seed=0)
        with pytest.raises(ValueError, match=r"a.jsonl` line 38: the reference is empty"):
            encode_prompts(splits["validation"], Prompter(new_tokenizer(), task, 512))
    sample = load("summarization")["validation"]
    assert sample[ORIGIN][:2] == ["`validation` row 0", "`validation` row 1"]


def test_parquet_files_of_the_hub_keep_the_names_of_their_labels(tmp_path):
    """`datasets` writes them into the schema; a hidden label, -1, becomes null."""
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    rows = Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"))
    task = load_task("understanding")
    data_args = DataArguments(validation_file=[str(tmp_path / "a.parquet")])
    loaded = load_rows(data_args, TaskArguments(task="understanding"), task, 42)["validation"]
    assert task.label_names == ["negative", "positive"]
    assert [task.references(row) for row in loaded] == [["positive"], ["negative"], []]


def test_hidden_labels_of_a_json_file_are_not_a_class(tmp_path, caplog):
    """-1, as in the test splits of GLUE. Labels that are only numbers are reported, and sorted as numbers."""
    rows = [{"sentence": "a", "label": number} for number in (2, 10, -1)]
    task = load_task("understanding")
    data_args = DataArguments(validation_file=write(tmp_path / "a.jsonl", rows))
    loaded = load_rows(data_args, TaskArguments(task="understanding"), task, 42)["validation"]
    assert task.label_names == ["2", "10"] and [task.references(row) for row in loaded] == [["2"], ["10"], []]
    assert "the labels are numbers: name them by `labels=a|b|...`" in caplog.text
    assert "the label -1 counts as a hidden one" in caplog.text
    named = load_task("understanding", labels="-1|2|10")
    assert named.references(loaded[2]) == ["-1"]
    with pytest.raises(ValueError, match="the labels of all rows are hidden or empty"):
        load("understanding", validation_file=write(tmp_path / "b.jsonl", rows[2:]))


def test_a_label_without_training_rows_is_reported(tmp_path, caplog):
    """It may be misspelled."""
    train, held_out = ([{"text": "a", "label": label} for label in labels] for labels in (["good", "bad"], ["god"] * 2))
    files = {"train_file": write(tmp_path / "a.jsonl", train), "validation_file": write(tmp_path / "b.jsonl", held_out)}
    load("understanding", **files)
    assert "label `god` of 2 rows of `validation` occurs in no row of `train`" in caplog.text


def test_columns_of_a_translation_are_mapped_to_languages(tmp_path):
    """Whatever their names in a CSV file."""
    (tmp_path / "a.csv").write_text("english,german\none,eins\n")
    files = [str(tmp_path / "a.csv")]
    rows = load("translation", {"english": "en", "german": "de"}, validation_file=files)["validation"]
    assert rows["translation"][:] == [{"en": "one", "de": "eins"}]
    files = write(tmp_path / "a.jsonl", [{"translation": {"en": "a", "de": "b"}, "x": "one", "y": "eins"}])
    rows = load("translation", {"x": "en", "y": "de"}, validation_file=files)["validation"]
    assert rows["translation"][:] == [{"en": "one", "de": "eins"}]


@pytest.mark.parametrize(
    "task, row, message",
    [
        ("translation", {"translation": None}, "`translation` is `None`: give {"),
        ("translation", {"translation": "hello"}, "`translation` is `hello`: give {"),
        ("translation", {"translation": {"en": 5, "de": 6}}, "`en` of `translation` is `5`, not a text"),
        ("question_answering", {"question": "q", "answers": {"answer_start": [1]}}, "give its texts, or [] if"),
        ("question_answering", {"question": "q", "answers": 5}, "a.jsonl` line 1: `5` is not a text or a list"),
        ("understanding", {"text": "a", "label": ""}, "the labels of all rows are hidden or empty"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_row(task, row, message, tmp_path):
    """In one line instead of a traceback."""
    loaded, data_args = load_task(task), DataArguments(validation_file=write(tmp_path / "a.jsonl", [row]))
    with pytest.raises(ValueError) as error:
        rows = load_rows(data_args, TaskArguments(task=task), loaded, 42)["validation"]
        encode_prompts(rows, Prompter(new_tokenizer(), loaded, 512))
    assert message in str(error.value)


def test_a_limit_draws_rows_with_the_seed_in_their_order(tmp_path):
    """A file may be sorted by label. The labels are those of all rows, not only of the drawn ones."""
    rows = [{"text": str(number), "label": "ab"[number // 50]} for number in range(100)]
    files = write(tmp_path / "a.jsonl", rows)
    drawn, again, other = (
        load("understanding", seed=seed, validation_file=files, max_eval_samples=20)["validation"] for seed in (1, 1, 2)
    )
    numbers = [int(text) for text in drawn["text"]]
    assert numbers == sorted(numbers) and len(set(numbers)) == 20 and set(drawn["label"]) == {"a", "b"}
    assert drawn["text"][:] == again["text"][:] != other["text"][:]
    task = load_task("understanding")
    data_args = DataArguments(validation_file=files, max_eval_samples=1)
    load_rows(data_args, TaskArguments(task="understanding"), task, 42)
    assert task.label_names == ["a", "b"]


def test_a_validation_split_is_drawn_by_default(tmp_path):
    """With the seed; a single row cannot be split."""
    rows = [{"text": str(number), "label": "a"} for number in range(40)]
    splits = load("understanding", train_file=write(tmp_path / "a.jsonl", rows))
    assert (len(splits["train"]), len(splits["validation"])) == (38, 2)
    assert not set(splits["train"]["text"]) & set(splits["validation"]["text"])
    with pytest.raises(ValueError, match="`--train_file` holds one row, nothing to split off"):
        load("understanding", train_file=write(tmp_path / "b.jsonl", rows[:1]))


def test_a_column_that_the_first_row_lacks_is_read(tmp_path):
    """In Alpaca, rows without an `input` lack the column."""
    rows = [{"instruction": "Sing.", "output": "La."}, {"instruction": "Add.", "input": "1, 2", "output": "3"}]
    loaded = load("generation", validation_file=write(tmp_path / "a.jsonl", rows))["validation"]
    assert loaded["input"][:] == [None, "1, 2"]


def test_columns_named_by_languages_are_a_translation(tmp_path):
    """As a CSV file of pairs has them; an empty target in train is dropped and counted later, not refused."""
    (tmp_path / "a.csv").write_text("en,de,fr\none,eins,un\ntwo,,deux\n")
    rows = load("translation", validation_file=[str(tmp_path / "a.csv")])["validation"]
    assert rows["translation"][:] == [{"en": "one", "de": "eins"}, {"en": "two", "de": ""}]
    assert load_task("translation").to_example(rows[1])["completion"] == ""


def test_a_document_in_sentences_is_joined(tmp_path):
    """SciTLDR's `source` is a list."""
    rows = [{"source": ["One.", "Two."], "target": ["Short.", "Brief."]}]
    loaded = load("summarization", validation_file=write(tmp_path / "a.jsonl", rows))["validation"]
    assert loaded["document"][:] == ["One. Two."]


def test_a_long_field_of_a_csv_file_is_read(tmp_path):
    """Longer than the csv module's own limit of 131,072 characters."""
    (tmp_path / "a.csv").write_text(f"text,label\n{'a ' * 100_000},b\n")
    assert len(load("understanding", validation_file=[str(tmp_path / "a.csv")])["validation"]["text"][0]) == 200_000


def test_a_named_data_set_may_have_only_a_test_split(tmp_path):
    """As CrowS-Pairs has; here a folder in place of the Hub."""
    write(tmp_path / "test.jsonl", [{"sent_more": "a", "sent_less": "b"}])
    assert set(load("bias", dataset_name=str(tmp_path))) == {"validation"}


def test_a_task_that_only_evaluates_needs_rows_to_evaluate(tmp_path):
    """Training rows are not used instead."""
    with pytest.raises(ValueError, match="there are no rows to evaluate: give `--validation_file`"):
        load("bias", train_file=write(tmp_path / "a.jsonl", [{"sent_more": "a", "sent_less": "b"}]))
