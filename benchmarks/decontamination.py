"""Whether contexts of an evaluation that were planted in training text are found, however they are written.

    python benchmarks/decontamination.py SQUAD_VALIDATION.jsonl --unrelated FILE.jsonl [FILE.jsonl ...]

Each context stands between other words of a text: as it is, in capitals, without punctuation, with other spacing, with
other punctuation, in turn. Nothing is to be found in the unrelated files.
"""

import argparse
import json
import re
from pathlib import Path

from hf_llm.preparation.decontamination import Decontaminator

SPELLINGS = {
    "as it is": lambda text: text,
    "capitals": str.upper,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "spacing": lambda text: re.sub(r" ", "\n  ", text),
    "punctuation": lambda text: re.sub(r"[,.]", " --", text),
}


def column(path: Path) -> list[str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(row.get("context") or row["text"] for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--unrelated", nargs="+", type=Path, default=[])
    options = parser.parse_args()
    contexts, unrelated = column(options.evaluation), [text for path in options.unrelated for text in column(path)]
    decontaminator = Decontaminator(contexts, 13)
    found = dict.fromkeys(SPELLINGS, 0)
    planted = dict.fromkeys(SPELLINGS, 0)
    for number, context in enumerate(contexts):
        spelling = list(SPELLINGS)[number % len(SPELLINGS)]
        text = f"Something else was said before. {SPELLINGS[spelling](context)} And then it went on for a while."
        planted[spelling] += 1
        found[spelling] += len(decontaminator.matches(text)) > 0
    for spelling, number in planted.items():
        print(f"{spelling}: {found[spelling]} of {number}")
    wrong = sum(len(decontaminator.matches(text)) > 0 for text in unrelated)
    print(f"all: {sum(found.values())} of {len(contexts)}; unrelated texts: {wrong} of {len(unrelated):,}")
