"""Memory and time of a preparation by the size of the text, and whether a killed one can be repeated.

python benchmarks/preparation.py --megabytes 500 2000
python benchmarks/preparation.py --megabytes 20 --kills 10

Each document has thirty random lines of this machine's installed packages; a twentieth of the documents are copies. The
memory is that of all processes together, sampled five times a second.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tokenize_and_pack import local_documents

RECIPE = Path(__file__).parent.parent / "recipes" / "prepare_data.py"


def write_corpus(folder: Path, megabytes: float) -> None:
    """Write JSON Lines files of at most 100 MB."""
    folder.mkdir()
    rng, left, copies = random.Random(0), megabytes * 1e6, []
    lines = [line for text in local_documents(40) for line in text.split("\n") if len(line) > 20]
    while left > 0:
        size = min(left, 100e6)
        left -= size
        with open(folder / f"{len(list(folder.iterdir())):03}.jsonl", "w", encoding="utf-8") as file:
            while size > 0:
                text = "\n".join(rng.choices(lines, k=30)) if rng.random() > 0.05 or not copies else rng.choice(copies)
                copies = [*copies[-50:], text] if rng.random() < 0.1 else copies
                row = json.dumps({"text": text}) + "\n"
                size -= len(row)
                file.write(row)


def command(source: Path, target: Path, flags: list[str]) -> list[str]:
    return [sys.executable, str(RECIPE), "--files", str(source), "--output_dir", str(target), *flags]


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds, and the peak memory in MB of the process and its children together."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            processes = [process, *process.children(recursive=True)]
            peak = max(peak, sum(each.memory_info().rss for each in processes))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.2)
    assert process.returncode == 0, process.returncode
    return time.perf_counter() - start, peak / 1e6


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def kill_and_repeat(source: Path, name: Path, kills: int, flags: list[str]) -> None:
    """Kill runs by `kill -9` at random moments, repeat each with the same command, and compare the files."""
    seconds, _ = measure(command(source, name / "uninterrupted", flags))
    expected, same, rng = hashes(name / "uninterrupted"), 0, random.Random(1)
    for number in range(kills):
        target = name / f"killed{number}"
        process = subprocess.Popen(
            command(source, target, flags), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        after = rng.uniform(0, seconds)
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = sorted(path.name for path in target.iterdir()) if target.exists() else []
        if not left:
            measure(command(source, target, flags))
        same += hashes(target) == expected
        print(f"killed after {after:.1f} of {seconds:.1f} s, {'after' if left else 'before'} the folder appeared")
    print(f"{same} of {kills} equal the uninterrupted run, byte for byte")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[500, 2000])
    parser.add_argument("--kills", type=int, default=0)
    args, flags = parser.parse_known_args()
    first = None
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory() as name:
            source = Path(name) / "source"
            write_corpus(source, megabytes)
            if args.kills:
                kill_and_repeat(source, Path(name), args.kills, flags)
                continue
            seconds, memory = measure(command(source, Path(name) / "out", flags))
            first = first or (seconds, memory)
            ratios = f"{seconds / first[0]:.2f} x the time, {memory / first[1]:.2f} x the memory"
            print(f"{megabytes:,.0f} MB: {seconds:.0f} s, peak {memory:.0f} MB; {ratios} of the first", flush=True)


if __name__ == "__main__":
    main()
