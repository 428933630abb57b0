"""Run a Python file with the hf_llm of the current folder, in a fork that has imported another one.

All other packages stay imported, which saves 8 seconds of CPU time.
"""

import os
import runpy
import sys

for module in [name for name in sys.modules if name.partition(".")[0] == "hf_llm"]:
    del sys.modules[module]
sys.path.insert(0, os.getcwd())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
