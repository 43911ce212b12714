"""Bad ids beside vectors: forms that no reader expects, others than the dataset's, pipes and devices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
from robustness_cases import Case
from robustness_making import both, file, link, numbers, pipe
from robustness_valid import TOKENS
from robustness_vectors import run_from

_IDS: Sequence[tuple[str, str, str | bytes]] = (
    ("a lone surrogate", ".json", json.dumps([*TOKENS[:-1], "\ud800"])),
    ("a dictionary", ".json", "{}"),
    ("a number", ".json", "5"),
    ("nulls", ".json", json.dumps([None] * 29)),
    ("floats", ".json", json.dumps([1.5] * 29)),
    ("booleans", ".json", json.dumps([True] * 29)),
    ("lists", ".json", json.dumps([[token] for token in TOKENS])),
    ("NaN", ".json", "[" + ", ".join(["NaN"] * 29) + "]"),
    ("deeply nested", ".json", "[" * 100_000),
    ("a number of 10,000 digits", ".json", f"[{'9' * 10_000}]"),
    ("not UTF-8", ".json", b"\xff\xfe"),
    ("not JSON", ".json", "{oops"),
    ("empty", ".json", ""),
    ("too few", ".json", json.dumps(TOKENS[:-1])),
    ("twice", ".json", json.dumps([*TOKENS[:-1], "B001"])),
    ("others", ".json", json.dumps([f"x{number}" for number in range(29)])),
    ("row numbers", ".json", json.dumps(list(range(29)))),
    ("row numbers", ".txt", "\n".join(map(str, range(29)))),
    ("empty", ".txt", ""),
    ("not UTF-8", ".txt", b"\xff\n" * 29),
    ("a line of 10 MB", ".txt", "x" * 10_000_000),
    ("no newline at all", ".txt", ",".join(TOKENS)),
    ("zero bytes", ".txt", b"\0" * 29),
    ("two columns, none of ids", ".csv", "a,b\n" + "1,2\n" * 29),
    ("ragged", ".csv", "item_id,n\n" + "1,2,3\n" * 29),
    ("empty", ".csv", ""),
    ("header alone", ".csv", "item_id\n"),
    ("open quote", ".csv", 'item_id,n\n"B001,1\n'),
)


def cases() -> Iterator[Case]:
    """Yield the table."""
    group, names = "bad ids", "v.npy|v.txt|v.json|v.csv|vectors"
    alone = lambda: np.save("v.npy", numbers())  # noqa: E731  used four times
    for what, suffix, content in _IDS:
        yield run_from(group, f"ids {suffix}, {what}", both(alone, file(f"v{suffix}", content)), names=names)
    yield run_from(group, "no ids", alone, names="ids")
    for suffix in (".txt", ".json", ".csv"):
        yield run_from("hang", f"ids {suffix} are a pipe", both(alone, pipe(f"v{suffix}")), names=names)
        yield run_from("hang", f"ids {suffix} are /dev/zero", both(alone, link(f"v{suffix}", "/dev/zero")), names=names)
