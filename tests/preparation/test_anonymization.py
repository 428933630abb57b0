"""Personal data of a recognizable form is replaced, and numbers that only look like it are kept."""

import os
import re
import time

import pytest

from hf_llm.preparation.anonymization import KINDS, Anonymizer

VALUES = {
    "EMAIL": ["jo.doe+x@mail.example.co.uk"],
    "CREDENTIALS": ["https://jo:geheim@example.org/x"],
    "IBAN": ["GB82 WEST 1234 5698 7654 32", "de89370400440532013000"],
    "IP_ADDRESS": ["82.165.8.211", "2001:db8::8a2e:370:7334"],
    "CN_ID": ["11010519491231002X"],
    "CREDIT_CARD": ["4111 1111 1111 1111", "5500005555555559", "378282246310005"],
    "US_SSN": ["536-90-4399"],
    "NATIONAL_ID": ["390.533.447-05"],
    "PHONE": [
        "+49 (0)30 901820", "(212) 555-0147", "212-555-0147 x12", "call 555 0147", "13912345678", "手机：139 1234 5678",
    ],
    # Composed at run time: a scanner for secrets would report them in this file.
    "API_KEY": [
        "gh" + "p_" + "a1" * 18, "hf" + "_" + "Ab" * 17, "AK" + "IA" + "ABCDEFGH12345678", 
        "token = '" + "x1" * 12 + "'",
    ],
}  # fmt: skip
NOT_PERSONAL = [
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


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in VALUES.items() for value in values])
def test_a_value_is_replaced_by_its_kind(kind, value):
    """In the middle of a sentence, whose other words do not change."""
    text, kinds = Anonymizer()(f"Before, {value}, after.")
    assert kinds == [kind] and f"<{kind}>" in text
    assert text.startswith("Before, ") and text.endswith(", after.")


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
def test_a_word_such_as_phone_makes_any_form_a_telephone_number(text):
    """Also keys of JSON and of programs, and words of other languages."""
    assert Anonymizer()(text.format("5550147"))[0] == text.format("<PHONE>")


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_numbers_that_only_look_like_personal_data_are_kept(text):
    """Dates, amounts, versions, slices, numbers with a wrong checksum."""
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
    """The text next to a value is kept, and no character of the value is."""
    assert Anonymizer()(text)[0] == expected


# Repeated, each of these makes some expression look at the same characters as often as it can.
WORST = [
    *(
        "1 ",
        "1-",
        "1.1.1.",
        "1.2.3.4 ",
        "a 1234567 ",
        "手机1234567 ",
        "4111111111111111 ",
        "(1",
        "12:34:56 ",
        "ab:",
        "::",
    ),
    *(
        "a@",
        "a.",
        "a@a.",
        "例@例.",
        "é",
        "_SECRET",
        "SECRET_",
        "TOKEN=",
        'token="',
        "token = ",
        "-eyJ",
        "eyJaaaaaaaaaa.",
    ),
    *(
        "-xoxb-1",
        "-sk-ant-",
        "hf_a",
        "A",
        "1",
        "://",
        "://a:a",
        "DE12 ",
        "AAAA11",
        "DNI 1234567 ",
        "aws ",
        "AccountKey=",
    ),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n",
        "call me at ",
    ),
    *("---- BEGIN A PRIVATE KEY ----\nA: b\n", "Private-Lines: 1\nAAAA\n", "٠١٢ ", "ip 1.2.3.4 ", "phone number is "),
]
# Without it, some searches would not start.
END = " TOKEN=abcdefgh key='abcdefghij123456' jo@x ://a:b@c 1234567 AAAA11 1.2.3 a::b:cde: eyJ hooks"
END += " PRIVATE KEY Private-Lines"


@pytest.mark.parametrize("fragment", WORST)
def test_the_time_grows_in_proportion_to_the_text(fragment):
    """Ten times the text takes ten times the time, not a hundred times."""

    def seconds(size: int, runs: int) -> float:
        text = (fragment * (size // len(fragment) + 1))[:size] + END
        times = []
        for _ in range(runs):
            start = time.process_time()
            Anonymizer()(text)
            times.append(time.process_time() - start)
        return min(times)

    limit = 30 * seconds(10_000, 3) + 0.2
    assert seconds(100_000, 1) < limit or seconds(100_000, 3) < limit


def test_every_kind_has_an_example():
    """Each kind of the module is tested with the values above."""
    assert VALUES.keys() == {kind.name for kind in KINDS}


def test_several_values_are_replaced_in_their_order():
    """Each once; the rest of a URL is kept."""
    text, kinds = Anonymizer()("ftp://a:b@host/ and c@d.org, c@e.org")
    assert text == "ftp://<CREDENTIALS>@host/ and <EMAIL>, <EMAIL>"
    assert kinds == ["CREDENTIALS", "EMAIL", "EMAIL"]


def test_pseudonyms_are_the_same_for_a_value_and_a_key():
    """Upper and lower case of an address have the same one; another key gives other pseudonyms."""
    key, other = os.urandom(32), os.urandom(32)
    text, _ = Anonymizer(key=key)("Jo@x.org wrote to jo@x.org and to al@x.org")
    first, second, third = re.findall(r"<EMAIL_[0-9a-f]{8}>", text)
    assert first == second != third
    assert Anonymizer(key=other)("jo@x.org")[0] != first == Anonymizer(key=key)("jo@x.org")[0]


def test_spellings_of_a_value_have_the_same_pseudonym():
    """Except for secrets, whose case matters."""
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
    """Values of other kinds are kept."""
    assert Anonymizer(["IP_ADDRESS"])("a@b.org from 82.165.8.211")[0] == "a@b.org from <IP_ADDRESS>"


def test_a_private_key_is_replaced_as_a_whole():
    """From its first to its last line, or to the last line of base64 if its end is missing."""
    dashes = "-" * 5
    block = f"{dashes}BEGIN RSA PRIVATE KEY{dashes}\nabc\ndef==\n{dashes}END RSA PRIVATE KEY{dashes}"
    assert Anonymizer()(f"a\n{block}\nb")[0] == "a\n<API_KEY>\nb"
    assert (
        Anonymizer()(f"{dashes}BEGIN PRIVATE KEY{dashes}\n{'Ab' * 20}\nThe text continues.")[0]
        == "<API_KEY>\nThe text continues."
    )
