"""A recipe that trains nothing: its scores follow from its flags, and its rank lives in a session of its own.

    python tests/search/quick_recipe.py --output_dir OUT --learning_rate 0.1 [--evaluations 4] [--sleep 0.1] ...

The loss after evaluation n is (log10(learning_rate) + 2) ** 2 + size / 100 + 1 / n, more for later folds and seeds.
`--fail=true` ends it with an error.
"""

import json
import os
import subprocess
import sys
import time
from math import log10
from pathlib import Path


def train(flags: dict) -> None:
    folder = Path(flags["output_dir"])
    folder.mkdir(parents=True)
    with open(folder.parents[2] / "started.txt", "a") as file:
        file.write(f"{folder.parent.name} {os.getpid()}\n")
    if flags.get("fail") == "true":
        sys.exit("error: it fails, as asked\nanother line")
    size = flags.get("config_overrides", {}).get("size", 0)
    for number in range(1, int(flags.get("evaluations", 1)) + 1):
        time.sleep(float(flags.get("sleep", 0)))
        loss = (log10(float(flags["learning_rate"])) + 2) ** 2 + size / 100 + 1 / number
        loss += 0.01 * int(flags.get("seed", 0)) + 0.1 * int(flags.get("fold", "0").split("/")[0])
        with open(folder / "log.jsonl", "a") as file:
            file.write(json.dumps({"step": 10 * number, "eval_loss": loss}) + "\n")
    (folder / "model.safetensors").write_text("weights")
    (folder / "all_results.json").write_text(json.dumps({"eval_loss": loss, "model": "text"}))


if __name__ == "__main__":
    if os.environ.get("QUICK_RANK"):
        words = (word.removeprefix("--").partition("=") for word in sys.argv[1:])
        flags = {name: json.loads(value) if value[:1] == "{" else value for name, _, value in words}
        train(flags)
    else:
        environment = os.environ | {"QUICK_RANK": "1"}
        sys.exit(subprocess.Popen([sys.executable, "-S", *sys.argv], env=environment, start_new_session=True).wait())
