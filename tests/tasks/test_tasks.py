"""The contract of every application: it is found by its file, complete and offline; gold answers get the best score."""

import copy
import json
from collections import Counter
from dataclasses import fields

import pytest
from datasets import Dataset, DatasetDict

from hf_llm.data.examples import encode_examples, encode_prompts
from hf_llm.data.prompting import Prompter
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, load_task, task_names

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ pad_token }}{{ message.role }}{{ pad_token }}{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ pad_token }}assistant{{ pad_token }}{% endif %}"
)
SHARED = {field.name for field in fields(Task)}


@pytest.fixture(scope="module", params=task_names())
def name(request):
    """The name of every file in hf_llm/tasks."""
    return request.param


@pytest.fixture(scope="module")
def task(name):
    return load_task(name)


@pytest.fixture(scope="module")
def first_tokenizer():
    """That of the model of the first command."""
    return train_tokenizer(python_docs()["train"]["text"], 4096)


@pytest.fixture(scope="module")
def sample(task):
    """The task's own data, after the task has inspected it."""
    rows = task.sample()
    task.prepare(rows)
    return rows


def test_a_sample_needs_no_download_and_is_the_same_every_time(task, sample):
    """It has the required columns, and a train split if the task is trainable."""
    assert set(sample) == ({"train", "validation"} if task.trainable else {"validation"})
    second = task.sample()
    for split, rows in sample.items():
        assert set(task.columns) - set(task.optional_columns) <= set(rows.column_names)
        assert len(rows) >= 8 and rows.to_list() == second[split].to_list()


def test_no_evaluated_row_is_in_train(task, sample):
    """Otherwise the score would measure memorization."""
    if task.trainable:
        trained = {json.dumps(row, sort_keys=True) for row in sample["train"]}
        assert not trained & {json.dumps(row, sort_keys=True) for row in sample["validation"]}


def test_no_row_of_a_sample_is_too_long_for_the_model_of_the_first_command(name, task, sample, first_tokenizer, caplog):
    """In rows of 256 tokens of its vocabulary: a warning about our own sample would be noise."""
    caplog.set_level("WARNING", "hf_llm")
    if task.trainable:
        tokenizer = copy.deepcopy(first_tokenizer)
        tokenizer.chat_template = CHAT_TEMPLATE if name == "chat" else None
        prompter = Prompter(tokenizer, task, 256)
        reports = [encode_examples(sample["train"], prompter)[1], encode_prompts(sample["validation"], prompter)[1]]
        assert [report.tokens_cut for report in reports] == [0, 0] and not caplog.messages


def test_examples_are_prompt_and_completion_without_surrounding_white_space(name, task, sample):
    """The prompter adds the space between them; a completion contains no stop string."""
    for row in sample["validation"]:
        example = task.to_example(row)
        if name == "chat":
            *earlier, answer = example["messages"]
            example = {"prompt": earlier[-1]["content"], "completion": answer["content"]}
        assert set(example) == {"prompt", "completion"} and example["completion"]
        assert all(text == text.strip() for text in example.values())
        assert not any(stop in example["completion"] for stop in task.stop_strings)


def test_the_gold_completion_gets_the_best_score(task, sample):
    """The completions that the model is trained on are what the metric expects."""
    rows = sample["validation"].select(range(8))
    examples = [task.to_example(row) for row in rows]
    texts = [each["completion"] if "completion" in each else each["messages"][-1]["content"] for each in examples]
    answers = [task.answer(text, row) for text, row in zip(texts, rows, strict=True)]
    references = [task.references(row) for row in rows]
    scores = task.metric().row_scores(answers, references)
    best = task.metric().row_scores([gold[0] if gold else "" for gold in references], references)
    assert scores == best


def test_only_the_document_column_may_be_shortened_to_nothing(task, sample):
    """The document is part of the prompt, and the prompt is not empty without it."""
    if task.document_column:
        row = dict(sample["validation"][0])
        rows = [row | {task.document_column: text} for text in ("some text", "")]
        with_document, without = (task.to_example(row)["prompt"] for row in rows)
        assert "some text" in with_document and without


def test_choices_contain_the_gold_answer(task, sample):
    """Every choice is a different answer as the metric expects it."""
    for row in sample["validation"].select(range(8)):
        if choices := task.choices(row):
            answers = [task.answer(choice, row) for choice in choices]
            assert len(set(answers)) == len(choices) and task.references(row)[0] in answers


def test_every_label_of_the_sample_is_trained_on():
    """Equally often; a label that only `validation` has could not be learned, and each run would warn of it."""
    rows = load_task("understanding").sample()
    counts = {split: Counter(rows[split]["label"]) for split in ("train", "validation")}
    assert counts["train"].keys() == counts["validation"].keys() and len(counts["train"]) == 4
    assert all(len({*numbers.values()}) == 1 for numbers in counts.values()), "or one label alone had a good score"


def test_options_are_set_by_name_as_values_or_as_text():
    """A YAML file gives an integer, a command line the text of one; both make the same task."""
    task = load_task("translation", source="de", target="zh", max_new_tokens=7)
    assert task == load_task("translation", source="de", target="zh", max_new_tokens="7")
    assert (task.source, task.target, task.max_new_tokens) == ("de", "zh", 7)
    assert load_task("translation", target="no").target == "no", "Norwegian, which YAML reads as False"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("summarisation", {}, "`--task` summarisation is not known: there are bias, chat"),
        ("translation", {"tarket": "de"}, "translation has no such option; the nearest is target"),
        ("translation", {"max_new_tokens": "many"}, "`--task_options` max_new_tokens=many: give a value of type int"),
        ("translation", {"target": False}, "target=False: give a value of type str, in a YAML file with quotation"),
        ("understanding", {"show_labels": "maybe"}, "show_labels=maybe: give a value of type bool | None"),
        ("understanding", {"scoring": "guess"}, "scoring=guess: choose likelihood, normalized or generated"),
    ],
)
def test_unknown_tasks_and_options_are_refused(name, options, message):
    """In one line that names the nearest option or the valid values."""
    with pytest.raises(ValueError, match=message):
        load_task(name, **options)


def test_a_question_may_have_no_answer():
    """The completion is the word `unanswerable`; the score is that of SQuAD 2.0."""
    task = load_task("question_answering")
    row = {"context": "It rained.", "question": "Who sang?", "answers": {"text": []}}
    task.prepare(DatasetDict(validation=Dataset.from_list([row])))
    assert task.to_example(row)["completion"] == "unanswerable" and task.answer(" Unanswerable.", row) == ""
    assert task.metric().compute(predictions=[""], references=[[]])["NoAns_exact"] == 100


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The question is unanswerable.", ""), ("unanswerable", ""), ("**Unanswerable**", ""),
        ("It's not answerable", ""), ("This question cannot be answered from the context.", ""), ("No answer", ""),
        ("There is no answer.", ""),
        ("nobody", "nobody"), ("an unanswerable riddle", "an unanswerable riddle"), ("no answers", "no answers"),
        ("The question is not unanswerable: Maria", "The question is not unanswerable: Maria"),
    ],
)  # fmt: skip
def test_a_written_refusal_is_no_answer(text, answer):
    """Where the data have questions without an answer; elsewhere the text is an answer like any other."""
    rows = [{"question": "Who sang?", "answers": texts} for texts in (["Maria"], [])]
    for number, expected in ((2, answer), (1, text)):
        task = load_task("question_answering")
        task.prepare(DatasetDict(validation=Dataset.from_list(rows[:number])))
        assert task.answer(text, rows[0]) == expected


def test_the_prompt_offers_no_answer_where_the_data_hold_one():
    """In all prompts if any row of any split has none; the option overrules it."""
    answered, unanswered = ({"question": "Who sang?", "answers": texts} for texts in (["Maria"], []))
    splits = {split: Dataset.from_list([row]) for split, row in (("train", unanswered), ("validation", answered))}
    for rows, options, offered in (
        (splits, {}, True),
        ({"validation": splits["train"]}, {}, True),
        ({"validation": splits["validation"]}, {}, False),
        ({"validation": splits["validation"]}, {"offer_no_answer": "true"}, True),
        (splits, {"offer_no_answer": False}, False),
    ):
        task = load_task("question_answering", **options)
        task.prepare(DatasetDict(rows))
        assert ("unanswerable" in task.to_example(answered)["prompt"]) is offered


def test_a_question_may_have_no_context():
    """A row's context is not in the prompt if `with_context` is false."""
    row = {"question": "Who sang?", "answers": ["Maria", "She"]}
    assert "Context" not in load_task("question_answering").to_example(row)["prompt"]
    row["context"] = "Maria sang."
    assert "Maria" in load_task("question_answering").to_example(row)["prompt"]
    assert "Maria" not in load_task("question_answering", with_context=False).to_example(row)["prompt"]


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        ("eng_Latn", "deu_Latn", "English to German"), ("en", "nb", "English to Norwegian Bokmål"),
        ("cz", "zho_Hant", "Czech to Chinese (Traditional)"), ("arb_Arab", "fil", "Arabic to Filipino"),
    ],
)  # fmt: skip
def test_a_translation_prompt_has_the_names_of_the_languages(source, target, names):
    """Whatever codes the columns have."""
    task = load_task("translation", source=source, target=target)
    assert f"from {names}." in task.to_example({"translation": {source: "one", target: "eins"}})["prompt"]


def test_a_language_that_a_row_lacks_is_named():
    """The message also names the languages of the row."""
    task = load_task("translation", source="en", target="fr")
    with pytest.raises(ValueError, match="no `fr` in `translation`, only en, de"):
        task.to_example({"translation": {"en": "one", "de": "eins"}})


def test_the_option_labels_names_numbered_labels():
    """In the order of their numbers; a number beyond them is refused."""
    task = load_task("understanding", labels="negative|positive")
    task.prepare(DatasetDict())
    assert task.references({"text": "Fine.", "label": 1}) == ["positive"]
    with pytest.raises(ValueError, match="label `2` is not among the choices negative, positive"):
        task.references({"text": "Fine.", "label": 2})


def test_a_generated_label_is_the_longest_that_the_answer_starts_with():
    """The rest of the answer is ignored; an answer that starts with no label stays as it is."""
    task = load_task("understanding", labels="card|card lost", scoring="generated")
    task.prepare(DatasetDict())
    assert task.choices({"text": "Hm."}) is None
    assert [task.answer(text, {}) for text in (" Card lost, it seems", "card?", "a card")] == [
        "card lost",
        "card",
        "a card",
    ]


@pytest.mark.parametrize(
    ("labels", "text", "answer"),
    [
        ("yes|no", "None of the above", "None of the above"), ("yes|no", "**yes**", "yes"), ("yes|no", "Nope", "Nope"),
        ("yes|no", "no-one", "no-one"), ("yes|no", "The answer is: No, because", "no"), ("yes|no", "yes/no", "yes/no"),
        ("entailment|not_entailment", "not entailment", "not_entailment"), ("C|C++", "C++.", "C++"),
        ("C|D", "C++", "C++"), ("pos|neg", "positive", "positive"), ("pos|neg", "not pos", "not pos"),
        ("3|5", "3.5", "3.5"), ("3|5", "3.", "3"), ("好|坏", "好的", "好"),
        ("A|a", "a, surely", "a"), ("the|is", "the", "the"), ("yes|no", "\\boxed{no}", "no"),
        ("yes|no", "1. Yes", "yes"), ("yes|no", "Final answer: $\\boxed{\\text{No}}$", "no"), ("1|2", "1. no", "1"),
        ("yes|no", "yes or no", "yes or no"), ("yes|no", "Yes–no", "Yes–no"), ("A|B", "Option B", "B"),  # noqa: RUF001
    ],
)  # fmt: skip
def test_a_written_label_is_matched_by_whole_words(labels, text, answer):
    """After marks and words such as `the answer is`; another word that begins with the same letters is none."""
    task = load_task("understanding", labels=labels, scoring="generated")
    assert task.answer(text, {}) == answer


def test_a_translation_needs_two_languages():
    """One language would be scored as a copy."""
    with pytest.raises(ValueError, match="source=de,target=de: choose two languages"):
        load_task("translation", source="de")


def test_the_tokenizer_of_bleu_can_be_chosen():
    """It is in the signature; without the option the target language chooses."""
    texts = {"predictions": ["Guten Tag!"], "references": [["Guten Tag!"]]}
    for options, signature in (({}, "tok:13a"), ({"bleu_tokenizer": "char"}, "tok:char")):
        assert signature in load_task("translation", **options).metric().compute(**texts)["bleu_signature"]
