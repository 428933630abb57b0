"""Detection of personal data, and its speed: hf_llm against the pattern recognizers of Presidio, alternating.

    pip install presidio-analyzer
    python benchmarks/privacy.py FILE.jsonl [FILE.jsonl ...]

Files have rows `{"text": str, "spans": [{"type", "start", "end"}]}` with Presidio's names of types. Only well-formed
values count: with a valid checksum, or a number in a range that was issued. A value is detected if a span of its type
overlaps it; a span that overlaps no value is wrong.
"""

import argparse
import json
import re
import statistics
import time
from collections import Counter
from pathlib import Path

from stdnum import iban, luhn
from stdnum.us import ssn

from hf_llm.preparation.anonymization import Anonymizer

TYPES = {
    "CREDIT_CARD": "CREDIT_CARD",
    "EMAIL_ADDRESS": "EMAIL",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP_ADDRESS",
    "PHONE_NUMBER": "PHONE",
    "US_SSN": "US_SSN",
}
WELL_FORMED = {
    "CREDIT_CARD": lambda value: luhn.is_valid(re.sub(r"\D", "", value)),
    "IBAN_CODE": lambda value: iban.is_valid(value, check_country=False),
    "US_SSN": ssn.is_valid,
}
Span = tuple[str, int, int]


def with_hf_llm(text: str) -> list[Span]:
    """The spans that the anonymizer would replace, under Presidio's names."""
    names = {ours: theirs for theirs, ours in TYPES.items()}
    return [(names.get(value.kind, value.kind), value.start, value.end) for value in Anonymizer().find(text)]


def with_presidio():
    """A function that finds the spans by Presidio's pattern recognizers."""
    from presidio_analyzer import predefined_recognizers

    recognizers = [
        predefined_recognizers.CreditCardRecognizer(),
        predefined_recognizers.EmailRecognizer(),
        predefined_recognizers.IbanRecognizer(),
        predefined_recognizers.IpRecognizer(),
        predefined_recognizers.PhoneRecognizer(),
        predefined_recognizers.UsSsnRecognizer(),
    ]

    def find(text: str) -> list[Span]:
        results = [r for each in recognizers for r in each.analyze(text, each.supported_entities, None)]
        return [(r.entity_type, r.start, r.end) for r in results if r.score >= 0.4]

    return find


def compare(rows: list[dict], detected: list[list[Span]]) -> dict[str, Counter]:
    """Count for each type the values and those that are detected, and the spans and those that are right."""
    counts = {name: Counter() for name in TYPES}
    for row, spans in zip(rows, detected, strict=True):
        gold = [(s["type"], s["start"], s["end"]) for s in row["spans"] if s["type"] in TYPES]
        for name, start, end in gold:
            hit = any(other == name and a < end and start < b for other, a, b in spans)
            if WELL_FORMED.get(name, bool)(row["text"][start:end]):
                counts[name]["values"] += 1
                counts[name]["detected"] += hit
        for name, start, end in spans:
            if name in TYPES:
                counts[name]["right"] += any(other == name and a < end and start < b for other, a, b in gold)
                counts[name]["spans"] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = [json.loads(line) for path in args.files for line in Path(path).read_text("utf-8").splitlines()]
    megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
    tools, seconds = {"hf_llm": with_hf_llm, "presidio": with_presidio()}, {"hf_llm": [], "presidio": []}
    for _ in range(args.rounds):
        for tool, find in tools.items():
            start = time.perf_counter()
            spans = [find(row["text"]) for row in rows]
            seconds[tool].append(time.perf_counter() - start)
            if len(seconds[tool]) < args.rounds:
                continue
            counts = compare(rows, spans)
            counts["all"] = sum(counts.values(), Counter())
            for name, c in counts.items():
                recall, precision = c["detected"] / max(c["values"], 1), c["right"] / max(c["spans"], 1)
                print(f"{tool:9} {name:14} {c['values']:4} values   recall {recall:.3f}   precision {precision:.3f}")
    ratios = [theirs / ours for ours, theirs in zip(seconds["hf_llm"], seconds["presidio"], strict=True)]
    print(f"{megabytes:.2f} MB, times as fast in each round: {', '.join(f'{r:.1f}' for r in ratios)}")
    print(f"hf_llm {megabytes / statistics.median(seconds['hf_llm']):.1f} MB/s on one core")


if __name__ == "__main__":
    main()
