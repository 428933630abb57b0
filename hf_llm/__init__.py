"""From raw text to a measured, published language model, with stock Hugging Face parts."""

import logging
import os

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # what is prepared here is nobody else's business
# Says at each import that a kernel of the Hub is not there, which 4-bit weights do without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
