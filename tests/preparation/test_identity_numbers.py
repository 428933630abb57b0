"""Numbers of persons are found by their checksum together with a word or a form of their own."""

import pytest

from hf_llm.preparation.anonymization import Anonymizer


@pytest.mark.parametrize(
    "text",
    [
        *(
            "DNI 12345678Z",
            "NIE: X1234567L",
            "CPF: 39053344705",
            "390.533.447-05",
            "PESEL 44051401359",
            "BSN 111222333",
        ),
        *(
            "RSSMRA85T10A562S",
            "BOXW310820HNERXN09",
            "AHV 756.9217.0769.85",
            "756.9217.0769.85",
            "Aadhaar 2341 2341 2346",
        ),
        *("주민등록번호 971013-9019902", "TC Kimlik No 17291716060", "NHS number 943 476 5919", "ИНН 500100732259"),
        *("Steuer-ID 36 574 261 809", "rodné číslo 710319/2745", "personnummer 880320-0016", "SIN 123-456-782"),
        *("fødselsnummer 151086 95088", "TFN 123 456 782", "social security number 536 90 4399"),
        *("DNI 12.345.678-Z", "dni 12345678z", "NIE X-1234567-L"),
    ],
)
def test_national_identity_numbers_are_found(text):
    """After a word of their country, or in a form that nothing else has."""
    assert Anonymizer()(f"A: {text}, B")[1] == ["NATIONAL_ID"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "DNI 12345678A",
            "390.533.447-06",
            "PESEL 44051401358",
            "the number 44051401359 of the row",
            "RSSMRA85T10A562T",
        ),
        *("run tst-dlmodcount.\n\n2004-01-22", "the id 12345678Z in a table"),
    ],
)
def test_other_numbers_are_kept(text):
    """A wrong checksum, or no word and no form."""
    assert Anonymizer()(text) == (text, [])


def test_a_card_number_stands_after_a_word_or_in_a_sentence():
    """In code and in rows of numbers, one number of ten has the checksum of a card."""
    for text in (
        "rng = default_rng(2435908729190400), seed 4539578763621486, np.random.seed(4539578763621486)",
        "2181 2284 1385 2306 1242 387 932\n2220 2802 314 936 3137 2634",
        "https://web.archive.org/web/20050204080544/x, Hour(5).nanos 18000000000000, 2014-03-01 2014-04-28",
        "cksum 3044173777 52029194 out, 343597376 515396064, ticket_5412345678901234",
    ):
        assert Anonymizer()(text) == (text, [])
    for text in ("seed of my card: {}", "Carte bancaire {}", "카드 {}", "It was {}, I think.", "卡号{}。"):
        for number in ("4111111111111111", "4111 1111 1111 1111", "４１１１－１１１１－１１１１－１１１１"):
            assert Anonymizer()(text.format(number))[0] == text.format("<CREDIT_CARD>")
