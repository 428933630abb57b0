"""Losses that a model adds to that of its tokens, divided among micro-batches and ranks like the loss of the tokens.

transformers' models return the sum of both. They divide the tokens' loss by the tokens of the whole step, but not what
they add, which would count once for every micro-batch: four times in four micro-batches of a row, once in one of four.
"""

import inspect
import logging
import sys
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer
from transformers.utils import ModelOutput

from hf_llm.models.inspection import unwrap_adapters

logger = logging.getLogger(__name__)


def divide_added_losses(trainer: Trainer, model: PreTrainedModel) -> None:
    """Give a Trainer the `compute_loss_func` for a model that adds losses; for other models change nothing.

    Args:
        model: the trainer's model, possibly with adapters.

    Raises:
        ValueError: the model adds a loss that cannot be divided.
    """
    plain = unwrap_adapters(model)
    coefficient = router_coefficient(plain)
    if coefficient or z_coefficient(plain):
        logger.info(f"{type(plain).__name__} adds a loss to that of its tokens; it is computed for each row")
        trainer.compute_loss_func = DividedLoss(plain, trainer.label_smoother)


def router_coefficient(model: PreTrainedModel) -> float:
    """Return the weight of the load-balancing loss of a mixture of experts, 0 where the model adds none.

    Raises:
        ValueError: the loss is not a function of the logits of each token's router.
    """
    config = model.config.get_text_config()
    balance = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    if balance is None or not getattr(config, "output_router_logits", False):
        return 0.0
    if not hasattr(model, "num_experts_per_tok") or "num_keys" in inspect.signature(balance).parameters:
        raise ValueError(
            f"the router's loss of {type(model).__name__} cannot be divided among micro-batches: set "
            "`output_router_logits` to false in the model's config"
        )
    name = "router_aux_loss_coef" if hasattr(model, "router_aux_loss_coef") else "aux_loss_coef"
    return getattr(model, name)


def z_coefficient(model: PreTrainedModel) -> float:
    """Return the weight of the squared log-partition functions of the logits (z-loss), 0 where the model adds none."""
    return getattr(model, "z_loss_coefficient", 0.0)


class DividedLoss:
    """The loss of the tokens and of what the model adds, for `Trainer(compute_loss_func=...)`.

    A row's share of the loss is its number of predicted tokens by that of the whole step. The loss of the routers is
    computed for each row and weighted with the row's share, so that the sum over a step does not depend on how its
    rows are divided into micro-batches and ranks (Megatron's `seq_aux_loss`; section 2.1.2 of DeepSeek-V3,
    arXiv:2412.19437). With one row in a batch it is the loss that the model itself adds.

    Args:
        model: a transformers model without adapters around it.
        smoother: the Trainer's `label_smoother`, or None.
    """

    def __init__(self, model: PreTrainedModel, smoother: Any = None):
        self.model, self.smoother = model, smoother

    def __call__(self, outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the loss of a micro-batch.

        Args:
            outputs: with `logits`, (B, T, vocabulary), or (L, vocabulary) for `PackingCollator(skip_prompts=True)`.
            labels: (B, T), -100 where no token is predicted.
            num_items_in_batch: predicted tokens of the step; None: those of this batch.
        """
        logits = outputs["logits"]
        predicted = labels[:, 1:] != -100
        counts = predicted.sum(1)
        total = counts.sum() if num_items_in_batch is None else num_items_in_batch
        targets = {"shift_labels": labels[:, 1:][predicted]} if logits.dim() == 2 else {}
        if self.smoother is None:
            loss = self.model.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=total, **targets
            )
        else:
            loss = self.smoother(outputs, labels, shift_labels=True, num_items_in_batch=total)
        if coefficient := z_coefficient(self.model):
            scored = logits if logits.dim() == 2 else logits[:, :-1][predicted]
            loss = loss + coefficient * scored.float().logsumexp(-1).pow(2).sum() / total
        if coefficient := router_coefficient(self.model):
            losses = router_losses(self.model, outputs["router_logits"], labels)
            loss = loss + coefficient * (losses * counts / total).sum()
        return loss


def router_losses(
    model: PreTrainedModel, router_logits: tuple[torch.Tensor, ...], labels: torch.Tensor
) -> torch.Tensor:
    """Compute the model's load-balancing loss for each row, without the padding after its last label, (B,).

    Args:
        router_logits: for each layer (B * T, experts).
        labels: (B, T). Labels [-100, 5, 6, -100] are of a row of three tokens.
    """
    balance = sys.modules[type(model).__module__].load_balancing_loss_func
    layers = [layer.view(*labels.shape, -1) for layer in router_logits]
    positions = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    lengths = (positions * (labels != -100)).amax(1).clamp(min=1).tolist()
    rows = [tuple(layer[row, :length] for layer in layers) for row, length in enumerate(lengths)]
    return torch.stack([balance(row, model.num_experts, model.num_experts_per_tok) for row in rows])
