"""Only completions are trained on, and documents are shortened to fit."""

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer

from hf_llm.data import examples
from hf_llm.data.examples import encode_examples, encode_prompts, new_report
from hf_llm.data.prompting import Prompter
from hf_llm.tasks import load_task

TOKENIZER = new_tokenizer()
TASK = load_task("summarization")
ROWS = Dataset.from_list(
    [{"document": f"Document {i} counts {'0 1 2 ' * i}", "summary": f"It ends {i}."} for i in range(9)]
)


def test_only_the_completion_is_trained_on_and_it_ends_with_the_end_token():
    """The labels of the prompt are -100."""
    features, report = encode_examples(ROWS, Prompter(TOKENIZER, TASK, 512))
    for row, example in zip(ROWS, features, strict=True):
        trained = [label for label in example["labels"] if label != -100]
        assert (
            TOKENIZER.decode(trained) == f" {row['summary']}<|eos|>"
            and example["input_ids"][-len(trained) :] == trained
        )
    assert (report.examples, report.examples_dropped, report.tokens_cut) == (9, 0, 0)


def test_a_prompt_that_is_too_long_loses_only_the_end_of_its_document():
    """The text before and after the document stays, and the removed tokens are counted."""
    whole, _ = encode_prompts(ROWS, Prompter(TOKENIZER, TASK, 512))
    longest = max(map(len, whole["prompt"]))
    room = longest - 10
    features, report = encode_prompts(ROWS, Prompter(TOKENIZER, TASK, room + TASK.max_new_tokens))
    text = TOKENIZER.decode(features[8]["prompt"])
    assert text.startswith("<|bos|>Summarize the text.") and text.endswith("\n\nSummary:")
    assert len(features[8]["prompt"]) <= room and report.examples_shortened >= 1 and report.tokens_cut >= 10
    with pytest.raises(ValueError, match=r"`validation` row 0: a prompt of .* leaves no room"):
        encode_prompts(ROWS, Prompter(TOKENIZER, TASK, TASK.max_new_tokens + 5))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"document": "a", "summary": " "}, "`validation` row 0: the reference is empty"),
        ({"document": "a", "summary": "very long " * 100}, "`train` row 0: a completion of .* does not fit"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, message):
    """The error says what is wrong with it."""
    prompter, rows = Prompter(TOKENIZER, TASK, 128), Dataset.from_list([row])
    with pytest.raises(ValueError, match=message):
        encode_prompts(rows, prompter) if "validation" in message else encode_examples(rows, prompter)


def test_choices_are_ranked_with_the_end_token_with_which_they_are_trained():
    """Without it, a label that is the start of another one would always be likelier."""
    task = load_task("understanding", labels="card|card lost")
    rows = DatasetDict(validation=Dataset.from_list([{"text": "Hm.", "label": "card"}]))
    task.prepare(rows)
    prompts, _ = encode_prompts(rows["validation"], Prompter(TOKENIZER, task, 512))
    assert all(choice[-1] == TOKENIZER.eos_token_id for choice in prompts["choices"][0])


def test_the_gold_completion_fits_after_the_prompt_if_its_perplexity_is_scored():
    """It may be longer than `max_new_tokens`."""
    task = load_task("generation", max_new_tokens=2)
    rows = Dataset.from_list([{"instruction": "Go on.", "input": "then it ends. " * 30, "output": "Document " * 9}])
    prompts, _ = encode_prompts(rows, Prompter(TOKENIZER, task, 100))
    assert len(prompts[0]["prompt"]) + len(prompts[0]["completion"]) <= 100


def test_a_label_is_encoded_once_for_all_rows(monkeypatch):
    """77 labels of 10,000 rows would otherwise be tokenized 770,000 times."""
    task = load_task("understanding", labels="card|card lost")
    rows = DatasetDict(validation=Dataset.from_list([{"text": f"Hm {i}.", "label": "card"} for i in range(20)]))
    task.prepare(rows)
    prompter, texts = Prompter(TOKENIZER, task, 512), []
    encode = prompter.tokenize
    monkeypatch.setattr(prompter, "tokenize", lambda batch, *args: texts.extend(batch) or encode(batch, *args))
    prompts, _ = encode_prompts(rows["validation"], prompter)
    assert sum(text.endswith("card lost<|eos|>") for text in texts) == 1
    assert [TOKENIZER.decode(choice) for choice in prompts[19]["choices"]] == [" card<|eos|>", " card lost<|eos|>"]


def test_rows_in_batches_are_encoded_as_each_row_by_itself(monkeypatch):
    """With any batch size; rows without a completion are dropped."""
    rows = [*ROWS, {"document": "Nothing to say.", "summary": ""}, *ROWS]
    prompter = Prompter(TOKENIZER, TASK, 512)
    alone = [encode_examples(Dataset.from_list([row]), prompter)[0][0] for row in rows if row["summary"]]
    for number in (1, 4, 1000):
        monkeypatch.setattr(examples, "BATCH_ROWS", number)
        together, report = encode_examples(Dataset.from_list(rows), prompter)
        assert together.to_list() == alone and report.examples_dropped == 1


def test_rows_without_a_completion_are_counted_without_a_count_of_shortened_ones(caplog):
    """A warning that 0 of the documents were shortened by 0 tokens would be noise."""
    caplog.set_level("WARNING", "hf_llm")
    new_report([0, 0, 0], 2, "train", Prompter(TOKENIZER, TASK, 512))
    assert caplog.messages == ["train: 2 rows without a completion dropped"]
    new_report([0, 7, 0], 0, "train", Prompter(TOKENIZER, TASK, 512))
    assert caplog.messages[1:] == ["train: 1 of 3 documents shortened by 7 tokens together to fit in 512"]
