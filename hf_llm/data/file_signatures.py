"""How files of some formats begin: what a file is that has the extension of another format."""

OFFICE = "convert it, e.g. by `soffice --headless --convert-to docx FILE`"
PRESENTATION = "convert it, e.g. by `soffice --headless --convert-to pdf FILE`"
TABLE = "convert it, e.g. by `soffice --headless --convert-to csv FILE`"
UNPACK = "unpack it, e.g. by `7z x FILE`"
# Extensions without a reader, and what to do with such a file.
CONVERSIONS = {
    **dict.fromkeys((".doc", ".rtf", ".odt", ".docm"), OFFICE),
    **dict.fromkeys((".ppt", ".pptx", ".odp"), PRESENTATION),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), TABLE),
    **dict.fromkeys((".epub", ".ipynb"), "convert it, e.g. by `pandoc FILE -o FILE.md`"),
    **dict.fromkeys((".7z", ".rar", ".z", ".lz4", ".br"), UNPACK),
}
# How a file begins, the extensions of such files, and what it is.
SIGNATURES = (
    (b"\x1f\x8b\x08", (".gz", ".tgz"), "compressed by gzip: add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", (".zst", ".tzst"), "compressed by zstd: add .zst to its name"),
    (b"BZh", (".bz2", ".tbz", ".tbz2"), "compressed by bzip2: add .bz2 to its name"),
    (b"\xfd7zXZ\0", (".xz", ".txz"), "compressed by xz: add .xz to its name"),
    (b"\x04\x22\x4d\x18", (), f"compressed by lz4: {UNPACK}"),
    (
        b"PK\x03\x04",
        (".zip", ".docx"),
        "a ZIP archive or office document: let its name end in .zip, .docx or the like",
    ),
    (b"7z\xbc\xaf\x27\x1c", (), f"an archive of 7-Zip: {UNPACK}"),
    (b"Rar!\x1a\x07", (), f"a RAR archive: {UNPACK}"),
    (b"%PDF-", (".pdf",), "a PDF document: add .pdf to its name"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        (),
        f"an office document of before 2007, or one with a password: {OFFICE}",
    ),
    (b"{\\rtf", (), f"a document in RTF: {OFFICE}"),
    (b"ARROW1\0\0", (".arrow", ".feather"), "Arrow: rename it to end in .arrow"),
    (b"\xff\xff\xff\xff", (".arrow",), "Arrow: rename it to end in .arrow"),
    (b"PAR1", (".parquet",), "Parquet: rename it to end in .parquet"),
    (b"SQLite format 3\0", (), "a database of SQLite: export its tables to .csv"),
    (b"\x89PNG\r\n", (), "a picture: it has no text"),
    (b"\xff\xd8\xff", (), "a picture: it has no text"),
    (b"version https://git-lfs.github.com/spec/", (), "a pointer to a file that Git LFS stores: run `git lfs pull`"),
)
PAGES = (b"<!doctype html", b"<html")
TAR, TAR_OFFSET = b"ustar", 257


def recognize(head: bytes, path: str | None = None) -> str | None:
    """Return what a file is that begins like this, and what to do about it; None where it may be what its name says.

    Args:
        head: its first bytes, 262 or more.
        path: its name. Default: that of a text.

    Example:
        >>> recognize(b"PAR1", "a.csv")
        'Parquet: rename it to end in .parquet'
    """
    name = (path or ".txt").lower()
    for start, extensions, found in SIGNATURES:
        if head.startswith(start):
            return None if name.endswith(extensions) else found
    if head.startswith(TAR, TAR_OFFSET) and ".tar" not in name:
        return "a TAR archive: let its name end in .tar"
    if path and head.lstrip().lower().startswith(PAGES) and not name.endswith((".html", ".htm")):
        return "an HTML page, perhaps the answer of a server that did not send the file: download it again"
    return None
