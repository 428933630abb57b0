"""Tokenizers and models: loading, inspection, and checks of what a token sees."""
