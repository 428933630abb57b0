"""What a model was trained on is known where it is evaluated, asked and talked to."""

import logging

import pytest
from tiny import new_tokenizer
from transformers import AutoTokenizer

from hf_llm.arguments import ChatArguments, GenerateArguments, TaskArguments
from hf_llm.data.prompting import add_chat_template, set_chat_template

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|eos|>{% endfor %}"
TURNS += "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ '' if thinking else '' }}"
VARIABLES = {"thinking": False}


@pytest.fixture
def trained(tmp_path):
    """The tokenizer that a training with these settings saves, read as transformers does."""

    def trained(**settings):
        tokenizer = new_tokenizer()
        tokenizer.chat_template = TURNS
        add_chat_template(tokenizer, TaskArguments(**settings))[0].save_pretrained(tmp_path)
        return AutoTokenizer.from_pretrained(tmp_path)

    return trained


def test_other_prompts_than_those_of_the_training_are_said_with_the_flags_that_give_the_same(trained, caplog):
    """In one line, for each recipe that takes the flags; solved examples and wordings only for the same task."""
    prompts = {"system_prompt": "Be brief.", "chat_template_kwargs": VARIABLES}
    tokenizer, name = trained(task="chat", num_fewshot=2, **prompts), {"model_name_or_path": "m"}
    with caplog.at_level(logging.WARNING):
        for args in (ChatArguments(**name), GenerateArguments(**name), TaskArguments("generation")):
            caplog.clear()
            set_chat_template(tokenizer, args)
            flags = "--system_prompt 'Be brief.' --chat_template_kwargs thinking=false would give the same"
            assert [*map(logging.LogRecord.getMessage, caplog.records)] == [
                f"`{tokenizer.name_or_path}` was trained with other prompts than these: {flags}"
            ]
        caplog.clear()
        set_chat_template(tokenizer, TaskArguments("chat", **prompts))
        assert "than these: --num_fewshot 2 would give the same" in caplog.text
        caplog.clear()
        set_chat_template(tokenizer, ChatArguments(**name, **prompts))
        set_chat_template(tokenizer, TaskArguments("chat", num_fewshot=2, **prompts))
        assert not caplog.text


def test_a_wording_of_the_training_is_said_also_where_it_is_no_flag(trained, caplog, tmp_path):
    """As the text of its file; a later training without settings forgets them."""
    (tmp_path / "own.jinja").write_text("{{ question }}\nA:")
    tokenizer = trained(prompt_template=str(tmp_path / "own.jinja"))
    with caplog.at_level(logging.WARNING):
        set_chat_template(tokenizer, TaskArguments(prompt_template=r"{{ question }}\nA:"))
        assert not caplog.text
        set_chat_template(tokenizer, TaskArguments(prompt_template="{{ question }}"))
        set_chat_template(tokenizer, GenerateArguments(model_name_or_path="m"))
        assert r"--prompt_template '{{ question }}\nA:' would give the same" in caplog.text
        assert r"was trained on prompts of the form '{{ question }}\nA:': write yours so" in caplog.text
        caplog.clear()
        add_chat_template(tokenizer, TaskArguments("chat"))
        set_chat_template(tokenizer, GenerateArguments(model_name_or_path="m"))
        assert not caplog.text
