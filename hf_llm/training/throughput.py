"""Tokens per second and model FLOPs utilisation."""

import logging
import time

from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback

from hf_llm.data.arrow import column
from hf_llm.data.packing import PackingCollator
from hf_llm.hardware import peak_flops
from hf_llm.models.inspection import count_parameters

logger = logging.getLogger(__name__)


class Throughput(TrainerCallback):
    """Add `tokens_per_second` and `mfu` to every log, over training steps and data loading; not evaluation and saving.

    Model FLOPs utilisation as in PaLM (Chowdhery et al., 2022, appendix B): 6 N + 12 L H Q A FLOPs a token, forward
    and backward, without recomputation. N: parameters without the embedding lookup (frozen ones cost 4 each). L, H, Q:
    layers, heads, head size. A: length of the document that a token attends in, averaged over the tokens, because
    isolated documents cost less than the whole row. Logits that the model skips are not counted either. The peak is the
    data sheet's dense bfloat16 rate; for an unknown device (a CPU), the rate of a matrix product measured here.

    Args:
        attended: see `mean_attended_length`.
        logits_share: see `logits_share`.
    """

    def __init__(self, model: PreTrainedModel, attended: float, logits_share: float):
        self.flops_per_token = flops_per_token(model, attended, logits_share)
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
        self.mark = 0.0  # stop the clock until the next step: evaluation, and other callbacks, take time now

    on_save = on_evaluate

    def on_step_begin(self, args, state, control, **kwargs):
        self.mark = self.mark or time.perf_counter()

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" not in logs or not self.tokens:
            return
        figures = self.figures(self.tokens, self.seconds, args.world_size)
        logs.pop("train_tokens_per_second", None)  # the Trainer's own counts evaluation and saving as training time
        logs.update(figures)
        state.log_history[-1].update(figures)
        self.total_tokens, self.total_seconds = self.total_tokens + self.tokens, self.total_seconds + self.seconds
        self.tokens, self.seconds = 0, 0.0

    def figures(self, tokens: int, seconds: float, world_size: int) -> dict[str, float]:
        """The two figures for `tokens` of all ranks in `seconds`."""
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


def flops_per_token(model: PreTrainedModel, attended: float, logits_share: float = 1.0) -> float:
    """FLOPs that training on one token takes.

    Args:
        attended: tokens of the document that a token is in, on average.
        logits_share: share of the tokens whose logits are computed.
    """
    config = model.config.get_text_config()
    tables = model.get_input_embeddings().parameters()  # with adapters, one of them is the frozen weight
    size, embedding = max(((getattr(table, "ds_numel", table.numel()), table) for table in tables), key=lambda x: x[0])
    head = model.get_output_embeddings()  # None of a model that labels texts, else as many elements
    heads = getattr(config, "num_attention_heads", 0)  # a state-space model has none
    head_size = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    trained = count_parameters(model, trained=True)
    frozen = count_parameters(model) - trained
    skipped = 0.0 if head is None else size * (1 - logits_share) * (6 if head.weight.requires_grad else 4)
    if head is None or not config.tie_word_embeddings:
        skipped += size * (6 if embedding.requires_grad else 4)  # a lookup costs nothing
    return 6 * trained + 4 * frozen - skipped + 12 * config.num_hidden_layers * heads * head_size * attended


def logits_share(rows: Dataset, collator: PackingCollator) -> float:
    """Share of the tokens whose logits are computed: with `skip_prompts`, the share with a label; otherwise 1."""
    if not collator.skip_prompts:
        return 1.0
    labels = [chunk.flatten().to_numpy() for chunk in column(rows, "labels").chunks]
    return sum((chunk != -100).sum() for chunk in labels) / sum(map(len, labels))
