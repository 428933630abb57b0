"""Addresses of all scripts are found; versions, sections, files and attributes of the same form are kept."""

import os

import pytest

from hf_llm.preparation.anonymization import Anonymizer

NOT_ADDRESSES = [
    "keyUsage has the OID 2.5.29.15, Ed25519 the OID 1.3.101.112, the OIDs 1.3.6.1 and 2.5.4.3",
    "As RFC 7540 8.1.2.4 says, see 7.1.3.5 SHA1, Sections 4.1.2.3, 4.1.2.4 and 4.1.2.5",
    "version 2023.10.15.1, kernel 2.6.32.71, 1.2.3.4-1, foo-1.2.3.4.tar.gz, Chrome/115.0.5.170, Python 3.11.7.1",
    "SQL Server 11.0.2.5, Oracle client 11.2.0.4, macOS 10.15.7.1, from 4.18.0.15 to 4.19.0.16",
    "on Debian servers.\n\n11.8.4.1 Installing the server\n10.4.2.1. Latency",
    "00:1B:44:11:3A:B7, 00:02:c9:03:00:00:10:39",
    "dead::beef::cafe, x[1:2::3], crate::fade::add, std::vector<int>::iterator",
    "224.0.0.1, 255.255.255.0, 0.0.0.0, 127.0.0.1",
    "npm pack made tool@4.17.21.tgz, foo@v1.2.js, react@18.2.0, pkg@1.2.3.zip, obj@0x7f.repr",
    "@app.route, foo @x.y, W@x.data, x@y.shape, a@b.T.c, y = x@w.to(device), foo@plt.got",
    "getty@tty1.service, git-gc@daily.timer, modprobe@module.socket, sr@latin.po, en@quot.header, memcpy@GLIBC_2.2.5",
    "user@host:path, rsync user@backup.example.org:/srv ., git@github.com:user/repo.git, git+ssh://git@github.com/x.git",
    "${user}@host.com, $USER@host.example.com, {name}@example.com, <user>@example.com, %s@%s.com",
    "Message-ID: <20040101.1234@mail.example.com>, https://lore.kernel.org/git/" + "3a1f08" * 12 + "@mail.example.com",
    "postgresql://user:password@host/db, https://user:password@example.com/, smb://[[domain:]user[:password@]]server",
]


@pytest.mark.parametrize("text", NOT_ADDRESSES)
def test_what_only_looks_like_an_address_is_kept(text):
    """Versions, sections, object identifiers, packages, units, attributes, templates."""
    assert Anonymizer()(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mail an jürgen@müller.example oder иван@почта.example", "Mail an <EMAIL> oder <EMAIL>"),
        ("χρήστης@παράδειγμα.ελ, пример@пример.рф, अजय@डाटा.भारत", "<EMAIL>, <EMAIL>, <EMAIL>"),
        ("联系：用户@例子.公司，二ノ宮@黒川.日本", "联系：<EMAIL>，<EMAIL>"),
        ("メールはtaro@example.jpまで", "メールは<EMAIL>まで"),
        ("이메일: 홍길동@예시.한국입니다", "이메일: <EMAIL>입니다"),
        ("ｊｏ＠ｅｘａｍｐｌｅ．ｃｏｍ", "<EMAIL>"),
        ("jo@example.org.Then jo@example.com--", "<EMAIL>.Then <EMAIL>--"),
        ("\\fIjo@example.org\\fR", "\\fI<EMAIL>\\fR"),
        ("jo@163.com, x@xn--mller-kva.example, ssh://jo@host.example.org/", "<EMAIL>, <EMAIL>, ssh://<EMAIL>/"),
        ("DNS server 8.8.8.8, IP: 1.2.3.4, http://10.2.3.4:80/", "DNS server <IP_ADDRESS>, IP: <IP_ADDRESS>, http://<IP_ADDRESS>:80/"),
        ("from 10.0.0.7 and 31.13.64.35/24, ١٩٢.١٦٨.٣.٤٤", "from <IP_ADDRESS> and <IP_ADDRESS>/24, <IP_ADDRESS>"),
        ("fe80::1:2:3, 2001:db8::1", "<IP_ADDRESS>, <IP_ADDRESS>"),
        ("peer ::ffff:203.0.113.45 connected", "peer <IP_ADDRESS> connected"),
        ("postgresql://scott:tiger@localhost/test", "postgresql://<CREDENTIALS>@localhost/test"),
        ("redis://:p4ssw0rd@localhost:6379", "redis://<CREDENTIALS>@localhost:6379"),
    ],
)  # fmt: skip
def test_addresses_of_all_scripts_are_found(text, expected):
    """Letters of scripts without spaces may stand directly before and after an address."""
    assert Anonymizer()(text)[0] == expected


def test_spellings_of_an_address_have_the_same_pseudonym():
    """Capital letters, punycode, fullwidth letters."""
    anonymizer = Anonymizer(key=os.urandom(16))
    for spellings in (
        ["Jürgen@Müller.example", "jürgen@xn--mller-kva.example"],
        ["jo@example.org", "ｊｏ＠ｅｘａｍｐｌｅ．ｏｒｇ"],
        ["192.168.3.44", "١٩٢.١٦٨.٣.٤٤", "::ffff:192.168.3.44"],
    ):
        assert len({anonymizer(text)[0] for text in spellings}) == 1, spellings
