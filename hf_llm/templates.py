"""Templates over the columns of a row: Jinja in a sandbox, within limits of time and memory, as for chat templates."""

from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hf_llm.limits import limited_memory, limited_time
from hf_llm.messages import format_line, one_line

MAX_SECONDS = 5  # of CPU time for one row, which takes a well-behaved template less than a millisecond
MAX_EXTRA_BYTES = 2 << 30  # of memory


class RowTemplate:
    """A template over the columns of a row, with the settings of chat templates.

    Args:
        flag: what it is called in messages, e.g. `--prompt_template`.
        source: the template.

    Attributes:
        columns: the columns that it reads, in alphabetical order.

    Raises:
        ValueError: it is not valid.

    Example:
        >>> RowTemplate("--prompt_template", "{{ a }} + {{ b }} =").text({"a": 1, "b": 2})
        '1 + 2 ='
    """

    def __init__(self, flag: str, source: str):
        self.flag = flag
        self.written: list[Any] = []  # the values that it writes; Jinja calls `write` for constants already here
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=self.write
        )
        try:
            check_template(source)
            self.template = environment.from_string(source)
            names = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, ValueError) as error:
            raise ValueError(
                f"`{flag}` {format_line(source)}: {one_line(error).rstrip('.')}: correct the template"
            ) from None
        self.columns = sorted(names - {*environment.globals})

    def write(self, value: Any) -> Any:
        """Take note of a value that the template writes."""
        self.written.append(value)
        return value

    def text(self, row: dict[str, Any]) -> str:
        """Return what the template makes of a row, without outer white space.

        Raises:
            ValueError: it fails, takes too much time or memory, or writes a value that is not a text or a number.
        """
        text = self.render(row)
        for value in self.written:
            if value is None:
                raise ValueError(
                    f"`{self.flag}` writes a value that is null: write {{{{ NAME or '' }}}}, or remove the row"
                )
            if not isinstance(value, str | int | float):
                raise ValueError(
                    f"`{self.flag}` writes {format_line(str(value), 60)}, which is not a text: write one of its "
                    "values, e.g. {{ NAME[0] }} or {{ NAME.text }}, or all by {{ NAME | join(', ') }}"
                )
        return text

    def texts(self, row: dict[str, Any]) -> list[str]:
        """Return the texts of a list, if the template writes nothing but one, e.g. `{{ answers }}`; else its one text.

        Raises:
            ValueError: as `text`; the list has other values than texts and numbers.
        """
        text = self.render(row)
        values = self.written[0] if len(self.written) == 1 else None
        if isinstance(values, list) and text == str(values) and all(isinstance(text, str | int) for text in values):
            return [str(value).strip() for value in values]
        return [self.text(row)]

    def render(self, row: dict[str, Any]) -> str:
        """Apply the template, within limits; what it writes is in `written`."""
        self.written.clear()
        try:
            with limited_memory(MAX_EXTRA_BYTES), limited_time(MAX_SECONDS):
                return self.template.render(row).strip()
        except Exception as error:  # templates raise any class of error
            too_large = isinstance(error, MemoryError)
            cause = f"it takes more than {MAX_EXTRA_BYTES >> 30} GiB" if too_large else one_line(error).rstrip(".")
            raise ValueError(f"`{self.flag}` fails: {cause}: correct the template or the row") from None


def check_template(template: str) -> None:
    """Refuse powers, e.g. `9 ** 9 ** 9`: Python computes one in a single step, which no limit of time can interrupt."""
    if "**" in template and any(token[1:] == ("operator", "**") for token in jinja2.Environment().lex(template)):
        raise ValueError("it computes a power by `**`, which may take endless time")
