"""Error messages and log lines, found by the facts that they name, however their sentences are worded."""

from __future__ import annotations

import re

import pytest


def naming(*facts: str) -> str:
    """A pattern, for ``pytest.raises(match=...)``, of the messages that hold all these texts, in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(fact)})" for fact in facts)


def logged(caplog: pytest.LogCaptureFixture, *facts: str) -> bool:
    """Whether one line of the log holds all these texts."""
    return any(all(fact in record.getMessage() for fact in facts) for record in caplog.records)


def own_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of this package, without those of other libraries."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("recbole_llminit")]
