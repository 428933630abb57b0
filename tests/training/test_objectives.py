"""A stock Trainer learns each objective, and resumes exactly."""

import logging
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from recipe_runs import ROOT, flags
from safetensors.torch import load_file
from tiny import STOCK, TEXTS, new_model
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments, pipeline, set_seed

from hf_llm.arguments import ModelArguments, PretrainArguments, TextArguments
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.evaluation.samples import draw_samples
from hf_llm.mappings import format_mapping
from hf_llm.models.inspection import count_parameters
from hf_llm.models.loading import load_model
from hf_llm.publishing.reporting import report_pretraining
from hf_llm.training.objectives import (
    AUTO_CLASSES,
    SPECIAL_TOKENS,
    check_objective,
    masked_loss,
    set_training_arguments,
    tokenize_and_pack,
    trainer_options,
)
from hf_llm.training.run import run_training

SPLITS = DatasetDict(
    {"train": Dataset.from_dict({"text": TEXTS}), "validation": Dataset.from_dict({"text": TEXTS[:7]})}
)
ROBERTA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def new_run(
    folder, objective, packing=True, streaming=False, model_type="roberta", overrides=ROBERTA, max_length=64, **settings
):
    """The Trainer and the reports as the recipe makes them."""
    run_args = PretrainArguments(objective=objective)
    data_args = TextArguments(max_length=max_length, packing=packing, streaming=streaming)
    args = TrainingArguments(str(folder), **STOCK | {"learning_rate": 3e-3} | settings)
    tokenizer = train_tokenizer(TEXTS, 300, special_tokens=SPECIAL_TOKENS[objective])
    check_objective(ModelArguments(), data_args, run_args, args, tokenizer)
    set_training_arguments(args, data_args, run_args)
    set_seed(1)
    if objective == "masked":
        model_args = ModelArguments(model_type=model_type, config_overrides=overrides)
        model = load_model(model_args, tokenizer, max_length, AUTO_CLASSES[objective])
    else:
        model = new_model()
    splits = dict(SPLITS) | ({"train": SPLITS["train"].to_iterable_dataset()} if streaming else {})
    train, validation, reports = tokenize_and_pack(splits, tokenizer, data_args, run_args, args)
    options = trainer_options(run_args, data_args, model, tokenizer, SPLITS["validation"], validation, args)
    return Trainer(model=model, args=args, train_dataset=train, processing_class=tokenizer, **options), reports


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A small RoBERTa trained for two and a half epochs, with a checkpoint in the second: Trainer, metrics, folder."""
    folder = tmp_path_factory.mktemp("masked")
    trainer, reports = new_run(folder, "masked", max_steps=40, save_strategy="steps", save_steps=15)
    return trainer, run_training(trainer, None, True, reports), folder


def test_the_logged_size_is_that_of_the_model(tmp_path, caplog):
    """RoBERTa has a few positions more than the rows have tokens."""
    caplog.set_level(logging.INFO, "hf_llm")
    trainer, _ = new_run(tmp_path, "masked")
    (logged,) = (message for message in caplog.messages if "A new roberta" in message)
    assert f"{count_parameters(trainer.model):,} parameters" in logged


def test_a_masked_model_learns_and_loads(masked):
    """Its loss falls, its perplexity is exp(loss) of the hidden tokens, and a pipeline fills masks."""
    trainer, figures, folder = masked
    losses = losses_of(trainer)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert figures["eval_perplexity"] == pytest.approx(np.exp(figures["eval_loss"]))
    assert isinstance(AutoModelForMaskedLM.from_pretrained(folder), type(trainer.model))
    (guess, *_) = pipeline("fill-mask", model=str(folder), device="cpu")("Document <|mask|> counts")
    assert guess["sequence"].startswith("Document")


def test_the_end_of_a_masked_run_shows_the_guesses_for_hidden_tokens(masked, capsys):
    """They show whether it has learned anything."""
    trainer, figures, _ = masked
    report_pretraining(trainer, figures, draw_samples(trainer, PretrainArguments(objective="masked")))
    shown = capsys.readouterr().out
    assert "Hidden tokens, and the model's guesses:" in shown and "bits per byte" not in shown
    assert shown.count("  '") >= 4


def test_a_resumed_masked_run_ends_with_the_same_bits(masked, tmp_path):
    """Each epoch hides other tokens; a resumed run hides the same ones as an uninterrupted one."""
    trainer, _, folder = masked
    shutil.copytree(folder / "checkpoint-15", tmp_path / "checkpoint-15")
    again, reports = new_run(tmp_path, "masked", max_steps=40, save_strategy="steps", save_steps=15)
    run_training(again, str(tmp_path / "checkpoint-15"), True, reports)
    whole, resumed = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert losses_of(again) == losses_of(trainer)


def test_another_share_of_hidden_tokens_is_another_run(masked, tmp_path):
    """`mlm_probability` is one of the facts of a run."""
    _, _, folder = masked
    again, reports = new_run(tmp_path, "masked", max_steps=40)
    again.data_collator.probability = 0.3
    with pytest.raises(ValueError, match=r"mlm_probability was 0\.15 and is 0\.3"):
        run_training(again, str(folder / "checkpoint-15"), True, reports)


def test_accumulated_micro_batches_give_the_loss_of_one_large_batch(tmp_path):
    """The loss is the mean over the step's hidden tokens, not a sum of the means of micro-batches."""
    dropout = ROBERTA | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    runs = [{"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}]
    losses = []
    for number, settings in enumerate(runs):
        trainer, _ = new_run(tmp_path / str(number), "masked", overrides=dropout, max_steps=4, **settings)
        trainer.train()
        losses.append(losses_of(trainer))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_masked_loss_of_one_batch_equals_the_models_own(masked):
    """There both are the mean over the hidden tokens."""
    trainer, *_ = masked
    batch = next(iter(trainer.get_eval_dataloader()))
    with torch.no_grad():
        outputs = trainer.model.eval()(**batch)
    assert masked_loss(outputs, batch["labels"]).item() == pytest.approx(outputs.loss.item(), rel=2e-6)


def test_label_smoothing_of_a_masked_model_is_in_force(tmp_path):
    """The loss is that of the Trainer's own `LabelSmoother`, at the positions of the hidden tokens."""
    trainer, _ = new_run(tmp_path, "masked", label_smoothing_factor=0.2)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    hidden = batch["labels"] != -100
    log_probs = trainer.model(**batch).logits[hidden].log_softmax(-1)
    likely = log_probs.gather(1, batch["labels"][hidden][:, None]).mean()
    expected = -(0.8 * likely + 0.2 * log_probs.mean())
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_tokens_of_a_masked_run_are_counted_once(masked):
    """Not once for each pair, although the mask of packed rows has one value per pair of tokens."""
    trainer, *_ = masked
    assert trainer.state.num_input_tokens_seen <= 40 * 2 * 64


def test_a_masked_model_trains_without_packing(tmp_path):
    """DistilBERT, for example, takes no positions."""
    distilbert = {"model_type": "distilbert", "overrides": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}}
    trainer, reports = new_run(tmp_path, "masked", packing=False, **distilbert, max_steps=3)
    assert np.isfinite(run_training(trainer, None, False, reports)["eval_loss"])


def test_models_with_sliding_window_layers_are_not_packed(tmp_path):
    """The mask of documents would replace the window of ModernBERT's layers."""
    modernbert = {"model_type": "modernbert", "overrides": ROBERTA}
    with pytest.raises(ValueError, match="ModernBertForMaskedLM has layers with a sliding attention window"):
        new_run(tmp_path, "masked", **modernbert)
    trainer, reports = new_run(tmp_path, "masked", packing=False, **modernbert, max_steps=2)
    assert np.isfinite(run_training(trainer, None, False, reports)["eval_loss"])


def test_filling_in_the_middle_trains_and_is_scored_on_whole_texts(tmp_path, capsys):
    """Validation rows equal those of a causal run; the results have the number of documents of each layout."""
    causal, _ = new_run(tmp_path / "causal", "causal", max_steps=1)
    trainer, reports = new_run(tmp_path / "fim", "fim", max_steps=6)
    figures = run_training(trainer, None, True, reports)
    middle = trainer.processing_class.convert_tokens_to_ids("<|fim_middle|>")
    count = sum((row["input_ids"] == middle).sum() for row in trainer.train_dataset)
    assert count == figures["train_fim_psm"] + figures["train_fim_spm"] > 10
    assert figures["train_fim_causal"] + count == figures["train_documents"] == len(TEXTS)
    assert not any((row["input_ids"] == middle).any() for row in trainer.eval_dataset)
    assert [row["lengths"].tolist() for row in trainer.eval_dataset] == [
        row["lengths"].tolist() for row in causal.eval_dataset
    ]
    assert figures["eval_bits_per_byte"] > 0
    report_pretraining(trainer, figures, draw_samples(trainer, PretrainArguments(objective="fim")))
    shown = capsys.readouterr().out.partition("What it writes between two pieces of a validation text:")[2]
    assert "Document" in shown and "[" in shown and "]" in shown


@pytest.fixture(scope="module")
def streamed_run(tmp_path_factory):
    """A stream with `--objective fim`, trained on for six steps, with checkpoints."""
    folder = tmp_path_factory.mktemp("streamed")
    trainer, reports = new_run(folder, "fim", streaming=True, max_steps=6, save_strategy="steps", save_steps=2)
    return trainer, run_training(trainer, None, True, reports), folder


@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_stream_ends_with_the_same_bits(step, streamed_run, tmp_path):
    """Resumed after 2 steps, and after the last one: the same weights, losses and counts."""
    trainer, figures, folder = streamed_run
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    again, reports = new_run(tmp_path, "fim", streaming=True, max_steps=6, save_strategy="steps", save_steps=2)
    resumed = run_training(again, str(tmp_path / f"checkpoint-{step}"), True, reports)
    whole, weights = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.items())
    assert losses_of(again) == losses_of(trainer)
    for name in ("tokens_in", "documents", "fim_psm", "fim_spm", "epochs_completed"):
        assert resumed[f"train_{name}"] == figures[f"train_{name}"]
    assert resumed["eval_loss"] == figures["eval_loss"]


def test_the_log_of_a_stream_has_the_epoch_of_the_data(streamed_run):
    """Not the share of `max_steps`, which the Trainer logs."""
    trainer, figures, _ = streamed_run
    epochs = [entry["epoch"] for entry in trainer.state.log_history]
    assert epochs == sorted(epochs) and epochs[0] == 0
    assert all(isinstance(epoch, int) for epoch in epochs) and epochs[-1] == figures["train_epochs_completed"]


def test_another_stream_is_another_run(streamed_run, tmp_path):
    """Here: with another `--fim_rate`."""
    _, _, folder = streamed_run
    again, reports = new_run(tmp_path, "fim", streaming=True, max_steps=6)
    again.train_dataset.facts["objective"] = ["fim", 0.9, 0.5]
    with pytest.raises(ValueError, match="of another run: objective was"):
        run_training(again, str(folder / "checkpoint-2"), True, reports)


def test_a_stream_needs_an_end_and_one_reader(tmp_path):
    """A run without `--max_steps`, or with data loader workers, is refused before any work."""
    for settings, message in (({}, "has no end"), ({"max_steps": 1, "dataloader_num_workers": 1}, "reads ahead")):
        with pytest.raises(ValueError, match=message):
            new_run(tmp_path, "causal", streaming=True, **settings)


def test_the_check_of_an_objective_does_not_change_the_training_arguments(tmp_path):
    """Only `set_training_arguments` changes them: for a stream, and for packed rows with hidden tokens."""
    args = TrainingArguments(str(tmp_path), **STOCK | {"max_steps": 1})
    run_args, data_args = PretrainArguments(objective="masked"), TextArguments(streaming=True)
    before = args.to_dict() | {"accelerator_config": args.accelerator_config.to_dict()}
    tokenizer = train_tokenizer(TEXTS, 300, special_tokens=SPECIAL_TOKENS["masked"])
    check_objective(ModelArguments(), data_args, run_args, args, tokenizer)
    assert args.to_dict() | {"accelerator_config": args.accelerator_config.to_dict()} == before
    set_training_arguments(args, data_args, run_args)
    assert args.ignore_data_skip and args.accelerator_config.dispatch_batches is False
    assert args.include_num_input_tokens_seen == "all"


def test_settings_that_do_not_fit_the_objective_give_one_line(processes, corpus, tiny_base, tmp_path):
    """The line has the remedy; the exit status is 2."""
    run = {"train_file": corpus / "train.jsonl", "max_steps": 1, "max_length": 64, "output_dir": tmp_path / "out"}
    with_base = {"tokenizer_name": tiny_base, "config_overrides": format_mapping(ROBERTA)}
    bad = {
        "`--model_type` llama has no masked language model here": {"objective": "masked"},
        "`--fim_rate` is 2.0: give at least 0 and at most 1": {"objective": "fim", "fim_rate": 2},
        "`--mlm_probability` is 0.0: give a number above 0": {"objective": "masked", "mlm_probability": 0},
        "has no tokens for `--objective` fim": with_base | {"objective": "fim"},
        "has no mask token": with_base | {"objective": "masked", "model_type": "roberta"},
    }
    jobs = {message: [ROOT / "recipes" / "pretrain.py", *flags(run | settings)] for message, settings in bad.items()}
    for message, said in processes.fork_each(jobs, tmp_path).items():
        assert said.status == 2 and message in said.stderr and "Traceback" not in said.stderr
