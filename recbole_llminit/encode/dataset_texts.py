"""The item texts that encode options name, compared with the item ids of the dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from recbole_llminit.encode.item_text import ItemTexts, read_item_texts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, is_file, is_folder
from recbole_llminit.suggest import suggest
from recbole_llminit.vectors.tokens import examples

_logger = logging.getLogger(__name__)


def read_texts(options: EncodeOptions) -> ItemTexts:
    """Read the text of every item of the dataset, before RecBole filters any item.

    Raises
    ------
    LLMInitError
        If there are no texts, or the ids of ``llm_text_file`` are not those of the dataset.
    """
    if not options.own_texts:
        _require_dataset_folder(options)
    if not exists(options.text_file):
        raise LLMInitError(
            f"there is no {options.text_file} with the texts of {options.dataset}'s items (looked in {Path.cwd()}): "
            f"give a table with {options.id_field} and texts (CSV, JSON lines, Parquet) in llm_text_file, or vectors "
            f"you have in llm_embedding"
        )
    texts = read_item_texts(
        options.text_file,
        id_field=options.id_field,
        fields=options.text_fields,
        template=options.text_template,
        field_separator=options.field_separator,
        seq_separator=options.seq_separator,
        encoding=options.encoding,
    )
    if options.own_texts and is_file(options.interactions):
        _check_ids(options, texts)
    return texts


def _require_dataset_folder(options: EncodeOptions) -> None:
    """Raise where the folder of the dataset does not exist; name the most similar one that does."""
    folder = options.text_file.parent
    if is_folder(folder):
        return
    with foreign_reader(folder.parent, "a folder of datasets"):
        paths = folder.parent.iterdir() if is_folder(folder.parent) else ()
        existing = [path.name for path in paths if is_folder(path)]
    raise LLMInitError(
        f"there is no folder {folder} of the dataset {options.dataset} (looked in {Path.cwd()})"
        f"{suggest(options.dataset, existing)}; check dataset and data_path"
    )


def _check_ids(options: EncodeOptions, texts: ItemTexts) -> None:
    """Compare the ids of the user's own table with those of the dataset, before anything is encoded.

    Raises
    ------
    LLMInitError
        If none of the dataset's items has a text. Where fewer than half of them have one, a warning is logged.
    """
    with foreign_reader(options.interactions, "RecBole's table of interactions"):
        table = pd.read_csv(
            options.interactions,
            sep=options.field_separator,
            usecols=lambda name: str(name).partition(":")[0] == options.id_field,
            dtype=str,
            encoding=options.encoding,
            engine="c" if len(options.field_separator) == 1 else "python",
        )
    if table.empty:
        return
    items = pd.Index(table.iloc[:, 0].unique())
    known = int(items.isin(texts.ids).sum())
    compared = (
        f"{known:,} of {len(items):,} items of {options.interactions.name} have a text in {options.text_file} (ids "
        f"there: {examples(list(items))}; ids of texts: {examples(texts.ids)})"
    )
    if not known:
        raise LLMInitError(f"{compared}: expected the dataset's item ids in {options.id_field}")
    if known < len(items) / 2:
        _logger.warning(f"only {compared}: check that the file belongs to the dataset")
