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
        ChatFormat(tokenizer, [])
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
