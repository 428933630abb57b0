"""Text to rows of tokens: sources, tokenization, packing."""
