"""Every field of `TrainingArguments` works, is refused at the start, or is harmless; none is ignored in silence.

`FIELDS` is the table of all of them. The kinds:

- `Changes`: a value other than the default changes what is trained, as the runs of this file show;
- `Same`: another value leaves the trained weights as they are, bit by bit, because it concerns speed, memory or logs;
- `Refused`: a value is refused in one line before any data are read;
- `Elsewhere`: works, as the named test shows;
- `Harmless`: why it cannot be wrong here.
"""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers
from tiny import new_tokenizer, new_trainer
from transformers import TrainingArguments

from hf_llm.arguments import ModelArguments, PretrainArguments, TextArguments
from hf_llm.command_line import parse_args
from hf_llm.messages import report_errors
from hf_llm.training.run import run_training
from hf_llm.training.training_arguments import default_decay

TESTS = Path(__file__).parent.parent
PRETRAIN = [ModelArguments, TextArguments, PretrainArguments, TrainingArguments]
STEPS = "--max_steps 4 --per_device_train_batch_size 4 --learning_rate 0.01 --bf16 false"
STEPS += " --save_strategy no --disable_tqdm true"
EVALUATED = "--eval_strategy steps --eval_steps 2"
BEST = f"{EVALUATED} --load_best_model_at_end --save_strategy steps --save_steps 2"


@dataclasses.dataclass
class Changes:
    """Flags of two runs whose weights differ; without `before`, of one and of a run without them."""

    flags: str
    before: str = ""


@dataclasses.dataclass
class Same:
    """Flags of a run whose weights are those of a run without them."""

    flags: str


@dataclasses.dataclass
class Refused:
    """Flags, and what the error says."""

    flags: str
    message: str


@dataclasses.dataclass
class Elsewhere:
    """The test that shows it, as file::name."""

    test: str


@dataclasses.dataclass
class Harmless:
    """Why no value can change a result unseen."""

    reason: str


ZERO3 = "shard the model with `--deepspeed ds_configs/zero3.json`"
WORKERS = "has no effect without `--dataloader_num_workers`"
PUSH = "has no effect without `--push_to_hub`"
ONLY_TRACKER = Harmless("read by the tracker alone, and is written nowhere else")
ONLY_RANKS = Harmless("passed to DistributedDataParallel, which has the same gradients with every value")

FIELDS: dict[str, list] = {
    "output_dir": [Elsewhere("test_recipes.py::test_the_folder_loads_with_stock_transformers")],
    "per_device_train_batch_size": [Changes("--per_device_train_batch_size 2")],
    "num_train_epochs": [
        Changes("--max_steps -1 --num_train_epochs 1"),
        Refused("--num_train_epochs inf", "`--num_train_epochs` is inf"),
    ],
    "max_steps": [Changes("--max_steps 3"), Refused("--max_steps 0", "`--max_steps` is 0: give at least 1")],
    "learning_rate": [Changes("--learning_rate 0.02"), Refused("--learning_rate -1", "`--learning_rate` is -1.0")],
    "lr_scheduler_type": [
        Changes("--lr_scheduler_type cosine"),
        Changes("--lr_scheduler_type warmup_stable_decay"),
        Refused("--lr_scheduler_type cosine_with_min_lr", "min_lr or min_lr_rate should be set"),
    ],
    "lr_scheduler_kwargs": [
        Changes("--lr_scheduler_type cosine --lr_scheduler_kwargs num_cycles=0.25", "--lr_scheduler_type cosine"),
        Refused("--lr_scheduler_kwargs a=1", "`--lr_scheduler_type` linear: "),
        Refused("--lr_scheduler_type constant --lr_scheduler_kwargs a=1", "`--lr_scheduler_kwargs` has no effect on"),
    ],
    "warmup_steps": [Changes("--warmup_steps 2"), Refused("--warmup_steps nan", "`--warmup_steps` is nan")],
    "optim": [
        Changes("--optim sgd"),
        Changes("--optim adafactor"),
        Refused("--optim galore_adamw", "`--optim` galore_adamw needs `--optim_target_modules`"),
        Refused("--optim lomo", "`--optim` lomo: You need to install `lomo_optim`"),
    ],
    "optim_args": [
        Changes("--optim sgd --optim_args momentum=0.9", "--optim sgd"),
        Refused("--optim_args x", "`--optim_args` has `x`: write key=value pairs"),
        Refused("--optim_args momentum=0.9", "momentum has no effect on it: leave it out"),
        Refused("--optim sgd --optim_args momentum=a", "`--optim` sgd with `--optim_args` momentum=a: could not"),
    ],
    "weight_decay": [Changes("--weight_decay 0.5"), Refused("--weight_decay -1", "`--weight_decay` is -1.0")],
    "adam_beta1": [
        Changes("--adam_beta1 0.5"),
        Refused("--adam_beta1 1.5", "`--adam_beta1` is 1.5"),
        Refused("--adam_beta1 1", "`--optim` adamw_torch_fused: Invalid beta parameter"),
    ],
    "adam_beta2": [Changes("--adam_beta2 0.5"), Refused("--adam_beta2 nan", "`--adam_beta2` is nan")],
    "adam_epsilon": [Changes("--adam_epsilon 0.01"), Refused("--adam_epsilon -1", "`--adam_epsilon` is -1.0")],
    "optim_target_modules": [Refused("--optim_target_modules q_proj", "has no effect on `--optim` adamw_torch_fused")],
    "gradient_accumulation_steps": [Changes("--gradient_accumulation_steps 2")],
    "average_tokens_across_devices": [Same("--average_tokens_across_devices false")],  # one rank
    "max_grad_norm": [Changes("--max_grad_norm 0.01"), Refused("--max_grad_norm -1", "`--max_grad_norm` is -1.0")],
    "label_smoothing_factor": [
        Changes("--label_smoothing_factor 0.1"),
        Refused("--label_smoothing_factor -0.5", "`--label_smoothing_factor` is -0.5: give at least 0 and at most 1"),
    ],
    "bf16": [Changes("--bf16 true")],
    "fp16": [Refused("--fp16 true", "`--fp16` needs a GPU"), Refused("--fp16 --bf16 true", "")],
    "bf16_full_eval": [Same("--bf16_full_eval true")],
    "fp16_full_eval": [Same("--fp16_full_eval true")],
    "tf32": [Refused("--tf32 true", "--tf32 requires Ampere")],
    "activation_checkpointing": [Same("--activation_checkpointing true")],
    "activation_checkpointing_kwargs": [
        Same("--activation_checkpointing --activation_checkpointing_kwargs every_n_layers=2"),
        Refused("--activation_checkpointing_kwargs every_n_layers=2", "without `--activation_checkpointing`"),
        Refused(
            "--activation_checkpointing --activation_checkpointing_kwargs foo=2",
            "`--activation_checkpointing_kwargs` foo is unknown: give",
        ),
    ],
    "gradient_checkpointing": [Same("--gradient_checkpointing true")],
    "gradient_checkpointing_kwargs": [
        Same("--gradient_checkpointing --gradient_checkpointing_kwargs use_reentrant=true"),
        Refused("--gradient_checkpointing_kwargs use_reentrant=true", "without `--activation_checkpointing`"),
    ],
    "torch_compile": [Harmless("the same computation by stock torch.compile; it takes a minute to try")],
    "torch_compile_backend": [Refused("--torch_compile_backend foo", "`--torch_compile_backend` foo is unknown")],
    "torch_compile_mode": [Refused("--torch_compile_mode foo", "`--torch_compile_mode` foo is unknown: give one of")],
    "use_liger_kernel": [Refused("--use_liger_kernel true", "`--use_liger_kernel` needs a package")],
    "liger_kernel_config": [Refused("--liger_kernel_config rope=true", "has no effect without `--use_liger_kernel`")],
    "use_cache": [Refused("--use_cache true", "with a cache, packed documents see each other")],
    "neftune_noise_alpha": [
        Changes("--neftune_noise_alpha 5"),
        Refused("--neftune_noise_alpha -5", "`--neftune_noise_alpha` is -5.0: give a number above 0"),
    ],
    "torch_empty_cache_steps": [
        Same("--torch_empty_cache_steps 1"),
        Refused("--torch_empty_cache_steps 0", "`--torch_empty_cache_steps` is 0"),
    ],
    "auto_find_batch_size": [Refused("--auto_find_batch_size true", "it would change the number of rows per step")],
    "logging_strategy": [Same("--logging_strategy epoch")],
    "logging_steps": [Same("--logging_steps 1"), Refused("--logging_steps 1.5", "--logging_steps must be an integer")],
    "logging_first_step": [Same("--logging_first_step true")],
    "log_on_each_node": [Harmless("which machines log")],
    "logging_nan_inf_filter": [Harmless("only for the log: a loss that is not finite stops the run")],
    "include_num_input_tokens_seen": [Refused("--include_num_input_tokens_seen all", "the throughput needs")],
    "log_level": [Same("--log_level error")],
    "log_level_replica": [Harmless("the log of other ranks")],
    "disable_tqdm": [Same("--disable_tqdm false")],
    "report_to": [
        Refused("--report_to wandb tensorboard", "`--report_to` wandb is not installed: `pip install wandb`"),
        Refused("--report_to foo", "`--report_to` foo is not a tracker: give none, all"),
        Refused("--report_to azure_ml", "`pip install azureml-sdk`"),
        Refused("--report_to neptune", "`--report_to` neptune is not installed"),
    ],
    "run_name": [ONLY_TRACKER],
    "project": [ONLY_TRACKER],
    "trackio_space_id": [ONLY_TRACKER],
    "trackio_bucket_id": [ONLY_TRACKER],
    "trackio_static_space_id": [ONLY_TRACKER],
    "eval_strategy": [Same(EVALUATED)],
    "eval_steps": [Same("--eval_steps 1"), Refused("--eval_steps 1.5", "--eval_steps must be an integer")],
    "eval_delay": [
        Same(f"{EVALUATED} --eval_delay 3"),
        Refused("--eval_delay 3", "`--eval_delay` has no effect without `--eval_strategy steps`"),
    ],
    "per_device_eval_batch_size": [Same("--per_device_eval_batch_size 3")],
    "prediction_loss_only": [Refused("--prediction_loss_only true", "the perplexity needs the loss of each token")],
    "eval_on_start": [Same("--eval_on_start true")],
    "eval_do_concat_batches": [Same("--eval_do_concat_batches false")],
    "eval_use_gather_object": [Refused("--eval_use_gather_object true", "the losses are gathered as tensors")],
    "eval_accumulation_steps": [Same("--eval_accumulation_steps 1")],
    "include_for_metrics": [Refused("--include_for_metrics inputs", "the metrics need the loss of each token only")],
    "batch_eval_metrics": [Refused("--batch_eval_metrics false", "would not fit into memory")],
    "save_only_model": [Elsewhere("training/test_checkpoints.py::test_weights_alone_are_not_resumed_from")],
    "save_strategy": [
        Same(f"{EVALUATED} --save_strategy best"),
        Refused("--save_strategy best", "needs evaluations to compare: add `--eval_strategy epoch`"),
    ],
    "save_steps": [
        Same("--save_strategy steps --save_steps 2"),
        Refused("--save_strategy steps --save_steps 1.5", "--save_steps must be an integer"),
    ],
    "save_on_each_node": [Same("--save_on_each_node true --save_strategy steps --save_steps 2")],
    "save_total_limit": [
        Same("--save_total_limit 1 --save_strategy steps --save_steps 2"),
        Refused("--save_total_limit 0", "`--save_total_limit` is 0: give at least 1"),
    ],
    "enable_jit_checkpoint": [Refused("--enable_jit_checkpoint true", "it would save at SIGTERM without a manifest")],
    "push_to_hub": [Elsewhere("test_recipes.py::test_a_push_brings_the_final_folder_to_a_private_repository")],
    "hub_token": [Elsewhere("test_command_line.py::test_the_token_goes_to_the_environment_and_nowhere_else")],
    "hub_private_repo": [Elsewhere("publishing/test_hub.py::test_a_push_is_public_only_with_private_false")],
    "hub_model_id": [Refused("--hub_model_id me/model", f"`--hub_model_id` {PUSH}")],
    "hub_strategy": [Refused("--push_to_hub --hub_strategy all_checkpoints", "would publish optimizer states")],
    "hub_always_push": [Refused("--hub_always_push true", f"`--hub_always_push` {PUSH}")],
    "hub_revision": [Refused("--hub_revision dev", f"`--hub_revision` {PUSH}")],
    "load_best_model_at_end": [
        Same(BEST),
        Refused("--load_best_model_at_end", "`--load_best_model_at_end` has no effect without `--eval_strategy steps`"),
    ],
    "metric_for_best_model": [
        Same(f"{BEST} --metric_for_best_model perplexity"),
        Refused("--metric_for_best_model loss", "`--metric_for_best_model` has no effect without `--eval_strategy"),
        Elsewhere("test_recipes.py::test_bad_input_is_one_line_and_changes_nothing"),
    ],
    "greater_is_better": [
        Same(f"{BEST} --greater_is_better false"),
        Refused(f"{BEST} --greater_is_better true", "would keep the model with the highest loss: leave it out"),
        Refused(
            f"{BEST} --metric_for_best_model web_perplexity --greater_is_better true", "with the highest web_perplexity"
        ),
    ],
    "ignore_data_skip": [Harmless("only of a resumed run, where it asks to read the first rows again")],
    "restore_callback_states_from_checkpoint": [Harmless("true by default, so that early stopping continues")],
    "full_determinism": [Harmless("turns on deterministic kernels, and sets the seed that the recipe has set")],
    "seed": [Changes("--seed 1"), Refused("--seed -1", "`--seed` is -1: give at least 0 and at most 4294967295")],
    "data_seed": [Changes("--data_seed 1"), Refused("--data_seed -1", "`--data_seed` is -1")],
    "use_cpu": [Same("--use_cpu true")],
    "accelerator_config": [
        Same('--accelerator_config {"non_blocking":true}'),
        Refused('--accelerator_config {"split_batches":true}', "`--accelerator_config`: `split_batches` True is not"),
        Refused('--accelerator_config {"even_batches":false}', "`--accelerator_config`: `even_batches` False is not"),
        Refused('--accelerator_config {"foo":1}', "`--accelerator_config`: unknown key `foo`: give split_batches"),
        Refused("--accelerator_config nowhere.json", "`--accelerator_config` `nowhere.json` cannot be read"),
    ],
    "parallelism_config": [Refused("--parallelism_config x", ZERO3)],
    "dataloader_drop_last": [
        Changes(
            "--dataloader_drop_last true --max_steps -1 --num_train_epochs 1 --per_device_train_batch_size 7",
            "--max_steps -1 --num_train_epochs 1 --per_device_train_batch_size 7",
        )
    ],
    "dataloader_num_workers": [
        Same("--dataloader_num_workers 1"),
        Refused("--dataloader_num_workers -1", "`--dataloader_num_workers` is -1: give at least 0"),
    ],
    "dataloader_pin_memory": [Same("--dataloader_pin_memory false")],
    "dataloader_persistent_workers": [Refused("--dataloader_persistent_workers true", WORKERS)],
    "dataloader_prefetch_factor": [Refused("--dataloader_prefetch_factor 3", WORKERS)],
    "dataloader_multiprocessing_context": [Refused("--dataloader_multiprocessing_context spawn", WORKERS)],
    "dataloader_in_order": [Refused("--dataloader_in_order false", "would be another in every run: leave it out")],
    "remove_unused_columns": [Refused("--remove_unused_columns true", "the collator reads the lengths")],
    "label_names": [Refused("--label_names foo", "the rows have the column `labels`: leave it out")],
    "train_sampling_strategy": [Changes("--train_sampling_strategy sequential")],
    "length_column_name": [
        Harmless("the column of lengths is `length` or none: without it the Trainer counts the tokens of each row")
    ],
    "ddp_find_unused_parameters": [ONLY_RANKS],
    "ddp_bucket_cap_mb": [ONLY_RANKS],
    "ddp_broadcast_buffers": [ONLY_RANKS],
    "ddp_static_graph": [ONLY_RANKS],
    "ddp_backend": [Refused("--ddp_backend nccl", "`--ddp_backend` has no effect on one process")],
    "ddp_timeout": [Refused("--ddp_timeout 0", "`--ddp_timeout` is 0: give at least 1")],
    "fsdp": [Refused("--fsdp", ZERO3), Refused("--fsdp full_shard", ZERO3)],
    "fsdp_config": [Refused('--fsdp_config {"version":2}', ZERO3)],
    "deepspeed": [Elsewhere("test_recipes.py::test_resuming_under_deepspeed_is_exact")],
    "debug": [Refused("--debug tpu_metrics_debug", "needs a TPU"), Same("--debug underflow_overflow")],
    "skip_memory_metrics": [Same("--skip_memory_metrics false")],
    "do_train": [
        Same("--do_train"),
        Same("--do_train --do_eval"),
        Refused("--do_train false", "this recipe always trains, recipes/eval.py only evaluates"),
    ],
    "do_eval": [
        Refused("--do_eval", "`--do_eval` without `--do_train`: this recipe always trains"),
        Refused("--do_train --do_eval false", "the recipe always evaluates once, after training"),
    ],
    "do_predict": [Refused("--do_eval --do_predict", "recipes/eval.py writes the predictions")],
    "resume_from_checkpoint": [Elsewhere("test_recipes.py::test_after_kill_9_the_run_goes_on_to_the_same_weights")],
    "local_rank": [Harmless("an old launcher's, which transformers does not read")],
}


def cases(kind: type) -> list:
    """The entries of one kind, each named by its field."""
    return [pytest.param(case, id=name) for name, field in FIELDS.items() for case in field if isinstance(case, kind)]


@pytest.fixture(autouse=True)
def _untouched():
    """Restore the environment, the log levels and the progress bars, which the arguments set."""
    package, level = logging.getLogger("hf_llm"), transformers.utils.logging.get_verbosity()
    handlers, package_level = package.handlers, package.level
    with mock.patch.dict(os.environ):
        yield
    package.handlers = handlers
    package.setLevel(package_level)
    transformers.utils.logging.set_verbosity(level)


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="module")
def train(tokenizer, tmp_path_factory):
    """Train the smallest model with flags, and return its Trainer, its weights and its figures; the same only once."""
    runs = {}

    def train(flags: str) -> tuple:
        if flags not in runs:
            folder = tmp_path_factory.mktemp("run")
            *_, args = parse_args(PRETRAIN, ["--output_dir", str(folder), *STEPS.split(), *flags.split()])
            torch.manual_seed(args.seed)
            trainer = new_trainer(folder, tokenizer, args=args)
            figures = run_training(trainer, None, True, {"train": [], "eval": []})
            weights = torch.cat([p.detach().float().flatten() for p in trainer.model.parameters()])
            runs[flags] = trainer, weights, figures
        return runs[flags]

    return train


def test_the_table_has_every_field():
    """A field that a new transformers adds fails here until somebody has looked at it."""
    assert set(FIELDS) == {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    assert all(FIELDS.values())


@pytest.mark.parametrize("case", cases(Elsewhere))
def test_what_is_shown_elsewhere_exists(case):
    file, name = case.test.split("::")
    assert f"def {name}(" in (TESTS / file).read_text()


@pytest.mark.parametrize("case", cases(Refused))
def test_a_value_that_would_be_ignored_or_fail_later_is_refused_at_the_start(case, no_launcher, tmp_path, capsys):
    """In one line with exit status 2, and before any data are read."""
    with pytest.raises(SystemExit) as stopped, report_errors():
        parse_args(PRETRAIN, ["--output_dir", str(tmp_path), *STEPS.split(), *case.flags.split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and case.message in line


@pytest.mark.parametrize("case", cases(Changes))
def test_a_value_changes_what_is_trained(case, train):
    assert not torch.equal(train(case.flags)[1], train(case.before)[1])


@pytest.mark.parametrize("case", cases(Same))
def test_a_value_leaves_the_weights_and_the_loss_as_they_are(case, train):
    """The losses of a full evaluation in 16 bits are less exact."""
    (_, weights, figures), (_, expected, expected_figures) = train(case.flags), train("")
    assert torch.equal(weights, expected) or "full_eval" in case.flags
    assert figures["train_loss"] == pytest.approx(expected_figures["train_loss"], rel=1e-6)
    assert figures["eval_loss"] == pytest.approx(
        expected_figures["eval_loss"], rel=1e-2 if "full" in case.flags else 1e-6
    )


def test_dropping_the_last_batch_keeps_all_validation_rows(train):
    """Neither a batch that is not full nor, with one larger than all rows, every row is left out of the scores."""
    expected = train("--max_steps 2")[2]["eval_loss"]
    for size in (2, 100):
        flags = f"--max_steps 2 --dataloader_drop_last true --per_device_eval_batch_size {size} {EVALUATED}"
        assert train(flags)[2]["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_rows_that_do_not_fill_a_batch_are_not_all_dropped(train):
    """Zero steps would end as a model."""
    with pytest.raises(ValueError, match=r"drops all [0-9]+ rows, which do not fill one batch"):
        train("--dataloader_drop_last true --per_device_train_batch_size 100")


def test_the_steps_of_an_epoch_are_those_of_the_trainer(train, caplog):
    """Also with a batch that is dropped and gradients that are accumulated over fewer batches at the end."""
    flags = "--max_steps -1 --num_train_epochs 1 --per_device_train_batch_size 2 --gradient_accumulation_steps 4"
    for drop in ("true", "false"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "hf_llm.training.run"):
            trainer, *_ = train(f"{flags} --dataloader_drop_last {drop}")
        assert f" {trainer.state.global_step} in all" in caplog.text


@pytest.mark.parametrize("steps, warmup, decay", [(100, 0, 20), (100, 90, 10), (3, 0, 1), (4, 0.5, 1), (1, 0, 1)])
def test_the_default_decay_is_a_fifth_of_the_steps(tmp_path, steps, warmup, decay):
    """Or what the warmup leaves; a value that is given is kept."""
    args = TrainingArguments(str(tmp_path), lr_scheduler_type="warmup_stable_decay", warmup_steps=warmup, use_cpu=True)
    assert default_decay(args, steps) == {"num_decay_steps": decay}
    args.lr_scheduler_kwargs = {"num_decay_steps": 7}
    assert default_decay(args, steps) == {}


def test_the_learning_rate_of_the_default_decay_ends_low(train):
    trainer, *_ = train("--max_steps 10 --lr_scheduler_type warmup_stable_decay --logging_steps 1")
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[:8] == [0.01] * 8 and rates[-1] < 0.01


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("ACCELERATE_USE_FSDP", "true", "`accelerate launch --use_fsdp` is not supported: use `--deepspeed"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "`accelerate launch --use_parallelism_config` is not supported"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "`accelerate launch --mixed_precision bf16` without `--bf16`"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "`accelerate launch --mixed_precision fp16` without `--fp16`"),
    ],
)
def test_what_a_launcher_asks_for_is_in_force_or_refused(no_launcher, monkeypatch, tmp_path, variable, value, message):
    """The Trainer would train in the launcher's precision while the log says another, and not shard on CPU."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        parse_args(PRETRAIN, ["--output_dir", str(tmp_path), *STEPS.split()])


def test_the_precision_of_the_launcher_is_taken_where_none_is_given(no_launcher, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert parse_args(PRETRAIN, ["--output_dir", str(tmp_path)])[-1].bf16


def test_the_precision_of_an_accelerate_config_goes_with_a_deepspeed_file(no_launcher, monkeypatch, tmp_path):
    """After `accelerate config default`, accelerate refuses any JSON file because of it; what it asks for is taken."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", "mixed_precision")
    parse_args(PRETRAIN, ["--output_dir", str(tmp_path)])
    assert "ACCELERATE_CONFIG_DS_FIELDS" not in os.environ


def test_processes_that_are_not_started_are_refused(tmp_path):
    """On CPU, `accelerate launch --num_processes 2` starts one process; the number is only on its command line."""
    child = tmp_path / "child.py"
    child.write_text("from hf_llm.distributed.ranks import check_started_processes as c\nc(True, 'x.py')\n")
    run = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, sys.argv[-1]]).returncode)"
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    for number, status in (("2", 1), ("1", 0)):
        launcher = [sys.executable, "-c", run, "--num_processes", number, str(child)]
        done = subprocess.run(
            launcher,
            env=environment | {"ACCELERATE_MIXED_PRECISION": "no"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == status, done.stderr
        assert ("use torchrun --nproc_per_node 2 x.py" in done.stderr) == bool(status)
