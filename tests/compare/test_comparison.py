"""A comparison from its command to its report."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest

from recbole_llminit import cli
from recbole_llminit.compare.comparison import compare, describe_plan, write_report
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.compare.report import Report
from recbole_llminit.compare.runner import run_trials
from recbole_llminit.errors import LLMInitError
from tests.stock import DATA

SETTINGS = {
    "models": "BPR",
    "datasets": "tiny",
    "data_path": str(DATA),
    "strategies": ["none", "var"],
    "controls": "noise",
    "baselines": {"ItemKNN": {"k": [2, 10]}},
    "seeds": 2,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "embedding_size": 16,
    "epochs": 3,
    "train_batch_size": 64,
    "metrics": ["Recall", "NDCG"],
    "topk": [5, 10],
    "valid_metric": "NDCG@5",
    "user_strata": [8, 12],
    "item_strata": [10, 20],
}


@pytest.fixture(scope="module")
def settings(tiny_store):
    return {**SETTINGS, "llm_embedding": str(tiny_store)}


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """A finished comparison's folder and report: two seeds, three initializations, a baseline with a grid of two."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    return folder, compare(settings, folder, jobs=2, command=["recbole-llminit", "compare", "--x=y z"])


def copied(finished, tmp_path):
    """A copy of the finished comparison that a test may break."""
    import shutil

    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def written(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "trials").glob("*.json")}


def test_the_files_of_a_comparison(finished):
    folder, report = finished
    assert not report.problems
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"plan.json", "trials", "report.md", "report.html", "report.csv", "trials.csv", "tests.csv",
                     "tiny_convergence.png", "tiny_strata.png", "tiny_spectrum.png"}  # fmt: skip
    trials = list((folder / "trials").iterdir())
    assert sorted({"".join(re.findall(r"(\.users\.parquet|\.ranks\.parquet|\.json|\.log)$", path.name)) for path in trials}) == [
        ".json", ".log", ".ranks.parquet", ".users.parquet"
    ]  # fmt: skip
    assert len(trials) == 4 * 10
    content = json.loads(next((folder / "trials").glob("tiny-BPR-var-2020_*.json")).read_text())
    assert content["config"]["seed"] == 2020 and content["config"]["init_strategy"] == "var"
    assert [point["epoch"] for point in content["curve"]] == [1, 2, 3]
    assert content["best_valid_score"] == max(point["score"] for point in content["curve"])
    assert content["versions"]["recbole"] == "1.2.1" and content["peak_memory_bytes"] > 1e8
    assert content["init_report"]["strategy"] == "Variance(popular_ratio=0.2)"


def test_a_trial_is_the_run_that_a_user_calls(finished, settings):
    """In this process, with other arguments on the command line of the whole."""
    from recbole_llminit.integration.quick_start import run_recbole_llminit

    folder, report = finished
    config = {key: value for key, value in settings.items() if key not in CompareOptions.__dataclass_fields__}
    for key in ("strategies", "models", "datasets", "controls"):
        config.pop(key, None)
    sizes = {"eval_batch_size": 2_000_000, "show_progress": False}
    result = run_recbole_llminit(
        "BPR", "tiny", config_dict={**config, **sizes, "init_strategy": "var", "seed": 2021}, saved=True
    )
    content = json.loads(next((folder / "trials").glob("tiny-BPR-var-2021_*.json")).read_text())
    assert content["test_result"] == result["test_result"]
    assert content["best_valid_score"] == result["best_valid_score"]
    run = report.runs[(report.runs["initialization"] == "var") & (report.runs["seed"] == 2021)].iloc[0]
    assert run["ndcg@5"] == result["test_result"]["ndcg@5"]
    assert run["strategy"] == result["init_report"].strategy
    assert report.runs[report.runs["initialization"].isin(["none", ""])]["strategy"].isna().all()


def test_the_report_restates_the_trials(finished):
    folder, report = finished
    table = report.to_dataframe().set_index(["model", "initialization"])
    assert table.index.to_list() == [("BPR", "none"), ("BPR", "var"), ("BPR", "noise"), ("ItemKNN", "")]
    assert report.metrics == ("recall@5", "ndcg@5")
    for initialization in ("none", "var", "noise"):
        values = [
            json.loads(path.read_text())["test_result"]["recall@10"]
            for path in (folder / "trials").glob(f"tiny-BPR-{initialization}-*.json")
        ]
        assert table.loc[("BPR", initialization), "recall@10"] == pytest.approx(sum(values) / 2)
        assert table.loc[("BPR", initialization), "recall@10 deviation"] == pytest.approx(
            abs(values[0] - values[1]) / 2**0.5
        )
    # Of the baseline's grid the best by validation, within each seed.
    for seed in (2020, 2021):
        contents = [json.loads(path.read_text()) for path in (folder / "trials").glob(f"tiny-ItemKNN-{seed}_*.json")]
        best = max(contents, key=lambda content: content["best_valid_score"])
        run = report.runs[(report.runs["model"] == "ItemKNN") & (report.runs["seed"] == seed)].iloc[0]
        assert len(contents) == 2 and run["candidates"] == 2
        assert run["valid_score"] == best["best_valid_score"]
        assert (
            run["tuned"]
            == f"k {json.loads((folder / 'trials' / (run['trial'] + '.json')).read_text())['settings']['k']}"
        )


def test_what_is_tested_against_what(finished):
    _, report = finished
    pairs = set(zip(report.tests["initialization"], report.tests["reference"], strict=True))
    assert pairs == {("var", "none"), ("var", "noise"), ("var", "ItemKNN"), ("noise", "none")}
    assert (report.tests["seeds"] == 2).all()
    assert (report.tests["p_holm"] >= report.tests["p"]).all()
    assert report.references == {"none": "a", "noise": "b", "ItemKNN": "c"}
    # One metric's family restated.
    family = report.tests[report.tests["metric"] == "ndcg@5"].sort_values("p")
    stepped = (family["p"] * range(len(family), 0, -1)).clip(upper=1).cummax()
    assert family["p_holm"].to_list() == pytest.approx(stepped.to_list())


def test_strata_add_up(finished):
    folder, report = finished
    users = {len(pd.read_parquet(path)) for path in (folder / "trials").glob("*.users.parquet")}
    tested = [len(pd.read_parquet(path)) for path in (folder / "trials").glob("tiny-BPR-none-*.ranks.parquet")]
    for line, strata in report.strata.groupby(["model", "initialization"]):
        by_side = strata.groupby("side")["count"].sum()
        assert {by_side["user"]} == users
        assert by_side["item"] == pytest.approx(sum(tested) / 2)
        mean = (strata["count"] * strata["ndcg@5"])[strata["side"] == "user"].sum() / by_side["user"]
        assert mean == pytest.approx(report.runs.groupby(["model", "initialization"])["ndcg@5"].mean()[line], abs=1e-4)


def test_the_spectra_of_trained_tables(finished, tiny_items):
    folder, report = finished
    spectra = report.spectra
    # Two seeds, three initializations, two tables; the baseline has none.
    assert len(spectra) == 12 and set(spectra["model"]) == {"BPR"} and set(spectra["side"]) == {"user", "item"}
    assert {len(values) for values in spectra["singular_values"]} == {16}
    assert ((spectra["effective_rank"] > 1) & (spectra["effective_rank"] <= 16)).all()
    assert re.search(r"\| BPR +\| var +\| item_embedding.weight \|", (folder / "report.md").read_text())


def test_efficiency(finished):
    _, report = finished
    rows = report.efficiency.set_index(["model", "initialization"])
    assert rows.loc[("BPR", "none"), "parameters"] == (41 + 30) * 16
    assert rows.loc[("BPR", "none"), "seeds_reaching_stock"] == 2
    curves = report.curves[(report.curves["initialization"] == "none") & (report.curves["model"] == "BPR")]
    first = [part.loc[part["score"] == part["score"].max(), "epoch"].min() for _, part in curves.groupby("seed")]
    assert rows.loc[("BPR", "none"), "epochs_to_stock"] == sum(first) / 2
    assert pd.isna(rows.loc[("ItemKNN", ""), "seeds_reaching_stock"])


def test_the_page_stands_alone(finished):
    page = (finished[0] / "report.html").read_text()
    assert page.count("<svg") == 3
    # XML namespaces are names, and nothing is fetched from them.
    addresses = set(re.findall(r"https?://[^\"'<> )]+", page))
    assert all(
        "w3.org" in address or "purl.org" in address or "creativecommons.org" in address for address in addresses
    )
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\(['\"]?(?!#)", page)
    assert "recbole-llminit compare &#39;--x=y z&#39;" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page):
        assert used in ids
    assert "#123456" not in page and "currentColor" in page


def test_the_report_in_every_form(finished):
    folder, report = finished
    text, markdown, latex = str(report), report.to_markdown(), report.to_latex()
    recall = f"{report.to_dataframe()['recall@5'].iloc[0]:.4f}"
    for form in (text, markdown, latex, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        assert recall in form and "none (a)" in form
    assert "\\toprule" in latex and "a none, b noise, c ItemKNN" in text
    content = json.loads(json.dumps(report.to_dict()))
    assert len(content["runs"]) == 8 and content["options"]["seeds"] == [2020, 2021]
    table = pd.read_csv(folder / "report.csv", keep_default_na=False)
    assert table["initialization"].to_list() == ["none", "var", "noise", ""]
    assert len(pd.read_csv(folder / "trials.csv")) == 8 and len(pd.read_csv(folder / "tests.csv")) == len(report.tests)
    assert str(DATA) not in (folder / "report.html").read_text() + (folder / "report.md").read_text()


def test_a_finished_comparison_is_not_trained_again(finished, settings, tmp_path):
    folder = copied(finished, tmp_path)
    before, page = written(folder), (folder / "report.html").read_text()
    report = compare(settings, folder, command=["recbole-llminit", "compare", "--x=y z"])
    assert written(folder) == before
    assert str(report) == str(finished[1])
    assert (folder / "report.html").read_text() == page
    assert "0 of 10 trials are to be run: at most 0 s" in describe_plan(CompareOptions.from_settings(settings), folder)


def test_the_command_from_a_yaml_file(finished, settings, tmp_path, capsys):
    import yaml

    folder = copied(finished, tmp_path)
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert cli.main(["compare", f"--config_files={path}", f"--out={folder}", "--jobs=1"]) == 0
    printed = capsys.readouterr().out
    assert "| BPR     | none (a)" in printed and "report.html" in printed
    assert "--config_files=" in (folder / "report.md").read_text()
    assert cli.main(["compare", "--report", f"--out={folder}"]) == 0
    assert "| BPR     | none (a)" in capsys.readouterr().out
    assert cli.main(["compare", "--report", f"--out={tmp_path / 'nothing'}"]) == 2
    assert "expected the plan of a comparison" in capsys.readouterr().err
    assert cli.main(["compare", "--report", "--epochs=3", f"--out={folder}"]) == 2
    assert (
        cli.main(["compare", "--models=BPR", "--datasets=tiny", "--jobs=0", f"--data_path={DATA}", f"--out={folder}"])
        == 2
    )


def test_a_broken_trial_is_named_left_out_and_run_again(finished, settings, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    broken, gone = sorted((folder / "trials").glob("tiny-BPR-var-*.json"))
    whole = broken.read_text()
    broken.write_text(whole[:100])
    users = gone.with_name(gone.name.replace(".json", ".users.parquet"))
    users.unlink()
    report = write_report(folder)
    assert len(report.problems) == 3
    assert str(broken) in report.problems[0] and str(gone) in report.problems[1]
    assert "not finished, and left out: BPR on tiny with seed 2020, 2021" in report.problems[2]
    assert report.to_dataframe()["model"].to_list() == ["ItemKNN"]
    assert "cannot be read" in (folder / "report.html").read_text()
    before = written(folder)
    again = compare(settings, folder, jobs=2)
    changed = {path for path, at in written(folder).items() if at != before[path]}
    assert changed == {broken, gone}
    assert json.loads(broken.read_text())["test_result"] == json.loads(whole)["test_result"]
    assert str(again) == str(finished[1])
    assert f"{broken} cannot be read" in capsys.readouterr().err


def test_a_prefix_of_the_seeds_is_a_table(finished, tmp_path):
    folder = copied(finished, tmp_path)
    for path in (folder / "trials").glob("tiny-BPR-noise-2021_*"):
        path.unlink()
    report = Report.read(folder)
    table = report.to_dataframe().set_index(["model", "initialization"])
    # All initializations of the model have the same seeds; the baseline has both.
    assert table["seeds"].to_dict() == {("BPR", "none"): 1, ("BPR", "var"): 1, ("BPR", "noise"): 1, ("ItemKNN", ""): 2}
    assert set(report.tests["seeds"]) == {1}
    assert report.problems == ("not finished, and left out: BPR on tiny with seed 2021",)


def test_a_failed_trial_is_reported_and_the_rest_goes_on(settings, tmp_path, capsys):
    Path("my_models.py").write_text(
        "from recbole.model.general_recommender import BPR\n"
        "class Failing(BPR):\n"
        "    def calculate_loss(self, interaction):\n"
        "        raise RuntimeError('no luck')\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        arguments = [
            f"--{key}={value}"
            for key, value in settings.items()
            if key not in ("models", "baselines", "controls", "seeds", "strategies")
        ]
        status = cli.main(["compare", *arguments, "--models=my_models.Failing", "--strategies=none", "--controls=none",
                           "--baselines=Pop", "--out=out", "--jobs=2"])  # fmt: skip
    finally:
        sys.path.remove(str(tmp_path))
    printed = capsys.readouterr()
    assert status == 1
    assert "RuntimeError: no luck" in printed.out and "failed: tiny-Failing-none-2020" in printed.err
    report = Report.read("out")
    assert report.to_dataframe()["model"].to_list() == ["Pop"]
    assert "no luck" in report.problems[0]
    assert "no luck" in Path("out/report.html").read_text()
    assert not [path for path in Path("out/trials").iterdir() if path.name.startswith(".")]


def test_a_full_disk_fails_its_trials_and_loses_nothing(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=50_000_000))
    options = CompareOptions.from_settings(
        {**settings, "strategies": "none", "controls": "none", "baselines": "Pop", "seeds": 1}
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Pop's checkpoint has some 9,000 bytes and fits, as the plan and the logs do; BPR's, 24,000, does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
    try:
        report = compare(options, tmp_path / "out", jobs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "failed: tiny-BPR-none-2020" in capsys.readouterr().err
    assert "tiny-BPR-none-2020" in report.problems[0] and "(50 MB are free on the disk of " in report.problems[0]
    assert "File too large" in report.problems[-1] and "the report cannot be written to" in report.problems[-1]
    assert report.to_dataframe()["model"].to_list() == ["Pop"]
    report = compare(options, tmp_path / "out", jobs=2)
    assert not report.problems and len(report.runs) == 2


def test_two_comparisons_in_one_folder_are_refused(settings, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(LLMInitError, match="another comparison is running in"):
        compare(settings, tmp_path / "out")


def test_a_folder_that_cannot_be_written_to(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LLMInitError, match="cannot be written to"):
        compare(settings, tmp_path / "file")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_comparison_takes_its_trials_with_it(how, settings):
    others = ("baselines", "controls", "seeds", "epochs", "strategies")
    arguments = [f"--{key}={value}" for key, value in settings.items() if key not in others]
    arguments += [
        "--strategies=none",
        "--controls=none",
        "--baselines=none",
        "--epochs=100000",
        "--stopping_step=100000",
    ]
    command = [sys.executable, "-m", "recbole_llminit", "compare", *arguments, "--out=out", "--jobs=1"]
    # A background job's SIGINT is ignored, and so is its children's.
    long = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    trials = Path("out/trials")
    until = time.time() + 120
    while not any("train loss" in log.read_text() for log in trials.glob("*.log")):
        assert time.time() < until and long.poll() is None
        time.sleep(0.2)
    (child,) = psutil.Process(long.pid).children()
    long.send_signal(how)
    error = long.communicate(timeout=60)[1]
    if how != signal.SIGKILL:
        assert long.returncode == 130 and "finished trials are kept, run again to continue" in error
    child.wait(timeout=20)
    assert not child.is_running()
    # Neither finished nor failed.
    assert not list(trials.glob("*.json")) and not list(trials.glob("*.failed"))


def test_what_was_left_behind_is_swept(settings, tmp_path):
    options = CompareOptions.from_settings(
        {**settings, "strategies": "none", "controls": "none", "baselines": "Pop", "seeds": 1}
    )
    plan = make_plan(options)
    (tmp_path / "trials" / ".tiny.x").mkdir(parents=True)
    (tmp_path / "trials" / ".tiny.specification").write_text("")
    seen = []
    run_trials(plan, tmp_path, jobs=2, settled=lambda name, *, now: seen.append((name, now)))
    assert sorted(seen) == sorted((name, True) for name in plan.trials)
    assert not [path for path in (tmp_path / "trials").iterdir() if path.name.startswith(".")]


def test_an_unknown_name_stops_before_the_first_trial(settings, tmp_path):
    with pytest.raises(LLMInitError, match="did you mean"):
        compare({**settings, "models": ["BPR", "LihgtGCN"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named(settings, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "statsmodels" else find(name))
    with pytest.raises(LLMInitError, match=r"compare needs statsmodels: pip install \"recbole-llminit\[compare\]\""):
        compare(settings, tmp_path / "out")


def test_the_estimate_measures_what_has_not_run(settings, tmp_path, capsys):
    arguments = [
        f"--{key}={value}" for key, value in settings.items() if key not in ("baselines", "epochs", "strategies")
    ]
    assert (
        cli.main(
            ["compare", *arguments, "--strategies=var", "--baselines=none", "--epochs=1000", "--dry-run", "--out=out"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "6 of 6 trials are to be run: at most " in printed
    assert re.search(r"\| tiny +\| BPR +\| 6 +\| 6 +\| 0 +\| [1-9]\d* (s|min) ", printed)
    assert not Path("out").exists()
