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
        ({"text": "document"}, "`--column_mapping` text=document: `validation` has no such column, only body, gist"),
        (
            {"body": "article"},
            "`--column_mapping` body=article: the task has no column article, only document, summary",
        ),
        (
            {"body": "document"},
            "`validation` has no column `summary`, only body, gist: choose with `--column_mapping NAME",
        ),
        (
            None,
            "`validation` has no column `document` and no `summary`, only body, gist: choose with "
            "`--column_mapping NAME=document,NAME=summary`",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_with_the_columns(mapping, message, tmp_path):
    """One line with the columns of both sides."""
    files = write(tmp_path / "a.jsonl", [{"body": "Long.", "gist": "Short."}])
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
    files = write(tmp_path / "a.jsonl", rows)
    languages = [{"en": row["document"], "de": row["summary"] or None} for row in rows]
    pairs = write(tmp_path / "b.jsonl", [{"translation": row} for row in languages])
    for name, given, problem in (
        ("translation", {"train_file": pairs, "validation_fraction": 0.9}, r"b.jsonl` line 38: no `de` in"),
        ("summarization", {"validation_file": files, "max_eval_samples": 48}, r"a.jsonl` line 38: the reference is em"),
    ):
        task = load_task(name)
        splits = load_rows(DataArguments(**given), TaskArguments(task=name), task, 0)
        with pytest.raises(ValueError, match=problem):
            splits = draw_shots(splits, task, 2, seed=0)
            encode_prompts(splits["validation"], Prompter(new_tokenizer(), task, 512))
    sample = load("summarization")["validation"]
    assert sample[ORIGIN][:2] == ["`validation` row 0", "`validation` row 1"]


def test_rows_without_an_answer_are_dropped_and_counted_in_a_drawn_validation_split(tmp_path, caplog):
    """As in the training split that it was drawn from; SQuAD 2.0's rows without an answer stay."""
    rows = [{"document": f"Text {number}.", "summary": "Short." * (number % 5 != 0)} for number in range(50)]
    splits = load("summarization", train_file=write(tmp_path / "a.jsonl", rows), validation_fraction=0.5)
    assert 0 < len(splits["validation"]) < 25
    assert all(splits["validation"]["summary"])
    dropped = 25 - len(splits["validation"])
    assert f"validation: {dropped} of 25 rows without a gold answer dropped" in caplog.text
    unanswered = [
        SQUAD | {"question": f"{number}?", "answers": {"text": [], "answer_start": []}} for number in range(9)
    ]
    files = write(tmp_path / "b.jsonl", [SQUAD, *unanswered])
    assert len(load("question_answering", train_file=files, validation_fraction=0.5)["validation"]) == 5


def test_parquet_files_of_the_hub_keep_the_names_of_their_labels(tmp_path):
    """And their order, which `datasets` writes into the schema; rows with a hidden label, -1, are dropped."""
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["unlike", "like"])})
    rows = Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"))
    task = load_task("understanding")
    data_args = DataArguments(validation_file=[str(tmp_path / "a.parquet")])
    loaded = load_rows(data_args, TaskArguments(task="understanding"), task, 42)["validation"]
    assert task.label_names == ["unlike", "like"]
    assert [task.references(row) for row in loaded] == [["like"], ["unlike"]]


def test_hidden_labels_of_a_json_file_are_not_a_class(tmp_path, caplog):
    """-1, as in the test splits of GLUE. Labels that are only numbers are reported, and sorted as numbers."""
    rows = [{"sentence": "a", "label": number} for number in (2, 10, -1)]
    task = load_task("understanding")
    data_args = DataArguments(validation_file=write(tmp_path / "a.jsonl", rows))
    loaded = load_rows(data_args, TaskArguments(task="understanding"), task, 42)["validation"]
    assert task.label_names == ["2", "10"] and [task.references(row) for row in loaded] == [["2"], ["10"]]
    assert "the labels are numbers: name them by `labels=a|b|...`" in caplog.text
    assert "validation: 1 of 3 rows dropped, whose labels are hidden (-1) or empty" in caplog.text
    named = load_task("understanding", labels="-1|2|10")
    loaded = load_rows(data_args, TaskArguments(task="understanding"), named, 42)["validation"]
    assert [named.references(row) for row in loaded] == [["2"], ["10"], ["-1"]]
    with pytest.raises(ValueError, match="the labels of all 1 rows are hidden or empty"):
        load("understanding", validation_file=write(tmp_path / "b.jsonl", rows[2:]))


@pytest.mark.parametrize(
    "labels", ["1, 0, NaN, 1", '"1.0", "0.0", "", "1.0"', "true, false, null, true", "[1], [0], [], [1]"]
)
def test_a_missing_label_is_not_a_class(labels, tmp_path, caplog):
    """NaN, as pandas writes it, empty text and null are dropped and counted; 1.0 is the number 1."""
    texts = [f'{{"text": "a", "label": {label}}}\n' for label in labels.split(", ")]
    (tmp_path / "a.jsonl").write_text("".join(texts))
    rows = load("understanding", validation_file=[str(tmp_path / "a.jsonl")])["validation"]
    names = ("True", "False") if "true" in labels else ("1", "0")
    assert rows["label"][:] == [names[0], names[1], names[0]]
    assert "validation: 1 of 4 rows dropped, whose labels are hidden (-1) or empty" in caplog.text


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "hub"])
def test_a_hidden_label_is_dropped_and_counted_in_every_format(kind, tmp_path, caplog):
    """From text, from numbers with names in a Parquet file, and from a data set by its name."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    path = str(tmp_path / f"validation.{'parquet' if kind == 'hub' else kind}")
    {"csv": rows.to_csv, "jsonl": rows.to_json}.get(kind, rows.to_parquet)(path)
    given = {"dataset_name": str(tmp_path)} if kind == "hub" else {"validation_file": [path]}
    expected = ["yes", "no"] if kind in ("parquet", "hub") else ["1", "0"]
    assert load("understanding", **given)["validation"]["label"][:] == expected
    assert "validation: 1 of 3 rows dropped, whose labels are hidden (-1) or empty" in caplog.text


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_numbers_on_a_scale_are_not_classes(kind, tmp_path):
    """As in STS-B. They are refused with two remedies, which help."""
    rows = [{"sentence1": "a", "sentence2": "b", "label": number} for number in (5.0, 3.25, 0.4)]
    save = {"csv": Dataset.to_csv, "jsonl": Dataset.to_json}[kind]
    save(Dataset.from_list(rows), str(tmp_path / f"a.{kind}"))
    with pytest.raises(ValueError, match=r"line \d: the label 3.25 is a number on a scale, not a class"):
        load("understanding", validation_file=[str(tmp_path / f"a.{kind}")])
    save(Dataset.from_list([row | {"label": round(row["label"])} for row in rows]), str(tmp_path / f"b.{kind}"))
    assert load("understanding", validation_file=[str(tmp_path / f"b.{kind}")])["validation"]["label"][:] == list("530")
    task = load_task("understanding", labels="0.4|3.25|5")
    data_args = DataArguments(validation_file=[str(tmp_path / f"a.{kind}")])
    assert len(load_rows(data_args, TaskArguments(task="understanding"), task, 42)["validation"]) == 3


def test_a_label_without_training_rows_is_reported(tmp_path, caplog):
    """It may be misspelled."""
    train, held_out = ([{"text": "a", "label": label} for label in labels] for labels in (["good", "bad"], ["god"] * 2))
    files = {"train_file": write(tmp_path / "a.jsonl", train), "validation_file": write(tmp_path / "b.jsonl", held_out)}
    load("understanding", **files)
    expected = "label `god` of 2 rows of `validation`, of 2 before `--max_eval_samples`, occurs in no row of `train`"
    assert expected in caplog.text


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
        ("question_answering", {"question": "q", "answers": 5.5}, "a.jsonl` line 1: `5.5` is not a text or a list"),
        ("understanding", {"text": "a", "label": ""}, "the labels of all 1 rows are hidden or empty"),
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


def test_a_file_for_both_splits_is_said(tmp_path, caplog):
    """Also a copy of it, or a few of its rows."""
    rows = [{"text": str(number), "label": "a"} for number in range(4)]
    files = {"train_file": write(tmp_path / "a.jsonl", rows), "validation_file": write(tmp_path / "b.jsonl", rows[:3])}
    load("understanding", **files)
    assert "validation is not independent: 3 of its 3 rows are in `train` as well" in caplog.text
    caplog.clear()
    load(
        "understanding",
        train_file=files["train_file"],
        validation_file=write(tmp_path / "c.jsonl", [rows[0] | {"text": "b"}]),
    )
    assert "independent" not in caplog.text


QUESTION, CONTEXT = "How many herons?", "Two herons nest here."
ANSWERS = {
    "text": "two",
    "list": ["two", "Two"],
    "SQuAD": {"text": ["two"], "answer_start": [0]},
    "SQuAD as text of Python": "{'text': ['two'], 'answer_start': [0]}",
    "SQuAD as pandas writes it": "{'text': array(['two'], dtype=object), 'answer_start': array([0], dtype=int32)}",
    "SQuAD as JSON in text": '{"text": ["two"], "answer_start": [0]}',
    "list as text": "['two', \"Two\"]",
    "list of answers": [{"text": "two", "answer_start": 0}],
    "TriviaQA": {"value": "two", "aliases": ["Two", "two"], "normalized_value": "2"},
    "GSM8K": "One and one are <<1+1=2>>2.\n#### two",
}


@pytest.mark.parametrize("layout", ANSWERS)
def test_answers_are_read_in_every_layout(layout, tmp_path):
    """The first answer is the completion, and all of them are references."""
    task = load_task("question_answering")
    files = write(tmp_path / "a.jsonl", [{"question": QUESTION, "passage": CONTEXT, "answer": ANSWERS[layout]}])
    (row,) = load_rows(DataArguments(validation_file=files), TaskArguments(task="question_answering"), task, 42)[
        "validation"
    ]
    example = task.to_example(row)
    assert example["completion"] == "two" and {*task.references(row)} <= {"two", "Two"}
    assert QUESTION in example["prompt"] and CONTEXT in example["prompt"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_answers_may_be_true_or_false(kind, tmp_path):
    """As in BoolQ: they are yes and no."""
    rows = Dataset.from_list([{"question": "a", "passage": "b", "answer": answer} for answer in (True, False)])
    {"csv": rows.to_csv, "jsonl": rows.to_json}[kind](str(tmp_path / f"a.{kind}"))
    task = load_task("question_answering")
    data_args = DataArguments(validation_file=[str(tmp_path / f"a.{kind}")])
    loaded = load_rows(data_args, TaskArguments(task="question_answering"), task, 42)["validation"]
    assert [task.references(row) for row in loaded] == [["yes"], ["no"]]


def test_official_files_of_questions_are_read(tmp_path):
    """One row for each question of each paragraph, pretty-printed or not; an impossible one has no answer."""
    one = {"id": "1", "question": QUESTION, "answers": [{"text": "two", "answer_start": 0}] * 2}
    none = {
        "id": "2",
        "question": "Who sang?",
        "is_impossible": True,
        "answers": [],
        "plausible_answers": one["answers"],
    }
    article = {
        "title": "Herons",
        "paragraphs": [{"context": CONTEXT, "qas": [one, none]}, {"context": "b", "qas": [one]}],
    }
    for indent in (None, 1):
        content = json.dumps({"version": "v2.0", "data": [article, article], "license": {"data": []}}, indent=indent)
        (tmp_path / "a.json").write_text(content)
        task = load_task("question_answering")
        data_args = DataArguments(validation_file=[str(tmp_path / "a.json")])
        rows = load_rows(data_args, TaskArguments(task="question_answering"), task, 42)["validation"]
        assert [task.references(row) for row in rows] == [["two"], [], ["two"]] * 2 and task.version == "2.0"
        assert rows["context"][:3] == [CONTEXT, CONTEXT, "b"] and rows[3][ORIGIN] == f"`{tmp_path}/a.json` row 1"


MORE_LAYOUTS = {
    "BoolQ of SuperGLUE": ("understanding", {"question": "is it", "passage": "It is.", "label": 1, "idx": 0}),
    "MultiRC": (
        "understanding",
        {"paragraph": "It is.", "question": "is it", "answer": "no", "label": 0, "idx": {"a": 1}},
    ),
    "WiC": ("understanding", {"word": "bat", "sentence1": "A bat flew.", "sentence2": "He swung it.", "label": 0}),
    "HotpotQA": (
        "question_answering",
        {"question": "is it", "answer": "no", "context": {"title": ["T"], "sentences": [["It is.", "Or not."]]}},
    ),
    "PubMed": ("summarization", {"article": "Long.", "abstract": "Short."}),
    "DialogSum": ("summarization", {"dialogue": "A: Hi.", "summary1": "A greets.", "summary2": "Hello by A."}),
    "ARC": (
        "multiple_choice",
        {"question": "is it", "choices": {"text": ["no", "yes"], "label": ["A", "B"]}, "answerKey": "B"},
    ),
    "MMLU": ("multiple_choice", {"question": "is it", "choices": ["no", "yes"], "answer": 1, "subject": "logic"}),
    "MMLU as CSV": (
        "multiple_choice",
        {"question": "is it", "choices": "['no' 'yes']".replace("' '", "', '"), "answer": "B"},
    ),
    "letters": ("multiple_choice", {"question": "is it", "A": "no", "B": "yes", "answer": "B"}),
    "PIQA": ("multiple_choice", {"goal": "do it", "sol1": "no", "sol2": "yes", "label": 1}),
    "HellaSwag": ("multiple_choice", {"ctx": "He sings", "endings": ["no", "yes"], "label": "1"}),
    "SciQ": (
        "multiple_choice",
        {
            "question": "is it",
            "support": "It is.",
            "correct_answer": "yes",
            "distractor1": "no",
            "distractor2": "maybe",
        },
    ),
    "COPA": (
        "multiple_choice",
        {"premise": "It rained.", "question": "effect", "choice1": "no", "choice2": "yes", "label": 1},
    ),
    "MedQA": ("multiple_choice", {"question": "is it", "options": {"A": "no", "B": "yes"}, "answer_idx": "B"}),
}


@pytest.mark.parametrize("layout", MORE_LAYOUTS)
def test_well_known_layouts_lose_no_text(layout, tmp_path, caplog):
    """Every text of a row is in its prompt, its completion or its choices."""
    task, row = MORE_LAYOUTS[layout]
    loaded = load_task(task)
    files = DataArguments(validation_file=write(tmp_path / "a.jsonl", [row]))
    (read,) = load_rows(files, TaskArguments(task=task), loaded, 42)["validation"]
    example = loaded.to_example(read)
    known = " ".join([*example.values(), *(loaded.choices(read) or []), *loaded.references(read)])
    names = ("user", "assistant", "human", "gpt", "text", "effect")  # the last is written in words
    lost = [text for text in texts_in(row) if text not in known and text not in names]
    assert [text for text in lost if len(text) > 1 and text[0] not in "[#" and text != "logic"] == []
    assert task != "multiple_choice" or loaded.references(read) == ["yes"]


def texts_in(value):
    """All texts in lists and dictionaries."""
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in values for text in texts_in(item)]


@pytest.mark.parametrize(
    "codes, row",
    [
        (("en", "de"), {"id": 1, "sentence_eng_Latn": "one", "sentence_deu_Latn": "eins", "URL": "u"}),
        (("eng_Latn", "deu_Latn"), {"sentence_eng_Latn": "one", "sentence_deu_Latn": "eins"}),
        (("en", "de"), {"eng_Latn": "one", "deu_Latn": "eins", "zho_Hans": "a", "zho_Hant": "b"}),
        (("en", "de"), {"translation": "{'en': 'one', 'de': 'eins'}"}),
    ],
)
def test_the_columns_of_flores_are_a_translation(codes, row, tmp_path):
    """Whether they are named by the same codes or not; and pairs that a CSV file has as text."""
    task = load_task("translation", source=codes[0], target=codes[1])
    files = DataArguments(validation_file=write(tmp_path / "a.jsonl", [row]))
    (read,) = load_rows(files, TaskArguments(task="translation"), task, 42)["validation"]
    assert "one" in task.to_example(read)["prompt"] and task.references(read) == ["eins"]


@pytest.mark.parametrize(
    "task, row, message",
    [
        (
            "translation",
            {"en": "one", "fr": "un"},
            "no column `translation` or `de`, only en, fr: choose languages with `--task",
        ),
        ("question_answering", {"question": "q", "choices": ["a", "b"], "answer": 0}, "take `--task multiple_choice`"),
        (
            "understanding",
            {"goal": "q", "sol1": "a", "sol2": "b", "label": 0},
            "take `--task multiple_choice`",
        ),
        (
            "understanding",
            {"text": "long", "summary": "short"},
            "or take `--task summarization`, which reads these columns",
        ),
        (
            "summarization",
            {"question": "q", "answer": "a"},
            "or take `--task generation`, which reads these columns",
        ),
        (
            "multiple_choice",
            {"question": "q", "choices": ["a", "b"], "answer": 3},
            "the answer `3` is none of the 2 choices",
        ),
    ],
)
def test_a_layout_that_a_task_cannot_read_is_refused_with_a_remedy(task, row, message, tmp_path):
    """The task that reads these columns, or what to change."""
    loaded, files = load_task(task), DataArguments(validation_file=write(tmp_path / "a.jsonl", [row, row]))
    with pytest.raises(ValueError) as error:
        rows = load_rows(files, TaskArguments(task=task), loaded, 42)["validation"]
        encode_prompts(rows, Prompter(new_tokenizer(), loaded, 512))
    assert message in str(error.value)


def test_the_first_choice_may_have_the_number_1(tmp_path):
    """As in WinoGrande, which all rows together show; else the option says it."""
    rows = [{"sentence": "It _.", "option1": "rains", "option2": "snows", "answer": answer} for answer in "12"]
    for task, used in (
        (load_task("multiple_choice"), rows),
        (load_task("multiple_choice", first_number="1"), rows[:1]),
    ):
        files = DataArguments(validation_file=write(tmp_path / "a.jsonl", used))
        loaded = load_rows(files, TaskArguments(task="multiple_choice"), task, 42)["validation"]
        assert [task.references(row) for row in loaded] == [["rains"], ["snows"]][: len(used)]


def test_columns_that_nothing_reads_are_named(tmp_path, caplog):
    """In one line, and as a warning if they have half of the text."""
    caplog.set_level("INFO", "hf_llm")
    load(
        "summarization",
        validation_file=write(tmp_path / "a.jsonl", [{"document": "Long text.", "summary": "a", "id": "1"}]),
    )
    assert ("INFO", "validation: columns that are not used: id") in [(r.levelname, r.message) for r in caplog.records]
    caplog.clear()
    row = {"instruction": "Why?", "output": "So.", "background": "It is long. " * 9}
    load("generation", validation_file=write(tmp_path / "a.jsonl", [row]))
    (record,) = [record for record in caplog.records if "not used" in record.message]
    assert record.levelname == "WARNING" and "background. They have 94% of the text" in record.message
    loaded = load("generation", {"background": "input"}, validation_file=[str(tmp_path / "a.jsonl")])["validation"]
    assert loaded["input"][:] == [row["background"]], "the remedy helps"


@pytest.mark.parametrize(
    "table",
    [
        {"question": ["a", "b"], "answers": ["c", "d"]},
        {"question": {"0": "a", "1": "b"}, "answers": {"0": "c", "1": "d"}},
    ],
)
def test_a_file_of_columns_is_refused(table, tmp_path):
    """As pandas writes it by default and with `orient="list"`: it would be one row."""
    path = tmp_path / "columns.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=r"columns.json holds whole columns, not rows: write it by `DataFrame.to_json"):
        load("question_answering", validation_file=[str(path)])
