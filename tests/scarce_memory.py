"""Run a recipe as if all weights of a model together did not fit in memory.

torchrun --nproc_per_node 2 tests/scarce_memory.py recipes/finetune.py --flag value ...
"""

import os
import runpy
import sys

from hf_llm.distributed import zero

if __name__ == "__main__":
    zero.fit_in_memory = lambda model: False
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
