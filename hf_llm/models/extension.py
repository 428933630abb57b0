"""Embeddings of new tokens in a model whose vocabulary has grown."""

import torch
from transformers import PreTrainedModel

from hf_llm.distributed.zero import gathered_to_change


@torch.no_grad()
def extend_embeddings(model: PreTrainedModel, pieces: dict[int, list[int]]) -> None:
    """Set input and output embeddings of new tokens to the mean over the tokens they replace (Gee et al., 2022).

    Args:
        pieces: for each new token id the ids of the old tokens that it replaces. {300: [5, 7]} gives row 300 the mean
            of rows 5 and 7.
    """
    if max(pieces) >= model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(max(pieces) + 1, mean_resizing=False)
    new, flat = torch.tensor(list(pieces)), torch.tensor([id for ids in pieces.values() for id in ids])
    sizes = torch.tensor([len(ids) for ids in pieces.values()])
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [embedding.weight, getattr(head, "weight", None), getattr(head, "bias", None)]
    with gathered_to_change(unique := [*{id(table): table for table in tables if table is not None}.values()]):
        for weights in unique:
            table = weights if weights.dim() == 2 else weights[:, None]
            means = torch.nn.functional.embedding_bag(flat, table.float(), sizes.cumsum(0) - sizes, mode="mean")
            table[new] = means.to(table.dtype)
