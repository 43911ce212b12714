"""Templates such as ``"{title}. Brand: {brand}"``, which put the fields of an item together into one text."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple

from recbole_llminit.errors import LLMInitError

_CLOSING = ")]}\u00bb\u201d\u2019\"'"
_SEPARATORS = " \t.,;:|/-\u2013\u2014\u00b7\u2022"


class TemplatePart(NamedTuple):
    """A field of a template with the words around it, which appear only where the item has the field.

    Parameters
    ----------
    before : str
        The words before the field.
    field : str
        The name of the field.
    after : str
        The brackets or quotes that close after the field; for the last field, all that follows.
    """

    before: str
    field: str
    after: str


def parse_template(template: str) -> list[TemplatePart]:
    """Split a template into its fields, each with the words around it.

    Raises
    ------
    LLMInitError
        If braces do not match, a field has a format or a conversion, or there is no field.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise LLMInitError(f"llm_text_template {template!r} is malformed ({error}): expected '{{title}} ...'") from None
    parts: list[TemplatePart] = []
    before = ""
    for literal, field, form, conversion in pieces:
        # An escaped brace ends a piece that has no field.
        before += literal
        if field is None:
            continue
        if field == "" or form or conversion:
            raise LLMInitError(f"llm_text_template {template!r} is malformed: expected the names of fields in braces")
        if parts:
            closing = before[: len(before) - len(before.lstrip(_CLOSING))]
            before = before.removeprefix(closing)
            parts[-1] = parts[-1]._replace(after=closing)
        parts.append(TemplatePart(before, field, ""))
        before = ""
    if not parts:
        raise LLMInitError(f"llm_text_template {template!r} names no field: expected e.g. '{{title}}. {{brand}}'")
    parts[-1] = parts[-1]._replace(after=before)
    return parts


def join_fields(fields: Sequence[str]) -> list[TemplatePart]:
    """Return the parts of a template that joins fields by full stops; the names of the fields are not parsed."""
    return [TemplatePart(". " if number else "", field, "") for number, field in enumerate(fields)]


def compose_text(parts: Sequence[TemplatePart], values: Sequence[str]) -> str:
    """Fill a template with the values of one item; an empty value leaves out the words around its field too."""
    text = ""
    for number, ((before, _, after), value) in enumerate(zip(parts, values, strict=True)):
        if not value:
            continue
        if not text and number:
            # The fields before are missing: what separated them from this one is left out.
            before = before.lstrip(_SEPARATORS)
        elif text.endswith((".", "!", "?")) and before.startswith("."):
            before = before[1:]
        text += before + value + after
    return " ".join(text.split())
