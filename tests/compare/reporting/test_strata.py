"""Strata of users and items against literal answers."""

import pandas as pd
import pytest

from recbole_llminit.compare.reporting.strata import item_strata, stratum_names, user_strata


def test_names_of_strata() -> None:
    assert stratum_names((5, 20)) == ["cold (0-4)", "warm (5-19)", "head (20+)"]
    assert stratum_names((1, 5, 10)) == ["0", "1-4", "5-9", "10+"]
    assert stratum_names((3,)) == ["0-2", "3+"]


def test_user_strata_literally() -> None:
    users = pd.DataFrame(
        {"user_id": list("abcde"), "train_interactions": [0, 4, 5, 9, 4], "recall@10": [1, 0, 1, 1, 0.5]}
    )
    found = user_strata(users, (5, 10))
    assert found["count"].to_dict() == {"cold (0-4)": 3, "warm (5-9)": 2, "head (10+)": 0}
    assert found["recall@10"].tolist()[:2] == [0.5, 1] and pd.isna(found["recall@10"].iloc[2])
    assert found["count"].sum() == len(users)


def test_item_strata_literally() -> None:
    ranks = pd.DataFrame(
        {"item_interactions": [1, 1, 30, 7, 20], "rank": pd.array([3, None, 1, 15, None], dtype="Int32")}
    )
    found = item_strata(ranks, (5, 20), [2, 20])
    assert found["count"].tolist() == [2, 1, 2]
    assert found["recall@2"].tolist() == [0, 0, 0.5]
    assert found["recall@20"].tolist() == [0.5, 1, 0.5]
    # All strata together are the recall over all.
    assert (found["count"] * found["recall@20"]).sum() / 5 == pytest.approx(3 / 5)
