"""Personal data and secrets in a text -> placeholders by their kind, or pseudonyms that stay the same for a value.

Found are values with a form of their own, each checked as far as it can be: by its checksum, its parts, its context.
Names and addresses have none, and are not looked for.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum import iban, luhn
from stdnum.cn import ric
from stdnum.us import ssn

# A word that announces a number, and a few that may stand between them: "mobile app id 101010101" is none.
BETWEEN = (
    r"numbers?|num|no|nr|line|is|was|at|on|in|by|via|to|of|or|and|for|from|me|us|him|her|them|it|you|we|the|a|my|our"
    r"|your|his|their|can|please|up|back|now|here|today|anytime|directly|home|work|office|phone|mobile|direct"
    r"|registered|toll|free|day|night|customer|service|support|help|desk|extension|ext|nbsp|nummer|lautet|unter|ist"
    r"|die|der|al|el|es|de|contacto|número|le|au|est|numéro"
)
PHONE_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?:(?:tele|cell|smart)?phones?|tel|call(?:s|ed|ing)?|fax|mobiles?|cell|answering|desk|office"
    r"|whats?app|sms|texts?|messages?|reach|contact|dial|hotline|(?:tele|mobil)fon|handy|móvil|teléfono|téléphone"
    r"|portable|mob|ph)(?:_?(?:no|nr|num|nummer|number))?(?![A-Za-z])|(?:电话|手机|联系|電話|携帯)(?:号码?|番号)?)"
    rf"[\W_]{{0,5}}(?:(?:{BETWEEN})[\W_]+){{0,4}}(?:\w+ (?:at|on)\W+)?$",
    re.IGNORECASE,
)
PHONE_AFTER = re.compile(r"[ -]{0,2}\(?(?:office|fax|mobile|cell|phone|home|work|desk)\b", re.IGNORECASE)
# What looks like groups of a telephone number: dates, ranges of years, decimals; thousands, unless a word announces it.
NO_PHONE = re.compile(
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}|(?:1[5-9]|20)\d\d ?[-/] ?(?:1[5-9]|20)\d\d"
    r"|\d{5}-\d{4}|\d{3}-\d\d-\d{4}|\d+\.\d+|(?:19|20)\d{6}|(?:1[5-9]|20)\d\d(?: (?:1[5-9]|20)\d\d)+|\d(?: \d{3})+"
    r"|\d+0{5,}"
)
THOUSANDS = re.compile(r"\d{1,3}(?:[ .]\d{3})+")
STRONG_PHONE = re.compile(
    r"\+.*|00[1-9].*|\(\d{2,4}\)[ .-]?\d.*|\d{3}[-.]\d{3}[-.]\d{4}.*|1[-.]\d{3}[-.]\d{3}[-.]\d{4}.*|1[3-9]\d{9}"
    r"|0[1-9]\d{1,3}[ /-]\d{2,4}[ -]?\d{2,4}.*|0[1-9](?:[ .]\d\d){4}"
)


@dataclass(frozen=True)
class Kind:
    """Values of one kind.

    Args:
        name: stands in the placeholder.
        pattern: finds what may be one; its group `value`, or else all of it, is replaced.
        needs: found fast, and without it a text holds none: most texts are done with that.
        accepts: whether a match is one, given the text before and behind it.
    """

    name: str
    pattern: str
    needs: str
    accepts: Callable[[str, str, str], bool] = lambda value, before, behind: True


def is_email(value: str, before: str, behind: str) -> bool:
    """Neither the name of a picture for a fine screen, `logo@2x.png`, nor of a repository, `git@host:path`."""
    return not (re.search(r"@\dx\.", value) or (value.startswith("git@") and behind.startswith(":")))


def is_iban(value: str, before: str, behind: str) -> bool:
    return iban.is_valid(value, check_country=False)


def is_address(value: str, before: str, behind: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    # A version, a slice in a program, a mask, or an address that is everybody's.
    if re.search(r"(?:\bv|version|release|section|chapter|§)\W{0,2}$|[=<>~!]= ?$", before, re.IGNORECASE):
        return False
    few = len(re.findall(r"[^.:]+", value)) < 3
    return not (few or value.startswith("255.") or address.is_loopback or address.is_unspecified)


def is_card(value: str, before: str, behind: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return 12 <= len(digits) <= 19 and luhn.is_valid(digits)


def is_phone(value: str, before: str, behind: str) -> bool:
    """Of 7 to 15 digits; with a form that other numbers have too only after a word that announces one."""
    digits = re.sub(r"\D", "", re.split("[xe]", value)[0])
    if not 7 <= len(digits) <= 15 or NO_PHONE.fullmatch(value):
        return False
    if PHONE_BEFORE.search(before) or PHONE_AFTER.match(behind):
        return True
    return bool(STRONG_PHONE.fullmatch(value)) and not THOUSANDS.fullmatch(value)


# All patterns are of ASCII: a letter of another script beside a value is a boundary.
NUMBER = r"\d(?:[ .()/-]{0,3}\d){6}"
CARD = r"(?<![\w.+-])(?<!\d )(?:[2-6]\d{3}|1800|2131|0604)(?:[ -]?\d){8,15}(?![\w*-])"
# The group is taken as a whole or not at all (as an atomic one of Python 3.11): rows of numbers would take forever.
PHONE = (
    rf"(?<![\w./$€£#+(-])(?<!\d:)(?:(?=[+(])|(?<!\d,))(?=[+(]?{NUMBER})"
    r"(?=(?P<number>[+(]?\d{1,5}\)?(?:[ .\-/]{0,2}\(?\d{1,8}\)?){1,6}))(?P=number)"
    r"(?: ?(?:x|ext\.?) ?\d{1,6})?(?![\w%€*]|[.,-]\d)"
)
IPV4 = r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
IPV6 = r"(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)"
KEYS = (
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-[A-Za-z0-9]{40,}|[spr]k[-_](?:live|test|proj|ant|or)[-_][-_A-Za-z0-9]{20,}"
    r"|xox[abeprs]-[0-9A-Za-z-]{10,}|npm_[A-Za-z0-9]{36})\b"
    r"|\b(?:AIza[0-9A-Za-z_-]{35}|glpat-[0-9A-Za-z_-]{20,})"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
)
KEY_BEGINS = r"AKIA|ASIA|AIza|gh[pousr]_|github_pat_|glpat-|hf_\w{30}|[spr]k[-_]\S{20}|xox[abeprs]-|npm_\w{36}|eyJ"
# To its end, or where that is cut off, to the last line that looks like a part of it.
PRIVATE_KEY = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"(?:(?:[^-]|-(?!----))*-----END [A-Z ]*PRIVATE KEY-----|(?:\s+[A-Za-z0-9+/=]{20,})*)"
)
NAMED = r"(?i:api[_-]?key|secret|token|passw(?:or)?d)"
QUOTED = rf"{NAMED}[\"']?\s*[:=]\s*[\"'](?P<value>(?=[^\"']*\d)[A-Za-z0-9_/+=.-]{{16,}})[\"']"
ASSIGNED = r"(?<![A-Za-z])[A-Z_]*(?:API_?KEY|SECRET|TOKEN|PASSW(?:OR)?D)[A-Z_]*=(?P<value>(?=\S*\d)[^\s\"'$<]{12,})"
# In the order in which they are looked for: what an earlier one replaces, a later one does not see.
KINDS = (
    Kind("API_KEY", PRIVATE_KEY, "PRIVATE KEY"),
    Kind("API_KEY", KEYS, KEY_BEGINS),
    Kind("API_KEY", QUOTED, r"[:=]\s*[\"'][A-Za-z0-9_/+=.-]{16}"),
    Kind("API_KEY", ASSIGNED, r"[A-Z]=[^\s\"'$<]{12}"),
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
    """Replaces what it finds, `anonymizer(text) -> (text, kinds)`.

    Args:
        kinds: names of those that are looked for.
        key: of a keyed hash (HMAC-SHA-256): a value gets the same pseudonym, `<EMAIL_1f0c9a3b>`, wherever it stands,
            and nobody without the key can test a guess. None: the placeholder `<EMAIL>`.

    Example:
        >>> Anonymizer()("Write to jo@example.org")
        ('Write to <EMAIL>', ['EMAIL'])
    """

    def __init__(self, kinds: list[str] | None = None, key: bytes | None = None):
        self.kinds = [kind for kind in KINDS if kinds is None or kind.name in kinds]
        self.key = key

    def __call__(self, text: str) -> tuple[str, list[str]]:
        found = []
        for kind in self.kinds:
            if re.search(kind.needs, text, re.ASCII):
                text = re.sub(
                    kind.pattern, lambda match, kind=kind: self.replace(match, kind, found), text, flags=re.ASCII
                )
        return text, found

    def replace(self, match: re.Match, kind: Kind, found: list[str]) -> str:
        start, end = match.span("value" if match.groupdict().get("value") else 0)
        value, before = match.string[start:end], match.string[max(0, start - 40) : start]
        if not kind.accepts(value, before, match.string[end : end + 12]):
            return match[0]
        found.append(kind.name)
        name = kind.name
        if self.key is not None:
            name += "_" + hmac.new(self.key, one_form(kind.name, value).encode(), hashlib.sha256).hexdigest()[:8]
        return match.string[match.start() : start] + f"<{name}>" + match.string[end : match.end()]


def one_form(kind: str, value: str) -> str:
    """A value however it is written: numbers without what parts them, addresses in lower case, secrets as they are."""
    if kind in ("API_KEY", "CREDENTIALS"):
        return value
    if kind == "IP_ADDRESS":
        return str(ipaddress.ip_address(value))
    return (value if kind == "EMAIL" else re.sub(r"[\s().+/-]", "", value)).lower()
