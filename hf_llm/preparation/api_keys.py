"""API keys, private keys and passwords: by their forms, or by the name that they are assigned to.

The forms are those of the documentation of each service; detect-secrets and gitleaks collect them too.
"""

import re
from collections.abc import Iterator

from hf_llm.preparation.matching import Span, search

W, ALNUM, HEX = "[A-Za-z0-9_-]", "[A-Za-z0-9]", "[0-9a-f]"
UUID = f"{HEX}{{8}}(?:-{HEX}{{4}}){{3}}-{HEX}{{12}}"
FORMS = (
    # GitHub, GitLab, Hugging Face
    rf"gh[pousr]_{ALNUM}{{36,255}}|github_pat_\w{{40,255}}|hf_{ALNUM}{{30,64}}|api_org_{ALNUM}{{30,64}}",
    rf"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct)-{W}{{20,255}}|GR1348941{W}{{20,64}}",
    # models: OpenAI, Anthropic, OpenRouter, xAI, Groq, Replicate, Perplexity, NVIDIA
    rf"sk-(?:proj|svcacct|admin|None|ant|or)-{W}{{20,255}}|sk-{ALNUM}{{40,64}}|xai-{ALNUM}{{70,100}}",
    rf"gsk_{ALNUM}{{48,64}}|r8_{ALNUM}{{37}}|pplx-{ALNUM}{{40,64}}|nvapi-{W}{{60,80}}",
    # payments: Stripe, Square
    rf"[spr]k[-_](?:live|test)[-_]{W}{{16,255}}|whsec_[A-Za-z0-9+/=]{{32,64}}|sq0(?:atp|csp)-{W}{{22,43}}",
    # messages: Slack, SendGrid, Twilio, Telegram, Discord, Mailgun, Mailchimp, Sendinblue
    rf"(?:xoxe\.)?xox[abeoprs]-[A-Za-z0-9-]{{10,255}}|xapp-\d-[A-Za-z0-9-]{{10,255}}|SG\.{W}{{22}}\.{W}{{43}}|(?:SK|AC){HEX}{{32}}",
    rf"\d{{8,10}}:{W}{{35}}|[MNO](?=[A-Za-z_.-]{{0,60}}\d){W}{{23,27}}\.{W}{{6}}\.{W}{{27,38}}|key-{HEX}{{32}}|{HEX}{{32}}-us\d{{1,2}}",
    rf"xkeysib-{HEX}{{64}}-{ALNUM}{{16}}",
    # clouds: AWS, Google, Azure, DigitalOcean, Alibaba, Tencent, Cloudflare, Databricks, Heroku
    rf"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{{16}}|AIza{W}{{35}}|GOCSPX-{W}{{28}}|ya29\.{W}{{20,4096}}",
    rf"{W}{{3}}\dQ~[A-Za-z0-9_.~-]{{31,34}}|do[opr]_v1_{HEX}{{64}}|LTAI{ALNUM}{{16,24}}|AKID{ALNUM}{{32}}",
    rf"dapi{HEX}{{32}}(?:-\d)?|HRKU-{W}{{36,64}}",
    # packages and tools: npm, PyPI, RubyGems, Docker, Vault, Terraform, Grafana, New Relic, Shopify, Atlassian, Notion,
    # Sentry, ReadMe, Sourcegraph, Fly.io, Tailscale, Contentful, PlanetScale, crates.io, 1Password, Dynatrace,
    # Airtable, NuGet, HubSpot, Plaid, Mapbox and others
    rf"npm_{ALNUM}{{36}}|pypi-AgE{W}{{50,4096}}|rubygems_{HEX}{{48}}|dckr_pat_{W}{{27}}|hv[sb]\.{W}{{24,255}}",
    rf"{ALNUM}{{14}}\.atlasv1\.{W}{{60,80}}|gl(?:c|sa)_{W}{{32,255}}|NRAK-[A-Z0-9]{{27}}|shp(?:at|ca|pa|ss)_{HEX}{{32}}",
    rf"ATATT3[A-Za-z0-9_=-]{{100,255}}|ntn_{ALNUM}{{40,50}}|secret_{ALNUM}{{43}}|lin_api_{ALNUM}{{40}}|figd_{W}{{40,64}}",
    rf"sq[upa]_{HEX}{{40}}|pul-{HEX}{{40}}|PMAK-{HEX}{{24}}-{HEX}{{34}}|AGE-SECRET-KEY-1[0-9A-Z]{{58}}|sbp_{HEX}{{40}}",
    rf"dp\.(?:pt|st|ct|sa|scim|audit)\.{ALNUM}{{40,44}}|sntry[su]_{W}{{40,255}}|rdme_[0-9a-z]{{70}}|sgp_{HEX}{{40}}",
    rf"fo1_{W}{{43}}|tskey-[a-z]{{2,20}}-{W}{{20,64}}|CFPAT-{W}{{43}}|pscale_(?:tkn|pw|oauth)_{W}{{32,64}}|cio{ALNUM}{{32}}",
    rf"ops_eyJ[A-Za-z0-9+/=]{{200,2048}}|v1\.0-{HEX}{{24}}-{HEX}{{146}}|tvly-{W}{{32,48}}|dt0[a-z]01\.[A-Z0-9]{{24}}\.[A-Z0-9]{{64}}",
    rf"pat[A-Za-z0-9]{{14}}\.{HEX}{{64}}|shippo_(?:live|test)_{HEX}{{40}}|tfp_{W}{{50,64}}|pnu_{ALNUM}{{36}}|oy2[0-9a-z]{{43}}",
    rf"pat-(?:na|eu)\d-{UUID}|access-(?:sandbox|development|production)-{UUID}|[ps]k\.eyJ{W}{{50,255}}\.{W}{{20,64}}",
    # social networks and payments: Meta, Square
    rf"EAA[A-Z]{ALNUM}{{90,255}}|EAAA{W}{{60}}",
)
# Forms are searched only in long words, which ordinary text rarely has.
LONG_WORD = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z0-9_][A-Za-z0-9_.~:+/=-]{19,}", re.ASCII)
KEY = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(FORMS)})(?![A-Za-z0-9_])", re.ASCII)
JWT = re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}", re.ASCII)
# Addresses that whoever has them may post to.
HOOK = re.compile(
    r"(?:hooks\.slack\.com/(?:services|workflows|triggers)|discord(?:app)?\.com/api/webhooks)/(?P<value>[\w/-]{20,255})",
    re.ASCII,
)


# A private key is lines of base64 after a BEGIN line, possibly written as a string of a program. Any other text between
# two such lines, such as the code that writes them, is not one.
KEY_BEGIN = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|---- BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY ----"
)
KEY_END = re.compile(KEY_BEGIN.pattern.replace("BEGIN", "END"))
KEY_HEADERS = re.compile(r"(?:(?:\s|\\[nr]){1,4}[A-Z][A-Za-z-]{2,20}: [^\n\\]{0,200}(?=[\n\\])){0,8}")
KEY_BODY = re.compile(r"""(?:[A-Za-z0-9+/=\s\\"',>|#*;.&_]|(?<=\n)-(?!----(?!-))|<br ?/?>|&#(?:10|13);)*""")
KEY_LINE = re.compile(r"(?P<mark>[ \t\"'+,>|#*;]*)(?P<base64>[A-Za-z0-9+/=]*)[ \t\"'+,;\r]*(?:\\r)?(?:\n|\\n|\Z)")
PUTTY_KEY = re.compile(
    r"Private-Lines: \d+\r?\n(?:[A-Za-z0-9+/=]{1,64}\r?\n)+(?:Private-(?:MAC|Hash): [0-9a-f]{40,64})?"
)

SECRET_NAME = r"(?:api[_-]?key|secret|token|passw(?:or)?d)"
QUOTED_SECRET = re.compile(
    rf"(?i:{SECRET_NAME})[\"']?\s{{0,20}}(?:[:=]|value=)\s{{0,20}}[\"'](?P<value>[A-Za-z0-9_/+=.-]{{16,}})[\"']"
)
ASSIGNED_SECRET = re.compile(r"(?<![A-Za-z0-9_])(?P<name>[A-Z0-9_]{5,})=(?P<value>[^\s\"'$<]{12,})", re.ASCII)
# Fast expressions, without which the two before need not be searched.
QUOTED_VALUE = re.compile(r"[:=]\s{0,20}[\"'][A-Za-z0-9_/+=.-]{16}")
UPPER_CASE_ASSIGNMENT = re.compile(r"[A-Z0-9_]=[^\s\"'$<]{12}")
UPPER_NAME = re.compile(r"API_?KEY|SECRET|TOKEN(?![A-Z])|PASSW(?:OR)?D")
# Names that one service uses, and the form of its values.
NAMED_SECRET = re.compile(
    r"(?i:aws[\w .-]{0,20}(?:secret|key)[\w .-]{0,20})[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
    r"(?P<aws>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
    r"|(?i:(?:account|storage)_?key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?P<azure>[A-Za-z0-9+/]{86}==)"
    r"|(?i:authorization)[\"']?\s{0,3}[:=,]\s{0,3}[\"']?(?i:bearer|basic|token) {1,3}"
    r"(?P<http>[A-Za-z0-9_.~+/-]{20,}={0,2})"
    r"|_authToken=(?P<npm>[A-Za-z0-9_-]{20,})"
    # Without quotation marks only what no name in a program looks like: hexadecimal digits, or all kinds of characters.
    rf"|(?i:{SECRET_NAME})[\"']?\s{{0,3}}[:=]\s{{0,3}}(?P<plain>[0-9a-f]{{32,128}}"
    r"|(?=[a-zA-Z]{0,60}[0-9][a-zA-Z]{0,60}[0-9])(?=[a-z0-9]{0,60}[A-Z])(?=[A-Z0-9]{0,60}[a-z])[A-Za-z0-9]{24,128})"
    r"(?![\w.(\[/-])",
    re.ASCII,
)

NAMES = ("aws", "account", "storage", "authorization", "token", "secret", "passw", "api_key", "api-key", "apikey")


def has_digit(value: str, *around: str) -> bool:
    return any(char.isdigit() for char in value)


def find_private_keys(text: str) -> Iterator[Span]:
    """Yield private keys, from the BEGIN line to the END line, or to the last line of base64 if that is missing."""
    for begin in KEY_BEGIN.finditer(text):
        headers = KEY_HEADERS.match(text, begin.end())
        start = headers.end() if headers else begin.end()
        body = KEY_BODY.match(text, start)
        body = body[0] if body else ""
        end = KEY_END.match(text, start + len(body))
        if end and is_base64(body):
            yield begin.start(), end.end()
        elif not end:
            position, found = 0, 0
            while line := KEY_LINE.match(body, position):
                if (line["base64"] and len(line["base64"]) < 20) or line.end() == position:
                    break
                position = line.end()
                found = line.end("base64") if line["base64"] else found
            if found:
                yield begin.start(), start + found
    yield from (match.span() for match in PUTTY_KEY.finditer(text))


def is_base64(body: str) -> bool:
    """Whether each line is one word, or, if the ends of lines were replaced by spaces, all words are long."""
    lines = re.split(r"\s*\n|(?:\\r)?\\n|<br ?/?>|&#1[03];", body)
    lines = [line.strip("\t \"'+,>|#*;\\.&_-").removeprefix("// ") for line in lines]
    words = " ".join(lines).split()
    return (
        len(set(body)) > 4
        and bool(words)
        and (all(" " not in line for line in lines) or all(len(word) >= 40 for word in words[:-1]))
    )


def find_api_keys(text: str) -> Iterator[Span]:
    """Yield values of the form of a known key, or assigned to a name that one service uses."""
    if "eyJ" in text:
        yield from search(JWT, text)
    if "hooks" in text:
        yield from search(HOOK, text)
    for word in LONG_WORD.finditer(text):
        for key in KEY.finditer(text, word.start(), word.end()):
            # `hf_xxxxxxxx` only stands for a key.
            if len(set(key[0][-12:])) > 1:
                yield key.span()
        start = max(0, word.start() - 60)
        context = text[start : word.end()].lower()
        if any(name in context for name in NAMES):
            named = NAMED_SECRET.search(text, start, word.end())
            if named and named.lastgroup and has_digit(named[named.lastgroup]):
                yield named.span(named.lastgroup)


def find_assigned_secrets(text: str) -> Iterator[Span]:
    """Yield values that are assigned to a name such as `token`."""
    if QUOTED_VALUE.search(text):
        yield from search(QUOTED_SECRET, text, has_digit)
    if UPPER_CASE_ASSIGNMENT.search(text):
        for match in ASSIGNED_SECRET.finditer(text):
            if UPPER_NAME.search(match["name"]) and has_digit(match["value"]) and not match["value"].isdecimal():
                yield match.span("value")
