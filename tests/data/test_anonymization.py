"""Values with a form of their own are replaced, and numbers that only look like them stay."""

import os
import re

import pytest

from hf_llm.data.anonymization import KINDS, Anonymizer

FOUND = {
    "EMAIL": ["jo.doe+x@mail.example.co.uk", "юзер@пример.рф"],
    "CREDENTIALS": ["https://jo:geheim@example.org/x"],
    "IBAN": ["GB82 WEST 1234 5698 7654 32", "de89370400440532013000"],
    "IP_ADDRESS": ["82.165.8.211", "2001:db8::8a2e:370:7334"],
    "CN_ID": ["11010519491231002X"],
    "CREDIT_CARD": ["4111 1111 1111 1111", "5500005555555559", "378282246310005"],
    "US_SSN": ["536-90-4399"],
    "PHONE": [
        "+49 (0)30 901820", "(212) 555-0147", "212-555-0147 x12", "call 555 0147", "13912345678", "手机：139 1234 5678",
    ],
    # Made here, since a real form in a file would look like a leak.
    "API_KEY": [
        "gh" + "p_" + "a1" * 18, "hf" + "_" + "Ab" * 17, "AK" + "IA" + "ABCDEFGH12345678", 
        "token = '" + "x1" * 12 + "'",
    ],
}  # fmt: skip
LEFT = [
    "in 1999-2001, on 2024-05-17 and 17.05.2024, at 12:30:45",
    "10 000 000 people, 1,234,567 votes, $ 1200 450 900, 45.123.456",
    "pi is 3.14159265358979, 2**64 is 18446744073709551616",
    "version 10.4.12.7, x[::2], std::vector, 127.0.0.1",
    "ISBN 978-0-306-40615-7, page 123-4567, ZIP 12345-6789",
    "card 4111 1111 1111 1112, 11010519491231002Y, GB82 WEST 1234 5698 7654 33",
    "000-12-3456 and 666-12-3456",
    "@home, a@b, user@localhost, http://example.org:8080/x",
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_a_value_is_replaced_by_its_kind(kind, value):
    """In the middle of a sentence; nothing else of it changes."""
    text, kinds = Anonymizer()(f"Before, {value}, behind.")
    assert kinds == [kind] and f"<{kind}>" in text
    assert text.startswith("Before, ") and text.endswith(", behind.")


@pytest.mark.parametrize("text", LEFT)
def test_numbers_that_only_look_like_one_stay(text):
    """Dates, amounts, versions, slices, wrong checksums."""
    assert Anonymizer()(text) == (text, [])


def test_every_kind_has_an_example():
    """Of this file; there is none that is not tried."""
    assert FOUND.keys() == {kind.name for kind in KINDS}


def test_several_values_are_replaced_in_their_order():
    """Each once, the rest of a connection string kept."""
    text, kinds = Anonymizer()("ftp://a:b@host/ and c@d.org, c@e.org")
    assert text == "ftp://<CREDENTIALS>@host/ and <EMAIL>, <EMAIL>"
    assert kinds == ["CREDENTIALS", "EMAIL", "EMAIL"]


def test_pseudonyms_are_the_same_for_a_value_and_a_key():
    """Whatever its case; another key gives others."""
    key, other = os.urandom(32), os.urandom(32)
    text, _ = Anonymizer(key=key)("Jo@x.org wrote to jo@x.org and to al@x.org")
    first, second, third = re.findall(r"<EMAIL_[0-9a-f]{8}>", text)
    assert first == second != third
    assert Anonymizer(key=other)("jo@x.org")[0] != first == Anonymizer(key=key)("jo@x.org")[0]


def test_kinds_can_be_chosen():
    """The others stay."""
    assert Anonymizer(["IP_ADDRESS"])("a@b.org from 82.165.8.211")[0] == "a@b.org from <IP_ADDRESS>"


def test_a_private_key_goes_as_a_whole():
    """From its first to its last line."""
    dashes = "-" * 5
    block = f"{dashes}BEGIN RSA PRIVATE KEY{dashes}\nabc\ndef==\n{dashes}END RSA PRIVATE KEY{dashes}"
    assert Anonymizer()(f"a\n{block}\nb")[0] == "a\n<API_KEY>\nb"
