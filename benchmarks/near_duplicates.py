"""Near-deduplication of a file, end to end: hf_llm against datasketch and datatrove, alternating, and exact results.

    pip install datasketch 'datatrove[io,processing]' spacy 'xxhash<4'
    python benchmarks/near_duplicates.py
    python benchmarks/near_duplicates.py --documents 40000 --rounds 3 --ray

The text is Python source of this machine's installed packages, split into documents of about a kilobyte, with inserted
copies: equal ones, and ones with 1 % and 20 % of the words changed. Each tool reads one JSON Lines file and writes the
documents that it keeps. Other steps of hf_llm are turned off; it still writes its manifest and report.
"""

import argparse
import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import daft
import numpy as np
import pyarrow.parquet as pq
from tokenize_and_pack import local_documents

from hf_llm.arguments import PreparationArguments
from hf_llm.preparation.deduplication import words_and_symbols
from hf_llm.preparation.pipeline import prepare

THRESHOLD, NGRAM = 0.8, 5


def split_documents(megabytes: float, rng: random.Random) -> list[str]:
    """Split local documents at line ends, into documents of 600 to 2,500 characters."""
    documents = []
    for document in local_documents(megabytes):
        piece, size = [], rng.randrange(600, 1700)
        for line in document.split("\n"):
            piece.append(line)
            if sum(map(len, piece)) > size:
                text = "\n".join(piece)
                if len(text) < 2500 and len(text.split()) > 50:
                    documents.append(text)
                piece, size = [], rng.randrange(600, 1700)
    return documents


def insert_copies(texts: list[str], rng: random.Random) -> list[str]:
    """Insert a quarter as many copies in random order: equal, and with 1 % and 20 % of the words changed."""
    copies = []
    for share in itertools.islice(itertools.cycle([0, 0.01, 0.2]), len(texts) // 4):
        changed = rng.choice(texts).split(" ")
        for position in rng.sample(range(len(changed)), min(len(changed), -int(-share * len(changed) // 1))):
            changed[position] = f"w{rng.randrange(10**6)}"
        copies.append(" ".join(changed))
    return rng.sample(texts + copies, len(texts) + len(copies))


def word_ngrams(texts: list[str]) -> list[frozenset]:
    """The set of n-grams of words of each text; of a shorter text all words as one n-gram."""
    table = daft.from_pydict({"text": texts}).select(words_and_symbols(daft.col("text"))).to_arrow()
    sets = []
    for words in map(str.split, table["text"].to_pylist()):
        grams = zip(*(words[start:] for start in range(NGRAM)), strict=False) if len(words) >= NGRAM else [tuple(words)]
        sets.append(frozenset(grams if words else []))
    return sets


def true_pairs(texts: list[str]) -> set[tuple[int, int]]:
    """All pairs with an exact Jaccard similarity of 0.8 or more.

    Two such sets share at least one of the rarest fifth of their members (plus one), so only these are looked up.
    """
    sets, counts = word_ngrams(texts), defaultdict(int)
    for grams in sets:
        for gram in grams:
            counts[gram] += 1
    holders, pairs = defaultdict(list), set()
    for i, grams in enumerate(sets):
        prefix = len(grams) - -int(-THRESHOLD * len(grams) // 1) + 1
        rarest = sorted(grams, key=lambda gram: (counts[gram], gram))[:prefix]
        for j in {j for gram in rarest for j in holders[gram]}:
            if len(grams & sets[j]) >= THRESHOLD * len(grams | sets[j]):
                pairs.add((j, i))
        for gram in rarest:
            holders[gram].append(i)
    return pairs


def first_of_cluster(number: int, pairs) -> list[int]:
    """For each of `number` documents the first one of its cluster, which the pairs connect."""
    parent = list(range(number))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    return list(map(root, range(number)))


def with_hf_llm(source: Path, folder: Path) -> list[int]:
    prepare(PreparationArguments(files=[str(source)], output_dir=str(folder), clean=False, anonymize="none"))
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path)["row"].to_pylist()]


def with_datasketch(source: Path, folder: Path) -> list[int]:
    from datasketch import MinHash, MinHashLSH

    texts = [json.loads(line)["text"] for line in source.open(encoding="utf-8")]
    grams = ([" ".join(gram).encode() for gram in grams] for grams in word_ngrams(texts))
    lsh, pairs = MinHashLSH(threshold=THRESHOLD, num_perm=120, params=(20, 6)), []
    for i, minhash in enumerate(MinHash.generator(grams, num_perm=120)):
        pairs += [(j, i) for j in lsh.query(minhash)]
        lsh.insert(i, minhash)
    first = first_of_cluster(len(texts), pairs)
    kept = [i for i in range(len(texts)) if first[i] == i]
    folder.mkdir()
    with open(folder / "kept.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": texts[i]}) + "\n" for i in kept)
    return kept


def with_datatrove(source: Path, folder: Path) -> list[int]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=NGRAM, num_buckets=20, hashes_per_bucket=6)
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "in").mkdir(parents=True)
    for part in (0, 1):  # one file for each of two workers
        half = lines[part * len(lines) // 2 : (part + 1) * len(lines) // 2]
        (folder / "in" / f"{part}.jsonl").write_text("".join(half), encoding="utf-8")
    reader, at = JsonlReader(str(folder / "in")), lambda name: str(folder / name)
    stages = [
        ([reader, MinhashDedupSignature(at("signatures"), config=config)], 2),
        ([MinhashDedupBuckets(at("signatures"), at("buckets"), config=config)], 20),
        ([MinhashDedupCluster(at("buckets"), at("remove"), config=config)], 1),
        ([reader, MinhashDedupFilter(at("remove")), JsonlWriter(at("kept"), compression=None)], 2),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=2, logging_dir=at(f"log{number}")).run()
    order = {line: number for number, line in reversed(list(enumerate(lines)))}
    kept = [json.loads(line)["text"] for path in (folder / "kept").iterdir() for line in path.open(encoding="utf-8")]
    return sorted(order[json.dumps({"text": text}) + "\n"] for text in kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", default=["hf_llm", "datasketch", "datatrove"])
    parser.add_argument("--ray", action="store_true", help="compare with the rows that a local Ray cluster keeps")
    args = parser.parse_args()

    rng = random.Random(0)
    texts = insert_copies(rng.sample(split_documents(args.documents / 600, rng), args.documents * 4 // 5), rng)
    tools = {"hf_llm": with_hf_llm, "datasketch": with_datasketch, "datatrove": with_datatrove}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "documents.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        print(f"{len(texts):,} documents, {source.stat().st_size / 1e6:.1f} MB")
        seconds, kept = defaultdict(list), {}
        for _ in range(args.rounds):
            for tool in args.tools:
                shutil.rmtree(Path(name) / "out", ignore_errors=True)
                start = time.perf_counter()
                kept[tool] = tools[tool](source, Path(name) / "out")
                seconds[tool].append(time.perf_counter() - start)
        pairs = true_pairs(texts)
        truth = np.array(first_of_cluster(len(texts), pairs))
        print(f"{len(pairs):,} pairs with a Jaccard similarity of {THRESHOLD} or more")
        later = set(np.flatnonzero(truth != np.arange(len(texts))).tolist())
        print("tool        times as long   recall   precision   of documents that duplicate an earlier one")
        for tool in args.tools:
            dropped = set(range(len(texts))) - set(kept[tool])
            ratio = [t / ours for t, ours in zip(seconds[tool], seconds["hf_llm"], strict=True)]
            right = len(dropped & later)
            rounds = ", ".join(f"{r:.1f}" for r in ratio)
            print(
                f"{tool:12}{statistics.median(ratio):8.1f} ({rounds})   {right / len(later):.4f}   "
                f"{right / max(len(dropped), 1):.4f}   {statistics.median(seconds[tool]):.1f} s"
            )
        if args.ray:
            # Daft allows one runner per process.
            recipe = Path(__file__).parent.parent / "recipes" / "prepare_data.py"
            command = [sys.executable, recipe, "--files", source, "--output_dir", Path(name) / "ray", "--runner", "ray"]
            subprocess.run([*command, "--clean", "false", "--anonymize", "none"], check=True, capture_output=True)
            rows = pq.read_table(Path(name) / "ray" / "part-00000.parquet")["row"].to_pylist()
            print(f"the same rows on a local Ray cluster: {rows == kept['hf_llm']}")


if __name__ == "__main__":
    main()
