"""From raw text to a measured, published language model, with stock Hugging Face parts.

The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

import logging
import os

import lazy_loader

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # Daft sends telemetry by default
os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")  # and shows a number of its own on a terminal
# Logs a missing Hub kernel, which 4-bit weights do not need, at every import.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
