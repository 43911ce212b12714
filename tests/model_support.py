"""The table of ``recbole-llminit models`` and of ``docs/models.md``, made by building every model on the tiny dataset.

``python -m tests.model_support`` writes both; ``tests/integration/test_all_models.py`` makes each row again.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import init_seed

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.report import TableReport
from recbole_llminit.integration.model import build_model
from recbole_llminit.integration.model_support import TABLE, ModelSupport, list_models
from recbole_llminit.vectors.shard import append_shard, hash_text
from tests.all_models import FAMILIES, MODELS, NAMED, prepare, stand_ins
from tests.stock import DATA

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- made by tests/model_support.py: begin -->", "<!-- end -->"
LLM_DIM = 640


@dataclasses.dataclass(frozen=True)
class Support:
    """The row of a model in the table, and what was built to make it.

    Parameters
    ----------
    row : ModelSupport
        The row.
    model, train_data : object or None
        The initialized model and its training data; None where the model cannot be initialized.
    refusal : str
        The error without ``init_tables``; empty where there is none.
    """

    row: ModelSupport
    model: Any
    train_data: Any
    refusal: str


def write_wide_store(folder: Path) -> dict[str, np.ndarray]:
    """Write a store of the tiny dataset as wide as the widest table; return its vectors by item."""
    items = [line.split("\t")[0] for line in (DATA / "tiny" / "tiny.item").read_text().splitlines()[1:]]
    vectors = np.random.default_rng(0).normal(size=(len(items), LLM_DIM)).astype(np.float32)
    append_shard(
        folder, items, [hash_text(item) for item in items], vectors, {"model": "test-encoder", "dtype": "float32"}
    )
    return dict(zip(items, vectors, strict=True))


def build_initialized(name: str, store: Path, **settings: Any) -> tuple[Any, Any]:
    """Build a model from the vectors, with the seed set right before its constructor; return it and its data."""
    config, train_data = prepare(name, init_strategy="var", llm_embedding=str(store), **settings)
    init_seed(config["seed"], config["reproducibility"])
    return build_model(config, train_data._dataset), train_data


def support_of(name: str, store: Path) -> Support:
    """Build a model, with ``init_tables`` where it needs them, and make its row."""
    family = MODELS[name][0]
    try:
        model, train_data = build_initialized(name, store)
        initialized, needs, refusal = "yes", "", ""
    except LLMInitError as error:
        refusal = str(error)
        if name not in NAMED:
            return Support(ModelSupport(name, family, "no", "", "", _shorten(refusal)), None, None, refusal)
        initialized, needs = "named", "add " + re.search(r"init_tables: \{.*\}", refusal).group()
        model, train_data = build_initialized(name, store, init_tables=NAMED[name])
    written = "; ".join(map(_describe, model.init_report.tables))
    skipped = "; ".join(f"{label} ({reason})" for label, reason in model.init_report.skipped.items())
    return Support(ModelSupport(name, family, initialized, written, skipped, needs), model, train_data, refusal)


def _shorten(message: str) -> str:
    """The reason of a refusal, without the model's name, the shapes, the counts of the tiny dataset and the remedy."""
    message = re.sub(r": remove init_strategy, or take (.*), which is", r"; \1 is", message)
    message = re.sub(r"^\S+ has |: remove init_strategy.*$| \(\d+, \d+\)", "", message)
    return re.sub(r" \(\d+ rows; it has (.*)\)", r" (it has \1)", message)


def _describe(table: TableReport) -> str:
    """A table that was written, with its shape in symbols and its rows by their meaning."""
    label = re.sub(r"\[\d+:\d+\]", f"[{table.side}s]", table.label)
    rows = "n_users" if table.side == "user" else "n_items"
    return f"{label} ({rows} x {table.shape[1]})" + (", at length 1" if table.unit else "")


def _place(name: str) -> tuple[int, str]:
    """The sort key of a model: its family, then its name."""
    return FAMILIES.index(MODELS[name][0]), name.lower()


def markdown(rows: Sequence[ModelSupport]) -> str:
    """The rows as the document shows them."""
    lines: list[str] = []
    for family in dict.fromkeys(row.family for row in rows):
        lines += [
            "",
            f"### {family.replace('_', '-')}",
            "",
            "| model | initialized | written | skipped |",
            "|---|---|---|---|",
        ]
        lines += [_markdown_row(row) for row in rows if row.family == family]
    return "\n".join([*lines, ""])


def _markdown_row(row: ModelSupport) -> str:
    """A model's line in the document: what it needs above what is written."""
    needs = f"*{row.needs}*" if row.needs else ""
    written = "<br>".join(part for part in (needs, row.written.replace("; ", "<br>")) if part)
    return f"| {row.model} | {row.initialized} | {written} | {row.skipped.replace('; ', '<br>')} |"


def in_document(rows: Sequence[ModelSupport]) -> str:
    """The whole document with these rows."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + markdown(rows) + "\n" + text[text.index(END) :]


def main() -> None:
    """Write the table and put it into the document."""
    with tempfile.TemporaryDirectory() as folder, stand_ins():
        store = Path(folder) / "store"
        write_wide_store(store)
        rows = [support_of(name, store).row for name in sorted(MODELS, key=_place)]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(ModelSupport)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(dataclasses.asdict, rows))
    DOCUMENT.write_text(in_document(list_models()), encoding="utf-8")


if __name__ == "__main__":
    main()
