"""Replace personal data and secrets in a text by placeholders, or by pseudonyms that are the same for equal values.

Only values of a recognizable form are found, each checked by its checksum, its parts or its context where possible.
Names and postal addresses have no such form and are not looked for.
"""

import hashlib
import hmac
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hf_llm.preparation import api_keys, identity_numbers, internet_addresses, telephone_numbers
from hf_llm.preparation.matching import Span, fold


@dataclass(frozen=True)
class Kind:
    """One kind of personal data.

    Args:
        name: the placeholder is `<name>`.
        find: yields the start and the end of each value in a text.
        prefilter: a fast expression that every text with such a value matches; other texts are not searched.
    """

    name: str
    find: Callable[[str], Iterable[Span]]
    prefilter: re.Pattern[str]


class Value(NamedTuple):
    """Where a value is in a text."""

    start: int
    end: int
    kind: str


AT = re.compile("@")
NUMBER = re.compile(telephone_numbers.NUMBER, re.ASCII)
NUMBER_OR_CODE = re.compile(rf"[A-Z]{{4}}\d\d|{telephone_numbers.NUMBER}", re.ASCII)
# In the order of the search: what an earlier kind has found, a later one does not see.
KINDS = (
    Kind("API_KEY", api_keys.find_private_keys, re.compile("PRIVATE KEY|Private-Lines")),
    Kind("API_KEY", api_keys.find_api_keys, api_keys.LONG_WORD),
    Kind("API_KEY", api_keys.find_assigned_secrets, re.compile(r"[:=]")),
    Kind("CREDENTIALS", internet_addresses.find_credentials, re.compile("://")),
    Kind("EMAIL", internet_addresses.find_emails, AT),
    Kind("IBAN", identity_numbers.find_ibans, NUMBER),
    Kind("IP_ADDRESS", internet_addresses.find_ip_addresses, re.compile(r"\.\d{1,3}\.\d|:(?::|[0-9A-Fa-f]{3,4}:)")),
    Kind("CN_ID", identity_numbers.find_cn_ids, NUMBER),
    Kind("CREDIT_CARD", identity_numbers.find_cards, NUMBER),
    Kind("US_SSN", identity_numbers.find_us_ssns, NUMBER),
    Kind("NATIONAL_ID", identity_numbers.find_national_ids, NUMBER_OR_CODE),
    Kind("PHONE", telephone_numbers.find_telephone_numbers, NUMBER),
)


class Anonymizer:
    """Replace personal data: `anonymizer(text)` returns the new text and the kind of each replaced value.

    Args:
        kinds: names of the kinds to look for. Default: all.
        key: key of HMAC-SHA-256. Equal values get equal pseudonyms, `<EMAIL_1f0c9a3b>`, and nobody without the key
            can test a guess. Default: no pseudonyms but placeholders, `<EMAIL>`.

    Example:
        >>> Anonymizer()("Write to jo@example.org")
        ('Write to <EMAIL>', ['EMAIL'])
    """

    def __init__(self, kinds: list[str] | None = None, key: bytes | None = None):
        self.kinds = [kind for kind in KINDS if kinds is None or kind.name in kinds]
        self.key = key

    def __call__(self, text: str) -> tuple[str, list[str]]:
        values = self.find(text)
        parts, position = [], 0
        for value in sorted(values):
            parts += [text[position : value.start], self.replacement(text, value)]
            position = value.end
        return "".join([*parts, text[position:]]), [value.kind for value in values]

    def find(self, text: str) -> list[Value]:
        """Return the values in the order of the kinds, those of one kind in the order of the text."""
        text, values = fold(text), []
        present: dict[re.Pattern[str], bool] = {}
        for kind in self.kinds:
            if kind.prefilter not in present:
                present[kind.prefilter] = kind.prefilter.search(text) is not None
            if present[kind.prefilter] and (found := disjoint(kind.find(text))):
                values += [Value(start, end, kind.name) for start, end in found]
                text = blank(text, found)
        return values

    def replacement(self, text: str, value: Value) -> str:
        """Return the placeholder or the pseudonym of a value."""
        if self.key is None:
            return f"<{value.kind}>"
        form = canonical_form(value.kind, text[value.start : value.end], text[max(0, value.start - 80) : value.start])
        return f"<{value.kind}_{hmac.new(self.key, form.encode(), hashlib.sha256).hexdigest()[:8]}>"


def disjoint(spans: Iterable[Span]) -> list[Span]:
    """Sort the spans, without those that overlap an earlier or longer one: two expressions may find the same value."""
    kept = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def blank(text: str, spans: list[Span]) -> str:
    """Replace spans by ends of lines, which no value contains."""
    parts, position = [], 0
    for start, end in spans:
        parts += [text[position:start], "\n" * (end - start)]
        position = end
    return "".join([*parts, text[position:]])


def read_key(path: str | None) -> bytes:
    """Read the key of the pseudonyms from the file that `--pseudonym_key_file` names.

    Raises:
        ValueError: no file is named, or it cannot be read or has fewer than 16 bytes.
    """
    if path is None:
        raise ValueError("`--anonymize` pseudonyms needs a secret key: name its file with `--pseudonym_key_file`")
    try:
        key = Path(path).expanduser().read_bytes().strip()
    except OSError as error:
        raise ValueError(f"`--pseudonym_key_file` {path} cannot be read: {error.strerror}") from None
    if len(key) < 16:
        raise ValueError(f"`--pseudonym_key_file` {path} has {len(key)} bytes: give at least 16")
    return key


def canonical_form(kind: str, value: str, before: str = "") -> str:
    """Bring spellings of one value to one form: numbers without separators, addresses in lower case.

    Args:
        before: the text before the value. A telephone number after a word of a country's language is one of that
            country.
    """
    if kind in ("API_KEY", "CREDENTIALS"):
        return value
    value = fold(value)
    if kind == "IP_ADDRESS":
        address = ipaddress.ip_address(value)
        return str(getattr(address, "ipv4_mapped", None) or address)
    if kind == "EMAIL":
        local, _, domain = unicodedata.normalize("NFC", value).casefold().partition("@")
        try:
            return f"{local}@{domain.encode('idna').decode()}"
        except UnicodeError:
            return f"{local}@{domain}"
    if kind == "PHONE" and (number := telephone_numbers.international_form(value, before)):
        return number
    return re.sub(r"[\s().+/-]", "", value).lower()
