"""Completions belong to their prompts in any batch; the model's mode and the random state are restored."""

import json

import pytest
import torch
from tiny import TEXTS, new_model, new_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_llm.arguments import GenerateArguments
from hf_llm.data.infilling import SENTINELS
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.prompting import new_chat_format
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.generation import (
    batch_by_length,
    complete,
    decode_completion,
    sampling_options,
    tokenize_prompts,
    truncate_at,
)
from hf_llm.evaluation.prompts import format_prompts, read_prompts

PROMPTS = ["Document", "Document 3 counts 0 1 2", "", "then it ends. " * 3, "x", "Document 7 counts 0"]


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return new_model(request.param)


def generate(model, tokenizer, prompts=PROMPTS, **options):
    return complete(
        model, tokenizer, prompts, show_progress=False, **{"max_new_tokens": 8, "do_sample": False} | options
    )


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_a_batch_gives_the_completion_of_each_prompt_by_itself(model, tokenizer, batch_size):
    """Padding changes nothing, and completions are in the order of the prompts, not of their lengths."""
    alone = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        alone.append(tokenizer.decode(ids[0, len(tokenizer(prompt).input_ids) :], skip_special_tokens=True))
    assert len(set(alone)) > 3, "the prompts should have different completions"
    assert generate(model, tokenizer, batch_size=batch_size) == alone


def test_batches_have_similar_lengths_and_the_longest_comes_first():
    """Every index occurs once; equal lengths keep their order."""
    assert batch_by_length([3, 9, 4, 7, 4], batch_size=2) == [[1, 3], [2, 4], [0]]


def test_sampling_is_determined_by_the_seed(model, tokenizer):
    """The same seed gives the same texts, another seed other texts."""
    first, again, other = (generate(model, tokenizer, do_sample=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"top_k": 5, "temperature": 0.7}], ids=str)
def test_no_two_rows_share_a_random_stream(options):
    """Equal prompts get different texts, also in the next batches and with the next seeds."""
    model, tokenizer, texts = new_model(), new_tokenizer(), []
    for seed in (42, 43, 44):
        options = {"do_sample": True, "max_new_tokens": 12} | options
        texts += generate(model, tokenizer, ["Document"] * 12, seed=seed, batch_size=4, **options)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "options",
    [{"do_sample": True}, {"do_sample": True, "num_beams": 2}, {"num_beams": 2}, {"repetition_penalty": 5.0}],
    ids=str,
)
def test_completions_do_not_depend_on_the_batch_size(options):
    """Sampling, beam search, and a penalty of repeated tokens: padding is no repetition, whichever token it is."""
    model, tokenizer = new_model(), new_tokenizer()
    with torch.no_grad():
        likeliest = model(tokenizer("x", return_tensors="pt").input_ids).logits[0, -1].argmax()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(likeliest.item())
    one, two, six = (generate(model, tokenizer, batch_size=size, **options) for size in (1, 2, 6))
    assert one == two == six and len(set(one)) > 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_model_mode_and_random_state_are_restored(tokenizer, training, fails, monkeypatch):
    """Generating during training does not change the training; they are restored after an error too."""
    model = new_model().train(training)
    if fails:
        monkeypatch.setattr(model, "generate", lambda **_: 1 / 0)
    before = torch.get_rng_state()
    try:
        generate(model, tokenizer, do_sample=True)
    except ZeroDivisionError:
        assert fails
    assert model.training is training and torch.equal(torch.get_rng_state(), before)


def test_an_empty_prompt_starts_a_document(tokenizer):
    """It becomes the bos token, or the eos token, which ends the document before, if the tokenizer adds no bos."""
    assert tokenize_prompts(tokenizer, [""]) == [[tokenizer.bos_token_id]]
    backend = new_tokenizer().backend_tokenizer
    backend.post_processor = None
    without = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>", pad_token="<|pad|>")
    assert tokenize_prompts(without, ["", "x"])[0] == [without.eos_token_id]


def test_prompts_use_the_chat_template_by_default():
    """Each prompt becomes a user's turn, followed by the start of the answer; `plain` switches it off."""
    chat_tokenizer = new_tokenizer()
    turns = "{% for m in messages %}<|bos|>{{ m.content }}<|eos|>{% endfor %}"
    chat_tokenizer.chat_template = turns + "{% if add_generation_prompt %}<|bos|>{% endif %}"
    assert new_chat_format(chat_tokenizer, PromptSettings("plain")) is new_chat_format(new_tokenizer()) is None
    prompts = format_prompts(chat_tokenizer, [{"prompt": "Hi."}, {"prompt": "it"}], new_chat_format(chat_tokenizer))
    texts = [chat_tokenizer.decode(ids) for ids in prompts]
    assert texts == ["<|bos|>Hi.<|eos|><|bos|>", "<|bos|>it<|eos|><|bos|>"]


def test_an_end_token_that_the_tokenizer_adds_is_removed_from_the_prompt(tokenizer):
    """With it, the model would start another document instead of continuing the prompt."""
    ending = new_tokenizer()
    template = processors.TemplateProcessing(single="$A <|eos|>", special_tokens=[("<|eos|>", ending.eos_token_id)])
    ending.backend_tokenizer.post_processor = template
    alone = tokenizer("then it ends", add_special_tokens=False).input_ids
    assert tokenize_prompts(ending, ["then it ends", "x"])[0] == alone


def test_a_completion_keeps_the_space_before_its_first_word():
    """SentencePiece-like tokenizers drop the space when they decode a single word."""
    backend = Tokenizer(models.WordLevel({"▁a": 0, "▁dog": 1, "▁ran": 2, "<eos>": 3}, unk_token="<eos>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
    assert decode_completion(tokenizer, tokenizer("a dog").input_ids, [2, 3]) == " ran"


def test_stop_strings_in_leading_white_space_are_ignored():
    """The text ends before the first stop string after its first word; without one it is unchanged."""
    assert truncate_at("\n\nParis. Berlin\n", ["\n", "."]) == "\n\nParis"
    assert truncate_at(" Paris", ["\n"]) == " Paris" and truncate_at("\n", ["\n"]) == "\n"


def test_a_line_end_stops_an_answer_only_after_its_first_word(tokenizer, monkeypatch):
    """An answer that starts with an empty line is not empty."""
    model, prompt = new_model(), tokenizer("Document").input_ids
    written = tokenizer("\nDocument 3\ncounts", add_special_tokens=False).input_ids

    def scripted(past_key_values, **rest):
        output = forward(past_key_values=past_key_values, **rest)
        output.logits[:, -1] = 0
        output.logits[:, -1, written[past_key_values.get_seq_length() - len(prompt)]] = 9
        return output

    forward = model.forward
    monkeypatch.setattr(model, "forward", scripted)
    text = complete(model, tokenizer, ["Document"], stop_strings=["\n"], max_new_tokens=len(written), do_sample=False)
    assert text == ["\nDocument 3"]


def test_generating_beyond_the_positions_is_refused(tokenizer):
    """The longest prompt and the new tokens together need more than the 64 positions of the model."""
    with pytest.raises(ValueError, match=r"`--max_new_tokens` 60 after a prompt of .* beyond the model's 64 positions"):
        generate(new_model(), tokenizer, max_new_tokens=60)


def test_prompts_come_from_the_command_line_or_a_file(tmp_path):
    """A prompt per line in .txt, per JSON object in .jsonl; empty lines are skipped, U+2028 does not end a line."""
    (tmp_path / "a.txt").write_text("one\n\n two \u2028three\n", encoding="utf-8")
    rows = [{"prompt": "four\u2028five"}, {"prompt": "", "more": 1}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    sources = [{"prompt": ["six"]}, *({"prompt_file": str(tmp_path / name)} for name in ("a.txt", "b.jsonl"))]
    rows = [read_prompts(GenerateArguments(model_name_or_path="m", **source)) for source in sources]
    prompts = [["six"], ["one", " two \u2028three"], ["four\u2028five", ""]]
    assert rows == [[{"prompt": prompt} for prompt in source_prompts] for source_prompts in prompts]


def test_prompts_with_a_suffix_become_infilling_prompts(tmp_path):
    """From the command line or a file; every prompt needs a suffix or none, and the tokenizer needs the tokens."""
    tokenizer = train_tokenizer(TEXTS, 300, special_tokens=SENTINELS[0])
    rows = [{"prompt": "Document 1", "suffix": " ends."}, {"prompt": "", "suffix": "it"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = {"prompt": [row["prompt"] for row in rows], "suffix": [row["suffix"] for row in rows]}
    for arguments in ({"prompt_file": str(tmp_path / "p.jsonl")}, flags):
        assert read_prompts(GenerateArguments(model_name_or_path="m", **arguments)) == rows
    prompts = format_prompts(tokenizer, rows)
    assert tokenizer.decode(prompts[0]) == "<|bos|><|fim_prefix|>Document 1<|fim_suffix|> ends.<|fim_middle|>"
    with pytest.raises(ValueError, match="1 of 2 prompts have a suffix: give one to all or none"):
        format_prompts(tokenizer, [rows[0], {"prompt": "Document"}])
    with pytest.raises(ValueError, match="has no tokens for `--objective` fim"):
        format_prompts(new_tokenizer(), rows)
    with pytest.raises(ValueError, match="`--suffix` has 1 texts: give one for each `--prompt`"):
        read_prompts(GenerateArguments(model_name_or_path="m", prompt=["a", "b"], suffix=["c"]))


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"prompt": "a"}\n\n{"promt": "b"}', 'p.jsonl` line 3: write {"prompt": "..."}'),
        ('{"prompt": "a"}\nb', 'p.jsonl` line 2: write {"prompt": "..."}'),
        ('"a"', "p.jsonl` line 1: write"),
        ('{"prompt": 5}', "p.jsonl` line 1: write"),
        ('{"prompt": "a", "suffix": null}', "p.jsonl` line 1: write"),
        ("\n", "p.jsonl holds no prompt"),
        (None, "p.jsonl cannot be read"),
    ],
)
def test_an_invalid_prompt_file_is_named_with_its_line(tmp_path, content, message):
    """Empty lines are counted too, as in an editor."""
    if content is not None:
        (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(ValueError) as error:
        read_prompts(GenerateArguments(model_name_or_path="m", prompt_file=str(tmp_path / "p.jsonl")))
    assert message in str(error.value)


@pytest.mark.parametrize("prompts", [{}, {"prompt": ["a"], "prompt_file": "b.txt"}], ids=["neither", "both"])
def test_exactly_one_source_of_prompts_is_required(prompts):
    """Neither or both of `--prompt` and `--prompt_file` are refused."""
    with pytest.raises(ValueError, match="give either `--prompt` or `--prompt_file`"):
        read_prompts(GenerateArguments(model_name_or_path="m", **prompts))


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "top_k": 5, "temperature": 0.7, "top_p": 0.9}, {"num_beams": 2}], ids=str
)
def test_greedy_search_sampling_and_beam_search_run_without_a_warning(tokenizer, options):
    """Sampling options are passed only with `do_sample`: transformers would warn of them otherwise."""
    arguments = GenerateArguments(model_name_or_path="m", max_new_tokens=3, repetition_penalty=1.2, **options)
    completions = complete(new_model(), tokenizer, TEXTS[:2], show_progress=False, **sampling_options(arguments))
    assert len(completions) == 2
    assert ("top_k" in sampling_options(arguments)) is arguments.do_sample
