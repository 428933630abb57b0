"""Train with the stock Trainer, resume, stop on a non-finite loss, save a final folder that is complete."""

import contextlib
import json
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from safetensors import safe_open
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy

from hf_llm.checkpoints import CompleteCheckpoints, check_same_run
from hf_llm.data.masking import MaskingCollator
from hf_llm.data.packing import PackingCollator, check_causality, check_isolation, column
from hf_llm.data.streaming import FollowStream, StreamedRows
from hf_llm.distributed import DeepSpeedInForce
from hf_llm.hub import PushCheckpoints, hyperparameters
from hf_llm.modeling import count_parameters

logger = logging.getLogger(__name__)

# Dense bfloat16 FLOP/s of the data sheets, by a part of the device's name.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}


class StopOnNonFiniteLoss(TrainerCallback):
    """Ends the run at the first step whose loss is NaN or infinite, before anything of it is saved.

    A gradient that overflows ruins the weights one step before the loss shows it: weights that are about to be saved
    are looked at too. All ranks stop together: one that stopped alone would leave the others waiting.
    """

    def __init__(self, trainer: Trainer, checkpoint: str | None = None):
        self.trainer = trainer
        self.last_checkpoint = checkpoint or "none was saved"

    def on_save(self, args, state, control, model=None, **kwargs):
        self.check(args, state, model)  # saved at the end of an epoch; it has no manifest yet
        self.last_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"

    def on_step_end(self, args, state, control, model=None, **kwargs):
        saving = control.should_save or state.global_step >= state.max_steps
        self.check(args, state, model if saving else None)

    def check(self, args, state, model: PreTrainedModel | None) -> None:
        """Look at the loss, and at the weights of `model`, on all ranks."""
        loss, parameters = self.trainer._tr_loss, []
        if model is not None:
            parameters = [getattr(p, "ds_tensor", p) for p in model.parameters()]  # ZeRO-3: this rank's part
        checks = [torch.isfinite(tensor).all().to(loss.device) for tensor in (loss, *parameters)]
        finite = torch.stack([checks[0], torch.stack(checks).all()]).float()
        finite = self.trainer.accelerator.reduce(finite, "sum") == args.world_size
        if not finite.all():
            what = "weights after" if finite[0] else "loss of"
            raise FloatingPointError(
                f"the {what} step {state.global_step} {'are' if finite[0] else 'is'} not finite; "
                f"last good checkpoint: {self.last_checkpoint}. "
                "Lower `--learning_rate`, or look at the rows of that step"
            )


class CheckSight(TrainerCallback):
    """Proves on the real model, placed and wrapped as it will train, that no token sees what it must not.

    That is what comes behind it, but where hidden tokens are predicted, and packed documents beside its own.
    """

    def __init__(self, collator: PackingCollator, packing: bool):
        self.collator, self.packing = collator, packing

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not isinstance(self.collator, MaskingCollator):
            check_causality(model, self.collator)
        if self.packing:
            check_isolation(model, self.collator)


class MaskAnew(TrainerCallback):
    """Tells the collator the epoch, so that other tokens are hidden in each."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)


class Throughput(TrainerCallback):
    """Adds `tokens_per_second` and `mfu` to every log: training steps and data loading, without evaluation and saving.

    Model FLOPs utilisation after PaLM (Chowdhery et al., 2022, appendix B): 6 N + 12 L H Q A FLOPs a token, forward
    and backward, recomputation not counted; N the parameters without the embedding lookup (frozen ones cost 4), A the
    mean length of document that a token attends in, so that what isolation saves is not counted as done; nor are the
    logits of prompts, where the model skips them. The peak is the data sheet's dense bfloat16 rate, or where the device
    is not known (a CPU) the rate of a matrix product measured here.
    """

    def __init__(self, model: PreTrainedModel, attended: float, predicting: float):
        self.flops_per_token = flops_per_token(model, attended, predicting)
        self.seconds = self.total_seconds = 0.0
        self.tokens = self.total_tokens = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.peak, source = peak_flops(args.device, args.bf16)
        logger.info(f"MFU counts {self.flops_per_token:.3g} FLOPs a token against {self.peak:.3g} FLOP/s ({source})")
        self.seen, self.mark = state.num_input_tokens_seen, time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seconds, self.mark = self.seconds + now - self.mark, now
        self.tokens, self.seen = self.tokens + state.num_input_tokens_seen - self.seen, state.num_input_tokens_seen

    def on_evaluate(self, args, state, control, **kwargs):
        self.mark = None  # other callbacks have work of their own now

    on_save = on_evaluate

    def on_step_begin(self, args, state, control, **kwargs):
        self.mark = self.mark or time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs or not self.tokens:
            return
        figures = self.figures(self.tokens, self.seconds, args.world_size)
        logs.pop("train_tokens_per_second", None)  # the Trainer's own counts evaluation and saving as training time
        logs.update(figures)
        state.log_history[-1].update(figures)
        self.total_tokens, self.total_seconds = self.total_tokens + self.tokens, self.total_seconds + self.seconds
        self.tokens, self.seconds = 0, 0.0

    def figures(self, tokens: int, seconds: float, world_size: int) -> dict[str, float]:
        rate = tokens / seconds
        return {
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self.flops_per_token / (self.peak * world_size), 4),
        }

    def metrics(self, world_size: int) -> dict[str, float]:
        """The figures of the whole run."""
        tokens, seconds = self.total_tokens + self.tokens, self.total_seconds + self.seconds
        figures = self.figures(tokens, seconds, world_size) if tokens else {}
        return {f"train_{key}": value for key, value in figures.items()}


def flops_per_token(model: PreTrainedModel, attended: float, predicting: float = 1.0) -> float:
    """FLOPs that one token costs in training.

    Args:
        attended: mean number of tokens in its document.
        predicting: share of the tokens whose logits are computed.
    """
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    size = getattr(embedding, "ds_numel", embedding.numel())  # of the head too
    heads = getattr(config, "num_attention_heads", 0)  # none in a state-space model
    head_size = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    trained = count_parameters(model, trained=True)
    frozen = count_parameters(model) - trained
    skipped = size * (1 - predicting) * (6 if head.requires_grad else 4)  # without logits
    if not config.tie_word_embeddings:
        skipped += size * (6 if embedding.requires_grad else 4)  # a lookup costs nothing
    return 6 * trained + 4 * frozen - skipped + 12 * config.num_hidden_layers * heads * head_size * attended


def peak_flops(device: torch.device, bf16: bool) -> tuple[float, str]:
    """FLOP/s that the device can reach, and where the figure is from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for part, peak in PEAK_FLOPS.items():
        if part in name:
            return peak, f"{name}, data sheet"
    size, best = 1024, math.inf
    a = torch.ones(size, size, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
    for _ in range(5):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best, f"{name}, {a.dtype} matrix product measured here"


def mean_attended(rows: Dataset) -> float:
    """Mean over tokens of the length of the document piece that the token is in."""
    lengths = np.concatenate([chunk.flatten().to_numpy() for chunk in column(rows, "lengths").chunks]).astype(float)
    return float((lengths**2).sum() / lengths.sum())


def predicting_share(rows: Dataset, collator: PackingCollator) -> float:
    """Share of the tokens whose logits are computed."""
    if not collator.skip_prompts:
        return 1.0
    labels = [chunk.flatten().to_numpy() for chunk in column(rows, "labels").chunks]
    return sum((chunk != -100).sum() for chunk in labels) / sum(map(len, labels))


def early_stopping(args: TrainingArguments, patience: int | None) -> list[TrainerCallback]:
    """Callbacks for `--early_stopping_patience`, with the best weights kept and loaded at the end.

    Raises:
        ValueError: nothing is evaluated while training.
    """
    if patience is None:
        return []
    if args.eval_strategy == "no":
        raise ValueError("`--early_stopping_patience` needs an evaluation to look at: add `--eval_strategy epoch`")
    args.load_best_model_at_end = True
    if args.metric_for_best_model in (None, "loss"):
        args.metric_for_best_model, args.greater_is_better = "loss", False
    args.save_strategy, args.save_steps = SaveStrategy(args.eval_strategy.value), args.eval_steps or args.save_steps
    return [EarlyStoppingCallback(patience)]


def run_facts(trainer: Trainer) -> dict[str, Any]:
    """What must be equal for a resumed run to be the same run."""
    args, rows = trainer.args, trainer.train_dataset
    return {
        **(rows.facts if isinstance(rows, StreamedRows) else rows_facts(rows)),
        "ranks": args.world_size,
        **adapter_facts(trainer.model),
        **masking_facts(trainer.data_collator),
        **hyperparameters(args),  # the optimizer's state holds the old ones, and would go on with them
    }


def rows_facts(rows: Dataset) -> dict[str, Any]:
    """Number of rows, and a hash of a thousand of them."""
    spread = np.unique(np.linspace(0, len(rows) - 1, 1000).astype(int))
    return {"rows": len(rows), "data": Hasher.hash([ids.tolist() for ids in rows.select(spread)["input_ids"]])}


def masking_facts(collator: PackingCollator) -> dict[str, Any]:
    """How tokens are hidden, where they are."""
    return {"mlm_probability": collator.probability} if isinstance(collator, MaskingCollator) else {}


def adapter_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Settings of adapters that loading their weights does not bring back."""
    if not hasattr(model, "peft_config"):
        return {}
    config = model.peft_config["default"]
    facts = {name: getattr(config, name) for name in ("lora_alpha", "lora_dropout", "use_dora")}
    return facts | {"lora_r": config.r, "lora_target_modules": sorted(config.target_modules)}


def train(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    """`trainer.train()` and its metrics; of a checkpoint that leaves nothing to train, the state and what was written.

    The Trainer would train one step more there: it looks for the end of a run after a step, not before.
    """
    reached = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME)) if checkpoint else None
    if reached is None:
        return trainer.train().metrics
    if not is_finished(trainer, reached):
        logger.info(f"Going on from step {reached.global_step:,}: {checkpoint}")
        with no_warning_of_tied_weights(trainer.model):
            return trainer.train(resume_from_checkpoint=checkpoint).metrics
    logger.warning(f"{checkpoint} is the end of the run: no step is left to train")
    args = trainer.args
    planned = args.num_train_epochs, args.max_steps, trainer.train_dataset
    # In an epoch of some rows, which a stream would not have.
    args.num_train_epochs, args.max_steps, trainer.train_dataset = 0, -1, trainer.eval_dataset
    trainer.train(resume_from_checkpoint=checkpoint)
    args.num_train_epochs, args.max_steps, trainer.train_dataset = planned
    state = trainer.state
    state.num_train_epochs, state.max_steps = reached.num_train_epochs, reached.max_steps
    state.log_history.pop()  # a training loss of 0, over no step
    written = Path(args.output_dir) / "train_results.json"
    return json.loads(written.read_text()) if written.exists() else {}


@contextlib.contextmanager
def no_warning_of_tied_weights(model: PreTrainedModel):
    """The Trainer warns of weights that a checkpoint lacks, and of those that are tied to others too."""
    warning = f"There were missing keys in the checkpoint model loaded: {list(model.all_tied_weights_keys)}."
    log, expected = logging.getLogger("transformers.trainer"), lambda record: record.getMessage() != warning
    log.addFilter(expected)
    try:
        yield
    finally:
        log.removeFilter(expected)


def is_finished(trainer: Trainer, reached: TrainerState) -> bool:
    """Whether a checkpoint's state is that of the run's last step, or the one in which it stopped early."""
    max_steps = trainer.args.max_steps
    if not isinstance(trainer.train_dataset, StreamedRows):
        *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if max_steps != reached.max_steps:
        logger.warning(f"The schedule was made for {reached.max_steps} steps, and goes on as one for {max_steps}")
    stopped = reached.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return reached.global_step >= max_steps or (stopped and reached.global_step < reached.max_steps)


def run_training(trainer: Trainer, checkpoint: str | None, packing: bool, reports: dict[str, list]) -> dict[str, float]:
    """Train, save the final folder, evaluate; results in the Trainer's own files.

    Args:
        trainer: stock Trainer over packed rows.
        checkpoint: folder to resume from.
        packing: prove at the start that packed documents are isolated.
        reports: what encoding and packing did to `train` and `eval`, for the results files.

    Returns:
        The metrics of training and evaluation.

    Raises:
        ValueError: the checkpoint is of another run, or the model lets packed documents see each other.
        FloatingPointError: a loss is not finite.
    """
    args, run = trainer.args, run_facts(trainer)
    logger.info(f"Precision: {'bfloat16' if args.bf16 else 'float16' if args.fp16 else 'float32'} on {args.device}")
    if checkpoint:
        check_same_run(checkpoint, run)
    rows, streamed = trainer.train_dataset, isinstance(trainer.train_dataset, StreamedRows)
    if streamed and checkpoint:
        rows.load(checkpoint)
    predicting = predicting_share(rows, trainer.data_collator)
    if predicting < 1:
        logger.info(f"Logits are computed only where a label follows: for {predicting:.1%} of the tokens")
    throughput = Throughput(trainer.model, mean_attended(trainer.eval_dataset if streamed else rows), predicting)
    for callback in [
        *([DeepSpeedInForce(trainer)] if args.deepspeed else []),
        CheckSight(trainer.data_collator, packing),
        *([MaskAnew(trainer.data_collator)] if isinstance(trainer.data_collator, MaskingCollator) else []),
        StopOnNonFiniteLoss(trainer, checkpoint),
        CompleteCheckpoints(args, run),
        *([PushCheckpoints(trainer)] if args.push_to_hub else []),
    ]:
        trainer.add_callback(callback)
    # Before the trackers, so that they get its figures; and before the checkpoint's manifest is written.
    trainer.callback_handler.callbacks[:0] = [throughput, *([FollowStream(rows)] if streamed else [])]
    logger.info(plan_in_words(args, None if streamed else len(rows)))
    trained = train(trainer, checkpoint)
    tell_the_end(trainer.state)
    save_final_model(trainer)
    trained |= throughput.metrics(args.world_size)
    for report in reports["train"]:
        trained |= report.metrics("train")
    trainer.save_metrics("train", trained)
    trainer.save_state()
    evaluated = trainer.evaluate()
    for report in reports["eval"]:
        evaluated |= report.metrics("eval")
    trainer.save_metrics("eval", evaluated)
    return trained | evaluated


def plan_in_words(args: TrainingArguments, rows: int | None) -> str:
    """How many steps the rows make: packed examples are far fewer rows than one expects. None: of a stream."""
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if rows is None:
        return (
            f"A stream of rows, {per_step:,} a step: {args.max_steps:,} steps at learning rate {args.learning_rate:g}"
        )
    an_epoch = max(1, rows // per_step) if args.dataloader_drop_last else -(-rows // per_step)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(an_epoch * args.num_train_epochs)
    return (
        f"{rows:,} rows, {per_step:,} a step: {an_epoch:,} steps an epoch, {steps:,} in all at learning rate "
        f"{args.learning_rate:g}"
    )


def tell_the_end(state: TrainerState) -> None:
    """What the screen would not say: that the run stopped early, and whose weights are kept."""
    if state.global_step < state.max_steps:
        logger.warning(f"Stopped early, at step {state.global_step:,} of {state.max_steps:,}")
    if state.best_model_checkpoint and state.best_global_step:
        logger.info(f"Best by its metric, {state.best_metric:.6g}, was step {state.best_global_step:,}")


def save_final_model(trainer: Trainer) -> None:
    """Write model, config, generation config and tokenizer beside the final place, check them, then move them there.

    A reader of the folder sees the old model or the new one. Without `training_args.bin`: a pickle with user paths.
    """
    args = trainer.args
    beside = Path(args.output_dir) / "_saving"
    if args.should_save:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed here; its shards may have other names
    trainer.accelerator.wait_for_everyone()
    trainer.model.config.use_cache = True  # the Trainer switched it off for training; users of the folder generate
    trainer.save_model(str(beside), _internal_call=True)  # internal: the push has its own time and place
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        (beside / "training_args.bin").unlink()
        check_weights(beside, trainer.model)
        for pattern in ("model*.safetensors*", "adapter_*", "config.json"):  # a whole model, or an adapter
            for stale in Path(args.output_dir).glob(pattern):
                if not (beside / stale.name).exists():
                    stale.unlink()
        for path in sorted(beside.iterdir(), key=lambda path: path.name == "config.json"):  # config.json last
            os.replace(path, Path(args.output_dir) / path.name)
        shutil.rmtree(beside)
    trainer.accelerator.wait_for_everyone()
    trainer.model.config.use_cache = args.use_cache


def check_weights(folder: Path, model: PreTrainedModel) -> None:
    """The folder's safetensors files hold as many elements as the model, or its adapter, has parameters.

    Tied ones are counted once.

    Names are not compared: transformers saves some models under other names, or with their experts apart.
    """
    saved = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 no mapping
        saved += sum(math.prod(shape) for shape in shapes)
    expected = count_parameters(model, trained=hasattr(model, "get_base_model"))
    if saved < expected:
        raise RuntimeError(f"{folder}: {saved} elements are saved of {expected} parameters")
