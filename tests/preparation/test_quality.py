"""Each quality rule drops what its paper names, reports why, and keeps good text in scripts with and without spaces."""

import pytest

from hf_llm.preparation.quality import (
    RULES,
    Page,
    drop_c4_lines,
    repeated_items,
    repeated_ngram_characters,
    top_ngram_characters,
)

PROSE = """The old harbour of the town was built by merchants who came from the north and stayed for the winter.
They brought wool, tar and salt with them, and what they could not sell they kept in low houses of brick.
When the river changed its course, most of the families left; a few of them have lived here to this day.
Nobody knows who planted the lime trees along the quay, but letters of that time speak of a doctor from Lund.
Today the houses are a museum, and in summer children learn there how to mend nets and to bake bread."""
CHINESE = """北宋时期，这座城市的港口由来自北方的商人修建，他们在这里度过了漫长的冬天。
他们带来了羊毛、焦油和盐，卖不出去的货物就存放在低矮的砖房里。
后来河流改道，大多数家庭离开了，只有少数人一直住到今天。
没有人知道码头边的椴树是谁种的，不过当时的书信提到过一位医生。
如今这些房屋成了博物馆，夏天孩子们在那里学习补网和烤面包。"""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("text", "language"), [(PROSE, "en"), (CHINESE, "zh")], ids=["English", "Chinese"])
def test_good_text_is_kept(rule, text, language):
    """Prose in English and in Chinese passes every rule."""
    assert RULES[rule](Page(text, language)) is None


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        ("gopher", "Too short.", "50"),
        ("gopher", "a b c d the of " * 20, "mean word length"),
        ("gopher", "#tag and a #word of interest " * 20, "hash signs"),
        ("gopher", "\n".join(f"- {line}" for line in PROSE.split("\n")), "bullet"),
        ("gopher", PROSE.replace(".\n", "...\n"), "ellipsis"),
        ("gopher", PROSE + " 1234 5678" * 20, "letter"),
        ("gopher", "Lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod tempor " * 6, "stop words"),
        ("repetition", f"{PROSE}\n" * 2, "lines are repeated"),
        ("repetition", PROSE + " very good" * 40, "2-gram"),
        ("repetition", " ".join([PROSE, "and so it goes on here"] * 2).replace("\n", " "), "5-grams"),
        ("c4", PROSE + "\nlorem ipsum dolor.", "lorem ipsum"),
        ("c4", PROSE + "\nif (x) { y }.", "curly"),
        ("c4", "One sentence. Two 3.5 sentences, at 12.30 or so!", "sentences"),
        ("fineweb", PROSE.replace(".\n", "\n").rstrip("."), "end a sentence"),
        ("fineweb", "\n".join([f"Entry {n} of a list." for n in range(12)]) + "\n" + PROSE, "at most 30"),
        ("fineweb", PROSE + "\n" + PROSE.split("\n")[0], "repeated"),
        ("fineweb", "\n".join(f"Unquestionably{n} unforgettable{n}." for n in range(99)), "line ends"),
        ("fineweb", " \n ", "white space"),
    ],
)
def test_a_rule_drops_what_its_paper_names(rule, text, reason):
    """The reason names the condition that the text fails."""
    assert reason in (RULES[rule](Page(text)) or "")


def test_stop_words_are_required_of_english_only():
    """A German text without English stop words is dropped only if it is labelled English."""
    german = "Der alte Hafen wurde von Kaufleuten gebaut, die aus dem Norden kamen und den Winter blieben. " * 5
    assert "stop words" in RULES["gopher"](Page(german, "en")) and RULES["gopher"](Page(german, "de")) is None


def test_repetitions_are_counted_without_the_first_occurrence():
    """For items, for the most frequent n-gram, and for repeated n-grams."""
    assert repeated_items(["a", "b", "a", "a"]) == ["a", "a"]
    assert top_ngram_characters(list("xyxyxz"), 2) == 6 and top_ngram_characters(list("abc"), 2) == 0
    assert repeated_ngram_characters(list("abcdabce"), 3) == 3 and repeated_ngram_characters(list("ab"), 3) == 0


def test_c4_drops_lines_that_are_not_prose():
    """Menus, scripts and notices are removed; blank lines between paragraphs are kept."""
    text = (
        "Home | About\nIt was a long day.\n\nPlease enable Javascript now.\nShe said: “Go!”\nWe use cookies here.\nNo."
    )
    assert drop_c4_lines(text) == "It was a long day.\n\nShe said: “Go!”"


def test_zero_width_spaces_are_no_words():
    """In scripts without spaces, where they part words."""
    assert Page("ไทย\u200bดี a").whitespace_words == [*"ไทย", "ดี", "a"]
