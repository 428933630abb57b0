"""A folder as people really have it goes through `prepare_data.py` in one go, and every byte of it is accounted for.

python benchmarks/real_files.py
python benchmarks/real_files.py --files 60 --folder /tmp/real

The files come from this machine: documents of the installed Python packages, manual pages and system documentation,
pages in fourteen languages and their usual charsets, exports as CSV, JSON and Parquet, archives, junk, links, earlier
outputs. What each file holds is written down while it is made, and what became of it is read from the shards, the
manifest and the list of dropped rows, without the package's own readers. With `--clean false` a kept text must be equal
to the one that was written, to the last character; of a page, its words must be there.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import random
import re
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import zstandard

RECIPE = Path(__file__).parent.parent / "recipes" / "prepare_data.py"
FLAGS = ["--clean", "false", "--anonymize", "none", "--on_error", "skip", "--max_unreadable", "1"]
MAN, DOC = Path("/usr/share/man"), Path("/usr/share/doc")
# Article 1 of the Universal Declaration of Human Rights, and the charsets of pages in that language.
LANGUAGES = json.loads(Path(__file__).with_name("human_rights.json").read_text(encoding="utf-8"))
# Share of the files of each kind; `--files` says how many there are in all.
SHARES = {
    "text": 75, "text, UTF-16": 5, "man pages": 60, "markdown": 40, "pages, declared charset": 60,
    "pages of packages": 40, "csv, comma": 15, "csv, semicolon, BOM": 15, "csv, tab, UTF-16": 15, "tsv": 5,
    "json lines": 25, "json lines, UTF-16": 5, "json list": 15, "Spark": 4, "parquet": 30, "gzip": 15,
    "gzip, zero padding": 5, "zstandard": 10, "archives": 15, "junk": 25, "broken rows": 10, "not UTF-8 names": 8,
    "hidden": 8, "readmes, licences": 8, "earlier outputs": 2, "other formats": 4,
}  # fmt: skip
BOM = "\ufeff"
ROWS = 20  # of a file with rows


@dataclass
class Written:
    """What was written to a file.

    Args:
        texts: of its rows; None for a row that is broken; no list for a file that is not to be read.
        partial: the file is broken: only its first rows can be kept, and the rest is lost.
        words: only the words of the text are compared, as the main text of a page is; "" if it is not known.
    """

    kind: str
    texts: list[str | None] | None = None
    partial: bool = False
    words: bool = False


class Folder:
    """Writes files of each kind and remembers what is in them, by their paths in bytes."""

    def __init__(self, path: Path, seed: int = 0):
        self.path, self.rng, self.written = path, random.Random(seed), {}
        self.documents = documents()
        self.rng.shuffle(self.documents)
        pieces = (text[start : start + 2000] for text in self.documents for start in range(0, len(text) - 500, 2000))
        self.pieces = list(dict.fromkeys(pieces))
        self.rng.shuffle(self.pieces)
        self.manuals = {language: manual_pages(language) for language in LANGUAGES}
        self.next = 0

    def text(self) -> str:
        """The next document, each one once, then numbered ones."""
        self.next += 1
        text = self.documents[self.next % len(self.documents)]
        return text if self.next < len(self.documents) else f"{self.next}\n{text}"

    def rows(self) -> list[str]:
        """Pieces of documents, and one of them twice."""
        rows = self.rng.sample(self.pieces, ROWS - 1)
        return [*rows, rows[0]]

    def add(self, name: str | bytes, content: bytes, kind: str, texts=None, **options) -> None:
        path = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        self.written[os.fsencode(name)] = Written(kind, texts, **options)

    def page(self, language: str, charset: str) -> tuple[bytes, str]:
        """A page with a declared charset, and its main text."""
        article = LANGUAGES[language]["article_1"]
        words = article.split() if " " in article else list(article)
        pages = self.manuals[language]
        shuffled = (" ".join(self.rng.sample(words, len(words))) for _ in range(4))
        paragraphs = [article, *(self.rng.sample(pages, 4) if len(pages) > 4 else shuffled)]
        main = "\n".join(text.encode(charset, "ignore").decode(charset) for text in paragraphs)
        body = "".join(f"<p>{html_text(text)}</p>\n" for text in main.split("\n"))
        head = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}"><title>{language}</title>'
        return f"<html><head>{head}</head><body><article>{body}</article></body></html>".encode(charset), main


def documents() -> list[str]:
    """Texts of the installed packages and of the system's documentation, each of 200 to 50,000 characters."""
    roots = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")] + [DOC]
    texts = {}
    for root in roots:
        paths = [
            path for pattern in ("*/*.md", "*/*.txt", "*/*.rst", "*.py", "*/METADATA") for path in root.glob(pattern)
        ]
        for path in sorted(paths)[:2000]:
            try:
                text = path.read_text(encoding="utf-8")[:50_000]
            except (OSError, UnicodeDecodeError):
                continue
            if len(text) > 200 and "\0" not in text:
                texts.setdefault(text, None)
    return list(texts)


def manual_pages(language: str) -> list[str]:
    """Paragraphs of the manual pages in a language, without formatting."""
    folder = MAN / {"zh": "zh_CN"}.get(language, language)
    found = []
    for path in sorted(folder.glob("man*/*.gz"))[:20]:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8", "ignore").split("\n")
        lines = [line for line in lines if line[:1] not in ("", ".", "'")]
        lines = [re.sub(r"\\f.|\\[&%|]", "", line).replace(r"\-", "-") for line in lines]
        found += [line for line in lines if len(line) > 60 and "\\" not in line]
    return found


def html_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_bytes(rows: list[str], delimiter: str, encoding: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([["id", "text", "note"], *([number, text, 'say "so"'] for number, text in enumerate(rows))])
    return file.getvalue().encode(encoding)


def json_lines(rows: list[str], **options) -> bytes:
    return "".join(json.dumps({"id": n, "text": text}, **options) + "\n" for n, text in enumerate(rows)).encode()


def parquet_bytes(rows: list[str], number: int) -> bytes:
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.binary()]
    texts = pa.array([row.encode() for row in rows], pa.binary()) if number % 5 == 4 else pa.array(rows)
    file = io.BytesIO()
    columns = {"text": texts.cast(kinds[number % 5]), "id": pa.array(range(len(rows)))}
    pq.write_table(pa.table(columns), file, compression=["snappy", "zstd", "none"][number % 3])
    return file.getvalue()


def write_documents(folder: Folder, count: Callable[[str], range]) -> None:
    """Texts, manual pages, Markdown and pages: one document a file."""
    for n in count("text"):
        text = folder.text()
        folder.add(f"text/{n:03}.txt", text.encode(), "text", [text])
    for n in count("text, UTF-16"):
        text = folder.text()
        encoding = ("utf-16", "utf-16-be")[n % 2]
        folder.add(f"text/wide-{n}.txt", (BOM * (n % 2) + text).encode(encoding), "text, UTF-16", [text])
    manuals = [line for pages in folder.manuals.values() for line in pages] or folder.documents
    for n in count("man pages"):
        text = "\n".join(folder.rng.sample(manuals, min(12, len(manuals))))
        folder.add(f"man/{n:03}.txt", text.encode(), "man pages", [text])
    for n in count("markdown"):
        text = folder.text()
        folder.add(f"notes/{n:03}.md", text.encode(), "markdown", [text])
    charsets = [(language, charset) for language, data in LANGUAGES.items() for charset in data["charsets"]]
    for n in count("pages, declared charset"):
        content, main = folder.page(*charsets[n % len(charsets)])
        folder.add(f"html/{n:03}.html", content, "pages, declared charset", [main], words=True)
    real = sorted(path for root in (Path(sysconfig.get_paths()["purelib"]), DOC) for path in root.glob("*/*/**/*.html"))
    for n, path in zip(count("pages of packages"), folder.rng.sample(real, len(real)), strict=False):
        folder.add(f"html/real-{n:03}.htm", path.read_bytes(), "pages of packages", [""], words=True)


def write_tables(folder: Folder, count: Callable[[str], range]) -> None:
    """Exports: several documents a file."""
    for kind, delimiter, encoding in (
        ("csv, comma", ",", "utf-8"),
        ("csv, semicolon, BOM", ";", "utf-8-sig"),
        ("csv, tab, UTF-16", "\t", "utf-16"),
    ):
        for n in count(kind):
            rows = folder.rows()
            folder.add(f"tables/{kind[5:8]}-{n:03}.csv", csv_bytes(rows, delimiter, encoding), kind, rows)
    for n in count("tsv"):
        rows = folder.rows()
        folder.add(f"tables/{n}.tsv", csv_bytes(rows, "\t", "utf-8"), "tsv", rows)
    for n in count("json lines, UTF-16"):
        rows = folder.rows()
        content = json_lines(rows, ensure_ascii=False).decode().encode("utf-16")
        folder.add(f"json/wide-{n}.jsonl", content, "json lines, UTF-16", rows)
    for n in count("Spark"):
        rows = folder.rows()
        folder.add(f"spark{n}/part-00000.json", json_lines(rows), "Spark", rows)
        folder.add(f"spark{n}/part-00001.json", b"", "Spark", [])
        folder.add(f"spark{n}/_SUCCESS", b"", "Spark")
    for n in count("json lines"):
        rows = folder.rows()
        folder.add(f"json/{n:03}.jsonl", json_lines(rows, ensure_ascii=bool(n % 2)), "json lines", rows)
    for n in count("json list"):
        rows = folder.rows()
        content = json.dumps([{"text": text, "n": {"a": [1]}} for text in rows], indent=n % 3 or None)
        folder.add(f"json/{n:03}.json", content.encode(), "json list", rows)
    for n in count("parquet"):
        rows = folder.rows()
        folder.add(f"parquet/{n:03}.parquet", parquet_bytes(rows, n), "parquet", rows)


def write_compressed(folder: Folder, count: Callable[[str], range]) -> None:
    """Compressed files, and archives, which have no reader."""
    for n in count("gzip"):
        rows = folder.rows()
        halves = [gzip.compress(json_lines(rows[:9])), gzip.compress(json_lines(rows[9:]))]  # two members
        folder.add(f"gz/{n:03}.jsonl.gz", b"".join(halves), "gzip", rows)
    for n in count("gzip, zero padding"):
        text = folder.text()
        folder.add(f"gz/padded-{n}.txt.gz", gzip.compress(text.encode()) + bytes(512), "gzip, zero padding", [text])
    for n in count("zstandard"):
        rows = folder.rows()
        content = zstandard.compress(csv_bytes(rows, ",", "utf-8"))
        folder.add(f"zst/{n:03}.csv.zst", content, "zstandard", rows)
    for n in count("archives"):
        file = io.BytesIO()
        if n % 2:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("a.txt", folder.text())
        else:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                info = tarfile.TarInfo("a.txt")
                info.size = 100
                archive.addfile(info, io.BytesIO(bytes(100)))
        folder.add(f"archives/{n:03}{'.rar' if n % 2 else '.tar.lz4'}", file.getvalue(), "archives")


def write_junk(folder: Folder, count: Callable[[str], range]) -> None:
    """What cannot be read, as a whole or in part."""
    rows = folder.rows()
    kinds = [
        (".txt", folder.rng.randbytes(3000)),
        (".jsonl.gz", gzip.compress(json_lines(rows))[:-2000]),
        (".txt", b""),
        (".json", json.dumps([{"text": text} for text in rows]).encode()[:-9]),
        (".parquet", parquet_bytes(rows, 0)[:-100]),
        (".csv", b"id,title\n1,a\n2,b\n"),
        (".txt", (LANGUAGES["de"]["article_1"] * 3).encode("latin-1")),
        (".jsonl.zst", zstandard.compress(json_lines(rows))[:-2000]),
        (".txt.gz", b"this is not gzip"),
        (".parquet", folder.text().encode()),
    ]
    for n in count("junk"):
        extension, content = kinds[n % len(kinds)]
        folder.add(f"junk/{n:03}{extension}", content, "junk", rows, partial=True)
    for n in count("broken rows"):
        rows: list[str | None] = [*folder.rows()]
        lines = json_lines(rows).split(b"\n")
        for broken, line in ((3, b'{"text": "no end'), (7, b'{"text": 5}'), (11, b'{"other": "a"}'), (13, b"\xff\xfe")):
            lines[broken], rows[broken] = line, None
        folder.add(f"json/broken-{n:03}.jsonl", b"\n".join(lines), "broken rows", rows)


def write_rest(folder: Folder, count: Callable[[str], range]) -> None:
    """Names that are not UTF-8, what is not training text, and links."""
    for n in count("not UTF-8 names"):
        text = folder.text()
        folder.add(b"names/caf\xe9 %d\n.txt" % n, text.encode(), "not UTF-8 names", [text])
    for n in count("hidden"):
        name = (".cache/%d.txt", ".git%d.txt", "_temporary/%d.jsonl", "text/.swap%d.txt")[n % 4] % n
        folder.add(name, folder.text().encode(), "hidden")
    for n in count("readmes, licences"):
        name = ("README.md", "LICENSE.txt", "dataset_info.json", "COPYING")[n % 4]
        folder.add(f"set{n}/{name}", b"{}" if n % 4 == 2 else folder.text().encode(), "readmes, licences")
    for n in count("earlier outputs"):
        shard = parquet_bytes(folder.rows(), 0)
        manifest = json.dumps({"shards": [{"file": "shard-00000.parquet", "rows": ROWS}]}).encode()
        folder.add(f"prepared{n}/shard-00000.parquet", shard, "earlier outputs")
        folder.add(f"prepared{n}/manifest.json", manifest, "earlier outputs")
        for name in ("trainer_state.json", "config.json", "predictions.jsonl", "checkpoint-5/a.txt"):
            folder.add(f"run{n}/{name}", b'{"text": "a"}\n', "earlier outputs")
    for n in count("other formats"):
        folder.add(f"pictures/{n}{('.png', '.pptx', '', '.psd')[n % 4]}", folder.rng.randbytes(2000), "other formats")
    for link, target in {
        "loop": ".", "text/up": "..", "again": "text", "again.txt": "text/000.txt", "nowhere.txt": "missing.txt",
        "first": "second", "second": "first", "json/outside": "../tables",
    }.items():  # fmt: skip
        os.symlink(target, folder.path / link)
    os.mkfifo(folder.path / "pipe.txt")
    os.link(folder.path / "text" / "000.txt", folder.path / "text" / "same.txt")


def make_folder(path: Path, files: int) -> dict[bytes, Written]:
    """Write about so many files; return what is in each, by its path in the folder."""
    folder = Folder(path)

    def count(kind: str) -> range:
        return range(max(1, round(SHARES[kind] * files / sum(SHARES.values()))))

    for write in (write_documents, write_tables, write_compressed, write_junk, write_rest):
        write(folder, count)
    return folder.written


def walk(path: Path) -> dict[bytes, tuple[int, str]]:
    """Size and SHA-256 of each file in a folder, each once, by its first path in the folder; links are not followed."""
    root, found, seen = os.fsencode(path), {}, set()
    for parent, _, names in os.walk(root):
        for name in sorted(names):
            status = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(status.st_mode) and status.st_ino not in seen:
                seen.add(status.st_ino)
                with open(os.path.join(parent, name), "rb") as file:
                    content = file.read()
                relative = os.path.relpath(os.path.join(parent, name), root)
                found[relative] = len(content), hashlib.sha256(content).hexdigest()
    return found


def words(text: str) -> Counter:
    return Counter(re.findall(r"\w+", text))


class Accounts:
    """Compares what was written with what a prepared folder says became of it; `errors` has every difference.

    Args:
        source: the folder that was prepared.
        target: the prepared folder.
        written: what `make_folder` returned.
    """

    def __init__(self, source: Path, target: Path, written: dict[bytes, Written]):
        self.errors: list[str] = []
        self.files, self.written = walk(source), written
        self.manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
        label = source.name.encode()
        # Names in the manifest: the folder's name and the path in it; what cannot be printed is escaped.
        self.names = {self.shown(os.path.join(label, path)): path for path in self.files}
        self.sources = {entry["name"]: entry for entry in self.manifest["sources"]}
        self.kept: dict[str, dict[int, str]] = {}
        for shard in sorted(target.glob("*.parquet")):
            for row in pq.read_table(shard).to_pylist():
                rows = self.kept.setdefault(row["source"], {})
                self.check(row["row"] not in rows, f"{row['source']} row {row['row']} is kept twice")
                rows[row["row"]] = row["text"]
        self.dropped: dict[str, dict[int, tuple[str, str]]] = {}
        self.lost_files = Counter()
        with gzip.open(target / "dropped.tsv.gz", "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rows = self.dropped.setdefault(row["source"], {})
                self.check(int(row["row"]) not in rows, f"{row['source']} row {row['row']} is dropped twice")
                rows[int(row["row"])] = row["step"], row["reason"]
        self.fates = {path: self.fate(name, path) for name, path in self.names.items()}
        self.check_totals()

    @staticmethod
    def shown(path: bytes) -> str:
        text = path.decode("utf-8", "backslashreplace")
        return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)

    def check(self, true: bool, message: str) -> None:
        if not true:
            self.errors.append(message)

    def fate(self, name: str, path: bytes) -> str:
        """Whether a file was read or left out; all its rows are compared."""
        expected, (size, sha256) = self.written[path], self.files[path]
        not_read = [entry["name"] for entry in self.manifest["not_read"]]
        left_out = [other for other in not_read if name == other or name.startswith(f"{other}/")]
        entry = self.sources.get(name)
        self.check((entry is None) != (not left_out), f"{name} is in {entry and 'sources'} and in {left_out}")
        if entry is None:
            self.check(expected.texts is None, f"{name} was left out: {left_out}")
            return "left out"
        self.check(expected.texts is not None, f"{name} was read")
        self.check((entry["bytes"], entry["sha256"]) == (size, sha256), f"{name}: other bytes or checksum")
        self.compare_rows(name, entry, expected)
        return "read"

    def compare_rows(self, name: str, entry: dict, expected: Written) -> None:
        """Every row of a file is kept as it was written, or dropped with a reason; what is lost has bytes."""
        kept, dropped, texts = self.kept.get(name, {}), self.dropped.get(name, {}), expected.texts or []
        lost = [row for row, (step, _) in dropped.items() if step == "read"]
        self.check(not kept.keys() & dropped.keys(), f"{name}: rows are kept and dropped")
        self.check(all(reason for _, reason in dropped.values()), f"{name}: rows are dropped without a reason")
        for row, text in kept.items():
            whole = texts[row] or ""
            if expected.words:
                common = (words(text) & words(whole)).total()
                self.check(common >= 0.9 * words(whole).total(), f"{name}: {common} of {words(whole).total()} words")
            else:
                self.check(text == whole, f"{name} row {row} is another text: {text[:60]!r} and not {whole[:60]!r}")
        if expected.partial:
            self.check("problem" in entry or not entry["bytes"], f"{name} has no problem")
            self.check(entry.get("lost_bytes", 0) > 0 or not entry["bytes"], f"{name}: no byte is lost")
            rows = sorted(kept.keys() | dropped.keys())
            self.check(rows == list(range(len(rows))), f"{name}: rows are missing before the end")
            return
        self.check(kept.keys() | dropped.keys() == set(range(len(texts))), f"{name}: other rows than {len(texts)}")
        self.check(entry["rows"] == len(texts), f"{name}: {entry['rows']} rows of {len(texts)}: {entry.get('problem')}")
        broken = [row for row, text in enumerate(texts) if text is None]
        self.check(sorted(lost) == broken, f"{name}: rows {sorted(lost)} are unreadable, not {broken}")
        self.check(bool(entry.get("lost_bytes")) == bool(broken), f"{name}: lost bytes {entry.get('lost_bytes')}")
        if not expected.words:
            size = sum(len(text.encode()) for text in texts if text is not None)
            self.check(entry["bytes_of_text"] == size, f"{name}: {entry['bytes_of_text']} bytes of text, not {size}")

    def check_totals(self) -> None:
        """The sums in the manifest are those of the files on the disk."""
        totals, sizes = self.manifest["input"], {path: size for path, (size, _) in self.files.items()}
        left_out = [path for path, fate in self.fates.items() if fate == "left out"]
        lost = sum(entry.get("lost_bytes", 0) for entry in self.sources.values())
        for name, expected in {
            "bytes": sum(sizes.values()),
            "files": len(sizes),
            "files_read": len(sizes) - len(left_out),
            "bytes_left_out": sum(sizes[path] for path in left_out),
            "bytes_lost": lost,
            "bytes_read": sum(sizes.values()) - sum(sizes[path] for path in left_out) - lost,
            "rows": sum(entry["rows"] for entry in self.sources.values()),
        }.items():
            self.check(totals[name] == expected, f"`{name}` is {totals[name]:,} and should be {expected:,}")
        self.check(self.sources.keys() <= self.names.keys(), f"unknown: {self.sources.keys() - self.names.keys()}")
        rows = sum(len(rows) for rows in self.kept.values())
        self.check(rows == self.manifest["rows"], f"{rows:,} rows in the shards, not {self.manifest['rows']:,}")

    def table(self) -> Iterator[str]:
        """Lines of a table: by kind the files, their bytes by fate, and their rows by fate."""
        yield "| kind | files | bytes | left out | lost | rows kept | dropped | unreadable |"
        yield "|---|---:|---:|---:|---:|---:|---:|---:|"
        total = Counter()
        for kind in [*SHARES, None]:
            counts = Counter()
            for name, path in self.names.items():
                if self.written[path].kind == kind:
                    size, entry = self.files[path][0], self.sources.get(name, {})
                    counts.update(files=1, bytes=size, left_out=0 if entry else size, lost=entry.get("lost_bytes", 0))
                    steps = [step for step, _ in self.dropped.get(name, {}).values()]
                    counts.update(kept=len(self.kept.get(name, {})), unreadable=steps.count("read"))
                    counts["dropped"] += len(steps) - steps.count("read")
            total.update(counts)
            counts = counts if kind else total
            columns = ("files", "bytes", "left_out", "lost", "kept", "dropped", "unreadable")
            yield f"| {kind or 'all'} | " + " | ".join(f"{counts[column]:,}" for column in columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--folder", help="new folder for the files and the result. Default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        (folder / "real").mkdir(parents=True)
        written = make_folder(folder / "real", args.files)
        start = time.perf_counter()
        paths = ["--files", str(folder / "real"), "--output_dir", str(folder / "out")]
        run = subprocess.run([sys.executable, str(RECIPE), *paths, *FLAGS], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if run.returncode:
            sys.exit(f"exit status {run.returncode}: {run.stderr[-2000:]}")
        accounts = Accounts(folder / "real", folder / "out", written)
        print("\n".join(accounts.table()))
        print(f"\n{len(written):,} files in {seconds:.0f} s; {len(accounts.errors):,} differences")
        print("\n".join(sorted(accounts.errors)[:50]))
        sys.exit(bool(accounts.errors))


if __name__ == "__main__":
    main()
