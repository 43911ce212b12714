import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings, no_vectors


def embeddings(tokens: list[str], vectors: npt.ArrayLike, **options: Any) -> ItemEmbeddings:
    vectors = np.asarray(vectors, dtype=np.float32)
    return ItemEmbeddings(np.array(tokens, dtype=object), (vectors,), "vectors.npy", "0", **options)


def keyed_by(tokens: list[str]) -> ItemEmbeddings:
    return embeddings(tokens, np.zeros((len(tokens), 2)))


def test_alignment_follows_tokens_not_positions() -> None:
    aligned = embeddings(["c", "a", "x"], [[3, 3], [1, 1], [9, 9]]).align(["[PAD]", "a", "b", "c"], "toy")
    assert aligned.rows.tolist() == [-1, 1, -1, 0]
    assert aligned.items.tolist() == [1, 3]
    assert (aligned.n_items, aligned.width) == (4, 2)
    read = {
        int(item): row.tolist() for items, block in aligned.blocks() for item, row in zip(items, block, strict=True)
    }
    assert read == {1: [1, 1], 3: [3, 3]}


def test_pad_never_has_a_vector() -> None:
    aligned = embeddings(["[PAD]", "a"], [[1], [2]]).align(["[PAD]", "a"], "toy")
    assert aligned.rows.tolist() == [-1, 1]


def test_blocks_cross_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 3 * 2)
    chunks = tuple(np.full((count, 2), index, dtype=np.float16) for index, count in enumerate((2, 4, 1)))
    tokens = np.array([f"t{number}" for number in range(7)], dtype=object)
    aligned = ItemEmbeddings(tokens, chunks, "store", "0").align(["[PAD]", *reversed(tokens)], "toy")
    blocks = list(aligned.blocks())
    assert [items.tolist() for items, _ in blocks] == [[7, 6, 5], [4, 3, 2], [1]]
    assert [block[:, 0].tolist() for _, block in blocks] == [[0, 0, 1], [1, 1, 1], [2]]
    some = list(aligned.blocks(np.array([1, 7])))
    assert [(items.tolist(), block[:, 0].tolist()) for items, block in some] == [([7, 1], [0, 2])]


def test_some_columns_of_some_rows_are_read() -> None:
    """The rows are adjacent, or have small or large gaps; the vectors are of each precision."""
    rows = np.arange(400 * 6).reshape(400, 6) % 509 / 4
    tokens = np.array([f"t{number}" for number in range(400)], dtype=object)
    for dtype, wanted in itertools.product(
        (np.float16, np.float32, np.float64),
        (np.arange(400), np.flatnonzero(np.arange(400) % 3), np.arange(0, 400, 7), np.array([5])),
    ):
        chunks = tuple(np.split(rows.astype(dtype), [150, 151]))
        found = ItemEmbeddings(tokens, chunks, "store", "0").align(["[PAD]", *tokens], "toy")
        for columns in (None, [4, 0]):
            expected = rows[wanted] if columns is None else rows[wanted][:, columns]
            ((items, block),) = found.blocks(wanted + 1, columns)
            assert items.tolist() == (wanted + 1).tolist()
            assert block.tolist() == expected.tolist()
            assert block.dtype == (np.float64 if dtype == np.float64 else np.float32)
            block[:] = 0
            assert chunks[0][0, 1] == rows[0, 1]


def test_a_sum_that_overflows_is_no_error(embed: Callable[..., AlignedEmbeddings]) -> None:
    ((_, block),) = embed([3e38, 3e38], [3e38, 3e38]).blocks()
    assert (block > 2e38).all()


def test_keyed_by_row_number() -> None:
    facts = r"none of the 3 items of amazon-beauty .*vectors.npy \(dataset: B001FB5IIC, B00, C; file: 0, 1, 2\)"
    with pytest.raises(LLMInitError, match=f"{facts}.*row number.*write the item's own id"):
        keyed_by(["0", "1", "2"]).align(["[PAD]", "B001FB5IIC", "B00", "C"], "amazon-beauty")


def test_off_by_one() -> None:
    with pytest.raises(LLMInitError, match=r"keyed 0\.\.\.2.*ml-100k begin at 1 and end at 3.*off by one.*own id"):
        keyed_by(["0", "1", "2"]).align(["[PAD]", "2", "1", "3"], "ml-100k")


def test_tokens_that_are_numbers_from_zero_are_not_off_by_one() -> None:
    # Item 0 was filtered out of the dataset; the highest id still lies inside the file.
    aligned = keyed_by(["0", "1", "2", "3"]).align(["[PAD]", "3", "1"], "amazon-office")
    assert aligned.rows.tolist() == [-1, 3, 1]
    # Nothing distinguishes it from a file that is off by one, so that there is a warning.
    assert all(fact in aligned.warnings[0] for fact in ("keyed 0...3", "amazon-office begin at 1", "off by one"))
    assert keyed_by(["0", "1", "2"]).align(["[PAD]", "0", "2"], "amazon-office").warnings == ()
    assert keyed_by(["0", "1", "2"]).align(["[PAD]", "1", "x"], "amazon-office").warnings == ()


def test_vectors_of_another_byte_order_are_read_in_this_ones() -> None:
    for kind in (">f2", ">f4", ">f8", "longdouble"):
        chunk = np.array([[1, -2.5], [3, 0.25]], dtype=kind)
        found = ItemEmbeddings(["a", "b"], (chunk,), "store", "0")
        read = found.take(np.array([0, 1]))
        assert read.dtype == (np.float32 if chunk.dtype.itemsize <= 4 else np.float64)
        assert read.dtype.isnative
        assert read.tolist() == [[1, -2.5], [3, 0.25]]


def test_numbers_that_float32_cannot_hold_are_named() -> None:
    chunk = np.array([[1e38, 3e38], [1, -1e39], [2, 3]])
    aligned = ItemEmbeddings(["a", "b", "c"], (chunk,), "store", "0").align(["[PAD]", "a", "b", "c"], "toy")
    with pytest.raises(LLMInitError, match=r"store .*beyond float32.*1 or more items \(b\)"):
        list(aligned.blocks())
    assert [block.tolist() for _, block in aligned.blocks(np.array([1, 3]))] == [[[1e38, 3e38], [2, 3]]]


def test_items_without_vectors_have_some_of_width_zero() -> None:
    aligned = no_vectors(["[PAD]", "a", "b"])
    assert (aligned.width, aligned.items.tolist()) == (0, [1, 2])
    assert [block.shape for _, block in aligned.blocks()] == [(2, 0)]


def test_no_overlap() -> None:
    with pytest.raises(LLMInitError, match=r"none of the 2 items of toy .*vectors.npy \(dataset: a, b; file: x, y\)"):
        keyed_by(["x", "y"]).align(["[PAD]", "a", "b"], "toy")


def test_long_numbers_are_no_row_numbers() -> None:
    with pytest.raises(LLMInitError, match="expected the dataset's item ids"):
        keyed_by([str(10**25), str(10**26)]).align(["[PAD]", "a"], "toy")


def test_a_lone_surrogate_is_named_with_the_source() -> None:
    with pytest.raises(LLMInitError, match=r"vectors.npy has the id 'b\\udc00'"):
        keyed_by(["a", "b\udc00"])


def test_duplicate_ids() -> None:
    with pytest.raises(LLMInitError, match=r"has 1 ids more than once \(a\).*remove the duplicates"):
        keyed_by(["a", "b", "a"])


def test_ids_and_vectors_differ_in_number() -> None:
    with pytest.raises(LLMInitError, match="has 3 vectors for 2 ids"):
        embeddings(["a", "b"], np.zeros((3, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(value: float) -> None:
    aligned = embeddings(["a", "b"], [[1, 2], [value, 4]]).align(["[PAD]", "a", "b"], "toy")
    with pytest.raises(LLMInitError, match=r"NaN or infinite.*1 or more items \(b\)"):
        list(aligned.blocks())


def test_a_nan_of_an_item_outside_the_dataset_is_not_read() -> None:
    aligned = embeddings(["a", "x"], [[1, 2], [np.nan, 4]]).align(["[PAD]", "a"], "toy")
    assert [block.tolist() for _, block in aligned.blocks()] == [[[1, 2]]]


def test_encoder_name_falls_back_on_the_source() -> None:
    assert embeddings(["a"], [[1]], metadata={"model": "mini"}).encoder == "mini"
    assert embeddings(["a"], [[1]]).encoder == "vectors.npy"
