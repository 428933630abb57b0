"""Languages are identified offline, and the codes of `--languages` are checked."""

import re
import time

import pytest

from hf_llm.preparation.languages import identify_language, is_written_in, known_languages, parse_languages
from hf_llm.preparation.row_steps import RowSteps


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The house at the end of the street was sold last year.", "en"),
        ("Das Haus am Ende der Straße\nwurde letztes Jahr verkauft.", "de"),
        ("街道尽头的房子去年卖掉了，没有人知道是谁买的。", "zh"),
        ("通りの突き当たりの家は去年売られました。", "ja"),
        ("Дом в конце улицы был продан в прошлом году.", "ru"),
    ],
)
def test_sentences_are_identified(text, code):
    """With a probability above 0.5, also in a text of several lines."""
    language, probability = identify_language(text)
    assert language == code and 0.5 < probability <= 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("我哋今日去咗飲茶，啲點心好好食，你哋幾時嚟㗎？", "yue"),
        ("政府今日公佈咗新嘅措施，希望可以幫到中小企。", "yue"),
        ("香港政府今日公布新的措施，希望協助中小企業。", "zh"),
        ("他在文章中解释了粤语的“嘅”字，并且与普通话的“的”字作了比较，读者很多。", "zh"),
        ("侬今朝夜饭吃过了伐？", "wuu"),
        ("Huset i enden av gata ble solgt i fjor, og ingen vet hvem som kjøpte det.", "no"),
        ("Huset i enden av gata vart selt i fjor, og ingen veit kven som kjøpte det.", "nn"),
        ("S Huus am Änd vo de Strass isch letscht Johr verchauft worde.", "als"),
    ],
)
def test_close_languages_are_distinguished(text, code):
    """Cantonese also where the model takes it for Mandarin; one quoted Cantonese character is not enough."""
    assert identify_language(text)[0] == code and identify_language(text)[1] > 0.5


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ("de deu ger de-AT", "de"), ("zh zho chi cmn cn", "zh"), ("yue zh-yue", "yue"), ("nb nob no nor", "no"),
        ("nn nno", "nn"), ("fil tl tgl", "tl"), ("cs ces cz", "cs"), ("jp jpn", "ja"), ("gr el ell gre", "el"),
        ("ua uk ukr", "uk"), ("dk da dan", "da"), ("gsw", "als"), ("als sq sqi alb", "sq"), ("sh hbs", "sh"),
        ("hr hrv", "hr"), ("iw he heb", "he"), ("in id ind", "id"), ("ji yi ydd", "yi"), ("mo ro ron", "ro"),
        ("ckb", "ckb"), ("ku kmr", "ku"), ("arz", "arz"), ("arb ar ara", "ar"), ("pes prs fa", "fa"), ("npi", "ne"),
        ("swh sw", "sw"), ("ory", "or"), ("zsm ms", "ms"), ("azj", "az"), ("lvs", "lv"), ("ekk", "et"), ("eml", "eml"),
    ],
)  # fmt: skip
def test_codes_are_converted_to_those_of_the_model(tags, code):
    """Those of ISO 639 with two or three letters, FLORES and Wikipedia, and common mistakes; als is Albanian."""
    assert [list(parse_languages([tag])) for tag in tags.split()] == [[code]] * len(tags.split())


def test_every_code_of_the_model_is_accepted():
    """Each stands for itself, but als, which ISO 639 gives to Albanian."""
    codes = [code for code in known_languages() if code != "als"]
    assert len(codes) == 175 and list(parse_languages(codes)) == codes


def test_what_cannot_be_identified_is_refused():
    """With its name, and the language that includes it; there is no nearest code by letters."""
    for tag, problem in [
        ("xq", "'xq' is not a language code: give one of ISO 639"),
        ("english", "'english' is not a language code: give one of ISO 639"),
        ("kr", "kr is Kanuri, which lid.176 cannot identify; it knows af als am"),
        ("se", "se is Northern Sami, which lid.176 cannot identify; it knows af als am"),
        ("quy_Latn", "quy_Latn is Ayacucho Quechua, which lid.176 cannot identify; qu (Quechua) includes it"),
        ("nan", "nan is Min Nan Chinese, which lid.176 cannot identify; zh (Chinese) includes it"),
    ]:
        with pytest.raises(ValueError, match="^`--languages` " + re.escape(problem)):
            parse_languages(["en", tag])


def test_a_corrected_code_is_logged(caplog):
    """With the name of the language that it was taken for."""
    caplog.set_level("INFO", "hf_llm")
    parse_languages(["als", "en"])
    assert caplog.messages == ["`--languages` als: Albanian, which lid.176 calls sq"]


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ("zh", [0, 1, 2]), ("zho_Hans", [0, 2]), ("zh-TW", [1, 2]), ("zh_Hans zh_Hant", [0, 1, 2]), ("zh_Latn", []),
        ("zh zh_Hans", [0, 1, 2]), ("sr", [3, 4]), ("sr_Latn", [4]), ("srp_Cyrl", [3]), ("jpn_Jpan", [5]),
        ("kor_Hang", [6]), ("ko-KR", [6]), ("pt-BR", []), ("yue", []),
    ],
)  # fmt: skip
def test_a_script_or_region_selects_texts(tags, kept):
    """Those in the script that it names or that is used there; a text of common characters is in both Chinese ones."""
    texts = [
        "今天天气很好，我们一起去公园散步。",
        "今天天氣很好，我們一起去公園散步。",
        "今天是星期一，明天是星期二。",
        "Кућа на крају улице продата је прошле године и нико не зна ко ју је купио.",
        "Predsednik vlade je juče izjavio da će se sledeće nedelje sastati sa ministrima.",
        "通りの突き当たりの家は去年売られました。",
        "거리 끝에 있는 집이 작년에 팔렸습니다.",
    ]
    steps = RowSteps(languages=parse_languages(tags.split()))
    assert [number for number, text in enumerate(texts) if steps(text).step is None] == kept


def test_a_line_of_a_megabyte_is_identified_at_once():
    """Only its start is looked at."""
    begun = time.process_time()
    for text in ("x" * 10**6, "漢" * 10**6, "嘅咗" * 10**6):
        identify_language(text)
        is_written_in(text, "Hant")
    assert time.process_time() - begun < 5
