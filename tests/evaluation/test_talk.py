"""A conversation in the terminal: answers and thoughts, history, commands, what a pipe and Ctrl-C do."""

import io
import json
import sys

import pytest
from tiny import new_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_llm.arguments import ChatArguments
from hf_llm.evaluation.talk import Talk, settled, user_messages

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
POSITIONS = 256


@pytest.fixture
def tokenizer():
    """Every byte is a token."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    roles = ("<|system|>", "<|user|>", "<|assistant|>")
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<|pad|>", "<|end|>", *roles)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def talk(tokenizer, monkeypatch):
    """Makes a `Talk` with a model that writes the given texts one after the other, and notes its prompts."""

    def make(texts, **args):
        model = new_model(max_position_embeddings=POSITIONS, vocab_size=len(tokenizer))
        model.generation_config.eos_token_id = None  # the template's end must be enough
        forward, answers, script = model.forward, iter(texts), []

        def scripted(input_ids, **rest):
            output = forward(input_ids=input_ids, **rest)
            if input_ids.shape[1] > 1:
                made.prompts.append(tokenizer.decode(input_ids[0]))
                script[:] = tokenizer(next(answers)).input_ids
            if not script:
                raise KeyboardInterrupt
            output.logits[:, -1] = 0
            output.logits[:, -1, script.pop(0)] = 9
            return output

        monkeypatch.setattr(model, "forward", scripted)
        args = {"model_name_or_path": "m", "message": ["from a list"]} | args
        made = Talk(model, tokenizer, ChatArguments(**args))
        made.prompts = []
        return made

    return make


def test_answers_follow_each_other_with_the_history_before_them(talk, capsys):
    """The system message comes first, and each prompt has all messages before it."""
    session = talk(["Hello.<|end|>", "Anna, ünd you?<|end|>"], system_prompt="Be kind.")
    session.take("Hi")
    session.take("Name?")
    assert capsys.readouterr().out == "Hello.\nAnna, ünd you?\n"
    assert session.prompts[1] == (
        "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Hello.<|end|><|user|>Name?<|end|><|assistant|>"
    )
    session.take("/reset")
    assert session.messages == [{"role": "system", "content": "Be kind."}]


def test_thoughts_are_shown_apart_and_kept_apart(talk, capsys, tmp_path):
    """They go to stderr without their marks, into `reasoning_content`, and not into the next prompt."""
    session = talk(["<think>\na < b?\n</think>\n\nYes <b>.<|end|>", "No.<|end|>"])
    session.take("Is it?")
    output = capsys.readouterr()
    assert output.out == "Yes <b>.\n" and output.err == "a < b?\n"
    session.take("Really?")
    assert "think" not in session.prompts[1] and "Yes <b>." in session.prompts[1]
    session.take(f"/save {tmp_path}/talk.jsonl")
    (row,) = map(json.loads, (tmp_path / "talk.jsonl").read_text().splitlines())
    assert row["messages"][1] == {"role": "assistant", "content": "Yes <b>.", "reasoning_content": "a < b?"}
    session.take(f"/save {tmp_path}/talk.jsonl")  # its own file
    with pytest.raises(ValueError, match="exists: name another file"):
        talk([]).take(f"/save {tmp_path}/talk.jsonl")


def test_the_oldest_messages_make_room_and_a_note_says_so(talk, capsys):
    """The system message stays, `messages` keeps all; a message that has no room by itself is refused."""
    session = talk([f"{i}{'a' * 59}<|end|>" for i in range(5)], system_prompt="S")
    for i in range(4):
        session.take(f"{i}?")
    assert "the oldest 2 messages are left out: the model has 256 positions" in capsys.readouterr().err
    assert session.prompts[3].startswith("<|system|>S<|end|><|user|>2?") and len(session.messages) == 9
    with pytest.raises(ValueError, match="a prompt of 306 tokens, of at most 128: shorten it"):
        session.take("b" * 300)
    assert len(session.messages) == 9


def test_an_answer_that_is_cut_is_named(talk, capsys):
    """By its length, or by the positions of the model; without an answer nothing enters the history."""
    session = talk(["a" * 300, "<think>" + "b" * 300, "c" * 300], max_new_tokens=5, max_thought_tokens=20)
    session.take("1")
    assert session.messages[1]["content"] == "aaaaa" and "(cut: `--max_new_tokens` is 5)" in capsys.readouterr().err
    session.take("2")
    assert len(session.messages) == 2
    assert "(cut: `--max_thought_tokens` is 20)\n(no answer: the message is left" in capsys.readouterr().err
    talk(["a" * 300]).take("1")
    assert "(the model's positions are full)" in capsys.readouterr().err


def test_ctrl_c_stops_an_answer_and_not_the_program(talk, capsys, monkeypatch):
    """What is written stays in the history; errors are one line. Without a terminal, Ctrl-C ends the program."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    session = talk(["Once upon", "Well.<|end|>"], message=None)  # the script ends: interrupted
    session.take("A story")
    assert session.messages[1]["content"] == "Once upon" and "(stopped)" in capsys.readouterr().err
    session.take("/help")
    session.take("/nothing")
    assert "error: `/nothing` is not a command: /reset" in capsys.readouterr().err
    session.take("Go on")
    assert session.messages[-1]["content"] == "Well."
    with pytest.raises(KeyboardInterrupt):
        talk(["Once upon"]).take("A story")


def test_messages_come_from_a_pipe(monkeypatch):
    """One a line; several lines between quotation marks; empty lines are skipped; `/exit` ends them."""
    monkeypatch.setattr(sys, "stdin", io.StringIO('one\n\n  two \n"""three\n\nfour"""\n/exit\nfive\n'))
    assert [*user_messages(ChatArguments(model_name_or_path="m"))] == ["one", "  two", "three\n\nfour"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(ValueError, match="the messages on stdin are not UTF-8"):
        next(user_messages(ChatArguments(model_name_or_path="m")))


def test_without_a_template_each_message_is_completed_by_itself(talk, tokenizer, capsys):
    """As the task `generation` trains plain prompts; a system message has no effect and is refused."""
    tokenizer.chat_template = None
    session = talk([" Paris.<|end|>", " Rome.<|end|>"])
    assert "(no chat template: each message is completed by itself" in capsys.readouterr().err
    session.take("France")
    session.take("Italy")
    assert session.prompts[1] == "Italy" and capsys.readouterr().out == "Paris.\nRome.\n"
    with pytest.raises(ValueError, match="`--system_prompt` has no effect on plain prompts"):
        talk([], system_prompt="Be kind.")


def test_a_template_that_takes_no_system_message_is_refused_at_the_start(talk, tokenizer):
    """With its own words, before any message is sent."""
    tokenizer.chat_template = "{{ raise_exception('no system role') if messages[0].role == 'system' }}" + TEMPLATE
    with pytest.raises(ValueError, match="no system role"):
        talk([], system_prompt="Be kind.")


@pytest.mark.parametrize(
    ("text", "start"), [("a <", "a"), ("a < b", "a < b"), ("x\ufffd", "x"), ("[THI", ""), ("4, so </thi", "4, so")]
)
def test_what_may_become_a_mark_is_not_shown_yet(text, start):
    """Nor white space at the end, nor a character of which a byte is missing."""
    assert settled(text) == start
