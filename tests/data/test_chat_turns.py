"""Of a conversation, exactly what the template writes for the assistant is trained, in rows as the turns are asked."""

import pytest
from tiny import new_tokenizer
from tokenizers import AddedToken

from hf_llm.data import tokenization
from hf_llm.data.chat_answers import ChatFormat
from hf_llm.data.chat_turns import encode_conversations
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.tokenization import tokenizer_engine

START = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}" + START
CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
TOOLS = "{% for t in tools or [] %}<|system|>{{ t.function.name }}<|end|>{% endfor %}"
THOUGHTS = "<think>{{ m.reasoning_content }}</think>"
MARKED = TURNS.replace(
    "{{ m.content }}<|end|>\n",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|end|>\n{% endif %}",
)
CHAT = [("system", "Be kind."), ("user", "Hi."), ("assistant", "Oh."), ("user", "So?"), ("assistant", "Yes.")]
MESSAGES = [{"role": role, "content": content} for role, content in CHAT]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
ASKED = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": "x"}}}]}
WITH_CALL = [MESSAGES[1], ASKED, {"role": "tool", "content": '{"sum": 3}'}, MESSAGES[4]]


def chat_format(template: str, **settings) -> ChatFormat:
    """The format of a template, with its marks as special tokens."""
    tokenizer = new_tokenizer()
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool", "bot", "end")]
    marks = [*roles, "<think>", "</think>", "<call>"]
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.chat_template = template
    return ChatFormat(tokenizer, PromptSettings(**settings))


def trained(template: str, messages: list, tools: list | None = None, train_on: str = "assistant") -> list[list[str]]:
    """The trained texts of each row; the ids of a row are also those of transformers for the first turns."""
    format = chat_format(template)
    (rows,), problems = encode_conversations(format, [{"messages": messages, "tools": tools}], ["row"], train_on)
    assert not problems, problems
    texts = []
    for row in rows:
        wholes = [
            format.tokenizer.apply_chat_template(messages[:k], tools=tools, return_dict=False)
            for k in range(1, len(messages) + 1)
        ]
        assert any(row["input_ids"][: len(ids)] == ids for ids in wholes[1:])
        assert all(label in (-100, number) for label, number in zip(row["labels"], row["input_ids"], strict=True))
        marks = [
            number if number != -100 else format.tokenizer.convert_tokens_to_ids("<|bot|>") for number in row["labels"]
        ]
        texts.append([text for text in format.tokenizer.decode(marks).split("<|bot|>") if text])
    return texts


@pytest.mark.parametrize("right", [0, 3])
def test_conversations_have_the_ids_of_the_tokenizer_whatever_the_fast_engine_gives(right, monkeypatch):
    """It is compared on the first conversations and in each batch; here the first `right` calls give the same ids."""
    chats = [{"messages": MESSAGES, "tools": None}] * 3
    expected, calls = encode_conversations(chat_format(TURNS), chats, ["row"] * 3), []

    def engine_of(tokenizer, *options):
        own = tokenizer_engine(tokenizer, *options)

        def encode(texts):
            calls.append(texts)
            ids, offsets = own(texts)
            return ids + (len(calls) > right), offsets

        return encode

    monkeypatch.setattr(tokenization, "fastokens_engine", engine_of)
    format = chat_format(TURNS)
    for _ in range(2):
        assert encode_conversations(format, chats, ["row"] * 3) == expected
    assert len(calls) == (4 if right else 1)  # selected; the first batch, compared and encoded; the second, compared


@pytest.mark.parametrize(
    "template, expected",
    [
        (TURNS, [["Oh.<|end|>\n", "Yes.<|end|>\n"]]),
        (MARKED, [["Oh.<|end|>", "Yes.<|end|>"]]),  # what the template marks, without the line end
        (TURNS + "{% if not add_generation_prompt %}<|eos|>{% endif %}", [["Oh.<|end|>\n", "Yes.<|end|>\n<|eos|>"]]),
        (TURNS.replace("<|end|>\n", ""), [["Oh.<|user|>", "Yes.<|user|>"]]),  # the next turn ends an answer (GLM)
        # Without a token that ends an answer it is trained, and each answer in a row of its own.
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}",
            [[" Oh.\n<|eos|>"], [" Yes.\n<|eos|>"]],
        ),
        # Text that only the last answer has, as empty thoughts of Qwen3 and `<|return|>` of gpt-oss.
        (
            TURNS.replace(
                "{{ m.content }}", "{% if loop.last and m.role == 'assistant' %}<think>{% endif %}{{ m.content }}"
            ),
            [["<think>Oh.<|end|>\n"], ["<think>Yes.<|end|>\n"]],
        ),
    ],
)
def test_what_the_template_writes_for_the_assistant_is_trained(template, expected):
    """With its end token, as transformers renders it; nothing of other turns."""
    assert trained(template, MESSAGES) == expected


def test_the_last_answer_or_all_of_the_text_is_trained():
    """By `--train_on`; the ids are the same."""
    assert trained(TURNS, MESSAGES, train_on="last") == [["Yes.<|end|>\n"]]
    (text,) = chat_format(TURNS).tokenizer.apply_chat_template([MESSAGES], tokenize=False)
    assert trained(TURNS, MESSAGES, train_on="all") == [[text]]


def test_thoughts_that_later_turns_remove_are_trained_where_they_are_asked_for():
    """Each answer after a new question is a row of its own; those without a question between them share one."""
    template = TURNS.replace(
        "{{ m.content }}", f"{{% if m.reasoning_content and not later %}}{THOUGHTS}{{% endif %}}{{{{ m.content }}}}"
    )
    template = template.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% set later = messages[loop.index:] | selectattr('role', 'equalto', 'user') | list %}",
    )
    answers = [MESSAGES[i] | {"reasoning_content": "Hm."} for i in (2, 4)]
    assert trained(template, [MESSAGES[1], answers[0], MESSAGES[3], answers[1]]) == [
        ["<think>Hm.</think>Oh.<|end|>\n"],
        ["<think>Hm.</think>Yes.<|end|>\n"],
    ]
    assert trained(template, [MESSAGES[1], answers[0], {"role": "tool", "content": "3"}, answers[1]]) == [
        ["<think>Hm.</think>Oh.<|end|>\n", "<think>Hm.</think>Yes.<|end|>\n"]
    ]


def test_answers_that_begin_within_a_token_are_trained_each_after_its_prompt():
    """The prompt ends by a line end and the answer begins by one; earlier answers are encoded with all before them."""
    template = TURNS.replace("|>{{", "|>\n{{ '\n' if m.role == 'assistant' else '' }}{{")
    format = chat_format(template.replace("<|assistant|>{%", "<|assistant|>\n{{ '' }}{%"))
    format.tokenizer.add_tokens([AddedToken("\n\n", special=False)])
    chats = [{"messages": MESSAGES[:length], "tools": None} for length in (3, 5)]
    encoded, problems = encode_conversations(format, chats, ["one turn", "two turns"])
    assert not problems and encoded[1][0] == encoded[0][0] and [*map(len, encoded)] == [1, 2]
    for row, answer in zip(encoded[1], ("Oh.", "Yes."), strict=True):
        prompt, _, _ = format.tokenizer.decode(row["input_ids"]).rpartition(f"\n{answer}")
        texts = (prompt, f"\n{answer}<|end|>\n")
        prompt_ids, answer_ids = format.tokenizer([*texts], add_special_tokens=False).input_ids
        assert row == {"input_ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids}


def test_calls_of_tools_are_trained_and_their_results_are_not():
    """A call ends by the first token of its result where the template writes no end token of its own."""
    template = TOOLS + TURNS.replace("{{ m.content }}", "{{ m.content }}" + CALLS)
    call = '<call>add {"a": "x"}'
    assert trained(template, WITH_CALL, [TOOL]) == [[call + "<|end|>\n", "Yes.<|end|>\n"]]
    without_end = template.replace("<|end|>\n", "")
    assert trained(without_end, WITH_CALL, [TOOL]) == [[call + "<|tool|>", "Yes.<|user|>"]]
    assert trained(without_end, WITH_CALL[:2], [TOOL]) == [[call + "<|tool|>"]]


@pytest.mark.parametrize(
    "template, messages, message",
    [
        (TURNS, WITH_CALL, "leaves out the call of the tool `add`"),
        (TURNS.replace("{{ m", "{{ '' if m.role == 'system' else m"), MESSAGES, "leaves out the system message `Be k"),
        (TURNS.replace("{{ m", "{{ 'So?' if m.role == 'user' else m"), MESSAGES, "changes the prompt `Hi.`"),
        (TURNS + "{% if add_generation_prompt %}<think>{% endif %}", MESSAGES, "begins an answer by"),
        (
            MARKED.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>"),
            MESSAGES,
            "does not mark `<|end|>`",
        ),
        (
            MARKED.replace("{% generation %}{{ m.content }}", "{{ m.content }}{% generation %}"),
            MESSAGES,
            "does not mark `Oh.",
        ),
    ],
)
def test_a_conversation_that_cannot_be_proved_has_no_rows(template, messages, message):
    """Each kind with its reason; others in the batch are encoded."""
    plain = {"messages": MESSAGES[1:3], "tools": None}
    chats = [{"messages": messages, "tools": None}, *([plain] if "call" in message else [])]
    rows, problems = encode_conversations(chat_format(template), chats, ["a", "b"][: len(chats)])
    assert message in problems[0] and not rows[0] and list(problems) == [0] and all(rows[1:])


def test_a_tool_that_the_template_leaves_out_is_a_problem():
    """Its calls would be trained without their definitions."""
    chat = {"messages": MESSAGES, "tools": [TOOL]}
    _, problems = encode_conversations(chat_format(TURNS), [chat], ["row 7"])
    assert problems == {0: "the chat template leaves out the tool `add`"}


def test_an_earlier_call_that_the_template_leaves_out_is_a_problem():
    """Its result would follow a question, in training the last answer alone and in evaluation."""
    _, problems = encode_conversations(chat_format(TURNS), [{"messages": WITH_CALL, "tools": None}], ["row"], "last")
    assert problems == {0: "the chat template changes or leaves out the call of the tool `add`"}


def test_the_system_prompt_of_the_run_is_put_first():
    """Where a conversation has none."""
    format = chat_format(TURNS, system_prompt="Be brief.")
    chats = [{"messages": messages, "tools": None} for messages in (MESSAGES, MESSAGES[1:])]
    rows, _ = encode_conversations(format, chats, ["a", "b"])
    texts = [format.tokenizer.decode(row["input_ids"]) for (row,) in rows]
    assert [text.split("<|end|>")[0] for text in texts] == ["<|system|>Be kind.", "<|system|>Be brief."]


def test_special_tokens_in_a_text_do_not_shift_the_labels():
    """Users write `<|end|>` too; it is read as the token, as in generation."""
    messages = [
        {"role": "user", "content": "What is <|end|> and <think>?"},
        {"role": "assistant", "content": "An <|end|>."},
    ]
    assert trained(TURNS, messages) == [["An <|end|>.<|end|>\n"]]
