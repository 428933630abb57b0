"""A chat template is a program that comes with a model: one that is endless or broken ends in one line."""

import resource
import signal
import time

import pytest
from tiny import new_tokenizer

from hf_llm.data import chats
from hf_llm.data.chat_answers import ChatFormat
from hf_llm.data.chats import render_chats
from hf_llm.data.prompting import Prompter
from hf_llm.tasks import load_task

CHAT = {"messages": [{"role": "user", "content": "hello"}], "tools": None}
DOUBLED = "{% set ns = namespace(a=START) %}{% for i in range(60) %}{% set ns.a = ns.a OPERATOR ns.a %}{% endfor %}"
HOSTILE = {  # template -> what the message says
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "takes more than 0.3 CPU seconds",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}": "takes more than",
    "{{ lipsum(n=100000000) }}": "takes more than 0.3 CPU seconds",
    "{{ [1]|slice(1000000000)|list|length }}": "takes more than",  # Jinja computes constants and ignores errors
    DOUBLED.replace("START", "7").replace("OPERATOR", "*"): "takes more than 0.3 CPU seconds",
    DOUBLED.replace("START", "'x'").replace("OPERATOR", "~"): "takes more than",
    "{{ 'x' * 10000000000 }}": "takes more than 1 GiB",
    "{{ 'x'|center(10000000000) }}": "takes more than 1 GiB",
    "{{ [1] * 1000000000 }}": "takes more than 1 GiB",
    "{{ 9 ** 9 ** 9 }}": r"power by `\*\*`",
    "{% for i in range(1000000000) %}x{% endfor %}": "Range too big",
    "{% for i in range(99999) %}0123456789012345678901234{% endfor %}": "makes 2,499,975 characters of a chat of 46",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "maximum recursion depth exceeded",
    "{{ " + "(" * 20_000 + " }}": "maximum recursion depth exceeded",
    "{% for %}": "Expected an expression",
    "{{ a.b.c }}": "'a' is undefined",
    "{{ raise_exception('roles must\n\x1b alternate') }}": r"roles must \\x1b alternate",
}


# The timer may go off in a destructor, where Python ignores errors; it goes off again a second later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("template, message", HOSTILE.items())
def test_an_endless_or_broken_template_ends_in_one_line(template, message, monkeypatch):
    """With the tokenizer's name and the remedy, soon, and without gigabytes; the limits are lifted afterwards."""
    monkeypatch.setattr(chats, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(chats, "MAX_EXTRA_BYTES", 1 << 30)
    tokenizer = new_tokenizer()
    tokenizer.name_or_path, tokenizer.chat_template = "models/tiny", template
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    start = time.process_time()
    with pytest.raises(ValueError, match=f"the chat template of `models/tiny` fails: .*{message}") as raised:
        render_chats(tokenizer, [CHAT])
    assert "`--prompt_style plain`" in str(raised.value) and "\n" not in str(raised.value)
    assert time.process_time() - start < 60
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0) and signal.getsignal(signal.SIGVTALRM) == handler


def test_every_use_of_a_template_has_the_limits():
    """Training, evaluation and generation."""
    tokenizer = new_tokenizer()
    tokenizer.chat_template = "{{ 9 ** 9 }}"
    with pytest.raises(ValueError, match="the chat template"):
        Prompter(tokenizer, load_task("summarization"), 512)
    with pytest.raises(ValueError, match="the chat template"):
        ChatFormat(tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}"
    prompter = Prompter(tokenizer, load_task("summarization"), 512)
    tokenizer.chat_template = "{{ 9 ** 9 }}"
    with pytest.raises(ValueError, match="the chat template"):
        prompter.prompt_ids([{"prompt": "hello"}])


def test_a_template_may_be_long_and_print_asterisks():
    """Neither bold text nor a default system prompt of some pages is refused; the texts are those of the tokenizer."""
    tokenizer = new_tokenizer()
    bold = "**System** {{ '**' }} " + "word " * 20_000
    tokenizer.chat_template = bold + "{% for m in messages %}{{ m.content }}{% endfor %}"
    for prompt in (True, False):
        expected = tokenizer.apply_chat_template([CHAT["messages"]] * 2, tokenize=False, add_generation_prompt=prompt)
        assert render_chats(tokenizer, [CHAT, CHAT], prompt) == expected


TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}{% endfor %}"
)
AS_OBJECT = "{{ c.function.name }}({{ c.function.arguments | tojson }})"
AS_TEXT = {  # with an object, it would fail or write Python's `{'city': 'Zürich'}`
    "joined": "{{ c.function.name + '(' + c.function.arguments + ')' }}",
    "as it is": "{{ c.function.name }}({{ c.function.arguments }})",
}
CALLS = {
    "messages": [
        *CHAT["messages"],
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"city": "Zürich", "days": [1, None, True]}}}],
        },
    ],
    "tools": None,
}


@pytest.mark.parametrize("call", [AS_OBJECT, *AS_TEXT.values()], ids=["as JSON", *AS_TEXT])
def test_arguments_of_tool_calls_have_the_form_that_the_template_takes(call):
    """They come out as JSON, whether the template converts an object or takes text, also after a chat without calls."""
    tokenizer = new_tokenizer()
    tokenizer.chat_template = TURNS.replace("CALL", call)
    expected = '<user>hello<assistant>now({})<assistant>f({"city": "Zürich", "days": [1, null, true]})'
    assert render_chats(tokenizer, [CHAT, CALLS]) == ["<user>hello", expected]
    assert CALLS["messages"][2]["tool_calls"][0]["function"]["arguments"]["city"] == "Zürich"  # not changed in place


def test_a_template_that_takes_only_lists_gets_them_also_where_the_last_message_is_a_call():
    """The longest content shows whether contents are written, not an empty one."""
    tokenizer = new_tokenizer()
    parts = "{% for p in m.content %}{{ p.text if p.type == 'text' }}{% endfor %}"
    tokenizer.chat_template = TURNS.replace("{{ m.content }}", parts).replace("CALL", AS_OBJECT)
    assert render_chats(tokenizer, [CALLS])[0].startswith("<user>hello<assistant>now({})")


def test_a_chat_that_the_template_refuses_is_named_with_the_words_of_the_template():
    """The others are not."""
    tokenizer = new_tokenizer()
    refusal = "{{ raise_exception('roles must alternate') }}"
    tokenizer.chat_template = f"{{% if messages | length > 1 %}}{refusal}{{% endif %}}" + TURNS
    twice = {"messages": CHAT["messages"] * 2, "tools": None}
    message = "^file.jsonl` line 7: the chat template of .* fails: roles must alternate: change the row, or"
    with pytest.raises(ValueError, match=message):
        render_chats(tokenizer, [CHAT, twice], origins=["file.jsonl` line 6", "file.jsonl` line 7"])
