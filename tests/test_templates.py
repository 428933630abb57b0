"""Templates over the columns of a row."""

import pytest

from hf_llm.templates import RowTemplate


def test_a_template_reads_columns_and_names_them():
    """Neither functions of Jinja nor its own variables are columns."""
    template = RowTemplate(
        "--prompt_template", "{% for c in options %}\n{{ loop.index }}. {{ c }}\n{% endfor %}{{ q }}"
    )
    assert template.columns == ["options", "q"]
    assert template.text({"options": ["a", "b"], "q": " why? "}) == "1. a\n2. b\n why?"


@pytest.mark.parametrize(
    ("source", "texts"),
    [("{{ a }}", ["one", "two"]), ("{{ a[0] }}", ["one"]), ("{{ a | join(' ') }}", ["one two"]), ("{{ n }}", ["3"])],
)
def test_a_template_that_writes_nothing_but_a_list_gives_its_texts(source, texts):
    """Several gold answers."""
    assert RowTemplate("--completion_template", source).texts({"a": ["one", "two"], "n": 3}) == texts


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ a", "`--x` {{ a: unexpected end of template"),
        ("{{ 9 ** 9 }}", "computes a power"),
        ("{{ n }}", "`--x` writes a value that is null: write {{ NAME or '' }}, or remove the row"),
        ("{{ a }}!", "`--x` writes \\['one'\\], which is not a text"),
        ("{{ d.z }}", "`--x` fails: 'dict object' has no attribute 'z'"),
        ("{{ ''.__class__.mro() }}", "`--x` fails: .* is unsafe"),
        ("{{ a.append('x') }}", "`--x` fails: .* is unsafe"),
    ],
)
def test_what_a_template_cannot_write_is_refused(source, message):
    """In one line with the flag: nothing is left out or written as Python shows it."""
    with pytest.raises(ValueError, match=message):
        RowTemplate("--x", source).text({"a": ["one"], "n": None, "d": {"y": 1}})


def test_a_template_without_end_is_stopped(monkeypatch):
    """Within a limit of CPU time."""
    monkeypatch.setattr("hf_llm.templates.MAX_SECONDS", 0.2)
    source = "{% for i in range(99999) %}{% for j in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match=r"`--x` fails: it takes more than 0\.2 CPU seconds"):
        RowTemplate("--x", source).text({})
