"""Answers that must not become gold answers."""

import pytest
from task_rows import load

from hf_llm import load_task


@pytest.mark.parametrize(
    "name, values",
    [("label", (0, 1)), ("is_correct", (False, True)), ("label", ("0", "1"))],
)
def test_wrong_answers_are_not_gold_answers(name, values, tmp_path):
    """As in MultiRC and WikiQA, where a column says whether the answer is right; without the wrong ones it is read."""
    task = load_task("question_answering")
    rows = [
        {"question": "How many?", "answer": answer, name: value} for answer, value in zip("ab", values, strict=True)
    ]
    with pytest.raises(ValueError, match=f"`{name}` says that some answers are wrong: keep only the rows"):
        load(tmp_path, task, rows)
    assert task.references(load(tmp_path, task, rows[1:])[0]) == ["b"], "the remedy helps"


@pytest.mark.parametrize(
    "row",
    [
        {"answers": {"text": ["b"], "answer_start": [0]}, "is_impossible": True},
        {"answer": "b", "has_answer": False},
        {"answers": ["No Answer Present."]},
        {"answers": {"text": ["CANNOTANSWER"], "answer_start": [0]}},
    ],
)
def test_a_plausible_answer_is_not_a_gold_answer(row, tmp_path):
    """As in KLUE, MS MARCO and QuAC."""
    task = load_task("question_answering")
    (loaded,) = load(tmp_path, task, [{"question": "How many?", **row}])
    assert task.references(loaded) == [] and task.version == "2.0"


def test_numbers_and_dates_of_drop_are_answers(tmp_path):
    """Without spans the answer is a number or a date; several spans are one answer, not several right ones."""
    task = load_task("question_answering")
    date = {"day": "", "month": "May", "year": "1921"}
    answers = [
        {"number": "9", "date": dict.fromkeys(date, ""), "spans": []},
        {"number": "", "date": date, "spans": []},
        {"number": "", "date": dict.fromkeys(date, ""), "spans": ["a goat", "a goat"]},
    ]
    rows = load(tmp_path, task, [{"question": "Which?", "answer": answer} for answer in answers])
    assert [task.references(row) for row in rows] == [["9"], ["May 1921"], ["a goat"]]
    with pytest.raises(ValueError, match="are one answer: join them to one text"):
        load(tmp_path, task, [{"question": "Which?", "answers_spans": {"spans": ["a", "b"], "types": ["span"] * 2}}])


@pytest.mark.parametrize(
    "answers",
    [
        {"input_text": ["nine", "unknown"], "answer_start": [0, 1]},
        {"texts": [["nine", "9"], ["unknown"]], "answer_starts": [[0, 0], [1]]},
    ],
)
def test_each_question_of_a_conversation_is_a_row(answers, tmp_path):
    """As in CoQA and QuAC; a question follows the earlier ones with their answers, without which it means nothing."""
    task = load_task("question_answering")
    row = {"story": "Nine goats.", "questions": ["How many?", "Whose?"], "answers": answers}
    first, second = load(tmp_path, task, [row])
    assert task.references(first)[0] == "nine" and task.references(second) == ["unknown"]
    assert "Context: Nine goats." in task.to_example(second)["prompt"]
    assert task.to_example(second)["prompt"].endswith("Question: How many?\nAnswer: nine\nQuestion: Whose?\nAnswer:")
    with pytest.raises(ValueError, match="line 1: `questions` and `answers` are not lists of one length"):
        load(tmp_path, task, [row | {"questions": ["How many?"]}])


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "How many?", "answer": None, "answer_number": 9}, "9"),  # MGSM
        ({"Body": "One goat. Eight goats.", "Question": "How many?", "Answer": "9"}, "9"),  # SVAMP
        ({"problem": "How many?", "solution": "One and eight.", "answer": "9"}, "9"),  # MATH-500
        ({"input": "How many?", "target": "9"}, "9"),  # BBH
        ({"question": "Many?", "context": {"contexts": ["a", "b"]}, "final_decision": "yes"}, "yes"),  # PubMedQA
        ({"question": "q", "paragraphs": [{"title": "t", "paragraph_text": "x"}], "answer": "9"}, "9"),
    ],
)  # fmt: skip
def test_answers_of_other_columns_are_read(row, answer, tmp_path):
    """Whatever the case of their names is; a column of nulls is not read if there is another."""
    task = load_task("question_answering")
    (loaded,) = load(tmp_path, task, [row])
    assert task.references(loaded) == [answer]
    assert ("Context: " in task.to_example(loaded)["prompt"]) == bool({"Body", "context", "paragraphs"} & {*row})


def test_the_number_of_a_choice_is_not_an_answer(tmp_path):
    """Choices may have a column each, as in KMMLU."""
    with pytest.raises(ValueError, match="one of the row's `A`: take `--task multiple_choice`"):
        load(tmp_path, load_task("question_answering"), [{"question": "q", "A": "a", "B": "b", "answer": 1}])
