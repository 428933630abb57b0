"""Thoughts are no part of the answer that is scored, and have a budget of their own."""

import logging

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_llm.data.prompting import Prompter
from hf_llm.evaluation.scoring import answer_and_score, encode_task
from hf_llm.evaluation.thoughts import begins_thought, split_thought
from hf_llm.tasks import load_task

SPECIAL = ("<eos>", "<pad>", "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "[THINK]", "[/THINK]")
CHANNELS = "<|channel|>analysis<|message|>nine goats<|end|><|start|>assistant<|channel|>final<|message|>nine"
PLAIN_CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def tokenizer():
    """Every byte is a token, so that most marks are many; those of channels are one special token each."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


def scripted_model(monkeypatch, tokenizer, texts):
    """A model that writes the text whose number follows the first "Question: " of a prompt, and the eos token."""
    model = new_model(max_position_embeddings=512)
    scripts = [tokenizer(f"{text}<eos>").input_ids for text in texts]

    def scripted(input_ids, past_key_values=None, **rest):
        output = forward(input_ids=input_ids, past_key_values=past_key_values, **rest)
        if past_key_values is None:  # to score a text
            return output
        if input_ids.shape[1] > 1:
            prompts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in input_ids]
            state["scripts"] = [scripts[int(prompt.partition("Question: ")[2][0])] for prompt in prompts]
            state["step"] = -1
        state["step"] += 1
        output.logits[:, -1] = 0
        for row, script in enumerate(state["scripts"]):
            output.logits[row, -1, (script + [0] * 512)[state["step"]]] = 9
        return output

    forward, state = model.forward, {}
    monkeypatch.setattr(model, "forward", scripted)
    return model


def answer(monkeypatch, tokenizer, texts, template=None, batch_size=2, **options):
    """The predictions for rows that a model answers with these texts."""
    tokenizer.chat_template = template
    model = scripted_model(monkeypatch, tokenizer, texts)
    task = load_task("question_answering", **options)
    rows = Dataset.from_list([{"question": f"{i}{'?' * i}", "answers": ["nine"]} for i in range(len(texts))])
    task.prepare(DatasetDict(validation=rows))
    encoded = encode_task(Prompter(tokenizer, task, 512), rows)
    return answer_and_score(model, encoded, batch_size=batch_size, show_progress=False)


@pytest.mark.parametrize("template", [None, PLAIN_CHAT], ids=["plain", "chat"])
def test_only_what_follows_the_thought_is_scored(monkeypatch, tokenizer, template):
    """Tags and channels; line ends do not stop a thought, and the thoughts are in the predictions."""
    thoughts = ["<think>\nnot ten\n\n</think>\n\n", "[THINK]ten?[/THINK]", CHANNELS.removesuffix("nine"), ""]
    result = answer(monkeypatch, tokenizer, [f"{thought}nine" for thought in thoughts], template)
    assert result.answers() == ["nine"] * 4 and result.scores["exact_match"] == 100
    assert [row.get("thought", "") for row in result.predictions] == [thought.strip() for thought in thoughts]


def test_a_thought_may_begin_in_the_prompt(monkeypatch, tokenizer):
    """As in the chat templates of R1 and Qwen3.5; without an end it is no answer, and a warning counts it."""
    template = PLAIN_CHAT + "{% if add_generation_prompt %}<think>\n{% endif %}"
    result = answer(monkeypatch, tokenizer, ["It was nine.\n</think>\nnine", "nine"], template)
    assert result.answers() == ["nine", ""]


def test_the_thoughts_of_conversations_are_in_the_predictions(monkeypatch, tokenizer, caplog):
    """Of each turn that is scored, also if the prompt begins them; then gold answers without any have no perplexity."""
    turns = [("user", "Question: 0"), ("assistant", "nine"), ("user", "Question: 0"), ("assistant", "ten")]
    rows = Dataset.from_list([{"messages": [{"role": role, "content": text} for role, text in turns], "tools": None}])
    closing = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    opening = closing + "{% if add_generation_prompt %}<think>{% endif %}"
    runs = [
        (closing, "<think>8 + 1</think>nine", "<think>8 + 1</think>"),
        (opening, "8 + 1</think>nine", "8 + 1</think>"),
    ]
    for template, written, thought in runs:
        tokenizer.chat_template = template
        task = load_task("chat", evaluate_turns="every", metric_name="exact_match")
        encoded = encode_task(Prompter(tokenizer, task, 512), rows)
        model = scripted_model(monkeypatch, tokenizer, [written])
        result = answer_and_score(model, encoded, show_progress=False)
        assert result.answers() == ["nine", "nine"] and result.scores["exact_match"] == 0.5
        assert [row["thought"] for row in result.predictions] == [thought] * 2
        assert ("perplexity" in result.scores) == (template == closing)
    assert caplog.text.count("The perplexity of gold answers without thoughts is not scored") == 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_thought_and_answer_have_budgets_of_their_own(monkeypatch, tokenizer, batch_size, caplog):
    """An answer has all of its tokens after the longest thought; a thought that is too long has no answer."""
    texts = [f"<think>{'a' * 30}</think>nineteen", "nineteen", f"<think>{'a' * 60}</think>nineteen"]
    options = {"max_new_tokens": 4, "max_thought_tokens": 50, "batch_size": batch_size}
    with caplog.at_level(logging.WARNING):
        result = answer(monkeypatch, tokenizer, texts, **options)
    assert result.answers() == ["nine", "nine", ""]
    assert "1 of 2 thoughts end without an answer, within 50 tokens: give more by `max_thought_tokens`" in caplog.text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<thinking>a</thinking> b", " b"), ("<seed:think>a</seed:think>b", "b"), ("◁think▷a◁/think▷b", "b"),
        ("<|START_THINKING|>a<|END_THINKING|>b", "b"), ("<|channel>thought\na<channel|>b", "b"),
        ("<think></think>b", "b"), ("<think>a</think>b<think>c</think>d", "d"), ("b<think>a", "b"), ("<think>a", ""),
        ("a</think>b", "b"), ("<think>a</think><response>b</response>", "b"), ("<think>a</think>\n<answer>b", "b"),
        ("<|channel|>final<|message|>b", "b"), ("<response>b</response>", "<response>b</response>"), ("b", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>b<|end_of_solution|>", "b"),
        ("I think b", "I think b"), ("<|channel|>final <|constrain|>json<|message|>b", "b"),
    ],
)  # fmt: skip
def test_thoughts_of_known_models_are_split_off(text, answer):
    """Several thoughts, empty ones, ones without begin or end; tags around the answer after a thought."""
    assert split_thought(text)[0] == answer


def test_a_prompt_that_only_mentions_a_mark_begins_no_thought():
    """Only a mark at its end does; a thought that is ended there neither."""
    assert begins_thought("<bot><think>\n") and begins_thought("[THINK]")
    assert not any(map(begins_thought, ["What is <think>?", "<think>\n\n</think>\n\n", ""]))


def test_a_penalty_in_the_generation_config_does_not_change_the_score(monkeypatch, tokenizer):
    """Scored is greedy search, whatever the model's authors recommend for chats."""
    found = []
    monkeypatch.setattr("hf_llm.evaluation.answers.generate_ids", lambda *_, **options: found.append(options) or [[5]])
    answer(monkeypatch, tokenizer, ["nine"])
    expected = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "do_sample": False}
    assert found[0].items() >= expected.items()


def test_an_answer_beyond_the_positions_is_refused_with_a_remedy_that_helps(monkeypatch, tokenizer):
    """The message names the task's option, not the flag of another program."""
    with pytest.raises(
        ValueError, match=r"^an answer of `max_new_tokens` 500 after .* give `--max_length` 512 or less"
    ):
        monkeypatch.setattr(Prompter, "fit", lambda self, row, ids, budget: (ids, 0))
        answer(monkeypatch, tokenizer, ["nine"], max_new_tokens=500)
