"""Which choice of a row is the right one."""

import pytest
from task_rows import load

from hf_llm import load_task


@pytest.mark.parametrize(
    "answers, expected",
    [(("1", "0"), ["3", "1"]), (("1", "3"), ["1", "3"]), (("1.0", "0.0"), ["3", "1"]), (("(B)", "A."), ["3", "1"])],
)
def test_a_number_is_not_taken_for_the_text_of_a_choice(answers, expected, tmp_path):
    """In a .csv file 1 may be either: it is a text only if all answers of the file are texts of choices."""
    task = load_task("multiple_choice")
    rows = load(tmp_path, task, [{"question": "q", "choices": ["1", "3", "5"], "answer": answer} for answer in answers])
    assert [task.references(row) for row in rows] == [[text] for text in expected]


@pytest.mark.parametrize("first, right", [(0, "3"), ("1", "1"), (1, "1")])
def test_the_number_of_the_first_choice_can_be_given(first, right, tmp_path):
    """As text on a command line or as a number in a YAML file; it overrules what the data show."""
    task = load_task("multiple_choice", first_number=first)
    rows = load(tmp_path, task, [{"question": "q", "choices": ["1", "3", "5"], "answer": n} for n in (1, 2)])
    assert task.references(rows[0]) == [right]


def test_the_right_choice_is_not_always_the_first_one(tmp_path):
    """SciQ has it in a column of its own; equally likely choices would always be right."""
    task = load_task("multiple_choice")
    row = {"question": "q", "correct_answer": "heron", "distractor1": "eel", "distractor2": "owl"}
    (loaded,) = load(tmp_path, task, [row])
    assert task.choices(loaded) == ["eel", "heron", "owl"] and task.references(loaded) == ["heron"]
    (loaded,) = load(tmp_path, task, [row | {"distractor3": ""}])
    assert task.choices(loaded) == ["eel", "heron", "owl"], "another row may have one choice more"


def test_rows_may_have_fewer_choices_than_others(tmp_path):
    """A column of a choice may be empty."""
    task = load_task("multiple_choice")
    rows = load(tmp_path, task, [{"question": "q", "A": "a", "B": "b", "C": last, "answer": "B"} for last in ("c", "")])
    assert [task.choices(row) for row in rows] == [["a", "b", "c"], ["a", "b"]]


def test_a_text_is_not_a_list_of_choices(tmp_path):
    """Its letters would be the choices."""
    with pytest.raises(ValueError, match=r"`choices` is `a\|b`: give a list of at least two texts"):
        load(tmp_path, load_task("multiple_choice"), [{"question": "q", "choices": "a|b", "answer": 1}])


LAYOUTS = {
    "WiC": {"word": "bat", "sentence1": "A bat flew.", "sentence2": "He broke the bat.", "label": 0},
    "WSC": {"text": "Ann saw Bea as she left.", "span1_text": "Ann", "span2_text": "she", "label": 0},
    "MultiRC": {"paragraph": "It rained.", "question": "What fell?", "answer": "snow", "idx": {"a": 1}, "label": 0},
    "BoolQ": {"question": "is it wet", "passage": "It rained.", "answer": False},
    "TruthfulQA": {"question": "Wet?", "mc1_targets": {"choices": ["no", "yes"], "labels": [1, 0]}},
    "files of ARC": {
        "question": {"stem": "Wet?", "choices": [{"text": "yes", "label": "A"}, {"text": "no", "label": "B"}]},
        "answerKey": "B",
    },
    "MMMLU": {"Question": "Wet?", "A": "yes", "B": "no", "C": "so", "D": "or", "Answer": "B"},
    "Belebele": {"flores_passage": "x", "question": "q", "mc_answer1": "no", "mc_answer2": "yes",
                 "correct_answer_num": "1"},
    "BBQ": {"context": "x", "question": "q", "ans0": "no", "ans1": "yes", "ans2": "so", "label": 0},
    "GPQA": {"Question": "q", "Correct Answer": "no", "Incorrect Answer 1": "yes", "Incorrect Answer 2": "so"},
    "WSC285": {"text": "Ann saw it.", "pronoun": "it", "quote": "saw it", "options": ["no", "yes"], "label": 0},
    "StoryCloze": {**{f"input_sentence_{n}": "x." for n in "1234"}, "sentence_quiz1": "yes", "sentence_quiz2": "no",
                   "answer_right_ending": 2},
    "ART": {"observation_1": "x", "observation_2": "y", "hypothesis_1": "yes", "hypothesis_2": "no", "label": "2"},
    "AGIEval": {"query": "q", "choices": ["no", "yes"], "gold": [0]},
    "files of AGIEval": {"question": "q", "options": ["no", "yes"], "label": "A", "answer": None},
    "BIG-bench": {"inputs": "q", "multiple_choice_targets": ["no", "yes"], "multiple_choice_scores": [1, 0]},
    "CaseHOLD": {"context": "q", "endings": ["no", "yes"], "label": 0},
    "MedQA of BigBio": {"question": "q", "options": [{"key": "A", "value": "yes"}, {"key": "B", "value": "no"}],
                        "answer_idx": "B"},
    "DREAM": {"dialogue": ["x"], "question": "q", "choice": ["no", "yes"], "answer": "no"},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_the_hub_are_read_as_they_are(name, tmp_path):
    """The right choice is `no` in all of them; statements that are right or wrong become questions."""
    task = load_task("multiple_choice", first_number=1 if name == "Belebele" else None)
    (row,) = load(tmp_path, task, [LAYOUTS[name]])
    assert task.references(row) == ["no"] and {"no", "yes"} <= {*task.choices(row)}
    assert all(text in task.to_example(row)["prompt"] for text in ("Question: ", "\nAnswer:"))


def test_a_row_with_several_right_choices_is_refused(tmp_path):
    """One of them alone would not be the answer."""
    with pytest.raises(ValueError, match=r"line 1: the answers \[0, 1\] are several: keep only rows with one"):
        load(tmp_path, load_task("multiple_choice"), [{"query": "q", "choices": ["no", "yes"], "gold": [0, 1]}])


def test_accuracies_are_those_of_the_harness():
    """By the sum, per character and per byte: `é` has two bytes."""
    task = load_task("multiple_choice")
    row = {"question": "q", "choices": ["é" * 4, "abcde"], "answer": 0}
    assert task.ranking_scores(row, [-8.0, -9.0]) == {"accuracy_norm": 0.0, "accuracy_bytes": 1.0}
    assert task.ranking_scores(row, [-7.0, -9.0]) == {"accuracy_norm": 1.0, "accuracy_bytes": 1.0}
