"""Keys of well-known services are found, and so are private keys; text that only speaks of them is kept."""

import random
import string

import pytest

from hf_llm.preparation.anonymization import Anonymizer

CAPITALS, HEX = string.ascii_uppercase + string.digits, "0123456789abcdef"
DASHES = "-" * 5


def letters(count: int, alphabet: str = string.ascii_letters + string.digits, seed: int = 0) -> str:
    return "".join(random.Random(f"{count} {seed}").choices(alphabet, k=count))


# Composed at run time: a scanner for secrets would report them in this file.
KEYS = {
    "AWS": "AK" + "IA" + letters(16, CAPITALS),
    "GitHub": "gh" + "p_" + letters(36),
    "GitHub, fine-grained": "github" + "_pat_" + letters(22) + "_" + letters(59),
    "GitLab": "gl" + "pat-" + letters(20),
    "Hugging Face": "hf" + "_" + letters(34, string.ascii_letters),
    "OpenAI": "sk" + "-proj-" + letters(74) + "T3BlbkFJ" + letters(74, seed=1),
    "Anthropic": "sk" + "-ant-api03-" + letters(93) + "AA",
    "Stripe": "sk" + "_live_" + letters(24),
    "Slack": "xox" + "b-" + letters(12, string.digits) + "-" + letters(13, string.digits) + "-" + letters(24),
    "Slack, app": "xa" + "pp-1-" + letters(11) + "-" + letters(13, string.digits) + "-" + letters(64, HEX),
    "SendGrid": "SG" + "." + letters(22) + "." + letters(43),
    "Twilio": "SK" + letters(32, HEX),
    "Google": "AI" + "za" + letters(35),
    "Google, OAuth": "GOC" + "SPX-" + letters(28),
    "npm": "np" + "m_" + letters(36),
    "PyPI": "py" + "pi-AgEIcHlwaS5vcmc" + letters(80),
    "Telegram": letters(9, string.digits) + ":AA" + letters(33),
    "Discord": "MT1" + letters(22) + "." + letters(6) + "." + letters(27),
    "JWT": "ey" + "J" + letters(20) + ".ey" + "J" + letters(40) + "." + letters(43),
    "Mailgun": "key" + "-" + letters(32, HEX),
    "Mailchimp": letters(32, HEX) + "-us12",
    "Shopify": "shp" + "at_" + letters(32, HEX),
    "DigitalOcean": "do" + "p_v1_" + letters(64, HEX),
    "Docker": "dckr" + "_pat_" + letters(27),
    "Vault": "hv" + "s." + letters(90),
    "Slack, refreshed": "xox" + "e.xox" + "p-1-" + letters(146),
    "Sentry": "sntr" + "ys_" + letters(60),
    "HubSpot": "pa" + "t-na1-" + "-".join(letters(count, HEX) for count in (8, 4, 4, 4, 12)),
    "Fly.io": "fo" + "1_" + letters(43),
    "Meta": "EA" + "ACEdEose0cBA" + letters(100),
    "Airtable": "pa" + "t" + letters(14) + "." + letters(64, HEX),
}
ASSIGNED = [
    ("aws_secret_access_key = {}", letters(40)),
    ("AWS_SECRET_ACCESS_KEY={}", letters(40)),
    ("DefaultEndpointsProtocol=https;AccountKey={}", letters(86) + "=="),
    ("Authorization: Bearer {}", letters(40)),
    ("//registry.npmjs.org/:_authToken={}", letters(36)),
    ('api_key: "{}"', letters(32)),
    ("https://hooks.slack.com/services/{}", "T" + letters(8) + "/B" + letters(8) + "/" + letters(24)),
    ("DB_PASSWORD={}", "Tr0ub4dor&3xyz!"),
    ("api-key: {}", letters(32, HEX)),
    ("client_secret = {}", letters(40)),
    ('<add key="ApiKey" value="{}"/>', letters(32, HEX)),
]


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_keys_of_services_are_found(key):
    """In a sentence, in code, next to a letter of another script."""
    for text in ("The key {} is new.", "mail.send(key='{}')", "密钥{}。", "x={}\n"):
        assert Anonymizer()(text.format(key)) == (text.format("<API_KEY>"), ["API_KEY"])


@pytest.mark.parametrize(("text", "value"), ASSIGNED)
def test_values_that_are_assigned_to_a_name_are_found(text, value):
    """The name of a variable, of a setting, of a header."""
    assert Anonymizer()(text.format(value))[0] == text.format("<API_KEY>")


LINES = "\n".join(letters(64, seed=seed) for seed in range(5))
PEM = f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n{LINES}\n{DASHES}END PRIVATE KEY{DASHES}"


@pytest.mark.parametrize(
    "block",
    [
        f"{DASHES}BEGIN RSA PRIVATE KEY{DASHES}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0F\n\n{LINES}\n"
        f"{DASHES}END RSA PRIVATE KEY{DASHES}",
        f"{DASHES}BEGIN PRIVATE KEY{DASHES}\\n{LINES}\\n{DASHES}END PRIVATE KEY{DASHES}".replace("\n", "\\n"),
        f"{DASHES}BEGIN PGP PRIVATE KEY BLOCK{DASHES}\nVersion: GnuPG v1\n\n{LINES}\n=abcd\n"
        f"{DASHES}END PGP PRIVATE KEY BLOCK{DASHES}",
        f"{DASHES}BEGIN EC PRIVATE KEY{DASHES} {LINES} {DASHES}END EC PRIVATE KEY{DASHES}".replace("\n", " "),
        f'"{DASHES}BEGIN PRIVATE KEY{DASHES}\\n"\n"{LINES}\\n"\n"{DASHES}END PRIVATE KEY{DASHES}"',
        "\n".join(f"// {line}" for line in PEM.split("\n")),
        "\n".join(f"-{line}" for line in PEM.split("\n")),
        " .\n".join(f"'{line}\\n'" for line in PEM.split("\n")),
        " & _\n".join(f'"{line}"' for line in PEM.split("\n")),
        PEM.replace("\n", "<br/>"),
        f"Private-Lines: 5\n{LINES}\nPrivate-MAC: {letters(40, HEX)}",
    ],
)
def test_private_keys_are_found(block):
    """PEM, with headers, as strings of programs, in one line, in comments, in a patch, in HTML; PGP; PuTTY."""
    text, kinds = Anonymizer()(f"Before\n{block}\nafter")
    assert kinds == ["API_KEY"] and LINES[:20] not in text
    assert text.startswith("Before\n") and text.endswith("\nafter")


@pytest.mark.parametrize(
    "text",
    [
        f'def is_key(text):\n    return "{DASHES}BEGIN PRIVATE KEY{DASHES}" in text\n\nx = f(1)\n'
        f'END = "{DASHES}END PRIVATE KEY{DASHES}"',
        f"{DASHES}BEGIN PRIVATE KEY{DASHES}\nimport os\nx = 1\n{DASHES}BEGIN PRIVATE KEY{DASHES}\nand so on",
        f"A file starts with {DASHES}BEGIN RSA PRIVATE KEY{DASHES} and ends with {DASHES}END RSA PRIVATE KEY{DASHES}.",
        f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n...\n{DASHES}END PRIVATE KEY{DASHES}",
        "TOKENIZER=bert-base-uncased-v2 MAX_TOKENS=100000000000000",
        "token = self.tokenizer.get_token2id_of_vocabulary(x), secret: long/path/to/file2, password=get_password_v2",
        "export TOKEN=your-token-goes-here, hf_" + "x" * 34 + ", gh" + "p_" + "x" * 36,
        "sha256 " + "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_text_about_keys_is_kept(text):
    """Code between two marks of a key, marks alone, placeholders, hashes."""
    assert Anonymizer()(text) == (text, [])
