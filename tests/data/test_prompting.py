"""Prompts fit, their documents alone are shortened, completions alone are trained, shots are not scored."""

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer

from hf_llm.data.prompting import Prompter, draw_shots, encode_examples, encode_prompts
from hf_llm.tasks import load_task

TOKENIZER = new_tokenizer()
TASK = load_task("summarization")
ROWS = Dataset.from_list(
    [{"document": f"Document {i} counts {'0 1 2 ' * i}", "summary": f"It ends {i}."} for i in range(9)]
)
CHAT = (
    "{% for m in messages %}<|bos|>{{ m.content }}<|eos|>{% endfor %}{% if add_generation_prompt %}<|bos|>{% endif %}"
)


def test_only_the_completion_is_trained_and_it_ends_with_the_end_token():
    """The prompt's labels are -100; the end of an answer is learned."""
    features, report = encode_examples(ROWS, Prompter(TOKENIZER, TASK, 512))
    for row, of_row in zip(ROWS, features, strict=True):
        trained = [label for label in of_row["labels"] if label != -100]
        assert (
            TOKENIZER.decode(trained) == f" {row['summary']}<|eos|>" and of_row["input_ids"][-len(trained) :] == trained
        )
    assert (report.examples, report.examples_dropped, report.tokens_cut) == (9, 0, 0)


def test_a_prompt_that_is_too_long_loses_the_end_of_its_document_alone():
    """Instruction and cue stay, the row fills `max_length`, and what was cut is counted."""
    whole, _ = encode_prompts(ROWS, Prompter(TOKENIZER, TASK, 512))
    longest = max(map(len, whole["prompt"]))
    room = longest - 10
    features, report = encode_prompts(ROWS, Prompter(TOKENIZER, TASK, room + TASK.max_new_tokens))
    text = TOKENIZER.decode(features[8]["prompt"])
    assert text.startswith("<|bos|>Summarize the text.") and text.endswith("\n\nSummary:")
    assert len(features[8]["prompt"]) <= room and report.examples_shortened >= 1 and report.tokens_cut >= 10
    with pytest.raises(ValueError, match=r"`validation` row 0: a prompt of .* leaves no room"):
        encode_prompts(ROWS, Prompter(TOKENIZER, TASK, TASK.max_new_tokens + 5))


def test_the_chat_template_is_used_where_there_is_one_and_its_end_is_learned():
    """By default, or by name; without a template a chat is refused."""
    tokenizer = new_tokenizer()
    with pytest.raises(ValueError, match="has no template; use plain"):
        Prompter(tokenizer, TASK, 512, "chat")
    tokenizer.chat_template = CHAT
    prompter = Prompter(tokenizer, TASK, 512)
    ids = prompter.prompt_ids("A question?") + prompter.completion_ids("An answer", "A question?")
    assert tokenizer.decode(ids) == "<|bos|>A question?<|eos|><|bos|>An answer<|eos|>"


def test_solved_examples_are_taken_out_of_the_part_that_they_are_from():
    """And stand before the prompt."""
    shots, rows = draw_shots(DatasetDict(validation=ROWS), TASK, 2, seed=0)
    left = {row["summary"] for row in rows["validation"]}
    assert len(left) == 7 and not left & {shot["completion"] for shot in shots}
    text = TOKENIZER.decode(Prompter(TOKENIZER, TASK, 512, shots=shots).prompt_ids("Now this:"))
    assert text.endswith(f"{shots[1]['completion']}\n\nNow this:")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"document": "a", "summary": " "}, "`validation` row 0: the reference is empty"),
        ({"document": "a", "summary": "very long " * 100}, "`train` row 0: a completion of .* does not fit"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, message):
    """With what is wrong."""
    prompter, rows = Prompter(TOKENIZER, TASK, 128), Dataset.from_list([row])
    with pytest.raises(ValueError, match=message):
        encode_prompts(rows, prompter) if "validation" in message else encode_examples(rows, prompter)
