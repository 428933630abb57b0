"""Tasks in a wording of one's own."""

import pytest
from task_rows import load

from hf_llm import load_task
from hf_llm.arguments import EvalTaskArguments, TaskArguments

ROWS = [{"question": "How many?", "answer": "3 + 4 = 7\n#### 7", "names": ["a", "b"], "unit": "eggs"}]


def test_flags_are_options_of_the_task(tmp_path):
    """`--task` may be left out; only the columns that the templates read are kept."""
    args = TaskArguments(prompt_template=r"Q: {{ question }}\nIn {{ unit }}:", answer_pattern="number", metric="f1")
    assert args.task == "custom"
    task = load_task(args.task, **args.task_options)
    (row,) = load(tmp_path, task, ROWS)
    assert {*row} & {*ROWS[0]} == {"question", "answer", "unit"}
    assert task.to_example(row) == {"prompt": "Q: How many?\nIn eggs:", "completion": ROWS[0]["answer"]}
    assert task.references(row) == ["7"] and task.answer("It is 8, no, 7.", row) == "7" and task.answer("no", row) == ""
    assert "f1" in task.metric().score_names
    assert EvalTaskArguments(prompt_template="x").task == ["custom"]


def test_a_completion_template_of_a_list_gives_several_gold_answers(tmp_path):
    """The first is trained on."""
    task = load_task("custom", prompt_template="{{ question }}", completion_template="{{ names }}")
    (row,) = load(tmp_path, task, ROWS)
    assert task.references(row) == ["a", "b"] and task.to_example(row)["completion"] == "a"


@pytest.mark.parametrize(("answer", "ends"), [("7", ("\n",)), ("3 + 4\n= 7", ("\n\n",)), ("3 + 4\n\n= 7", ())])
def test_an_answer_ends_with_its_line_or_paragraph_if_all_gold_answers_do(answer, ends, tmp_path):
    """A base model goes on with further questions."""
    task = load_task("custom")
    load(tmp_path, task, [{"question": "q", "answer": answer}, {"question": "r", "answer": "7"}])
    assert task.stop_strings == ends


def test_a_template_may_be_a_file(tmp_path):
    """In which a backslash stays what it is."""
    (tmp_path / "mine.jinja").write_text("{{ question }} \\nabla\nA:")
    task = load_task("custom", prompt_template=str(tmp_path / "mine.jinja"))
    assert task.to_example({"question": "q", "answer": "a"})["prompt"] == "q \\nabla\nA:"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_template": "none.jinja"}, "`--prompt_template` none.jinja cannot be read: No such file"),
        ({"prompt_template": "{question}"}, "`--prompt_template` {question} reads no column of the rows: write one as"),
        ({"prompt_template": "{{ why }}"}, "no column `why`, only question, answer, names, unit: choose with"),
        ({"answer_pattern": "("}, r"`--answer_pattern` \(: .*: correct the expression, or give number"),
        ({"answer_pattern": "z"}, "line 1: `--answer_pattern` z finds no answer in the gold answer"),
        ({"metric_name": "rogue"}, "`--metric` rogue is not known: .*; the nearest is rouge"),
        ({"document": "names"}, "document=names: `--prompt_template` reads no such column, only question"),
    ],
)
def test_bad_templates_patterns_and_metrics_are_refused(options, message, tmp_path):
    """In one line that says what to do."""
    with pytest.raises(ValueError, match=message):
        task = load_task("custom", **options)
        for row in load(tmp_path, task, ROWS):
            task.references(row)


def test_flags_of_other_tasks_are_refused():
    """They would have no effect."""
    with pytest.raises(ValueError, match="`--metric` does not apply to `--task understanding`"):
        load_task("understanding", metric_name="rouge")
    with pytest.raises(ValueError, match="no task is named: give `--task`, or `--prompt_template`"):
        load_task(TaskArguments().task)


@pytest.mark.parametrize("name", ["generation", "chat"])
def test_metric_and_pattern_are_for_conversations_too(name, tmp_path):
    """The whole answer is trained on, its number compared."""
    task = load_task(name, metric_name="exact_match", answer_pattern="number")
    messages = [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "It is 7, as 3 + 4 = 7."}]
    (row,) = load(tmp_path, task, [{"messages": messages}])
    assert task.to_example(row)["messages"] == messages and task.references(row) == ["7"]
    assert task.answer("So 7.0!", row) == "7" and task.metric().score_names == ("exact_match",)
