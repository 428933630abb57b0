"""Samples of what a model writes or guesses after training, for a person to read."""

from typing import Any

import torch
from transformers import Trainer

from hf_llm.arguments import PretrainArguments
from hf_llm.data.infilling import infilling_prompts
from hf_llm.evaluation.generation import complete, model_and_tokenizer, tokenize_prompts
from hf_llm.models.inspection import num_positions

SAMPLE_TOKENS = 128  # longest sample
SAMPLE_CHARACTERS = 400  # of the validation text whose middle is written
HIDDEN_TOKENS = 10  # shown with the model's guesses


def draw_samples(trainer: Trainer, run_args: PretrainArguments) -> dict[str, str]:
    """Let a trained model write texts, or guess hidden tokens, depending on its objective. Every rank must call.

    Returns:
        For each heading the text under it.
    """
    row: Any = trainer.eval_dataset[0]  # pyright: ignore[reportOptionalSubscript, reportArgumentType]  # it is a Dataset
    if run_args.objective == "masked":
        return {"Hidden tokens, and the model's guesses": guess_hidden_tokens(trainer, row)}
    prompt = run_args.sample_prompt
    heading = "A sample of its text" + (f", begun with {prompt!r}" if prompt else "")
    samples = {heading: prompt + sample_text(trainer, [prompt])}
    if run_args.objective == "fim":
        samples["What it writes between two pieces of a validation text"] = sample_middle(trainer, row)
    return samples


@torch.no_grad()
def guess_hidden_tokens(trainer: Trainer, row: dict[str, Any]) -> str:
    """Return the hidden tokens of a validation row, each with the model's likeliest token, one pair a line."""
    model, tokenizer = model_and_tokenizer(trainer)
    batch = trainer.data_collator([row])
    labels = batch.pop("labels")[0]
    logits = model(**{name: tensor.to(trainer.args.device) for name, tensor in batch.items()}).logits
    hidden = torch.nonzero(labels != -100)[:HIDDEN_TOKENS, 0]
    decode = tokenizer.decode
    pairs = zip(labels[hidden].tolist(), logits[0].argmax(-1).cpu()[hidden].tolist(), strict=True)
    return "\n".join(f"{decode([token])!r}  {decode([guess])!r}" for token, guess in pairs)


def sample_text(trainer: Trainer, prompts: list[str] | list[list[int]]) -> str:
    """Return a random completion of one prompt, as long as the model's positions allow."""
    model, tokenizer = model_and_tokenizer(trainer)
    (ids,) = tokenize_prompts(tokenizer, prompts)
    room = min(SAMPLE_TOKENS, num_positions(model) - len(ids))
    if room < 1:
        return " (the prompt fills all of the model's positions)"
    sampling = {"max_new_tokens": room, "do_sample": True, "temperature": 0.8, "top_k": 40}
    (sample,) = complete(model, tokenizer, prompts, show_progress=False, **sampling)
    return sample


def sample_middle(trainer: Trainer, row: dict[str, Any]) -> str:
    """Return the beginning of a validation text with its middle fifth, in brackets, written by the model."""
    _, tokenizer = model_and_tokenizer(trainer)
    (whole,) = tokenizer.batch_decode([row["input_ids"][: row["lengths"][0]]], skip_special_tokens=True)
    text = whole[:SAMPLE_CHARACTERS]
    prefix, suffix = text[: len(text) * 2 // 5], text[len(text) * 3 // 5 :]
    prompts = infilling_prompts(tokenizer, [prefix], [suffix])
    return f"{prefix}[{sample_text(trainer, prompts)}]{suffix}"
