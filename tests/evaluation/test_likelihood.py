"""Log-likelihoods of completions are those of one forward pass over prompt and completion, in any batch."""

import peft
import pytest
import torch
from tiny import new_model, new_tokenizer

from hf_llm.evaluation.likelihood import log_likelihoods

PROMPTS = [[5, 6, 7, 8, 9], [20], [30, 31, 32], [40, 41]]
ANSWERS = [[[3], [4, 5], [6, 7, 8, 9]], [[50, 51, 52]], [[60], [61], [62], [63], [64], [65]], [[3, 4], [5, 6]]]
MODELS = ("llama", "gpt2", "opt", "bloom", "sliding", "adapters")


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


def new_scored_model(name):
    """A model of each kind of attention and positions, and one with adapters."""
    if name == "sliding":
        return new_model("mistral", sliding_window=3)
    if name == "adapters":
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules="all-linear")
        return peft.get_peft_model(new_model(), config)
    return new_model(name)


@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("answers", [ANSWERS, [choices[:1] for choices in ANSWERS]], ids=["choices", "one each"])
@pytest.mark.parametrize("name", MODELS)
def test_a_log_likelihood_is_the_sum_over_the_completions_tokens(name, answers, batch_size, tokenizer):
    """Equal to one forward pass over each prompt with its completion; with or without the cache, in any batch."""
    model = new_scored_model(name)
    scores = log_likelihoods(model, tokenizer, PROMPTS, answers, batch_size=batch_size, show_progress=False)
    for prompt, completions, prompt_scores in zip(PROMPTS, answers, scores, strict=True):
        for completion, score in zip(completions, prompt_scores, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + completion])).logits[0].double()
            log_p = logits.log_softmax(-1)
            expected = sum(log_p[i, token].item() for i, token in enumerate(completion, len(prompt) - 1))
            rounding = 2e-6 * len(completion) * logits.abs().max().item()  # float32 rounding of the logits
            assert score == pytest.approx(expected, abs=rounding)


def test_the_model_reads_a_prompt_once_for_all_its_choices(tokenizer, monkeypatch):
    """40 tokens of the prompt are read once, not once for each of 30 choices."""
    model, seen = new_model(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda input_ids, **rest: seen.append(input_ids.numel()) or forward(input_ids, **rest)
    )
    choices = [[token, token + 1] for token in range(30)]
    log_likelihoods(model, tokenizer, [list(range(40))], [choices], batch_size=8, show_progress=False)
    assert sum(seen) == 40 + len(choices)
