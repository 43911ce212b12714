"""The frames of a report against literal answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_llminit.compare.reporting.export import save_report
from recbole_llminit.compare.reporting.report import Report
from tests.compare.synthetic import OPTIONS, USERS, hits, make_entry, make_report, make_result


def test_users_are_tested_once_however_many_seeds() -> None:
    draws = {seed: (hits(0.3, seed), hits(0.4, seed + 100)) for seed in (1, 2, 3)}
    found = make_report(
        {
            "none": {seed: none for seed, (none, _) in draws.items()},
            "var": {seed: var for seed, (_, var) in draws.items()},
        }
    )
    (test,) = found.tests.itertuples()
    differences = np.mean([var - none for none, var in draws.values()], axis=0)
    assert (test.users, test.seeds) == (USERS, 3)
    assert test.difference == pytest.approx(differences.mean())
    assert test.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert test.wins == (differences > 0).sum() and test.ties == (differences == 0).sum()


def test_only_common_seeds_are_paired() -> None:
    entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b"), make_entry("", 1, "c"), make_entry("", 2, "e")]
    results = {name: make_result(hits(share)) for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.5), ("e", 0.9))}
    found = Report.of(entries, results, OPTIONS)
    assert found.to_dataframe().set_index("model").loc["EASE", "seeds"] == 2
    assert set(found.tests["seeds"]) == {1}


def test_what_is_tested_against_what() -> None:
    shares = {"none": 0.1, "none tuned": 0.2, "var": 0.3, "uni": 0.4, "noise": 0.1, "": 0.5}
    tests = make_report({initialization: {1: hits(share)} for initialization, share in shares.items()}).tests
    assert set(zip(tests["initialization"], tests["reference"], strict=True)) == {
        *((llm, other) for llm in ("var", "uni") for other in ("none", "none tuned", "noise", "EASE")),
        ("noise", "none"),
        ("noise", "none tuned"),
    }
    assert tests.loc[tests["reference"] == "EASE", "of_model"].eq(False).all()
    assert tests.loc[tests["reference"] != "EASE", "of_model"].all()


def test_a_validation_metric_without_a_cut_off() -> None:
    found = Report.of([make_entry("none", 1, "a")], {"a": make_result(hits(0.5), valid_metric="gauc")}, OPTIONS)
    assert found.metrics == ("recall@10",)


def test_strata_literally() -> None:
    # Users with 3 and 9 training interactions alternate, and items with 1 and 8.
    values = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    found = make_report({"none": {1: values, 2: 1 - values}, "var": {1: values}}).strata
    rows = found[found["initialization"] == "var"].set_index(["side", "stratum"])
    assert rows["count"].to_list() == [4, 4, 4, 4]
    assert rows["recall@10"].to_dict() == {("user", "0-4"): 0.5, ("user", "5+"): 0.25, ("item", "0-4"): 0.5, ("item", "5+"): 0.25}  # fmt: skip
    assert found.loc[found["initialization"] == "none", "recall@10"].to_list() == [0.5, 0.5, 0.5, 0.5]


def test_when_the_best_of_the_stock_initialization_is_reached() -> None:
    curves = {
        ("none", 1): (0.1, 0.3, 0.2),
        ("var", 1): (0.2, 0.3, 0.4),
        ("none", 2): (0.1, 0.2, 0.5),
        ("var", 2): (0.4, 0.4, 0.4),
    }
    entries = [make_entry(initialization, seed, f"{initialization}{seed}") for initialization, seed in curves]
    results = {
        f"{initialization}{seed}": make_result(hits(0.5), curve=curve, valid=max(curve))
        for (initialization, seed), curve in curves.items()
    }
    rows = Report.of(entries, results, OPTIONS).efficiency.set_index("initialization")
    # Epochs 2 and 3; two seconds an epoch.
    assert rows.loc["none", ["epochs_to_stock", "seconds_to_stock", "seconds_per_epoch"]].to_list() == [2.5, 5, 2]
    # Epoch 2, and never: the median of two seeds is never.
    assert rows.loc["var", "seeds_reaching_stock"] == 1 and pd.isna(rows.loc["var", "epochs_to_stock"])


def spectrum(*values: float, label: str = "item_embedding.weight", side: str = "item") -> dict[str, object]:
    return {"label": label, "side": side, "spectrum": {"singular_values": list(values)}}


def test_spectra_literally_and_where_seeds_have_other_widths(tmp_path: Path) -> None:
    """A grid over the width may choose another with each seed; a trial of an earlier version has no spectra."""
    entries = [make_entry("none", seed, f"t{seed}") for seed in (1, 2, 3)]
    of_users = spectrum(3, 3, label="user_embedding.weight", side="user")
    results = {
        "t1": make_result(hits(0.1), spectra=[spectrum(4, 2, 2), of_users]),
        "t2": make_result(hits(0.1), spectra=[spectrum(6, 6)]),
        "t3": make_result(hits(0.1)),
    }
    found = Report.of(entries, results, OPTIONS)
    rows = found.spectra.set_index(["seed", "side"])
    assert len(rows) == 3
    assert rows.loc[(1, "item"), "effective_rank"] == pytest.approx(2**1.5)
    assert rows.loc[(1, "item"), "information_abundance"] == pytest.approx(2)
    assert rows.loc[(2, "item"), "effective_rank"] == pytest.approx(2)
    save_report(found, tmp_path)
    lines = [" ".join(line.split()) for line in (tmp_path / "report.md").read_text().splitlines()]
    for line in (
        "| M | none | item_embedding.weight | 3 | 2.8 | 2.0 |",
        "| M | none | item_embedding.weight | 2 | 2.0 | 2.0 |",
        "| M | none | user_embedding.weight | 2 | 2.0 | 2.0 |",
    ):
        assert line in lines
    assert (tmp_path / "d_spectrum.png").exists()
