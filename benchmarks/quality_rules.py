"""The quality rules against datatrove's filters: which texts each drops, and how fast it is.

    pip install 'datatrove[io,processing]' spacy 'xxhash<4'
    python benchmarks/quality_rules.py FILE [FILE ...]

Files are `.jsonl` with a column `text` or `context`, or any other text file, which is one document. By default
datatrove splits words by spaCy, where each punctuation mark is a word. The time is measured that way; the decisions are
compared with words that are split at spaces.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

from hf_llm.preparation.cleaning import trim_whitespace
from hf_llm.preparation.quality import RULES, Page, drop_c4_lines

FILTERS = {
    "gopher": GopherQualityFilter(),
    "repetition": GopherRepetitionFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=True),
    "fineweb": FineWebQualityFilter(),
}


MODULES = (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter)
SPACY = gopher_quality_filter.split_into_words


def split_at_spaces() -> None:
    for module in MODULES:
        module.split_into_words = lambda text, language: text.split()


def split_by_spacy() -> None:
    for module in MODULES:
        module.split_into_words = SPACY


def read_texts(path: Path) -> list[str]:
    if path.suffix != ".jsonl":
        return [path.read_text(encoding="utf-8", errors="replace")]
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(row.get("text") or row["context"] for row in rows))


def hf_llm_reason(rule: str, text: str) -> str | None:
    """The reason for which hf_llm drops a text; None: it is kept."""
    return RULES[rule](Page(trim_whitespace(drop_c4_lines(text)) if rule == "c4" else text))


def datatrove_reason(rule: str, text: str) -> str | None:
    """The reason for which datatrove drops a text; None: it is kept."""
    result = FILTERS[rule].filter(Document(text=text, id="0"))
    return None if result is True else result[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    texts = [text for path in parser.parse_args().files for text in read_texts(path) if text.strip()]
    print(f"{len(texts):,} texts")
    print("| rule | same decision | dropped by hf_llm | dropped by datatrove | times as fast |\n|---|---|---|---|---|")
    for rule in RULES:
        seconds, reasons = [], []
        for find_reason in (hf_llm_reason, datatrove_reason, datatrove_reason):
            if len(seconds) == 2:
                split_at_spaces()
            begun = time.perf_counter()
            reasons.append([find_reason(rule, text) for text in texts])
            seconds.append(time.perf_counter() - begun)
        ours, theirs = reasons[0], reasons[2]
        same = sum((a is None) == (b is None) for a, b in zip(ours, theirs, strict=True)) / len(texts)
        dropped = [len(texts) - each.count(None) for each in (ours, theirs)]
        print(f"| {rule} | {same:.1%} | {dropped[0]} | {dropped[1]} | {seconds[1] / seconds[0]:.1f} |")
        differences = Counter((a, b) for a, b in zip(ours, theirs, strict=True) if (a is None) != (b is None))
        for (a, b), number in differences.most_common(3):
            print(f"    {number} x hf_llm: {a}; datatrove: {b}")
        split_by_spacy()
