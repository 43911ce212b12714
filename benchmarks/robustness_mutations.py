"""Small damages of files: bits, bytes and spans of any file, and lines, columns and tokens of text."""

from __future__ import annotations

import gzip
import io
import random
import re
import zipfile
from collections.abc import Callable, Mapping

Mutation = Callable[[bytes, random.Random], bytes]

_LONGEST_SPAN = 64
_LONG_TOKEN = 100_000
_DEEP = 20_000
_TOKENS = (
    b"nan", b"inf", b"-inf", b"1e400", b"-0", b"1e39", b"1e-320", b"9" * 400, b"0x10", b"1_000", b"", b"null", b"true",
    b"None", b"[]", b"{}", b"\"", b"'", b"-1", b"0", b"1.5", b"\\ud800", b"\xef\xbb\xbf", b"%s", b"..", b"~", b"*a",
    b"&a",
)  # fmt: skip
_NUMBERS = (b"\xff" * 4, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 7 + b"\x7f", bytes(8))
_NOT_UTF8 = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f", b"\x80\x81\x82", b"\xfe\xff")
_WORD = re.compile(rb"[^\s,;:\"'\[\]{}]+")


def _place(content: bytes, chance: random.Random) -> int:
    """Draw a place: often near the beginning or the end, where most forms have their structure."""
    size = len(content)
    where = chance.random()
    if where < 0.25:
        return chance.randrange(min(size, 256))
    if where < 0.5:
        return size - 1 - chance.randrange(min(size, 256))
    return chance.randrange(size)


def _span(content: bytes, chance: random.Random) -> tuple[int, int]:
    begin = _place(content, chance)
    return begin, min(len(content), begin + chance.randint(1, _LONGEST_SPAN))


def _flip_bit(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[_place(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flip_byte(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[_place(content, chance)] ^= chance.choice((0xFF, 0x80, chance.randint(1, 255)))
    return bytes(changed)


def _flip_bits(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(2, 30)):
        changed[_place(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _zero(content: bytes, chance: random.Random) -> bytes:
    begin, end = _span(content, chance)
    return content[:begin] + bytes(end - begin) + content[end:]


def _truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: _place(content, chance)]


def _insert(content: bytes, chance: random.Random) -> bytes:
    begin, end = _span(content, chance)
    return content[:begin] + chance.randbytes(end - begin) + content[begin:]


def _delete(content: bytes, chance: random.Random) -> bytes:
    begin, end = _span(content, chance)
    return content[:begin] + content[end:]


def _duplicate(content: bytes, chance: random.Random) -> bytes:
    begin, end = _span(content, chance)
    return content[:end] + content[begin:]


def _swap(content: bytes, chance: random.Random) -> bytes:
    (first, end), (second, _) = sorted((_span(content, chance), _span(content, chance)))
    size = min(end - first, second - first, len(content) - second)
    parts = (content[:first], content[second : second + size], content[first + size : second])
    return b"".join(parts) + content[first : first + size] + content[second + size :]


def _overwrite(content: bytes, chance: random.Random) -> bytes:
    begin, end = _span(content, chance)
    return content[:begin] + chance.randbytes(end - begin) + content[end:]


def _maximum(content: bytes, chance: random.Random) -> bytes:
    """Write the largest or smallest number of some width: lengths and offsets are what readers trust most."""
    begin = _place(content, chance)
    number = chance.choice(_NUMBERS)
    return content[:begin] + number + content[begin + len(number) :]


def _random(content: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, max(1, len(content))))


def _empty(content: bytes, chance: random.Random) -> bytes:
    return b""


def _of_lines(change: Callable[[list[bytes], random.Random], None]) -> Mutation:
    def mutate(content: bytes, chance: random.Random) -> bytes:
        lines = content.splitlines(keepends=True)
        change(lines, chance)
        return b"".join(lines)

    return mutate


def _drop_line(lines: list[bytes], chance: random.Random) -> None:
    del lines[chance.randrange(len(lines))]


def _duplicate_line(lines: list[bytes], chance: random.Random) -> None:
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))


def _swap_lines(lines: list[bytes], chance: random.Random) -> None:
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]


def _of_columns(change: Callable[[list[bytes], int, random.Random], None]) -> Mutation:
    """Return what changes one column of all lines, or of one."""

    def mutate(content: bytes, chance: random.Random) -> bytes:
        lines = content.splitlines()
        separator = max((b"\t", b",", b" "), key=lines[0].count)
        column = chance.randrange(lines[0].count(separator) + 1)
        one = chance.randrange(len(lines)) if chance.random() < 0.5 else None
        for number, line in enumerate(lines):
            cells = line.split(separator)
            if one in (None, number) and column < len(cells):
                change(cells, column, chance)
                lines[number] = separator.join(cells)
        return b"\n".join(lines) + b"\n"

    return mutate


def _drop_cell(cells: list[bytes], column: int, chance: random.Random) -> None:
    del cells[column]


def _duplicate_cell(cells: list[bytes], column: int, chance: random.Random) -> None:
    cells.insert(column, cells[column])


def _of_tokens(make: Callable[[bytes, random.Random], bytes]) -> Mutation:
    def mutate(content: bytes, chance: random.Random) -> bytes:
        words = list(_WORD.finditer(content))
        if not words:
            return make(content, chance)
        word = chance.choice(words)
        return content[: word.start()] + make(word[0], chance) + content[word.end() :]

    return mutate


def _odd_token(word: bytes, chance: random.Random) -> bytes:
    return chance.choice(_TOKENS)


def _long_token(word: bytes, chance: random.Random) -> bytes:
    return (word or b"x") * (_LONG_TOKEN // max(1, len(word)))


def _nested_token(word: bytes, chance: random.Random) -> bytes:
    opening, closing = chance.choice(((b"[", b"]"), (b"{a: ", b"}"), (b'{"a":', b"}"), (b"(", b")")))
    depth = chance.choice((30, 300, _DEEP))
    return opening * depth + word + closing * depth * chance.randrange(2)


def _not_utf8(word: bytes, chance: random.Random) -> bytes:
    return word + chance.choice(_NOT_UTF8)


BYTES: Mapping[str, Mutation] = {
    "flip a bit": _flip_bit,
    "flip a byte": _flip_byte,
    "flip several bits": _flip_bits,
    "zero a span": _zero,
    "truncate": _truncate,
    "insert random bytes": _insert,
    "delete a span": _delete,
    "duplicate a span": _duplicate,
    "swap spans": _swap,
    "overwrite a span": _overwrite,
    "largest number": _maximum,
    "random bytes": _random,
    "empty": _empty,
}
"""What can be done to any file."""

TEXT: Mapping[str, Mutation] = {
    "drop a line": _of_lines(_drop_line),
    "duplicate a line": _of_lines(_duplicate_line),
    "swap lines": _of_lines(_swap_lines),
    "drop a column": _of_columns(_drop_cell),
    "duplicate a column": _of_columns(_duplicate_cell),
    "odd token": _of_tokens(_odd_token),
    "long token": _of_tokens(_long_token),
    "nested token": _of_tokens(_nested_token),
    "not UTF-8": _of_tokens(_not_utf8),
}
"""What can be done to text, beside."""

_TEXTS = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".item", ".itememb", ".inter", ".yaml", ".failed")
_RARE = ("random bytes", "empty")


def mutate(name: str, content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Damage a file's content in one way, drawn by its name's suffix; return the way and what becomes of it.

    A zip or gzip file is damaged as it is, or inside: then its checksums are right, and its reader goes further.
    """
    if not content:
        return "insert random bytes", chance.randbytes(16)
    if name.endswith((".pt", ".pth", ".gz")) and chance.random() < 0.4:
        return _mutate_inside(name, content, chance)
    kinds = {**BYTES, **(TEXT if name.endswith(_TEXTS) else {})}
    kind = chance.choice([each for each in kinds if each not in _RARE or chance.random() < 0.3])
    return kind, kinds[kind](content, chance)


def _mutate_inside(name: str, content: bytes, chance: random.Random) -> tuple[str, bytes]:
    if name.endswith(".gz"):
        kind, changed = mutate(name.removesuffix(".gz"), gzip.decompress(content), chance)
        return f"inside: {kind}", gzip.compress(changed, 1)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return mutate("legacy", content, chance)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    # The pickle says what is made of everything else.
    chosen = (
        next(entry for entry in entries if entry.endswith("data.pkl"))
        if chance.random() < 0.6
        else chance.choice(list(entries))
    )
    kind, entries[chosen] = mutate("entry", entries[chosen], chance)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return f"inside: {kind}", whole.getvalue()
