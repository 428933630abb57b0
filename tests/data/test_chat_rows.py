"""Conversations that do not fit or cannot be proved are counted, and never cut within an answer."""

import pytest
from datasets import Dataset
from tiny import new_tokenizer
from tokenizers import AddedToken

from hf_llm.data.examples import encode_examples, encode_prompts, show_example
from hf_llm.data.few_shot import draw_shots
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import Prompter
from hf_llm.tasks import Task

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Talk(Task):
    """Rows whose text has a turn in each line, the user's first."""

    def to_example(self, row):
        roles = ("user", "assistant") * 99
        return {"messages": [{"role": r, "content": c} for r, c in zip(roles, row["text"].split("/"), strict=False)]}

    def references(self, row):
        return [row["text"].split("/")[-1]]


def new_prompter(max_length: int = 64, template: str | None = TURNS, **settings) -> Prompter:
    """A prompter of such rows."""
    tokenizer = new_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("<|user|>", "<|assistant|>", "<|end|>")])
    tokenizer.chat_template = template
    return Prompter(tokenizer, Talk(max_new_tokens=4), max_length, PromptSettings(**settings))


def rows_of(*texts: str) -> Dataset:
    return Dataset.from_list([{"text": text} for text in texts])


def trained_texts(features: Dataset, prompter: Prompter) -> list[str]:
    """All trained text of each row."""
    return [prompter.tokenizer.decode([label for label in row["labels"] if label != -100]) for row in features]


def test_a_conversation_is_cut_after_its_last_answer_that_fits(caplog):
    """And left out if none does; both are counted and said."""
    caplog.set_level("WARNING", "hf_llm")
    long = "it ends " * 99
    prompter = new_prompter(max_length=32)
    features, report = encode_examples(rows_of("Hi/Oh/So/Yes", f"Hi/Oh/{long}/Yes", f"Hi/{long}"), prompter)
    assert trained_texts(features, prompter) == ["Oh<|end|>Yes<|end|>", "Oh<|end|>"]
    assert features[1]["input_ids"] == features[0]["input_ids"][: len(features[1]["input_ids"])]
    metrics = report.metrics("train")
    assert metrics["train_examples"] == metrics["train_conversations"] == 2 and metrics["train_examples_dropped"] == 0
    assert (metrics["train_answers"], metrics["train_answers_too_long"]) == (3, 2)
    assert metrics["train_conversations_too_long"] == 1
    assert caplog.messages == [
        "train: 2 of 5 answers left out, which end after more than `--max_length` 32 tokens, 1 conversations "
        "altogether: give a larger one, if the model has as many positions"
    ]


def test_up_to_one_per_cent_of_the_rows_may_be_left_out(caplog):
    """By name and with the reason; beyond that the run stops."""
    changes = TURNS.replace("m.content", "(m.content | replace('odd', 'even'))")
    prompter, good = new_prompter(template=changes), ["Hi/Oh"] * 99
    features, report = encode_examples(rows_of(*good, "Hi/odd"), prompter)
    assert len(features) == 99 and report.metrics("train")["train_conversations_unproved"] == 1
    assert "`train` row 99: the chat template changes the answer `odd`" in caplog.text
    message = r"row 98: the chat template changes the answer `odd`.*, or remove such rows"
    with pytest.raises(ValueError, match=message):
        encode_examples(rows_of(*good[1:], "Hi/odd", "Hi/odd"), prompter)


def test_conversations_of_several_rows_are_said_with_their_number(caplog):
    """Once for a split."""
    caplog.set_level("INFO", "hf_llm")
    changing = TURNS.replace("{{ m.content }}", "{{ '' if loop.last else 'Earlier: ' }}{{ m.content }}")
    prompter = new_prompter(template=changing.replace("{{ '' if loop.last", "{{ '' if loop.last or m.role == 'user'"))
    features, report = encode_examples(rows_of("Hi/Oh/So/Yes", "Hi/Oh"), prompter)
    assert trained_texts(features, prompter) == ["Oh<|end|>", "Yes<|end|>", "Oh<|end|>"]
    assert report.metrics("train")["train_conversations"] == 2
    assert sum("1 of 2 conversations become several rows" in message for message in caplog.messages) == 1


def test_thoughts_that_the_template_does_not_write_are_counted():
    """They would be missed without a word."""

    class Thinker(Talk):
        def to_example(self, row):
            example = super().to_example(row)
            for number, message in enumerate(example["messages"][1::2]):
                message["reasoning_content"] = f"Hm, {number}."
            return example

    written = TURNS.replace("{{ m.content", "{{ m.reasoning_content }}{{ m.content")
    of_some = written.replace("{{ m.reasoning_content", "{{ m.reasoning_content if loop.index < 3")
    for template, train_on, count in (
        (TURNS, "assistant", 1),
        (written, "assistant", 0),
        (of_some, "assistant", 1),
        (of_some, "last", 1),
    ):
        prompter = new_prompter(template=template, train_on=train_on)
        prompter.task = Thinker()
        _, report = encode_examples(rows_of("Hi/Oh/So/Yes"), prompter)
        assert report.metrics("train")["train_thoughts_left_out"] == count


def test_conversations_without_a_chat_template_are_refused_with_the_remedy():
    """In training and in evaluation, before a model is needed."""
    for prompter, message in (
        (new_prompter(template=None), "give `--chat_template chatml`"),
        (new_prompter(style="plain"), "`--prompt_style plain` cannot write conversations: leave it out"),
    ):
        for encode in (encode_examples, encode_prompts):
            with pytest.raises(ValueError, match=message):
                encode(rows_of("Hi/Oh"), prompter)


def test_the_prompt_of_an_evaluated_conversation_is_all_before_its_last_answer():
    """With the start of an answer."""
    prompter = new_prompter()
    prompts, _ = encode_prompts(rows_of("Hi/Oh/So/Yes"), prompter)
    text = prompter.tokenizer.decode(prompts[0]["prompt"])
    assert text == "<|user|>Hi<|end|><|assistant|>Oh<|end|><|user|>So<|end|><|assistant|>"


def test_few_shot_examples_before_conversations_are_refused():
    """They are pairs of a prompt and its completion."""
    with pytest.raises(ValueError, match="`--num_fewshot` has no effect on conversations"):
        draw_shots({"train": rows_of("Hi/Oh"), "validation": rows_of("Hm/Oh")}, Talk(), 1, 0)


def test_the_first_example_is_shown_with_each_trained_answer_in_brackets(caplog):
    """As the model sees it."""
    caplog.set_level("INFO", "hf_llm")
    prompter = new_prompter()
    features, _ = encode_examples(rows_of("Hi/Oh/So/Yes"), prompter)
    show_example(features, prompter.tokenizer)
    shown = "<|user|>Hi<|end|><|assistant|>[[Oh<|end|>]]<|user|>So<|end|><|assistant|>[[Yes<|end|>]]"
    assert caplog.messages[-1].endswith(shown)
