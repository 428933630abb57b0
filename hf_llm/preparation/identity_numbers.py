"""Numbers of persons and accounts: credit cards, IBANs and national identity numbers, all with a checksum.

A checksum alone is not enough: one number of ten has the last digit of a credit card, one of eleven that of many
national identity numbers. So each number also has a form of its own or follows a word such as "card" or "PESEL".
"""

import re
from collections.abc import Callable, Iterator

from stdnum import iban, luhn
from stdnum.ar import cuit
from stdnum.au import tfn
from stdnum.be import nn
from stdnum.bg import egn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cl import rut
from stdnum.cn import ric
from stdnum.cz import rc
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.do import cedula
from stdnum.ec import ci
from stdnum.ee import ik
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.gr import amka
from stdnum.hr import oib
from stdnum.id import nik
from stdnum.ie import pps
from stdnum.il import idnr as teudat_zehut
from stdnum.in_ import aadhaar, pan
from stdnum.is_ import kennitala
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.kr import rrn
from stdnum.lt import asmens
from stdnum.mx import curp
from stdnum.my import nric
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.nz import ird
from stdnum.pl import pesel
from stdnum.pt import cc, nif
from stdnum.ro import cnp
from stdnum.ru import inn
from stdnum.se import personnummer
from stdnum.si import emso
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.ua import rntrc
from stdnum.us import ssn
from stdnum.za import idnr as za_id

from hf_llm.preparation.matching import Span, search

IBAN = re.compile(r"\b[A-Za-z]{2}\d\d(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?\b", re.ASCII)
CN_ID = re.compile(r"(?<!\w)\d{17}[\dXx](?!\w)", re.ASCII)
US_SSN = re.compile(r"(?<![\w-])\d{3}-\d\d-\d{4}(?![\w-])", re.ASCII)

# In one row, or in the groups that are printed on cards: 4-4-4-4, 4-6-5, 4-6-4; also 4-4-4-4-3.
CARD = re.compile(
    r"(?<![\w.+#-])(?:\d{12,19}|\d{4}(?P<a>[ -])\d{4}(?P=a)\d{4}(?P=a)\d{1,4}(?:(?P=a)\d{3})?"
    r"|\d{4}(?P<b>[ -])\d{6}(?P=b)\d{4,5})(?![\w*-]|\.\d)",
    re.ASCII,
)
# The first digits and the lengths that the issuers use: Visa, Mastercard, American Express, Discover, Diners Club, JCB,
# UnionPay, Mir, Maestro.
CARD_NUMBER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}|3(?:0[0-5]|[689]\d)\d{11,16}|35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"
    r"|62\d{14,17}|220[0-4]\d{12,15}|(?:5[0678]|6\d|06)\d{10,17}"
)
CARD_WORD = re.compile(
    r"\bcards?(?![a-z])|credit|debit|\bvisa|master ?card|maestro|amex|american express|diners|\bjcb"
    r"|union ?pay|payment|\bpan\b"
    r"|\bcc\b|karte|kaart|kort\b|\bcarte|tarjeta|cartão|cartao|\bcarta\b|карт|信用卡|银行卡|銀行卡|卡号|卡號|カード|카드|بطاقة|כרטיס|kart|κάρτα|thẻ|บัตร|कार्ड",
    re.IGNORECASE,
)
# A card number without such a word must be in a sentence, not in code or in a row of numbers, such as
# `default_rng(2435908729190400)`.
SENTENCE_BEFORE = re.compile(r"(?:^|[^\W\d][,.;:!?]?\s|[^\x00-\x7f]|[\"'“„«] ?)$")
SENTENCE_AFTER = re.compile(r"[\"'”“»]?(?:$|[,.;!?]?(?:\s+(?!\d|\s)|$)|[^\x00-\x7f])")
NUMBER_WORD = re.compile(
    r"\b(?:seed|id|hash|size|bytes|time|timestamp|offset|address|value|number of)\W*$", re.IGNORECASE
)

# National identity numbers by the words before them.
WORDS: dict[str, tuple] = {
    **dict.fromkeys(("dni", "nif", "nie"), (dni, nie, nif)),
    **dict.fromkeys(("cpf",), (cpf,)),
    **dict.fromkeys(("cuit", "cuil"), (cuit,)),
    **dict.fromkeys(("rut",), (rut,)),
    **dict.fromkeys(("cédula", "cedula"), (ci, cedula)),
    **dict.fromkeys(("contribuinte", "cidadão"), (nif, cc)),
    **dict.fromkeys(("nir", "sécu", "sécurité", "insee"), (nir,)),
    **dict.fromkeys(("idnr", "steuer", "steueridentifikationsnummer", "identifikationsnummer", "steueridnr"), (idnr,)),
    **dict.fromkeys(("ahv", "avs"), (ahv,)),
    **dict.fromkeys(("nhs",), (nhs,)),
    **dict.fromkeys(("pps", "ppsn"), (pps,)),
    **dict.fromkeys(("bsn", "burgerservicenummer"), (bsn,)),
    **dict.fromkeys(("rijksregisternummer", "registre"), (nn,)),
    **dict.fromkeys(("fødselsnummer", "fodselsnummer", "personnummer", "personnr"), (fodselsnummer, personnummer)),
    **dict.fromkeys(("cpr",), (cpr,)),
    **dict.fromkeys(("hetu", "henkilötunnus"), (hetu,)),
    **dict.fromkeys(("kennitala",), (kennitala,)),
    **dict.fromkeys(("isikukood",), (ik,)),
    **dict.fromkeys(("asmens",), (asmens,)),
    **dict.fromkeys(("pesel",), (pesel,)),
    **dict.fromkeys(("rodné", "rč"), (rc,)),
    **dict.fromkeys(("cnp",), (cnp,)),
    **dict.fromkeys(("egn", "егн"), (egn,)),
    **dict.fromkeys(("oib",), (oib,)),
    **dict.fromkeys(("jmbg", "emšo", "emso", "јмбг"), (emso,)),
    **dict.fromkeys(("amka", "αμκα"), (amka,)),
    **dict.fromkeys(("tc", "tckn", "kimlik", "t.c"), (tckimlik,)),
    **dict.fromkeys(("инн", "inn"), (inn,)),
    **dict.fromkeys(("рнокпп", "іпн"), (rntrc,)),
    **dict.fromkeys(("ssn", "social security"), (ssn,)),
    **dict.fromkeys(("sin", "nas"), (sin,)),
    **dict.fromkeys(("tfn",), (tfn,)),
    **dict.fromkeys(("ird",), (ird,)),
    **dict.fromkeys(("aadhaar", "aadhar", "uidai"), (aadhaar,)),
    **dict.fromkeys(("pan",), (pan,)),
    **dict.fromkeys(("nik", "ktp"), (nik,)),
    **dict.fromkeys(("nric", "mykad"), (nric,)),
    **dict.fromkeys(("teudat", "zehut"), (teudat_zehut,)),
    **dict.fromkeys(("identity", "id"), (za_id,)),
    **dict.fromkeys(("आधार",), (aadhaar,)),
    **dict.fromkeys(("マイナンバー", "個人番号"), (my_number,)),
    **dict.fromkeys(("주민등록번호", "주민번호"), (rrn,)),
    **dict.fromkeys(("บัตรประชาชน", "ประจำตัวประชาชน"), (pin,)),
    **dict.fromkeys(("ת.ז", "תעודת זהות", "ת״ז", 'ת"ז'), (teudat_zehut,)),
}
UNSPACED_WORDS = [word for word in WORDS if word[0] > "\u0e00"]  # Thai, Japanese, Korean
SPACED_WORDS = sorted(map(re.escape, WORDS.keys() - set(UNSPACED_WORDS)), key=len, reverse=True)
WORD = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(SPACED_WORDS)})(?![^\W\d_])|{'|'.join(UNSPACED_WORDS)}")
ID_AFTER_WORD = re.compile(
    r"(?<![\w.,])(?!\d{4}-\d\d-\d\d(?!\d))"
    r"(?:[A-Z]{5}\d{4}[A-Z]|(?:[A-Z]-?)?\d(?:[ ./-]?\d){5,15}(?:[ -]?[A-Za-z]{1,2})?)"
    r"(?![\w%]|\.\d)",
    re.ASCII,
)
# Identity numbers of a form that nothing else has.
FORMS: dict[str, Callable[[str], bool]] = {
    r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]": codicefiscale.is_valid,
    r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z\d]\d": curp.is_valid,
    r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d": nn.is_valid,
    r"756\.\d{4}\.\d{4}\.\d\d": ahv.is_valid,
    r"\d{3}\.\d{3}\.\d{3}-\d\d": cpf.is_valid,
    r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]": rut.is_valid,
    r"\d{6}-[1-4]\d{6}": rrn.is_valid,
    r"\d-\d{4}-\d{5}-\d\d-\d": pin.is_valid,
    r"[12] \d\d \d\d (?:\d\d|2[AB]) \d{3} \d{3} \d\d": nir.is_valid,
}
ID_FORMS = re.compile(
    rf"(?<![\w.-])(?=[A-Z]{{4}}(?:[A-Z]{{2}})?\d\d|\d[\d .-]{{10}})(?:{'|'.join(f'({form})' for form in FORMS)})"
    r"(?![\w-]|\.\d)",
    re.ASCII,
)


def find_ibans(text: str) -> Iterator[Span]:
    return search(IBAN, text, lambda value, *around: iban.is_valid(value, check_country=False))


def find_cn_ids(text: str) -> Iterator[Span]:
    return search(CN_ID, text, lambda value, *around: ric.is_valid(value))


def find_us_ssns(text: str) -> Iterator[Span]:
    return search(US_SSN, text, lambda value, *around: ssn.is_valid(value))


def find_cards(text: str) -> Iterator[Span]:
    """Yield numbers that an issuer uses, with their checksum."""
    return search(CARD, text, is_card)


def is_card(value: str, before: str, after: str) -> bool:
    digits = re.sub(r"\D", "", value)
    if not luhn.is_valid(digits) or digits.endswith("00000"):
        return False
    if CARD_WORD.search(before) or CARD_WORD.search(after):
        return bool(re.match("[2-6]|1800|2131|06", digits))
    in_sentence = (
        CARD_NUMBER.fullmatch(digits)
        and SENTENCE_BEFORE.search(before)
        and SENTENCE_AFTER.match(after)
        and not NUMBER_WORD.search(before)
    )
    return bool(in_sentence) and len(digits) in (15, 16) and digits[0] in "345"


def find_national_ids(text: str) -> Iterator[Span]:
    """Yield identity numbers of other countries, after a word such as "PESEL" or in a form of their own."""
    valid = list(FORMS.values())
    for match in ID_FORMS.finditer(text):
        if match.lastindex and valid[match.lastindex - 1](match[0]):
            yield match.span()
    yield from search(ID_AFTER_WORD, text, follows_word)


def follows_word(value: str, before: str, after: str) -> bool:
    """Whether one of the last words before the value names a kind of number that it is."""
    line = re.split(r"[\d\n]", before)[-1][-40:].lower()
    words = [word[0] for word in WORD.finditer(line)]
    spellings = (value, re.sub(r"[ ./-]", "", value).upper())
    return any(validator.is_valid(each) for word in words for validator in WORDS[word] for each in spellings)
