"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Write a text under another name, and rename it: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    # Hidden, and another process may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
