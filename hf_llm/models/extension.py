"""A model with a larger vocabulary: loaded as it was saved, and embeddings for the new tokens."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_llm.arguments import ModelArguments, TokenizerArguments
from hf_llm.models.inspection import detect_auto_class
from hf_llm.models.loading import load_model, read_tokenizer


def load_to_extend(args: TokenizerArguments) -> tuple[PreTrainedTokenizerBase | None, PreTrainedModel | None]:
    """Load the tokenizer and the model, as they were saved, whose vocabulary is to be extended.

    Returns:
        Tokenizer and model; None for the model if only a tokenizer is named, None for both if neither is.
    """
    name = args.model_name_or_path or args.tokenizer_name
    if name is None:
        return None, None
    tokenizer = read_tokenizer(name, args.trust_remote_code)
    if args.model_name_or_path is None:
        return tokenizer, None
    model_args = ModelArguments(model_name_or_path=name, trust_remote_code=args.trust_remote_code)
    return tokenizer, load_model(model_args, tokenizer, 1, detect_auto_class(name), dtype="auto")


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
    head = model.get_output_embeddings()
    for layer, name in ((model.get_input_embeddings(), "weight"), (head, "weight"), (head, "bias")):
        weights = getattr(layer, name, None)
        if weights is not None:
            table = weights if weights.dim() == 2 else weights[:, None]
            means = torch.nn.functional.embedding_bag(flat, table.float(), sizes.cumsum(0) - sizes, mode="mean")
            table[new] = means.to(table.dtype)
