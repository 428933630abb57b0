"""Completions belong to their prompts, whatever the batch; the model and the random state are as before."""

import json

import peft
import pytest
import torch
from tiny import TEXTS, new_model, new_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_llm.arguments import GenerateArguments
from hf_llm.data.infilling import SENTINELS
from hf_llm.data.prompting import uses_chat
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.generation import (
    arrange_prompts,
    as_chat,
    complete,
    decode_completion,
    log_likelihoods,
    read_prompts,
    sampling_options,
    tokenize_prompts,
)

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
def test_a_batch_gives_what_each_prompt_gives_alone_in_their_order(model, tokenizer, batch_size):
    """Padding changes nothing, and longer prompts do not come first."""
    alone = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        alone.append(tokenizer.decode(ids[0, len(tokenizer(prompt).input_ids) :], skip_special_tokens=True))
    assert len(set(alone)) > 3, "the prompts were to have different completions"
    assert generate(model, tokenizer, batch_size=batch_size) == alone


def test_drawing_follows_the_seed(model, tokenizer):
    """The same seed gives the same texts, another one others."""
    first, again, other = (generate(model, tokenizer, do_sample=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_model_mode_and_random_state_are_as_before(tokenizer, training, fails, monkeypatch):
    """So that a sample drawn during training does not change the training; also after an error."""
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
    """With the token that opens one; without such a token, with the one that ended the document before."""
    assert tokenize_prompts(tokenizer, [""]) == [[tokenizer.bos_token_id]]
    backend = new_tokenizer().backend_tokenizer
    backend.post_processor = None
    without = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>", pad_token="<|pad|>")
    assert tokenize_prompts(without, ["", "x"])[0] == [without.eos_token_id]


def test_a_model_with_a_chat_template_is_asked_in_a_chat():
    """By default; each prompt is a user's turn, and the answer comes next."""
    chatting = new_tokenizer()
    chatting.chat_template = "{% for m in messages %}<|bos|>{{ m.content }}<|eos|>{% endfor %}<|bos|>"
    assert uses_chat(chatting, None) and not uses_chat(chatting, "plain") and not uses_chat(new_tokenizer(), None)
    texts = [chatting.decode(ids) for ids in as_chat(chatting, ["Hi.", "it"])]
    assert texts == ["<|bos|>Hi.<|eos|><|bos|>", "<|bos|>it<|eos|><|bos|>"]


def test_an_end_that_the_tokenizer_adds_is_taken_off_the_prompt(tokenizer):
    """Or the model would start another document instead of going on."""
    ending = new_tokenizer()
    template = processors.TemplateProcessing(single="$A <|eos|>", special_tokens=[("<|eos|>", ending.eos_token_id)])
    ending.backend_tokenizer.post_processor = template
    alone = tokenizer("then it ends", add_special_tokens=False).input_ids
    assert tokenize_prompts(ending, ["then it ends", "x"])[0] == alone


def test_a_completion_keeps_the_space_before_its_first_word():
    """SentencePiece-like tokenizers decode a word alone without it."""
    backend = Tokenizer(models.WordLevel({"▁a": 0, "▁dog": 1, "▁ran": 2, "<eos>": 3}, unk_token="<eos>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
    assert decode_completion(tokenizer, tokenizer("a dog").input_ids, [2, 3]) == " ran"


def test_a_line_end_stops_an_answer_only_after_its_first_word(tokenizer, monkeypatch):
    """An answer that begins with an empty line is not empty."""
    model, asked = new_model(), tokenizer("Document").input_ids
    written = tokenizer("\nDocument 3\ncounts", add_special_tokens=False).input_ids

    def scripted(past_key_values, **rest):
        output = forward(past_key_values=past_key_values, **rest)
        output.logits[:, -1] = 0
        output.logits[:, -1, written[past_key_values.get_seq_length() - len(asked)]] = 9
        return output

    forward = model.forward
    monkeypatch.setattr(model, "forward", scripted)
    text = complete(model, tokenizer, ["Document"], stop_strings=["\n"], max_new_tokens=len(written), do_sample=False)
    assert text == ["\nDocument 3"]


def test_writing_beyond_the_positions_is_refused(tokenizer):
    """64 of them here, as the longest prompt and the new tokens need together."""
    with pytest.raises(ValueError, match=r"`--max_new_tokens` 60 after a prompt of .* beyond the model's 64 positions"):
        generate(new_model(), tokenizer, max_new_tokens=60)


def test_prompts_come_from_the_command_line_or_a_file(tmp_path):
    """One a line in .txt, one an object in .jsonl, empty lines left out; any Unicode inside a line is text."""
    (tmp_path / "a.txt").write_text("one\n\n two \u2028three\n", encoding="utf-8")
    rows = [{"prompt": "four\u2028five"}, {"prompt": "", "more": 1}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    given = [{"prompt": ["six"]}, {"prompt_file": str(tmp_path / "a.txt")}, {"prompt_file": str(tmp_path / "b.jsonl")}]
    read = [read_prompts(GenerateArguments(model_name_or_path="m", **arguments)) for arguments in given]
    prompts = [["six"], ["one", " two \u2028three"], ["four\u2028five", ""]]
    assert read == [[{"prompt": prompt} for prompt in of_source] for of_source in prompts]


def test_a_middle_is_asked_for_with_what_comes_behind_it(tmp_path):
    """From the command line or a file, for each prompt or none; a chat it is not."""
    tokenizer = train_tokenizer(TEXTS, 300, special_tokens=SENTINELS[0])
    rows = [{"prompt": "Document 1", "suffix": " ends."}, {"prompt": "", "suffix": "it"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"prompt": [row["prompt"] for row in rows], "suffix": [row["suffix"] for row in rows]}
    for arguments in ({"prompt_file": str(tmp_path / "p.jsonl")}, given):
        assert read_prompts(GenerateArguments(model_name_or_path="m", **arguments)) == rows
    asked = arrange_prompts(tokenizer, rows, chat=False)
    assert tokenizer.decode(asked[0]) == "<|bos|><|fim_prefix|>Document 1<|fim_suffix|> ends.<|fim_middle|>"
    with pytest.raises(ValueError, match="1 of 2 prompts have a suffix: give one to all or none"):
        arrange_prompts(tokenizer, [rows[0], {"prompt": "Document"}], chat=False)
    with pytest.raises(ValueError, match="has no tokens for `--objective` fim"):
        arrange_prompts(new_tokenizer(), rows, chat=False)
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
def test_a_wrong_prompt_file_is_named_with_its_line(tmp_path, content, message):
    """Counted as an editor counts, empty lines included."""
    if content is not None:
        (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(ValueError) as error:
        read_prompts(GenerateArguments(model_name_or_path="m", prompt_file=str(tmp_path / "p.jsonl")))
    assert message in str(error.value)


@pytest.mark.parametrize("prompts", [{}, {"prompt": ["a"], "prompt_file": "b.txt"}], ids=["neither", "both"])
def test_exactly_one_source_of_prompts_is_wanted(prompts):
    """Neither and both are refused."""
    with pytest.raises(ValueError, match="give either `--prompt` or `--prompt_file`"):
        read_prompts(GenerateArguments(model_name_or_path="m", **prompts))


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "top_k": 5, "temperature": 0.7, "top_p": 0.9}, {"num_beams": 2}], ids=str
)
def test_every_way_of_searching_runs_without_a_warning(tokenizer, options):
    """Greedy search is not given sampling options, of which transformers would warn."""
    arguments = GenerateArguments(model_name_or_path="m", max_new_tokens=3, repetition_penalty=1.2, **options)
    completions = complete(new_model(), tokenizer, TEXTS[:2], show_progress=False, **sampling_options(arguments))
    assert len(completions) == 2
    assert ("top_k" in sampling_options(arguments)) is arguments.do_sample


# Likelihoods

ASKED = [[5, 6, 7, 8, 9], [20], [30, 31, 32], [40, 41]]
ANSWERS = [[[3], [4, 5], [6, 7, 8, 9]], [[50, 51, 52]], [[60], [61], [62], [63], [64], [65]], [[3, 4], [5, 6]]]
MODELS = ("llama", "gpt2", "opt", "bloom", "sliding", "adapters")


def scored_model(name):
    if name == "sliding":
        return new_model("mistral", sliding_window=3)
    if name == "adapters":
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules="all-linear")
        return peft.get_peft_model(new_model(), config)
    return new_model(name)


@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("answers", [ANSWERS, [of_prompt[:1] for of_prompt in ANSWERS]], ids=["choices", "one each"])
@pytest.mark.parametrize("name", MODELS)
def test_a_likelihood_is_the_sum_over_the_completions_tokens(name, answers, batch_size, tokenizer):
    """As one forward pass over each prompt with its completion gives it; by cache or without, in any batch."""
    model = scored_model(name)
    found = log_likelihoods(model, tokenizer, ASKED, answers, batch_size=batch_size, show_progress=False)
    for prompt, completions, of_prompt in zip(ASKED, answers, found, strict=True):
        for completion, value in zip(completions, of_prompt, strict=True):
            with torch.no_grad():
                log_p = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
            places = enumerate(completion, len(prompt) - 1)
            assert value == pytest.approx(sum(log_p[i, token].item() for i, token in places), abs=1e-4)


def test_a_prompt_is_read_once_for_all_its_choices(tokenizer, monkeypatch):
    """The model sees 40 tokens of the prompt once, not once for each of 30 choices."""
    model, seen = new_model(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda input_ids, **rest: seen.append(input_ids.numel()) or forward(input_ids, **rest)
    )
    choices = [[token, token + 1] for token in range(30)]
    log_likelihoods(model, tokenizer, [list(range(40))], [choices], batch_size=8, show_progress=False)
    assert sum(seen) == 40 + len(choices)
