"""Replace personal data and secrets in a text by placeholders, or by pseudonyms that are the same for equal values.

Only values of a recognizable form are found, each checked by its checksum, its parts or its context where possible.
Names and postal addresses have no such form and are not looked for.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stdnum import iban, luhn
from stdnum.cn import ric
from stdnum.us import ssn

# A telephone number may follow a word such as "call" or "fax", with a few words between: "my phone number is 5550147".
# Other words end the connection: "mobile app id 101010101" is not a telephone number.
WORDS_BETWEEN = (
    r"numbers?|num|no|nr|line|is|was|at|on|in|by|via|to|of|or|and|for|from|me|us|him|her|them|it|you|we|the|a|my|our"
    r"|your|his|their|can|please|up|back|now|here|today|anytime|directly|home|work|office|phone|mobile|direct"
    r"|registered|toll|free|day|night|customer|service|support|help|desk|extension|ext|nbsp|nummer|lautet|unter|ist"
    r"|die|der|al|el|es|de|contacto|número|le|au|est|numéro"
)
PHONE_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?:(?:tele|cell|smart)?phones?|tel|call(?:s|ed|ing)?|fax|mobiles?|cell|answering|desk|office"
    r"|whats?app|sms|texts?|messages?|reach|contact|dial|hotline|(?:tele|mobil)fon|handy|móvil|teléfono|téléphone"
    r"|portable|mob|ph)(?:_?(?:no|nr|num|nummer|number))?(?![A-Za-z])|(?:电话|手机|联系|電話|携帯)(?:号码?|番号)?)"
    rf"[\W_]{{0,5}}(?:(?:{WORDS_BETWEEN})[\W_]+){{0,4}}(?:\w+ (?:at|on)\W+)?$",
    re.IGNORECASE,
)
PHONE_AFTER = re.compile(r"[ -]{0,2}\(?(?:office|fax|mobile|cell|phone|home|work|desk)\b", re.IGNORECASE)
# Numbers that only look like a telephone number: dates, ranges of years, decimals, grouped thousands.
NOT_A_PHONE = re.compile(
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}|(?:1[5-9]|20)\d\d ?[-/] ?(?:1[5-9]|20)\d\d"
    r"|\d{5}-\d{4}|\d{3}-\d\d-\d{4}|\d+\.\d+|(?:19|20)\d{6}|(?:1[5-9]|20)\d\d(?: (?:1[5-9]|20)\d\d)+|\d(?: \d{3})+"
    r"|\d+0{5,}"
)
# These are thousands, unless a word such as "call" precedes them.
THOUSANDS = re.compile(r"\d{1,3}(?:[ .]\d{3})+")
# International, American, Chinese, German and French forms, which need no such word.
STRONG_PHONE = re.compile(
    r"\+.*|00[1-9].*|\(\d{2,4}\)[ .-]?\d.*|\d{3}[-.]\d{3}[-.]\d{4}.*|1[-.]\d{3}[-.]\d{3}[-.]\d{4}.*|1[3-9]\d{9}"
    r"|0[1-9]\d{1,3}[ /-]\d{2,4}[ -]?\d{2,4}.*|0[1-9](?:[ .]\d\d){4}"
)


@dataclass(frozen=True)
class Kind:
    """One kind of personal data.

    Args:
        name: the placeholder is `<name>`.
        pattern: matches possible values; its group `value` is replaced, or the whole match if it has none.
        prefilter: a fast pattern that every text with such a value matches; other texts are not searched.
        accepts: whether a possible value is one, from the value and the text before and after it.
    """

    name: str
    pattern: str
    prefilter: str
    accepts: Callable[[str, str, str], bool] = lambda value, before, after: True


def is_email(value: str, before: str, after: str) -> bool:
    """Reject names of high-resolution pictures, `logo@2x.png`, and of repositories, `git@host:path`."""
    return not (re.search(r"@\dx\.", value) or (value.startswith("git@") and after.startswith(":")))


def is_iban(value: str, before: str, after: str) -> bool:
    return iban.is_valid(value, check_country=False)


def is_address(value: str, before: str, after: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    # Reject versions, slices such as x[::2], network masks, and addresses that every machine has.
    if re.search(r"(?:\bv|version|release|section|chapter|§)\W{0,2}$|[=<>~!]= ?$", before, re.IGNORECASE):
        return False
    few_groups = len(re.findall(r"[^.:]+", value)) < 3
    return not (few_groups or value.startswith("255.") or address.is_loopback or address.is_unspecified)


def is_card(value: str, before: str, after: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return 12 <= len(digits) <= 19 and luhn.is_valid(digits)


def is_phone(value: str, before: str, after: str) -> bool:
    """Accept 7 to 15 digits in a form of telephone numbers only, or in any form near a word such as "call" or "fax"."""
    digits = re.sub(r"\D", "", re.split("[xe]", value)[0])
    if not 7 <= len(digits) <= 15 or NOT_A_PHONE.fullmatch(value):
        return False
    if PHONE_BEFORE.search(before) or PHONE_AFTER.match(after):
        return True
    return bool(STRONG_PHONE.fullmatch(value)) and not THOUSANDS.fullmatch(value)


# All patterns are matched with re.ASCII: a letter of another script next to a value is a boundary.
NUMBER = r"\d(?:[ .()/-]{0,3}\d){6}"
CARD = r"(?<![\w.+-])(?<!\d )(?:[2-6]\d{3}|1800|2131|0604)(?:[ -]?\d){8,15}(?![\w*-])"
# The lookahead with a back reference is an atomic group (Python 3.11 has them): without it, backtracking over long rows
# of numbers would never end.
PHONE = (
    rf"(?<![\w./$€£#+(-])(?<!\d:)(?:(?=[+(])|(?<!\d,))(?=[+(]?{NUMBER})"
    r"(?=(?P<number>[+(]?\d{1,5}\)?(?:[ .\-/]{0,2}\(?\d{1,8}\)?){1,6}))(?P=number)"
    r"(?: ?(?:x|ext\.?) ?\d{1,6})?(?![\w%€*]|[.,-]\d)"
)
IPV4 = r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
IPV6 = r"(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)"
API_KEYS = (
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-[A-Za-z0-9]{40,}|[spr]k[-_](?:live|test|proj|ant|or)[-_][-_A-Za-z0-9]{20,}"
    r"|xox[abeprs]-[0-9A-Za-z-]{10,}|npm_[A-Za-z0-9]{36})\b"
    r"|\b(?:AIza[0-9A-Za-z_-]{35}|glpat-[0-9A-Za-z_-]{20,})"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
)
API_KEY_PREFIXES = (
    r"AKIA|ASIA|AIza|gh[pousr]_|github_pat_|glpat-|hf_\w{30}|[spr]k[-_]\S{20}|xox[abeprs]-|npm_\w{36}|eyJ"
)
# Up to the END line, or if that is missing, up to the last line that looks like base64.
PRIVATE_KEY = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"(?:(?:[^-]|-(?!----))*-----END [A-Z ]*PRIVATE KEY-----|(?:\s+[A-Za-z0-9+/=]{20,})*)"
)
SECRET_NAME = r"(?i:api[_-]?key|secret|token|passw(?:or)?d)"
QUOTED_SECRET = rf"{SECRET_NAME}[\"']?\s*[:=]\s*[\"'](?P<value>(?=[^\"']*\d)[A-Za-z0-9_/+=.-]{{16,}})[\"']"
ASSIGNED_SECRET = (
    r"(?<![A-Za-z])[A-Z_]*(?:API_?KEY|SECRET|TOKEN|PASSW(?:OR)?D)[A-Z_]*=(?P<value>(?=\S*\d)[^\s\"'$<]{12,})"
)
# In the order of the search: what an earlier kind has replaced, a later one does not see.
KINDS = (
    Kind("API_KEY", PRIVATE_KEY, "PRIVATE KEY"),
    Kind("API_KEY", API_KEYS, API_KEY_PREFIXES),
    Kind("API_KEY", QUOTED_SECRET, r"[:=]\s*[\"'][A-Za-z0-9_/+=.-]{16}"),
    Kind("API_KEY", ASSIGNED_SECRET, r"[A-Z]=[^\s\"'$<]{12}"),
    Kind("CREDENTIALS", r"(?<=://)[^\s/@:]+:[^\s/]+(?=@)", "@"),
    Kind("EMAIL", r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", "@", is_email),
    Kind("IBAN", r"\b[A-Za-z]{2}\d\d(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?\b", NUMBER, is_iban),
    Kind("IP_ADDRESS", IPV4, r"\d\.\d{1,3}\.\d", is_address),
    Kind("IP_ADDRESS", IPV6, r"[0-9A-Fa-f]{2}::?[0-9A-Fa-f]", is_address),
    Kind("CN_ID", r"(?<!\w)\d{17}[\dXx](?!\w)", NUMBER, lambda value, *around: ric.is_valid(value)),
    Kind("CREDIT_CARD", CARD, NUMBER, is_card),
    Kind("US_SSN", r"(?<![\w-])\d{3}-\d\d-\d{4}(?![\w-])", NUMBER, lambda value, *around: ssn.is_valid(value)),
    Kind("PHONE", PHONE, NUMBER, is_phone),
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
        replaced = []
        for kind in self.kinds:
            if re.search(kind.prefilter, text, re.ASCII):
                text = re.sub(
                    kind.pattern, lambda match, kind=kind: self.replace(match, kind, replaced), text, flags=re.ASCII
                )
        return text, replaced

    def replace(self, match: re.Match, kind: Kind, replaced: list[str]) -> str:
        """Return the replacement of a match, and add its kind to `replaced`; a rejected match is returned as it is."""
        start, end = match.span("value" if match.groupdict().get("value") else 0)
        value, before = match.string[start:end], match.string[max(0, start - 40) : start]
        if not kind.accepts(value, before, match.string[end : end + 12]):
            return match[0]
        replaced.append(kind.name)
        name = kind.name
        if self.key is not None:
            name += "_" + hmac.new(self.key, canonical_form(kind.name, value).encode(), hashlib.sha256).hexdigest()[:8]
        return match.string[match.start() : start] + f"<{name}>" + match.string[end : match.end()]


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


def canonical_form(kind: str, value: str) -> str:
    """Bring spellings of one value to one form: numbers without separators, e-mail addresses in lower case."""
    if kind in ("API_KEY", "CREDENTIALS"):
        return value
    if kind == "IP_ADDRESS":
        return str(ipaddress.ip_address(value))
    return (value if kind == "EMAIL" else re.sub(r"[\s().+/-]", "", value)).lower()
