"""Detection of personal data, and its speed: hf_llm against the pattern recognizers of Presidio, alternating.

    pip install presidio-analyzer
    python benchmarks/privacy.py FILE.jsonl [FILE.jsonl ...]
    python benchmarks/privacy.py --documentation /usr/share/doc [--megabytes 30] [--sample 200] [--seed 0]
    python benchmarks/privacy.py --worst

The second command counts what is found in technical text, by kind and per MB, and shows a sample with the text around
it, to be judged by eye: each value once, and no e-mail addresses in angle brackets. It reads files in a random order
(text, HTML, docstrings of Python; also gzipped). The third one takes the time of each search on its worst text.

Files have rows `{"text": str, "spans": [{"type", "start", "end"}]}` with Presidio's names of types. Only well-formed
values count: with a valid checksum, or a number in a range that was issued. A value is detected if a span of its type
overlaps it; a span that overlaps no value is wrong.
"""

import argparse
import ast
import gzip
import json
import random
import re
import statistics
import time
import zlib
from collections import Counter
from pathlib import Path

import lxml.etree
import lxml.html
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


def read(path: Path) -> str | None:
    """Return the text of a file, of an HTML page, or of the docstrings of a module; None if it is not text."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        if suffix in (".html", ".htm", ".xhtml"):
            page = lxml.html.fromstring(data)
            lxml.etree.strip_elements(page, "script", "style", with_tail=False)
            return "\n".join(page.itertext())
        if suffix == ".py":
            nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            strings = (ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, nodes))
            return "\n\n".join(filter(None, strings))
    except (OSError, EOFError, ValueError, SyntaxError, zlib.error, lxml.etree.LxmlError):
        return None
    return None if "\0" in text or suffix in (".js", ".css", ".svg", ".json", ".map", ".xml") else text


def search_documentation(paths: list[str], megabytes: float, sample: int, seed: int) -> None:
    """Print how often each kind is found per MB, and a sample of the values with the text around them."""
    files = sorted(file for path in paths for file in Path(path).rglob("*") if file.is_file() and not file.is_symlink())
    random.Random(seed).shuffle(files)
    size, counts, shown, texts = 0, Counter(), {}, set()
    for file in files:
        text = read(file)
        if text is None or hash(text) in texts or len(text) < 200:
            continue
        texts.add(hash(text))
        size += len(text.encode("utf-8", "replace"))
        for start, end, kind in Anonymizer().find(text):
            counts[kind] += 1
            before, after = text[max(0, start - 50) : start], text[end : end + 30]
            if kind != "EMAIL" or not before.endswith("<"):
                shown.setdefault((kind, text[start:end]), f"{before!r} {text[start:end]!r} {after!r} {file.name}")
        if size > megabytes * 1e6:
            break
    print(f"{size / 1e6:.1f} MB, {len(texts)} files")
    for kind, count in counts.most_common():
        print(f"{kind:12} {count:6}   {count / size * 1e6:.2f} per MB")
    for (kind, _), line in random.Random(seed).sample(sorted(shown.items()), min(sample, len(shown))):
        print(kind, line)


# What makes each search look at the same characters as often as it can, repeated.
WORST = {
    "API_KEY": ["-eyJ", "eyJaaaaaaaaaa.", "_SECRET", "TOKEN=", 'token="', "-xoxb-1", "-sk-ant-", "hf_a", "aws ", "A",
                "AccountKey=", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nAAAA\n",
                "Private-Lines: 1\nAAAA\n"],
    "CREDENTIALS": ["://", "://a:a", "://a:a@"],
    "EMAIL": ["a@", "a.", "a@a.", "例@例.", "x@a.com "],
    "IBAN": ["DE12 ", "aa11 bbbb ", "DE12abcd"],
    "IP_ADDRESS": ["1.1.1.", "1.2.3.4 ", "ip 1.2.3.4 ", "ab:", "::", "2001:"],
    "CN_ID": ["1", "11010519491231002X"],
    "CREDIT_CARD": ["4111111111111111 ", "4111 1111 1111 1111 ", "4111 "],
    "US_SSN": ["123-45-", "536-90-4399 "],
    "NATIONAL_ID": ["AAAA11", "DNI 1234567 ", "1-", "12.345.678-"],
    "PHONE": ["1 ", "(1", "a 1234567 ", "手机1234567 ", "call me at ", "phone number is ", "+49 30 901820 "],
}  # fmt: skip
# Without it, some searches would not start.
END = " TOKEN=abcdefgh key='abcdefghij123456' jo@x ://a:b@c 1234567 AAAA11 1.2.3 a::b:cde: eyJ hooks"
END += " PRIVATE KEY Private-Lines"


def time_worst_texts() -> None:
    """Print the CPU seconds of each search on the slowest of its texts, at 100 kB and at 1 MB."""
    for name, fragments in WORST.items():
        anonymizer, rows = Anonymizer([name]), []
        for fragment in fragments:
            seconds = []
            for size in (100_000, 1_000_000):
                text = (fragment * (size // len(fragment) + 1))[:size] + END
                start = time.process_time()
                anonymizer(text)
                seconds.append(time.process_time() - start)
            rows.append((seconds, fragment))
        (small, large), fragment = max(rows)
        print(f"{name:12} {fragment!r:40} 100 kB: {small:.3f} s   1 MB: {large:.2f} s   {large / small:.1f} times")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documentation", nargs="+", metavar="PATH")
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worst", action="store_true")
    args = parser.parse_args()
    if args.documentation:
        search_documentation(args.documentation, args.megabytes, args.sample, args.seed)
    if args.worst:
        time_worst_texts()
    if args.files:
        compare_with_presidio(args)


def compare_with_presidio(args: argparse.Namespace):
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
