"""From raw text to a measured, published language model, with stock Hugging Face parts."""

__version__ = "0.1.0"
