"""A tokenizer and a saved model that the tests of models share."""

import pytest
import torch
from tiny import new_model, new_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A saved Llama in bfloat16, with its tokenizer."""
    new_model(vocab_size=len(tokenizer)).to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
