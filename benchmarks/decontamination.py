"""Detection of contexts of an evaluation that are inserted into training text, in different spellings.

    python benchmarks/decontamination.py SQUAD_VALIDATION.jsonl --unrelated FILE.jsonl [FILE.jsonl ...]

Each context is inserted between other words, in turn unchanged, in capitals, without punctuation, with other spacing
and with other punctuation. No match is expected in the unrelated files.
"""

import argparse
import json
import re
from pathlib import Path

from hf_llm.preparation.decontamination import Decontaminator

SPELLINGS = {
    "unchanged": lambda text: text,
    "capitals": str.upper,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "spacing": lambda text: re.sub(r" ", "\n  ", text),
    "punctuation": lambda text: re.sub(r"[,.]", " --", text),
}


def read_texts(path: Path) -> list[str]:
    """Different contexts, or texts, of a JSON Lines file."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(row.get("context") or row["text"] for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--unrelated", nargs="+", type=Path, default=[])
    options = parser.parse_args()
    contexts = read_texts(options.evaluation)
    unrelated = [text for path in options.unrelated for text in read_texts(path)]
    decontaminator = Decontaminator(contexts, 13)
    detected = dict.fromkeys(SPELLINGS, 0)
    inserted = dict.fromkeys(SPELLINGS, 0)
    for number, context in enumerate(contexts):
        spelling = list(SPELLINGS)[number % len(SPELLINGS)]
        text = f"Something else was said before. {SPELLINGS[spelling](context)} And then it went on for a while."
        inserted[spelling] += 1
        detected[spelling] += len(decontaminator.matches(text)) > 0
    for spelling, number in inserted.items():
        print(f"{spelling}: {detected[spelling]} of {number}")
    wrong = sum(len(decontaminator.matches(text)) > 0 for text in unrelated)
    print(f"all: {sum(detected.values())} of {len(contexts)}; unrelated texts: {wrong} of {len(unrelated):,}")
