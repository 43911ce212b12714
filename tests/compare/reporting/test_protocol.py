"""The protocol of a report against literal answers."""

from typing import Any

from recbole_llminit.compare.reporting.report import Report
from tests.compare.synthetic import OPTIONS, hits, make_entry, make_result


def config(**values: Any) -> dict[str, Any]:
    return {"epochs": 5, "learning_rate": 0.1, "weight_decay": 0.0, **values}


def test_settings_and_regularization_by_model_and_versions() -> None:
    contents: dict[str, dict[str, Any]] = {
        "a": {"model": "BPR", "config": config(reg_weight=9.0)},
        "b": {"model": "BPR", "config": config(learning_rate=0.3, reg_weight=9.0)},
        "c": {"model": "LightGCN", "config": config(reg_weight=1e-05, topk=[10])},
        "d": {"model": "EASE", "config": config(epochs=1, reg_weight=250.0, learning_rate=7.0)},
        "e": {"model": "my.own.Model", "config": config(reg_weight=3)},
    }
    versions = {"recbole-llminit": "0.1.0", "recbole": "1.2.1", "torch": "2.6.0", "numpy": "2.0", "scipy": "1.13"}
    contents["b"]["versions"] = {**versions, "numpy": "2.1"}
    results = {name: make_result(hits(0.5), **{"versions": versions, **content}) for name, content in contents.items()}
    labels = {"a": "none", "b": "none tuned", "c": "none", "d": "", "e": "none"}
    roles = {"d": "baseline"}
    entries = [
        make_entry(labels[name], 1, name, model=content["model"], role=roles.get(name, "stock"))
        for name, content in contents.items()
    ]
    row = Report.of(entries, results, OPTIONS).protocol.iloc[0].dropna().to_dict()
    # BPR does not read reg_weight, and EASE is not trained in epochs.
    assert row["learning_rate"] == "BPR 0.1, 0.3; LightGCN 0.1; my.own.Model 0.1"
    assert row["weight_decay"] == "BPR 0.0; LightGCN 0.0; my.own.Model 0.0"
    assert row["reg_weight"] == "LightGCN 1e-05; EASE 250.0; my.own.Model 3"
    assert (row["epochs"], row["users_tested"]) == ("5", 200)
    # Models with other values do not share a setting.
    assert "topk" not in row
    found = {key: row[key] for key in ("python", "recbole-llminit", "recbole", "torch", "numpy")}
    assert found == {
        "python": "3",
        "recbole-llminit": "0.1.0",
        "recbole": "1.2.1",
        "torch": "2.6.0",
        "numpy": "2.0, 2.1",
    }
    assert "scipy" not in row
