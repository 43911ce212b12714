"""Templates that put the fields of an item together."""

from __future__ import annotations

import pytest

from recbole_llminit.encode.text_template import TemplatePart, compose_text, join_fields, parse_template
from recbole_llminit.errors import LLMInitError


def test_the_words_around_each_field() -> None:
    assert parse_template("title: {title} ({year}), {genre}!") == [
        TemplatePart("title: ", "title", ""),
        TemplatePart(" (", "year", ")"),
        TemplatePart(", ", "genre", "!"),
    ]


def test_fields_are_joined_by_full_stops() -> None:
    assert compose_text(join_fields(["og:title", "a {b}"]), ["Green tea", "Black tea"]) == "Green tea. Black tea"


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{title}. Brand: {brand}", {"title": "Salt", "brand": "Acme"}, "Salt. Brand: Acme"),
        ("{title}. Brand: {brand}", {"title": "Salt"}, "Salt"),
        ("{title}. Brand: {brand}", {"brand": "Acme"}, "Brand: Acme"),
        ("{title}. Brand: {brand}.", {"title": "Salt", "brand": "Acme"}, "Salt. Brand: Acme."),
        ("{title}. Brand: {brand}.", {"title": "Salt"}, "Salt"),
        ("{title} ({year}). {genre}", {"title": "Heat", "genre": "Crime"}, "Heat. Crime"),
        ("{title} ({year}). {genre}", {"year": "1995", "genre": "Crime"}, "(1995). Crime"),
        ("{title} ({year}). {genre}", {"genre": "Crime"}, "Crime"),
        ("{title} ({year}). {genre}", {"title": "Heat", "year": "1995"}, "Heat (1995)"),
        ("title: {title} | text: {text}", {"title": "Salt"}, "title: Salt"),
        ("title: {title} | text: {text}", {"text": "White"}, "text: White"),
        ("{title}. {brand}", {"title": "Who?", "brand": "Acme"}, "Who? Acme"),
        ("{title}. {brand}", {"title": "Acme Inc.", "brand": "Acme"}, "Acme Inc. Acme"),
        ("{{{title}}}", {"title": "Salt"}, "{Salt}"),
        ("{title} by {title}", {"title": "Salt"}, "Salt by Salt"),
    ],
)
def test_the_words_around_a_missing_field_are_left_out(template: str, values: dict[str, str], expected: str) -> None:
    parts = parse_template(template)
    assert compose_text(parts, [values.get(part.field, "") for part in parts]) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("title", r"'title'.*no field.*\{title\}"),
        ("{title", r"'\{title'.*malformed.*\{title\}"),
        ("{}", r"'\{\}'.*malformed.*names of fields"),
        ("{title!r}", r"\{title!r\}.*malformed"),
        ("{title:>10}", r"\{title:>10\}.*malformed"),
    ],
)
def test_templates_that_are_refused(template: str, message: str) -> None:
    with pytest.raises(LLMInitError, match=f"llm_text_template .*{message}"):
        parse_template(template)
