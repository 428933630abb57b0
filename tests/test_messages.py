"""Messages are formatted for a person to read."""

import pytest

from hf_llm.messages import format_table, format_value


@pytest.mark.parametrize(
    "value, shown",
    [(1234567, "1,234,567"), (12345.6, "12,346"), (3.14159, "3.142"), (0.000123456, "0.0001235"), ("text", "text")],
)
def test_figures_are_formatted_for_a_person(value, shown):
    """Thousands are separated by commas, floats have four significant digits, text is not changed."""
    assert format_value(value) == shown


def test_a_table_is_aligned():
    """Names are aligned left, values right."""
    assert format_table({"perplexity": 12.5, "tokens": 1000}) == "perplexity   12.5\ntokens      1,000"
