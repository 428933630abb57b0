"""From raw text to a measured, published language model, with stock Hugging Face parts."""

import os

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # what is prepared here is nobody else's business

__version__ = "0.1.0"
