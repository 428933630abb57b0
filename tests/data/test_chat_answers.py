"""What is trained and ranked is what the chat template writes in the whole chat, token for token, or it is refused."""

import logging
import re

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_llm.arguments import TaskArguments
from hf_llm.data import chat_answers
from hf_llm.data.chat_answers import ChatFormat, completion_after
from hf_llm.data.chat_turns import encode_conversations
from hf_llm.data.chats import as_lists, render_chats
from hf_llm.data.examples import encode_examples, encode_prompts
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import Prompter, check_chat_template
from hf_llm.tasks import load_task

TASK = load_task("summarization")
ROWS = Dataset.from_list([{"document": f"Document {i} counts.", "summary": f"It ends {i}."} for i in range(5)])
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
EMPTY_THOUGHTS = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|end|>\n{% endfor %}"
    + START
)
CHANNELS = TURNS.replace(
    "{{ m.content }}", "{% if m.role == 'assistant' %}<|channel|>final<|message|>{% endif %}{{ m.content }}"
)
LISTS = "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{{ p.text }}{% endfor %}<|end|>\n{% endfor %}"
STRICT_LISTS = LISTS.replace("{{ p.text }}", "{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}")
SWITCHED = (
    TURNS.replace("{{ m.content }}", "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}")
    + "{% if add_generation_prompt %}<|assistant|>{% if think_first is defined and not think_first %}"
    "<think></think>{% else %}<think>\n{% endif %}{% endif %}"
)
EQUAL = {  # template -> what is trained for the answer A, with the text before it and the end
    "ChatML": (TURNS + START, "A<|end|>\n", "<|end|>"),
    "empty thoughts (Qwen3)": (EMPTY_THOUGHTS, "<think>\n\n</think>\n\nA<|end|>\n", "<|end|>"),
    "channels (gpt-oss)": (CHANNELS + START, "<|channel|>final<|message|>A<|end|>\n", "<|end|>"),
    "no generation prompt": (TURNS, "<|assistant|>A<|end|>\n", "<|end|>"),
    "lists that are iterated": (LISTS + START, "A<|end|>\n", "<|end|>"),
    "lists with types": (STRICT_LISTS + START, "A<|end|>\n", "<|end|>"),
    "end of document after the turn (Phi-3)": (
        TURNS + "{% if add_generation_prompt %}<|assistant|>{% else %}<|eos|>{% endif %}",
        "A<|end|>\n<|eos|>",
        "<|end|>",
    ),
    "no end before the next turn (GLM)": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}" + START,
        "A<|user|>",
        "<|user|>",
    ),
    "no end at all (Falcon)": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        " A\n<|eos|>",
        "<|eos|>",
    ),
    "trimmed contents": (TURNS.replace("m.content", "m.content | trim") + START, "A<|end|>\n", "<|end|>"),
}
THINKS = TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
DROPS_THOUGHTS = TURNS.replace("m.content", "m.content.split('</think>')[-1]") + START
REFUSED = {  # template -> what the message says
    "thoughts are opened (R1)": (THINKS, "begins an answer by .*<think>.*, and a finished one by .*It ends"),
    "another header": (TURNS + "{% if add_generation_prompt %}<|bot|>{% endif %}", "begins an answer by"),
    "the answer is cut": (TURNS.replace("m.content", "m.content[:12]") + START, "changes the (prompt|answer)"),
    "the answer is left out": (
        "{% for m in messages if m.role == 'user' %}<|user|>{{ m.content }}<|end|>{% endfor %}" + START,
        "changes the answer|begins",
    ),
    "the case is changed": (TURNS.replace("m.content", "m.content | upper") + START, "changes the prompt"),
}


def chat_tokenizer(template: str) -> PreTrainedTokenizerBase:
    """A tokenizer with a chat template, and its marks as special tokens."""
    tokenizer = new_tokenizer()
    marks = ("<|user|>", "<|assistant|>", "<|bot|>", "<|end|>", "<|channel|>", "<|message|>", "<think>", "</think>")
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.chat_template = template
    return tokenizer


def whole_ids(tokenizer: PreTrainedTokenizerBase, turns: list[str], lists: bool = False, **variables) -> list[int]:
    """Token ids of a whole chat, by transformers alone."""
    chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 9, turns, strict=False)]
    text = tokenizer.apply_chat_template(as_lists(chat) if lists else chat, tokenize=False, **variables)
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_trained_is_the_templates_own_rendering(name):
    """The ids of a row are those of its whole chat, with few-shot turns; all after the prompt is trained."""
    template, trained, end = EQUAL[name]
    tokenizer = chat_tokenizer(template)
    shots = [{"prompt": "Two?", "completion": "Two."}]
    for few in ([], shots):
        prompter = Prompter(tokenizer, TASK, 512, PromptSettings(shots=few))
        features, _ = encode_examples(ROWS, prompter)
        for row, example in zip(ROWS, features, strict=True):
            shown = [text for shot in few for text in shot.values()]
            turns = [*shown, TASK.to_example(row)["prompt"], row["summary"]]
            expected = whole_ids(tokenizer, turns, lists="lists" in name)
            assert example["input_ids"][: len(expected)] == expected
            completion = tokenizer.decode([label for label in example["labels"] if label != -100])
            assert completion == trained.replace("A", row["summary"])
        assert prompter.end == end


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_writes_an_answer_otherwise_is_refused(name):
    """In one line, with the row, both texts and a remedy; prompts can still be generated from."""
    template, message = REFUSED[name]
    prompter = Prompter(chat_tokenizer(template), TASK, 512)
    with pytest.raises(ValueError, match=f"`train` row 0: the chat template (?:{message})") as raised:
        encode_examples(ROWS, prompter)
    assert str(raised.value).endswith("e.g. chatml, or, unless the rows are conversations, take `--prompt_style plain`")
    assert "\n" not in str(raised.value)
    prompts, _ = encode_prompts(ROWS, prompter)
    assert len(prompts) == len(ROWS)


def test_a_switch_of_the_template_is_only_named_if_it_helps():
    """And it does, when it is given."""
    tokenizer = chat_tokenizer(SWITCHED)
    with pytest.raises(ValueError, match="give `--chat_template_kwargs think_first=false`, with which they agree"):
        encode_examples(ROWS, Prompter(tokenizer, TASK, 512))
    settings = PromptSettings(template_kwargs={"think_first": False})
    features, _ = encode_examples(ROWS, Prompter(tokenizer, TASK, 512, settings))
    turns = [TASK.to_example(ROWS[0])["prompt"], ROWS[0]["summary"]]
    assert features[0]["input_ids"] == whole_ids(tokenizer, turns)
    tokenizer.chat_template = THINKS + "{# think_first #}"
    with pytest.raises(ValueError, match="give another template"):
        encode_examples(ROWS, Prompter(tokenizer, TASK, 512))


def test_thoughts_in_the_data_close_those_that_the_prompt_opens():
    """The same template takes answers with thoughts, and refuses those without; thoughts are not dropped in silence."""
    task = load_task("generation")
    rows = Dataset.from_list([{"instruction": "2 + 2?", "output": "<think>\nIt is 4.\n</think>\n\nFour."}])
    prompter = Prompter(chat_tokenizer(THINKS), task, 512)
    features, _ = encode_examples(rows, prompter)
    trained = prompter.tokenizer.decode([label for label in features[0]["labels"] if label != -100])
    assert trained == "It is 4.\n</think>\n\nFour.<|end|>\n"
    with pytest.raises(ValueError, match="changes the answer"):
        encode_examples(rows, Prompter(chat_tokenizer(DROPS_THOUGHTS), task, 512))


def test_thoughts_that_are_turned_off_are_not_expected_of_the_answer():
    """Gold answers with thoughts are evaluated with `enable_thinking=false`: their thoughts are no obstacle."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>{{ m.reasoning_content }}</think>"
        "{% endif %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
    )
    answer = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."}
    example = {"messages": [{"role": "user", "content": "2 + 2?"}, answer], "tools": None}
    for variables, written in (
        ({}, "<think>Two and two.</think>Four.<|end|>"),
        ({"enable_thinking": False}, "Four.<|end|>"),
    ):
        format = ChatFormat(chat_tokenizer(template), PromptSettings(template_kwargs=variables))
        assert format.completions([example], format.prompts([example]), ["row"]) == [written]


def test_the_remedy_of_a_template_that_opens_thoughts_is_to_give_them():
    """It helps, also if the user's message is within the mark of the thoughts, `think`; a conversation is not plain."""
    format = ChatFormat(chat_tokenizer(THINKS))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Four."}]
    remedy = "begin the answers by their thoughts, <think>...</think>, or give another template by `--chat_template"
    assert format.remedy({"messages": messages, "tools": None}) == f"{remedy}`, e.g. chatml"
    plain = f"{remedy}`, e.g. chatml, or, unless the rows are conversations, take `--prompt_style plain`"
    assert format.remedy({"prompt": "hi", "completion": "Four."}) == plain
    messages[1] = messages[1] | {"content": "<think>\nIt is 4.\n</think>\n\nFour."}
    (rows,), problems = encode_conversations(format, [{"messages": messages, "tools": None}], ["row"])
    assert rows and not problems
    with pytest.raises(ValueError, match="changes the answer"):
        completion_after("<user>4<bot>", "<user>4<bot><end>", "4", "4")


def test_a_prompt_and_an_answer_that_share_a_token_are_encoded_apart():
    """Generation goes on after the ids of the prompt, which ends by a line end; in the whole chat two are one token."""
    tokenizer = chat_tokenizer(TURNS.replace("|>{{", "|>\n{{ '\n' if m.role == 'assistant' else '' }}{{") + START)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|assistant|>{% endif %}", "<|assistant|>\n{{ '' }}{% endif %}"
    )
    tokenizer.add_tokens([AddedToken("\n\n", special=False)])
    check_chat_template(tokenizer, TaskArguments("x"))
    prompter, task = Prompter(tokenizer, TASK, 512), load_task("understanding", labels="card|lost")
    features, _ = encode_examples(ROWS, prompter)
    for row, example in zip(ROWS, features, strict=True):
        prompt, answer = f"<|user|>\n{TASK.to_example(row)['prompt']}<|end|>\n<|assistant|>\n", f"\n{row['summary']}"
        expected = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, f"{answer}<|end|>\n")]
        assert (
            example["input_ids"] == expected[0] + expected[1]
            and prompter.prompt_ids([TASK.to_example(row)]) == expected[:1]
        )
        assert example["labels"] == [-100] * len(expected[0]) + expected[1]
    rows = DatasetDict(validation=Dataset.from_list([{"text": "Hm.", "label": "card"}] * 2))
    task.prepare(rows)
    (choices, _), _ = encode_prompts(rows["validation"], Prompter(tokenizer, task, 512))
    assert [tokenizer.decode(ids) for ids in choices["choices"]] == ["\ncard<|end|>\n", "\nlost<|end|>\n"]


def test_a_prompt_that_opens_a_thought_is_said_with_the_setting_that_opens_none(caplog):
    """Answers without thoughts would be trained to end the thought at once: users may want to ask without thoughts."""
    opens = "<|assistant|>{% if enable_thinking is false %}<think></think>{% else %}<think>{% endif %}"
    written = "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|end|>"
    template = TURNS.replace("{{ m.content }}<|end|>", written) + START.replace("<|assistant|>", opens)
    tokenizer = chat_tokenizer(template)
    with caplog.at_level(logging.INFO):
        check_chat_template(tokenizer, TaskArguments("x"))
        assert "`--chat_template_kwargs enable_thinking=false` asks without thoughts" in caplog.text
        caplog.clear()
        check_chat_template(tokenizer, TaskArguments("x", chat_template_kwargs={"enable_thinking": False}))
    assert "opens a thought" not in caplog.text


def test_an_answer_that_gets_a_space_apart_from_its_prompt_is_refused():
    """A SentencePiece tokenizer puts one before every text; the tokens would be those of another answer."""
    words = {"▁Answer": 0, ":": 1, "▁": 2, "▁Paris": 3, ":Paris": 4, "<eos>": 5, "<unk>": 6}
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=6))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Replace("▁", " ")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="ends the prompt `Answer:` within a token that goes on with `Paris`"):
        ChatFormat(tokenizer).ids_after("Answer:", "Paris", [0, 1], [0, 4])


def test_choices_are_ranked_as_they_are_trained(monkeypatch):
    """Empty thoughts come before each choice; rows and choices are proved without rendering each pair of them."""
    task = load_task("understanding", labels="card|card lost|other")
    rows = DatasetDict(validation=Dataset.from_list([{"text": f"Hm {i}.", "label": "card"} for i in range(20)]))
    task.prepare(rows)
    tokenizer = chat_tokenizer(EMPTY_THOUGHTS)
    prompter, rendered = Prompter(tokenizer, task, 512), []
    monkeypatch.setattr(
        chat_answers,
        "render_chats",
        lambda tokenizer, chats, *a, **k: rendered.extend(chats) or render_chats(tokenizer, chats, *a, **k),
    )
    prompts, _ = encode_prompts(rows["validation"], prompter)
    for row, encoded in zip(rows["validation"], prompts, strict=True):
        for label, choice in zip(task.label_names, encoded["choices"], strict=True):
            assert encoded["prompt"] + choice == whole_ids(tokenizer, [task.to_example(row)["prompt"], label])
    assert len(rendered) <= 20 + 20 + 2


def test_choices_that_depend_on_the_prompt_are_rendered_for_each_row():
    """A template may count the turn's words before the answer."""
    counted = "{% if m.role == 'assistant' %}{{ messages[0].content | length }} {% endif %}{{ m.content }}"
    task = load_task("understanding", labels="card|lost")
    rows = DatasetDict(validation=Dataset.from_list([{"text": "Hm" * i, "label": "card"} for i in range(1, 5)]))
    task.prepare(rows)
    tokenizer = chat_tokenizer(TURNS.replace("{{ m.content }}", counted) + START)
    prompts, _ = encode_prompts(rows["validation"], Prompter(tokenizer, task, 512))
    for row, encoded in zip(rows["validation"], prompts, strict=True):
        for label, choice in zip(task.label_names, encoded["choices"], strict=True):
            assert encoded["prompt"] + choice == whole_ids(tokenizer, [task.to_example(row)["prompt"], label])


def test_an_untrainable_template_is_refused_before_the_data_are_read(tmp_path):
    """Unless answers with thoughts would fit; `--chat_template` gives another, saved with the tokenizer."""
    with pytest.raises(ValueError, match="the chat template begins an answer by"):
        check_chat_template(
            chat_tokenizer(TURNS + "{% if add_generation_prompt %}<|bot|>{% endif %}"), TaskArguments("x")
        )
    for task in ("x", "chat"):
        check_chat_template(chat_tokenizer(THINKS), TaskArguments(task))
    marks = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}"
    half_marked = chat_tokenizer(TURNS.replace("{{ m.content }}", marks) + START)
    half_marked.chat_template = half_marked.chat_template.replace(
        "{% endif %}<|end|>", "{% else %}{{ m.content }}{% endif %}<|end|>"
    )
    with pytest.raises(ValueError, match=r"^tokenizer `.*does not mark `<\|end\|>`.*e.g. chatml$"):
        check_chat_template(half_marked, TaskArguments("chat"))
    (tmp_path / "own.jinja").write_text(TURNS + START)
    tokenizer = chat_tokenizer(THINKS)
    args = TaskArguments("summarization", chat_template=str(tmp_path / "own.jinja"))
    check_chat_template(tokenizer, args)
    prompter = Prompter(tokenizer, TASK, 512)
    assert tokenizer.chat_template == TURNS + START and prompter.prompt_texts([{"prompt": "Q"}]) == [
        "<|user|>Q<|end|>\n<|assistant|>"
    ]
    with pytest.raises(ValueError, match=r"`--chat_template` .*other\.jinja cannot be read"):
        check_chat_template(tokenizer, TaskArguments("x", chat_template=str(tmp_path / "other.jinja")))
    with pytest.raises(ValueError, match="`--chat_template` has no effect with `--prompt_style plain`"):
        check_chat_template(
            tokenizer, TaskArguments("x", prompt_style="plain", chat_template=str(tmp_path / "own.jinja"))
        )
    with pytest.raises(ValueError, match="`--chat_template_kwargs` has no effect on plain prompts"):
        check_chat_template(tokenizer, TaskArguments("x", prompt_style="plain", chat_template_kwargs={"a": 1}))


def test_the_day_in_a_prompt_is_that_of_the_variable_or_of_the_run():
    """For every format of the day; the run's day is known, so that it can be recorded."""
    formats = ["%d %b %Y", "%Y-%m-%d", "%A, %-d %B %y"]
    calls = " ".join(f"{{{{ strftime_now({text!r}) }}}}" for text in formats)
    tokenizer = chat_tokenizer("\n" + calls + TURNS + START)
    prompter = Prompter(tokenizer, TASK, 512, PromptSettings(template_kwargs={"strftime_now": "2024-07-06"}))
    (text,) = prompter.prompt_texts([{"prompt": "Q"}])
    assert text.startswith("\n06 Jul 2024 2024-07-06 Saturday, 6 July 24<|user|>")
    _, report = encode_examples(ROWS, prompter)
    assert report.metrics("train")["train_chat_template_kwargs"] == "strftime_now=2024-07-06"
    today = Prompter(tokenizer, TASK, 512)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q"}], tokenize=False, add_generation_prompt=True
    )
    assert today.prompt_texts([{"prompt": "Q"}]) == [expected]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", today.format.variables["strftime_now"])
    with pytest.raises(ValueError, match="strftime_now=yesterday: give a date"):
        Prompter(tokenizer, TASK, 512, PromptSettings(template_kwargs={"strftime_now": "yesterday"}))


@pytest.mark.parametrize(
    "name, message", [("think_frst", "nearest is think_first"), ("messages", "no such"), ("tokenize", "no such")]
)
def test_a_variable_that_the_template_does_not_read_is_refused(name, message):
    """It would have no effect, or break the call."""
    with pytest.raises(ValueError, match=f"`--chat_template_kwargs` {name}: .*{message}"):
        Prompter(chat_tokenizer(SWITCHED), TASK, 512, PromptSettings(template_kwargs={name: True}))
