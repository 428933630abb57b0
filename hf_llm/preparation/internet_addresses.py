"""E-mail addresses in all scripts, users and passwords in URLs, and IP addresses."""

import importlib.resources
import ipaddress
import re
from collections.abc import Iterator

import regex

from hf_llm.preparation.matching import Span, search

# What an address ends with: the top-level domains of the Public Suffix List (`.com`, `.рф`, `.中国`), those that are
# reserved for examples (RFC 2606), and those of local networks and former times. File names, packages, units of systemd
# and attributes end with other words: `tool@4.17.21.tgz`, `getty@tty1.service`, `x@y.shape`.
LIST = importlib.resources.files("tld") / "res" / "effective_tld_names.dat.txt"
TOP_LEVEL = {rule.rpartition(".")[2] for rule in LIST.read_text("utf-8").split("\n") if rule and "//" not in rule}
TOP_LEVEL |= {"example", "test", "invalid", "localhost", "localdomain", "local", "lan", "internal", "intranet", "corp"}
TOP_LEVEL |= {"home", "onion", "bitnet", "uucp", "yu"}
# Domains that are hardly used, and names of attributes, sections and archives: `W@x.data`, `foo@plt.got`.
TOP_LEVEL -= {"call", "data", "dot", "got", "map", "mov", "select", "zip"}
LONGEST = max(map(len, TOP_LEVEL))
# In text of these scripts, words follow each other without a space: an address may start after and end before a letter.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
LETTERS = r"\p{L}\p{M}\p{N}"
LOCAL_PART = regex.compile(rf"(?rV1)[[{LETTERS}_]--{UNSPACED}][[{LETTERS}_.%+-]--{UNSPACED}]{{0,63}}\Z")
UNSPACED_LOCAL_PART = regex.compile(rf"(?r)[{LETTERS}_][{LETTERS}_.%+-]{{0,63}}\Z")
DOMAIN = regex.compile(rf"[{LETTERS}][{LETTERS}.-]{{2,252}}")
FONT = re.compile(r"f[BIRP\d](?=\w)")
UNSPACED_LETTER = regex.compile(UNSPACED)
ASCII_LABEL = re.compile(r"(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?=$|[^\x00-\x7f])")
# Versions and hexadecimal numbers are not domains.
NO_DOMAIN = re.compile(r"v?\d+(?:\.\d+)+\.|v\d+\.|0x[0-9a-f]+\.", re.IGNORECASE)

CREDENTIALS = re.compile(r"://(?P<value>[^\s/@:\"'<>{}[\]$*]{0,256}:[^\s/\"'<>{}[\]$*]{1,256})(?=@)")
# Examples of the syntax, not values.
PLACEHOLDER = re.compile(
    r"(?:my[-_]?)?(?:user|username|login|name|usr):(?:my[-_]?)?(?:pass|passwd|password|pwd|pw|secret)", re.IGNORECASE
)
PLACEHOLDER_BEFORE = re.compile(r"://[^\s/@:]{1,50}:$")  # of `https://user:password@example.org`
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
IPV6 = re.compile(
    r"(?<![\w.:])(?:::(?:ffff:)?\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4})(?![\w:]|\.\d)",
    re.ASCII | re.IGNORECASE,
)
# A fast expression that every text with an IPv6 address matches.
HEXADECIMAL_GROUPS = re.compile(r":(?::(?=[0-9A-Fa-f]{1,4}(?![0-9A-Za-z]))|[0-9A-Fa-f]{3,4}:)")
# Words before numbers of the same form: versions, sections, object identifiers; `Chrome/115.0.5.170`, `==1.2.3.4`.
NO_ADDRESS_BEFORE = re.compile(
    r"(?:\bv|version|release|section|sect\.|chapter|§|RFC \d+|OIDs?|identifiers?)[\W_]{0,3}$"
    r"|[=<>~!]= ?$|(?-i:\b[A-Z])\w*/$|[A-Za-z][-_]$",
    re.IGNORECASE,
)
UPGRADE_BEFORE = re.compile(r"(?:updat|upgrad|downgrad|bump|patch)[a-z]*\b[^.\n]{0,40}$", re.IGNORECASE)
# Words before addresses. Between them and the address may be some short words and other addresses. Words that are also
# names of products ("SQL Server 11.0.2.5") are followed by more than a space, unless the address starts with 10.
LINK = (
    r"(?:[^\w\n]|_|\d{1,3}(?:\.\d{1,3}){3}"
    r"|(?<![A-Za-z])(?:is|was|from|to|at|in|on|of|the|and|or|by)(?![A-Za-z])){0,12}$"
)
ADDRESS_WORD = (
    r"(?:(?<![A-Za-z])(?<!\n\.)(?:ip(?:v4)?s?|ipaddr\w*|addr|addr(?:ess)?(?:es)?|adress\w*|adres\w*|direcci\w+"
    r"|indirizz\w+|endere\w+|hosts?|hostname"
    r"|dns"
    r"|(?:dns|name|time|ntp|mail)[ -]?servers?|gateways?|gw|routers?|ping|inet|subnet"
    r"|route|via|traceroute)(?![A-Za-z])"
    r"|адрес\w*|сервер\w*|地址|アドレス|サーバー?|服务器|주소|서버|عنوان|العنوان|כתובת|(?-i:(?:IN|\.)[ \t]+A(?=[ \t])))"
)
PRODUCT_WORD = (
    r"(?<![A-Za-z])(?:servers?|clients?|peers?|bind|listen|networks?|proxy|remote|local|range|allow|deny|connect\w*"
    r"|login|lan|vpn|ssh|telnet|curl|wget|nmap)"
)
ADDRESS_BEFORE = regex.compile(
    rf"{ADDRESS_WORD}{LINK}|{PRODUCT_WORD}(?: ?[:=(\"'@]| (?:at|is|from|to|on)(?![A-Za-z])){LINK}|://$|@$",
    regex.IGNORECASE | regex.REVERSE,
)
PRIVATE_ADDRESS_BEFORE = regex.compile(rf"{PRODUCT_WORD}{LINK}", regex.IGNORECASE | regex.REVERSE)
MESSAGE_ID_BEFORE = re.compile(
    r"(?:message-?id|references|in-reply-to|msgid|content-id|cid|lore\.kernel\.org/\S{0,30})[:/=\s<\"]{1,4}$",
    re.IGNORECASE,
)
LETTER_OR_MARK = re.compile(r"[^\W\d_]|[@/]")
ADDRESS_AFTER = re.compile(r"/(?:[89]|[12]\d|3[0-2])(?!\d|\.\d)|:\d{2,5}(?!\d)")


def find_emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses, also with letters of other scripts; not `x@y.shape` or `tool@4.17.21.tgz`."""
    end = 0
    for at in re.finditer("@", text):
        domain = DOMAIN.match(text, at.end())
        length = domain_length(domain[0]) if domain else 0
        if not length:
            continue
        window = text[max(end, at.start() - 64) : at.start()]
        unspaced = UNSPACED_LETTER.match(window[-1:])
        local = (UNSPACED_LOCAL_PART if unspaced else LOCAL_PART).search(window)
        start, stop = at.start() - len(local[0]) if local else 0, at.end() + length
        # The name has at most 64 characters: a longer one is the identifier of a message.
        if local is None or (len(local[0]) == 64 and text[start - 1 : start].isalnum()):
            continue
        # The change of a font in a manual page is none of its characters: `\\fIjo@example.org`.
        if local[0][0] == "f" and text.endswith("\\", 0, start) and (font := FONT.match(local[0])):
            start += font.end()
        if is_email(text[start:stop], text[max(0, start - 60) : start], text[stop : stop + 2]):
            yield start, stop
            end = stop


def is_email(value: str, before: str, after: str) -> bool:
    """Reject users of repositories, files on other machines, templates, methods and identifiers of messages."""
    if value.startswith(("git@", "hg@", "svn@", "anonymous@")) and (before.endswith("://") or after[:1] in (":", "/")):
        return False
    if value.startswith(("git@git", "git@bitbucket.")) or PLACEHOLDER_BEFORE.search(before):
        return False
    if after in (":/", ":~") or before.endswith(("$", "{")) or (after[:1] == "(" and value.endswith(".to")):
        return False
    return not MESSAGE_ID_BEFORE.search(before)


def domain_length(characters: str) -> int:
    """Return the length of the domain that the characters start with, 0 if they do not.

    Example:
        >>> domain_length("example.co.uk."), domain_length("例え.jpまで"), domain_length("v1.2.js")
        (13, 5, 0)
    """
    if NO_DOMAIN.match(characters):
        return 0
    position, length = 0, 0
    for label in characters.split("."):
        word = label.rstrip("-")
        if position:
            end = top_level_length(word)
            if end:
                length = position + end
            elif label[:1].islower() and label.isascii():
                length = 0  # the name of a file or an attribute: `module.name.lower`
        if not label or label.startswith("-") or (length and length < position + len(label)):
            break
        position += len(label) + 1
    return length


def top_level_length(label: str) -> int:
    """Return the length of the top-level domain that the label is, or that letters of another script follow.

    A label of other letters than ASCII need not be registered: neither files nor attributes are written so.
    """
    if label.lower() in TOP_LEVEL or label.lower().startswith("xn--"):
        return len(label)
    if ascii_label := ASCII_LABEL.match(label):
        return len(ascii_label[0]) if ascii_label[0].lower() in TOP_LEVEL else 0
    if not label or label[0].isascii():
        return 0
    if UNSPACED_LETTER.match(label[0]):
        return next((size for size in range(LONGEST, 0, -1) if label[:size] in TOP_LEVEL), len(label))
    return len(label) if len(label) > 1 else 0


def find_credentials(text: str) -> Iterator[Span]:
    """Yield the user and the password of a URL."""
    return search(CREDENTIALS, text, lambda value, before, after: not PLACEHOLDER.fullmatch(value))


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Yield valid addresses; not network masks, not those that every machine has, not versions and sections."""
    yield from search(IPV4, text, is_ipv4)
    if "::" in text or HEXADECIMAL_GROUPS.search(text):
        yield from search(IPV6, text, is_ipv6)


def is_ipv4(value: str, before: str, after: str) -> bool:
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        return False
    first, *_ = numbers = [int(number) for number in value.split(".")]
    if first in (0, 255) or address.is_loopback or address.is_multicast or NO_ADDRESS_BEFORE.search(before):
        return False
    # Versions and sections have small numbers, and object identifiers start with 0, 1 or 2: `10.4.12.7`, `1.3.101.112`.
    distinct = first >= 100 or (first > 2 and sum(numbers) >= 200) or numbers[:3] == [10, 0, 0]
    if (distinct and not UPGRADE_BEFORE.search(before)) or ADDRESS_AFTER.match(after):
        return True
    if not LETTER_OR_MARK.search(before):
        return False
    if ADDRESS_BEFORE.match(before):
        return True
    return first == 10 and PRIVATE_ADDRESS_BEFORE.match(before) is not None


def is_ipv6(value: str, before: str, after: str) -> bool:
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return False
    if "." in value:
        return is_ipv4(value.rpartition(":")[2], before, after)
    groups = [group for group in value.split(":") if group]
    if len(groups) < 3 or address.is_loopback or address.is_multicast:
        return False
    # `a::b::c` of programs and `1:2::3` of slices do not start like an address in use. Rows of bytes and
    # times are no addresses.
    if "::" in value:
        return len(groups[0]) == 4 and groups[0][0].lower() in "23f" and not re.match(r"20\d\d::\d\d:\d\d", value)
    return any(len(group) > 2 for group in groups)
