"""The table of ``recbole-llminit models`` and of ``docs/models.md``, made by building every model on the tiny dataset.

``python -m tests.model_support`` writes both; ``tests/integration/test_all_models.py`` makes each row again.
"""

import csv
import dataclasses
import re
import tempfile
from pathlib import Path

import numpy as np

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.model import build_model
from recbole_llminit.integration.model_support import TABLE, ModelSupport, list_models
from recbole_llminit.vectors.store import append_shard, hash_text
from tests.all_models import FAMILIES, MODELS, NAMED, prepare, stand_ins
from tests.stock import DATA

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- made by tests/model_support.py: begin -->", "<!-- end -->"
LLM_DIM = 640


def write_wide_store(folder):
    """A store of the tiny dataset as wide as the widest table, and its vectors by item."""
    items = [line.split("\t")[0] for line in (DATA / "tiny" / "tiny.item").read_text().splitlines()[1:]]
    vectors = np.random.default_rng(0).normal(size=(len(items), LLM_DIM)).astype(np.float32)
    append_shard(
        folder, items, [hash_text(item) for item in items], vectors, {"model": "test-encoder", "dtype": "float32"}
    )
    return dict(zip(items, vectors, strict=True))


def start(name, store, **settings):
    """Build a model from the vectors."""
    config, train_data = prepare(name, init_strategy="var", llm_embedding=str(store), **settings)
    return build_model(config, train_data._dataset), train_data


def support_of(name, store):
    """The row of a model, and the model and its data if it starts from the vectors."""
    family, needs, initialized = MODELS[name][0], "", "yes"
    try:
        model, train_data = start(name, store)
    except LLMInitError as error:
        needs = str(error)
        if name not in NAMED:
            return ModelSupport(name, family, "no", "", "", _short(needs)), None, None
        initialized, needs = "named", "add " + re.search(r"init_tables: \{.*\}", needs).group()
        model, train_data = start(name, store, init_tables=NAMED[name])
    written = [
        f"{_symbolic(table)} ({'n_users' if table.side == 'user' else 'n_items'} x {table.shape[1]})"
        + ", at length 1" * table.unit
        for table in model.init_report.tables
    ]
    skipped = [f"{label} ({reason})" for label, reason in model.init_report.skipped.items()]
    row = ModelSupport(name, family, initialized, "; ".join(written), "; ".join(skipped), needs)
    return row, model, train_data


def _short(message):
    message = re.sub(r"^\S+ has |: remove init_strategy.*$| \(\d+, \d+\)", "", message)
    return re.sub(r" \(\d+ rows; it has (.*)\)", r" (it has \1)", message)


def _symbolic(table):
    return re.sub(r"\[\d+:\d+\]", f"[{table.side}s]", table.label)


def _place(name):
    return FAMILIES.index(MODELS[name][0]), name.lower()


def markdown(rows):
    """The rows as the document shows them."""
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        lines += [
            "",
            f"### {family.replace('_', '-')}",
            "",
            "| model | initialized | written | skipped |",
            "|---|---|---|---|",
        ]
        for row in rows:
            if row.family == family:
                written = "<br>".join(
                    part for part in (row.needs and f"*{row.needs}*", row.written.replace("; ", "<br>")) if part
                )
                lines.append(f"| {row.model} | {row.initialized} | {written} | {row.skipped.replace('; ', '<br>')} |")
    return "\n".join([*lines, ""])


def in_document(rows):
    """The whole document with these rows."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + markdown(rows) + "\n" + text[text.index(END) :]


def main():
    """Write the table and put it into the document."""
    with tempfile.TemporaryDirectory() as folder, stand_ins():
        write_wide_store(Path(folder) / "store")
        rows = [support_of(name, Path(folder) / "store")[0] for name in sorted(MODELS, key=_place)]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(ModelSupport)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(dataclasses.asdict, rows))
    DOCUMENT.write_text(in_document(list_models()), encoding="utf-8")


if __name__ == "__main__":
    main()
