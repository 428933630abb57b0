"""Telephone numbers: after a word such as "phone" in the language of the text, or in a form that no other numbers have.

phonenumbers (Google's libphonenumber) knows the country codes, and the lengths and groups of each country's numbers.
"""

import functools
import itertools
import re
from collections.abc import Iterator

import phonenumbers
import regex
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat

from hf_llm.preparation.matching import Span, fold, search

ENGLISH = (
    r"(?:tele|cell|smart)?phones?|tele?|telf|fax|mobiles?|cell|whats?app|sms|hotline|gsm|mob|ph"
    r"|viber|office|answering|desk"
)
# Words before a telephone number, by the country that a number without a country code then belongs to; those of several
# countries first.
WORDS = {
    "": r"cel|telefon\w{0,8}|telefaks?|faks|mobil|m[oó]vil|celular|tel[eé]fonos?",
    "DE": r"handy|(?:tele|mobil)fon\w*|mobilnummer|rufnummer|festnetz|fon"
    r"|rufe?n? (?:sie|mich|uns)(?: \w+)? an|anrufen unter|erreichbar|durchwahl",
    "FR": r"t[eé]l[eé]phones?|tél|portable|appelez|t[eé]l[eé]copie|joignable|joindre|joigne\w*",
    "IT": r"telefono|cellulare|chiama\w*",
    "ES": r"tfnos?|tlfno|ll[aá]m[ae]\w*",
    "BR": r"telefones?|telem[oó]vel|ligue(?: para)?|contato",
    "NL": r"telefoon\w*|mobiel|telnr|bel(?:t|len)? (?:mij|me|ons|naar|op|met|gerust|dan)",
    "SE": r"mobiltelefon|mobilnummer|telefonnummer|ring (?:mig|oss|på)",
    "DK": r"tlf|ring (?:til|på)",
    "FI": r"puh|puhelin\w*|matkapuhelin|soita",
    "PL": r"telefonu|tel\. kom|kom[oó]rk\w+|(?:za)?dzwo[nń]\w*",
    "CZ": r"(?:za)?volejte|telefonn[íi]",
    "HU": r"h[íi]vj\w*|telefonsz[áa]m\w*",
    "RO": r"suna[țt]i|telefonul",
    "HR": r"mobitel|nazovite",
    "TR": r"telefonu?|cep(?: telefonu)?|(?:beni|bizi) ara\w*|aray[\u0131i]n\w*",
    "VN": r"đi[ệe]n tho[ạa]i|đt|sđt|di đ[ộo]ng|g[ọo]i|li[êe]n h[ệe]",
    "ID": r"telepon|telp|ponsel|nomor hp|no\.? hp|hubungi",
    "LT": r"telefonas|mobilusis",
    "LV": r"t[āa]lr\w*",
    "IS": r"s[íi]mi|fars[íi]mi",
    "KE": r"simu",
    "MN": r"утас\w*",
    "RU": r"тел|телефон\w*|моб|мобильн\w+|сотов\w+|(?:по)?звони\w*|факс",
    "UA": r"мобільн\w+|(?:по|за)?дзвон\w+",
    "GR": r"τηλ|τηλέφων\w+|κινητ\w+|φαξ|καλέστε",
    "GE": r"ტელ|ტელეფონი|მობ",
    "AM": r"հեռ|հեռախոս\w*",
    "IL": r"[הבול]?(?:טלפון|טל'?|נייד|פקס|סלולרי|וואטסאפ|ווטסאפ)|התקשרו|להתקשר",
    "SA": r"(?:ال|و|ب|لل|بال)?(?:هاتف\w*|تلفون|تليفون|جوال\w*|موبايل\w*|محمول|فاكس|اتصل\w*|اتصال|واتساب)",
    "IR": r"تلفن|همراه|موبایل|تماس|فکس|نمابر",
    "PK": r"فون|رابطہ",
}
# And words that other words follow without a space, or that have marks of vowels.
UNSPACED_WORDS = {
    "CN": r"电话|手机|联系方式|联系人|联络|致电|传真|热线|座机|拨打|请联系",
    "TW": r"聯絡|手機|傳真|熱線|撥打",
    "JP": r"電話|携帯|連絡先|ファ(?:ック|ク)ス|ケータイ|問い?合わ?せ",
    "KR": r"전화|휴대폰|휴대전화|핸드폰|연락처|팩스|문의",
    "IN": r"फ़ोन|फोन|फ़ोन|मोबाइल|दूरभाष|संपर्क|सम्पर्क|कॉल|फ़ैक्स|फैक्स|मोबाईल|தொலைபேசி|மொபைல்|கைபேசி|ఫోన్|ಫೋನ್|ഫോൺ|ફોન|ਫੋਨ|ਫ਼ੋਨ",
    "BD": r"ফোন|মোবাইল",
    "TH": r"โทร|มือถือ|เบอร์|แฟกซ์|ติดต่อ",
    "KH": r"ទូរស័ព្ទ",
    "LA": r"ໂທ",
    "MM": r"ဖုန်း",
}
NUMBER_WORD = r"(?:[_ .-]{0,2}(?:numbers?|num|nummer|number|no|nr|nº|n°|n\.º))?"
BETWEEN = (
    r"numbers?|num|no|nr|line|is|was|at|on|in|by|via|to|of|or|and|for|from|me|us|him|her|them|it|you|we|the|a|my|our"
    r"|your|his|their|can|please|up|back|now|here|today|anytime|directly|home|work|office|phone|mobile|direct"
    r"|registered|toll|free|day|night|customer|service|support|help|desk|extension|ext|nbsp"
)
CHAIN = rf"[\W_]{{0,5}}(?:(?:{BETWEEN})[\W_]{{1,4}}){{0,4}}(?:\w{{1,20}} (?:at|on)\W)?$"
# Matched from the end, so that the time does not depend on what comes before.
ENGLISH_BEFORE = regex.compile(
    rf"(?<![^\W_])(?:{ENGLISH}){NUMBER_WORD}(?![^\W_]){CHAIN}"
    # Words that also mean something else: not "message 1234567", "recursive calls 3628800", "the text\n 16714 9.0.02".
    rf"|(?<![^\W_])(?:call|dial|ring)[ :]{{1,3}}(?:(?:{BETWEEN})[ :,]{{1,3}}){{0,4}}(?:\w{{1,20}} (?:at|on) )?$"
    rf"|(?<![^\W_])(?:called|calling|texts?|messages?|reach|contact)[ :]{{1,3}}(?:(?:{BETWEEN})[ :,]{{1,3}}){{1,4}}$"
    rf"|(?<![^\W_])(?:call|text|message|reach|contact) \w{{1,20}} (?:at|on) $",
    regex.IGNORECASE | regex.REVERSE,
)
# Up to 20 other characters may be between a word of another language and the number, but no end of a sentence.
OTHER_BEFORE = regex.compile(
    rf"(?:(?<![^\W\d_])(?:{'|'.join(WORDS.values())}){NUMBER_WORD}(?![^\W\d_])|{'|'.join(UNSPACED_WORDS.values())})"
    r"[^\d\n!?。[]{0,20}\n?[^\d\n!?。[]{0,3}$",
    regex.IGNORECASE | regex.REVERSE,
)
COUNTRY = re.compile(
    "|".join(
        [
            *(rf"(?<![^\W\d_])(?P<{country}>{words})(?![^\W\d_])" for country, words in WORDS.items() if country),
            *(f"(?P<{country}>{words})" for country, words in UNSPACED_WORDS.items()),
        ]
    ),
    re.IGNORECASE,
)
AFTER = re.compile(r"[ -]{0,2}\(?(?:office|fax|mobile|cell|phone|home|work|desk)\b", re.IGNORECASE)
# Also no telephone number, whatever the words before: dates, ranges of years, decimals, grouped thousands,
# coordinates (ISO 6709).
NOT_A_PHONE = re.compile(
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}.*|\d{1,2}[-./]\d{1,2}[-./]\d{4}|\(?(?:1[5-9]|20)\d\d\)? ?[-/] ?(?:1[5-9]|20)\d\d"
    r"|\d{5}-\d{4}|\d{3}-\d\d-\d{4}|\d+\.\d+|(?:19|20)\d\d[01]\d[0-3]\d|(?:1[5-9]|20)\d\d(?: (?:1[5-9]|20)\d\d)+"
    r"|\d{1,3}[ -](?:19|20)\d\d[ /-](?:19|20)\d\d|[1-9](?: \d{3})+|\+\d{4}(?:\d\d)?[+-]\d{5}(?:\d\d)?"
    r"|\(?(?:1[89]|20)\d\d\) ?\d{1,3} ?-.*|\d+0{5,}|\d+ +\d+\.\d+\.\d+|(?:(?:19|20)\d{6}|\d{2}:?\d\d)[- ].*:.*"
)
NUMBER_OF = re.compile(
    r"(?:ISSN|ISBN|ISMN|DOI|PMID|arXiv|OID|RFC|EAN|UPC|VIN|IMEI|SHA-?\d*|MD5)\W{0,3}$", re.IGNORECASE
)

# The prefilter of the pattern: seven digits with separators between them.
NUMBER = r"\d(?:[ .()/-]{0,3}\d){6}"
# The lookahead with a back reference is an atomic group (Python 3.11 has them): no digit is given back.
PHONE = re.compile(
    # A dot before it ends an abbreviation: "тел.8(495)123-45-67". A word in capital letters: "TEL0120-123-456".
    rf"(?:(?<![\w/$€£#+(-])|(?<=TEL)|(?<=FAX)|(?<=\()(?=\+))(?<!(?<![A-Za-z\x80-\U0010ffff])\.)"
    rf"(?<!\d:)(?:(?=[+(])|(?<!\d,))(?=[+(]?{NUMBER})"
    r"(?=(?P<number>[+(]?\d{1,5}\)?"
    r"(?:[ .\-/]{0,2}\(?\d{1,8}(?:\)(?=[ .\-/]{0,2}\(?\d))?| [/-] \d{1,8}){1,7}))(?P=number)"
    r"(?: ?(?:x|ext\.?) ?\d{1,6})?(?![\w%€*]|[.,:-]\d)",
    re.ASCII,
)
AMERICAN = re.compile(
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?[2-9]\d\d[-. ]\d{4}|\d{3}-\d{3}-\d{4}|[2-9]\d\d\.[2-9]\d\d\.\d{4})"
    r"(?: ?(?:x|ext\.?) ?\d+)?"
)
CHINESE_MOBILE = re.compile(r"1[3-9]\d{9}|1[3-9]\d([ -])\d{4}\1\d{4}")
# Countries whose national form is known by its groups.
COUNTRIES = "DE FR GB JP KR CN TW RU UA BR IT AT CH NL BE SE PL AU IN TR IL ZA MX"
# A number without a word before it must be in a sentence, not in code, tables or dumps.
SENTENCE_BEFORE = re.compile(r"(?:^|[^\W\d][,.;:!?)]?\s|[^\x00-\x7f]|[“„«] ?)$")
SENTENCE_AFTER = re.compile(
    r"[\"'”“»)\]]?(?:$|[,.;!?]?\s+(?![\d\s]|[a-fA-F]\d|[KMGT]?i?[Bb]\b|bytes|[mnµ]?s\b)|[,.;!?]?\s*$|[^\x00-\x7f])"
)


def find_telephone_numbers(text: str) -> Iterator[Span]:
    """Yield telephone numbers."""
    return search(PHONE, text, is_phone)


def is_phone(value: str, before: str, after: str) -> bool:
    """Accept 7 to 15 digits in any form after a word such as "phone", and else in a form of telephone numbers only."""
    number = re.split("[xe]", value)[0]
    digits = re.sub(r"\D", "", number)
    if not 7 <= len(digits) <= 15 or NOT_A_PHONE.fullmatch(value) or NUMBER_OF.search(before) or len(set(digits)) == 1:
        return False
    if follows_word(re.split(r"\d", before)[-1]) or AFTER.match(after):
        return True
    if AMERICAN.fullmatch(value):
        return not re.search(r"[=\w]$|\d[ \t]+$", before)
    if number.startswith(("+", "00")):
        return is_international(number, digits)
    if not (SENTENCE_BEFORE.search(before) and SENTENCE_AFTER.match(after)):
        return False
    if CHINESE_MOBILE.fullmatch(number):
        return is_valid(number, "CN")
    return len(digits) >= 9 and number.startswith(("0", "(0", "8 (", "(")) and has_groups_of_a_country(number)


@functools.lru_cache(1024)
def follows_word(before: str) -> bool:
    """Whether the text ends with a word for a telephone, and perhaps some words that may follow it."""
    return bool(ENGLISH_BEFORE.match(before) or OTHER_BEFORE.match(before))


def is_international(number: str, digits: str) -> bool:
    parsed = parse(re.sub("^00", "+", number), None)
    if parsed is None or not phonenumbers.is_possible_number(parsed):
        return False
    grouped = number.startswith("+") and number[1:] != digits and len(digits) >= 9
    american = parsed.country_code == 1 and len(digits) == 11
    return phonenumbers.is_valid_number(parsed) or grouped or (american and number.startswith("+"))


def is_valid(number: str, country: str) -> bool:
    parsed = parse(number, country)
    return parsed is not None and phonenumbers.is_valid_number(parsed)


def has_groups_of_a_country(number: str) -> bool:
    """Whether the number is valid in a country and has the groups in which it is written there."""
    groups = re.findall(r"\d+", number)
    if len(groups) < 2 or len({int(b) - int(a) for a, b in itertools.pairwise(groups)}) == 1:
        return False  # counted: 01 02 03 04 05
    for country in COUNTRIES.split():
        parsed = parse(number, country)
        if parsed and phonenumbers.is_valid_number(parsed):
            national = phonenumbers.format_number(parsed, PhoneNumberFormat.NATIONAL)
            same_brackets = "(" not in number or "(" in national or number.startswith("(0")
            if re.findall(r"\d+", national) == groups and same_brackets:
                return True
    return False


@functools.lru_cache(1024)
def parse(number: str, country: str | None) -> PhoneNumber | None:
    try:
        return phonenumbers.parse(number, country)
    except NumberParseException:
        return None


def international_form(value: str, before: str) -> str | None:
    """Return the number with its country code, if that is in it or known by the language of the word before it.

    Example:
        >>> international_form("8 912 345-67-89", "тел. "), international_form("0171 1234567", "Please call ")
        ('+79123456789', None)
    """
    number = re.sub(r"^00(?=[1-9])", "+", value)
    country = country_of(before)
    if country is None and AMERICAN.fullmatch(value) and is_valid(number, "US"):
        country = "US"
    parsed = parse(number, None if number.startswith("+") else country)
    if parsed is None or not phonenumbers.is_possible_number(parsed):
        return None
    extension = f"x{parsed.extension}" if parsed.extension else ""
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164) + extension


def country_of(before: str) -> str | None:
    """Return the country whose language the last word for a telephone has."""
    matches = list(COUNTRY.finditer(fold(before)))
    return matches[-1].lastgroup if matches else None
