"""Tokenizer and model: loading, what can be asked of a model, proof of what a token sees."""
