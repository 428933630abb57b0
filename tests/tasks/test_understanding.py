"""Labels that would be matched with others."""

import pytest
from task_rows import load

from hf_llm import load_task


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
