"""Values with a form of their own are replaced, and numbers that only look like them stay."""

import os
import re

import pytest

from hf_llm.preparation.anonymization import KINDS, Anonymizer

FOUND = {
    "EMAIL": ["jo.doe+x@mail.example.co.uk"],
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
    "icon@2x.png, git@github.com:user/repo.git, sk-learn-is-a-nice-library-indeed-yes",
    'token="GetTokenFromServerHelper", api_key = "os.environ.get.API_KEY"',
    "message 20240115, contact 2024 2025 2026, reach 1 500 000 people, texts 1000000 rows, call f(1234567)",
    "ExtendedContext.add(Decimal('101010101')), telemetry 101010101, mobile app id 101010101, contact form 5550147",
    "Call me maybe 5550147, my phone bill 5550147, the message id 5550147, def call(self, 5550147), textual 5550147",
    "SSN 078-05-1120, which was printed on cards that were sold in shops",
    "section 1.2.3.4, mask 255.255.255.0, ABCD 1234 5678 9012 3456",
    "@home, a@b, user@localhost, http://example.org:8080/x",
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_a_value_is_replaced_by_its_kind(kind, value):
    """In the middle of a sentence; nothing else of it changes."""
    text, kinds = Anonymizer()(f"Before, {value}, behind.")
    assert kinds == [kind] and f"<{kind}>" in text
    assert text.startswith("Before, ") and text.endswith(", behind.")


@pytest.mark.parametrize(
    "text",
    [
        *(
            '"phone": "{}"',
            "phone_number: {}",
            "phoneNumber = {}",
            "mobile_no: {}",
            "Telephone: {}",
            "Tel. {}",
            "ph: {}",
        ),
        *("电话号码：{}", "手机号{}", "联系电话：{}", "電話番号: {}", "Telefonnr.: {}", "teléfono de contacto: {}"),
        *("Call us today: {}", "my phone number is {}", "Call John at {}", "please call extension {}", "Fax&nbsp;{}"),
    ],
)
def test_a_word_before_it_makes_a_telephone_number_of_any_form(text):
    """Keys of programs and of other languages too."""
    assert Anonymizer()(text.format("5550147"))[0] == text.format("<PHONE>")


@pytest.mark.parametrize("text", LEFT)
def test_numbers_that_only_look_like_one_stay(text):
    """Dates, amounts, versions, slices, wrong checksums."""
    assert Anonymizer()(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我的手机号是13800138000，请联系。", "我的手机号是<PHONE>，请联系。"),
        ("身份证号11010519491231002X。", "身份证号<CN_ID>。"),
        ("联系电话010-62345678", "联系电话<PHONE>"),
        ("服务器192.168.3.44在线", "服务器<IP_ADDRESS>在线"),
        ("カード番号4111111111111111です", "カード番号<CREDIT_CARD>です"),
        ("发送到邮箱zhang.san@example.com，谢谢", "发送到邮箱<EMAIL>，谢谢"),
        ("연락처는hong@example.kr입니다", "연락처는<EMAIL>입니다"),
        ("Tel:+49 30 1234567, phone:(555) 123-4567", "Tel:<PHONE>, phone:<PHONE>"),
        ("+15551234567,+15551234568", "<PHONE>,<PHONE>"),
        ("http://93.184.216.34:8080/x", "http://<IP_ADDRESS>:8080/x"),
        ("https://user:p@ss@host/", "https://<CREDENTIALS>@host/"),
        ("export API_KEY=" + "abc1" * 5, "export API_KEY=<API_KEY>"),
    ],
)
def test_a_value_ends_where_another_script_or_mark_begins(text, expected):
    """Nothing of the text beside it goes, and nothing of the value stays."""
    assert Anonymizer()(text)[0] == expected


@pytest.mark.parametrize(
    "text", ["1 " * 50_000, "-----BEGIN PRIVATE KEY-----\n" * 10_000, "a@" * 50_000, "1-" * 50_000]
)
def test_no_text_takes_forever(text):
    """Rows of numbers, beginnings without an end."""
    Anonymizer()(text)


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


def test_a_value_has_one_pseudonym_however_it_is_written():
    """But for secrets, where case is a part of them."""
    anonymizer = Anonymizer(key=os.urandom(32))
    for values in (
        ["4111 1111 1111 1111", "4111111111111111"],
        ["GB82 WEST 1234 5698 7654 32", "gb82west12345698765432"],
    ):
        assert len({anonymizer(value)[0] for value in values}) == 1
    assert anonymizer("2001:db8::1:2")[0] == anonymizer("2001:db8:0:0:0:0:1:2")[0]
    secret = "gh" + "p_" + "aB1" * 12
    assert anonymizer(secret)[0] != anonymizer(secret[:4] + secret[4:].lower())[0]


def test_kinds_can_be_chosen():
    """The others stay."""
    assert Anonymizer(["IP_ADDRESS"])("a@b.org from 82.165.8.211")[0] == "a@b.org from <IP_ADDRESS>"


def test_a_private_key_goes_as_a_whole():
    """From its first to its last line."""
    dashes = "-" * 5
    block = f"{dashes}BEGIN RSA PRIVATE KEY{dashes}\nabc\ndef==\n{dashes}END RSA PRIVATE KEY{dashes}"
    assert Anonymizer()(f"a\n{block}\nb")[0] == "a\n<API_KEY>\nb"
    assert (
        Anonymizer()(f"{dashes}BEGIN PRIVATE KEY{dashes}\n{'Ab' * 20}\nA text goes on.")[0]
        == "<API_KEY>\nA text goes on."
    )
