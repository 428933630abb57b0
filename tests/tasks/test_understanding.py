"""Labels that would be matched with others."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from task_rows import load

from hf_llm import DataArguments, TaskArguments, load_rows, load_task
from hf_llm.data.rows import to_task_columns


def test_the_number_of_a_choice_is_no_label(tmp_path):
    """As in COPA and CosmosQA, whose choices the prompt would lack."""
    row = {"premise": "It rained.", "question": "effect", "choice1": "a", "choice2": "b", "label": 1}
    with pytest.raises(ValueError, match="take `--task multiple_choice`"):
        load(tmp_path, load_task("understanding"), [row])


@pytest.mark.parametrize("labels", ["0|0.5|1", "0.0|0.5|1.0"])
def test_labels_that_are_named_as_numbers_are_not_their_positions(labels, tmp_path):
    """1.0 is the label 1.0, not the second one."""
    task = load_task("understanding", labels=labels)
    rows = load(tmp_path, task, [{"text": "a", "label": label} for label in (1.0, 0.5, 0.0)])
    assert [task.references(row) for row in rows] == [["1"], ["0.5"], ["0"]]


def test_names_of_true_and_false_are_given_in_the_order_of_numbers(tmp_path):
    """False is 0."""
    task = load_task("understanding", labels="no|yes")
    rows = load(tmp_path, task, [{"text": "a", "label": label} for label in (True, False)])
    assert [task.references(row) for row in rows] == [["yes"], ["no"]]


def test_labels_that_differ_in_case_are_named(tmp_path, caplog):
    """They may be one."""
    load(tmp_path, load_task("understanding"), [{"text": "a", "label": label} for label in ("Yes", "yes", "no")])
    assert "`Yes` and `yes` are two labels" in caplog.text


def test_what_the_numbers_of_named_labels_stand_for_is_said(tmp_path, caplog):
    """Numbers from 1 would be one name too far; a name that no row has is reported."""
    caplog.set_level("INFO", "hf_llm")
    task = load_task("understanding", labels="neg|neutral|pos")
    rows = load(tmp_path, task, [{"text": "a", "label": label} for label in (1, 2, 1)])
    assert [task.references(row) for row in rows] == [["neutral"], ["pos"], ["neutral"]]
    assert "labels: 1 is neutral, 2 is pos" in caplog.text and "no row has the label neg" in caplog.text


def test_no_name_is_missing_where_each_has_rows(tmp_path, caplog):
    """Names and numbers."""
    task = load_task("understanding", labels="neg|pos")
    load(tmp_path, task, [{"text": "a", "label": label} for label in ("neg", "1")])
    assert "no row has" not in caplog.text


def test_rows_with_several_labels_are_answered_by_a_list_of_them(tmp_path):
    """In the order of the labels, whatever the order in the row or in the answer; rows without any are dropped."""
    task = load_task("understanding", labels="joy|anger|love")
    rows = load(tmp_path, task, [{"text": "a", "labels": labels} for labels in ([2, 0], [1], [], None)])
    assert [task.references(row) for row in rows] == [["joy, love"], ["anger"]]
    assert [task.to_example(row)["completion"] for row in rows] == ["joy, love", "anger"]
    assert task.choices(rows[0]) is None and task.max_new_tokens == 32
    assert task.answer(" The label is love, joy, calm.", rows[0]) == "joy, love, calm."
    assert task.problem_type == "multi_label_classification"
    assert task.metric().compute(predictions=["love, joy", ""], references=["joy, love", "anger"])["exact_match"] == 0.5


def test_whether_rows_may_have_several_labels_can_be_said(tmp_path):
    """For a validation file whose rows happen to have one each, or to refuse the others; names have no comma."""
    rows = [{"text": "a", "label": ["joy"]}, {"text": "a", "label": ["anger"]}]
    one, several = load_task("understanding"), load_task("understanding", several_labels=True)
    assert [one.references(row) for row in load(tmp_path, one, rows)] == [["joy"], ["anger"]]
    assert [several.references(row) for row in load(tmp_path, several, rows)] == [["joy"], ["anger"]]
    assert (one.problem_type, several.problem_type) == ("single_label_classification", "multi_label_classification")
    with pytest.raises(ValueError, match=r"line 3: `label` is `.*`: keep only rows with one label, or leave out"):
        load(tmp_path, load_task("understanding", several_labels=False), [*rows, {"text": "a", "label": ["x", "y"]}])
    with pytest.raises(ValueError, match="the label `x, y` has a comma"):
        load(tmp_path, several, [{"text": "a", "label": ["x, y"]}])


def test_classes_in_lists_are_named(tmp_path):
    """As in GoEmotions on the Hub, whose labels are a list of numbers with names."""
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "love"]))})
    data, task = Dataset.from_dict({"text": ["a", "b"], "labels": [[1, 0], [1]]}, features), load_task("understanding")
    rows = to_task_columns(data, "validation", task, {})
    task.prepare(DatasetDict({"validation": rows}))
    assert [task.references(row) for row in rows] == [["joy, love"], ["love"]]


def test_names_of_labels_are_kept_in_parquet_files(tmp_path):
    """Of lists too: the numbers of ECtHR would stand for articles of other numbers."""
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["2", "3", "5"]))})
    path, task = str(tmp_path / "a.parquet"), load_task("understanding")
    Dataset.from_dict({"text": ["a", "b"], "labels": [[0, 1], [1]]}, features).to_parquet(path)
    rows = load_rows(DataArguments(validation_file=[path]), TaskArguments(task=""), task, 42)["validation"]
    assert [task.references(row) for row in rows] == [["2, 3"], ["3"]] and task.label_names == ["2", "3", "5"]


def test_names_of_labels_in_a_column_of_their_own_are_read(tmp_path):
    """As in the data sets of SetFit, whose `label` is a number."""
    task = load_task("understanding")
    rows = load(tmp_path, task, [{"text": "a", "label": 1, "label_text": "joy"}])
    assert task.references(rows[0]) == ["joy"]


def test_a_column_that_describes_a_text_is_not_the_text(tmp_path):
    """As `context` beside `statement` in LIAR, and the numbers of classes beside scores in SICK."""
    task = load_task("understanding")
    (row,) = load(tmp_path, task, [{"statement": "a", "context": "a radio show", "label": "false"}])
    assert task.texts(row) == ["a"]
    task = load_task("regression")
    rows = [{"sentence_A": "a", "sentence_B": "b", "label": 1, "relatedness_score": 4.5}]
    (row,) = load(tmp_path, task, rows)
    assert task.texts(row) == ["a", "b"] and task.references(row) == ["4.5"]
    with pytest.raises(ValueError, match="take `--task multiple_choice`"):
        load(tmp_path, task, [{"text": "a", "options": ["b", "c"], "label": 1}])
