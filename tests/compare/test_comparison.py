"""A comparison from its command to its report."""

import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from recbole_llminit import cli
from recbole_llminit.compare.child_processes import ChildProcesses
from recbole_llminit.compare.comparison import compare, describe_plan, write_report
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import CheckedComparison
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.quick_start import run_recbole_llminit
from tests.compare.small_comparison import Finished, as_arguments, call_trial, modified, read_json
from tests.stock import DATA


def test_the_files_of_a_comparison(finished: Finished) -> None:
    assert not finished.report.problems
    names = {path.name for path in finished.folder.iterdir()} - {".lock"}
    assert names == {"plan.json", "trials", "report.md", "report.html", "report.csv", "runs.csv", "trials.csv", "tests.csv",
                     "tiny_convergence.png", "tiny_strata.png", "tiny_spectrum.png"}  # fmt: skip
    trials = list((finished.folder / "trials").iterdir())
    suffixes = {"".join(re.findall(r"(\.users\.parquet|\.ranks\.parquet|\.json|\.log)$", path.name)) for path in trials}
    assert suffixes == {".json", ".log", ".ranks.parquet", ".users.parquet"}
    assert len(trials) == 4 * 10
    content = finished.trial("tiny-BPR-var-2020_*")
    assert content["config"]["seed"] == 2020 and content["config"]["init_strategy"] == "var"
    assert [point["epoch"] for point in content["curve"]] == [1, 2, 3]
    assert content["best_valid_score"] == max(point["score"] for point in content["curve"])
    assert content["versions"]["recbole"] == "1.2.1" and content["peak_memory_bytes"] > 1e8
    assert content["init_report"]["strategy"] == "Variance(popular_ratio=0.2)"


def test_a_trial_is_the_run_that_a_user_calls(finished: Finished, compare_settings: dict[str, Any]) -> None:
    keys = CompareOptions.__dataclass_fields__.keys() | {"strategies", "controls"}
    config = {key: value for key, value in compare_settings.items() if key not in keys}
    sizes = {"eval_batch_size": 2_000_000, "show_progress": False}
    result = run_recbole_llminit(
        "BPR", "tiny", config_dict={**config, **sizes, "init_strategy": "var", "seed": 2021}, saved=True
    )
    content = finished.trial("tiny-BPR-var-2021_*")
    assert content["test_result"] == result["test_result"]
    assert content["best_valid_score"] == result["best_valid_score"]
    runs = finished.report.runs
    run = runs[(runs["initialization"] == "var") & (runs["seed"] == 2021)].iloc[0]
    assert run["ndcg@5"] == result["test_result"]["ndcg@5"]
    assert run["strategy"] == result["init_report"].strategy
    assert runs[runs["initialization"].isin(["none", ""])]["strategy"].isna().all()


def test_the_report_restates_the_trials(finished: Finished) -> None:
    table = finished.report.to_dataframe().set_index(["model", "initialization"])
    assert table.index.to_list() == [("BPR", "none"), ("BPR", "var"), ("BPR", "noise"), ("ItemKNN", "")]
    assert finished.report.metrics == ("recall@5", "ndcg@5")
    for initialization in ("none", "var", "noise"):
        paths = (finished.folder / "trials").glob(f"tiny-BPR-{initialization}-*.json")
        values = [read_json(path)["test_result"]["recall@10"] for path in paths]
        assert table.loc[("BPR", initialization), "recall@10"] == pytest.approx(sum(values) / 2)
        std = abs(values[0] - values[1]) / 2**0.5
        assert table.loc[("BPR", initialization), "recall@10 std"] == pytest.approx(std)


@pytest.mark.parametrize("seed", [2020, 2021])
def test_the_best_of_a_grid_by_validation_stands_for_its_seed(finished: Finished, seed: int) -> None:
    contents = [read_json(path) for path in (finished.folder / "trials").glob(f"tiny-ItemKNN-{seed}_*.json")]
    best = max(contents, key=lambda content: content["best_valid_score"])
    runs = finished.report.runs
    run = runs[(runs["model"] == "ItemKNN") & (runs["seed"] == seed)].iloc[0]
    assert len(contents) == 2 and run["candidates"] == 2
    assert run["valid_score"] == best["best_valid_score"]
    assert run["tuned"] == f"k {finished.trial(run['trial'])['settings']['k']}"


def test_what_is_tested_against_what(finished: Finished) -> None:
    report = finished.report
    pairs = set(zip(report.tests["initialization"], report.tests["reference"], strict=True))
    assert pairs == {("var", "none"), ("var", "noise"), ("var", "ItemKNN"), ("noise", "none")}
    assert (report.tests["seeds"] == 2).all()
    assert (report.tests["p_holm"] >= report.tests["p"]).all()
    assert report.references == ("none", "noise", "ItemKNN")
    # One metric's family restated.
    family = report.tests[report.tests["metric"] == "ndcg@5"].sort_values("p")
    stepped = (family["p"] * range(len(family), 0, -1)).clip(upper=1).cummax()
    assert family["p_holm"].to_list() == pytest.approx(stepped.to_list())


def test_strata_add_up(finished: Finished) -> None:
    report, trials = finished.report, finished.folder / "trials"
    users = {len(pd.read_parquet(path)) for path in trials.glob("*.users.parquet")}
    tested = [len(pd.read_parquet(path)) for path in trials.glob("tiny-BPR-none-*.ranks.parquet")]
    for line, strata in report.strata.groupby(["model", "initialization"]):
        by_side = strata.groupby("side")["count"].sum()
        assert {by_side["user"]} == users
        assert by_side["item"] == pytest.approx(sum(tested) / 2)
        mean = (strata["count"] * strata["ndcg@5"])[strata["side"] == "user"].sum() / by_side["user"]
        assert mean == pytest.approx(report.runs.groupby(["model", "initialization"])["ndcg@5"].mean()[line], abs=1e-4)


def test_the_spectra_of_trained_tables(finished: Finished) -> None:
    spectra = finished.report.spectra
    # Two seeds, three initializations, two tables; the baseline has none.
    assert len(spectra) == 12 and set(spectra["model"]) == {"BPR"} and set(spectra["side"]) == {"user", "item"}
    assert {len(values) for values in spectra["singular_values"]} == {16}
    assert ((spectra["effective_rank"] > 1) & (spectra["effective_rank"] <= 16)).all()
    markdown = (finished.folder / "report.md").read_text()
    assert re.search(r"\| BPR +\| var +\| item_embedding.weight \|", markdown)


def test_efficiency(finished: Finished) -> None:
    report = finished.report
    rows = report.efficiency.set_index(["model", "initialization"])
    assert rows.loc[("BPR", "none"), "parameters"] == (41 + 30) * 16
    assert rows.loc[("BPR", "none"), "seeds_reaching_stock"] == 2
    curves = report.curves[(report.curves["initialization"] == "none") & (report.curves["model"] == "BPR")]
    assert curves.groupby("seed")["epoch"].min().to_list() == [0, 0]
    # Reached in training: epoch 0 does not count.
    curves = curves[curves["epoch"] > 0]
    first = [part.loc[part["score"] == part["score"].max(), "epoch"].min() for _, part in curves.groupby("seed")]
    assert rows.loc[("BPR", "none"), "epochs_to_stock"] == sum(first) / 2
    assert pd.isna(rows.loc[("ItemKNN", ""), "seeds_reaching_stock"])


def test_the_page_stands_alone(finished: Finished) -> None:
    page = (finished.folder / "report.html").read_text()
    assert page.count("<svg") == 3
    # XML namespaces are names, and nothing is fetched from them.
    addresses = set(re.findall(r"https?://[^\"'<> )]+", page))
    names = ("w3.org", "purl.org", "creativecommons.org")
    assert all(any(name in address for name in names) for address in addresses)
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\(['\"]?(?!#)", page)
    assert "recbole-llminit compare &#39;--x=y z&#39;" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page):
        assert used in ids
    assert "#123456" not in page and "currentColor" in page


def test_the_report_in_every_form(finished: Finished) -> None:
    folder, report = finished.folder, finished.report
    text, markdown, latex = str(report), report.to_markdown(), report.to_latex()
    recall = f"{report.to_dataframe()['recall@5'].iloc[0]:.4f}"
    for form in (text, markdown, latex, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        assert recall in form and "ItemKNN" in form
    assert "\\toprule" in latex and "against ItemKNN" in latex and "against ItemKNN" in markdown
    content = json.loads(json.dumps(report.to_dict()))
    assert len(content["runs"]) == 8 and content["options"]["seeds"] == [2020, 2021]
    table = pd.read_csv(folder / "report.csv", keep_default_na=False)
    assert table["initialization"].to_list() == ["none", "var", "noise", ""]
    assert len(pd.read_csv(folder / "runs.csv")) == 8 and len(pd.read_csv(folder / "tests.csv")) == len(report.tests)
    # Of the grid of ItemKNN both trials of each seed.
    trials = pd.read_csv(folder / "trials.csv")
    assert len(trials) == 10 and trials["chosen"].sum() == 8
    assert str(DATA) not in (folder / "report.html").read_text() + (folder / "report.md").read_text()


def test_a_terminal_that_lacks_the_marks(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert cli.main(["compare", "--report", f"--out={finished.copy(tmp_path)}"]) == 0
    sys.stdout.flush()
    assert b"against" in printed.getvalue() and b" ? significantly higher" in printed.getvalue()


def test_a_finished_comparison_is_not_trained_again(
    finished: Finished, compare_settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    before, page = modified(folder), (folder / "report.html").read_text()
    report = compare(compare_settings, folder, command=["recbole-llminit", "compare", "--x=y z"])
    assert modified(folder) == before
    assert str(report) == str(finished.report)
    assert (folder / "report.html").read_text() == page
    described = describe_plan(CompareOptions.from_settings(compare_settings), folder)
    assert "0 of 10 trials are to be run: at most 0 s" in described
    assert "initializations: none, var, noise; seeds: 2020, 2021; tuned: none" in described


def test_the_command_from_a_yaml_file(
    finished: Finished, compare_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.copy(tmp_path)
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(compare_settings))
    assert cli.main(["compare", f"--config_files={path}", f"--out={folder}", "--jobs=1"]) == 0
    printed = capsys.readouterr().out
    assert "| BPR     | none " in printed and "report.html" in printed
    assert "--config_files=" in (folder / "report.md").read_text()
    assert cli.main(["compare", "--report", f"--out={folder}"]) == 0
    assert "| BPR     | none " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--report", "--out=nothing"], ["nothing", "plan of a comparison"]),
        (["--report", "--epochs=3", "--out=out"], ["--report"]),
        (["--models=BPR", "--datasets=tiny", "--jobs=0", f"--data_path={DATA}", "--out=out"], ["jobs is 0", "1 or more"]),
    ],
)  # fmt: skip
def test_arguments_that_the_command_refuses(
    arguments: list[str], facts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts)


@pytest.mark.usefixtures("no_processes")
def test_a_broken_trial_is_named_left_out_and_run_again(
    finished: Finished, compare_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.copy(tmp_path)
    broken, gone = sorted((folder / "trials").glob("tiny-BPR-var-*.json"))
    whole = broken.read_text()
    broken.write_text(whole[:100])
    gone.with_name(gone.name.replace(".json", ".users.parquet")).unlink()
    report = write_report(folder)
    assert len(report.problems) == 3
    assert str(broken) in report.problems[0] and str(gone) in report.problems[1]
    assert re.search(r"not finished.*BPR on tiny.*2020, 2021", report.problems[2])
    assert report.to_dataframe()["model"].to_list() == ["ItemKNN"]
    assert "cannot be read" in (folder / "report.html").read_text()
    before = modified(folder)
    again = compare(compare_settings, folder, jobs=1)
    assert {path for path, at in modified(folder).items() if at != before[path]} == {broken, gone}
    assert read_json(broken)["test_result"] == json.loads(whole)["test_result"]
    assert str(again) == str(finished.report)
    assert f"{broken} cannot be read" in capsys.readouterr().err


def test_a_prefix_of_the_seeds_is_a_table(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    for path in (folder / "trials").glob("tiny-BPR-noise-2021_*"):
        path.unlink()
    report = Report.read(folder)
    table = report.to_dataframe().set_index(["model", "initialization"])
    # All initializations of the model have the same seeds; the baseline has both.
    assert table["seeds"].to_dict() == {("BPR", "none"): 1, ("BPR", "var"): 1, ("BPR", "noise"): 1, ("ItemKNN", ""): 2}
    assert set(report.tests["seeds"]) == {1}
    (problem,) = report.problems
    assert re.search(r"not finished.*BPR on tiny.*2021", problem) and "2020" not in problem


@pytest.mark.usefixtures("no_processes")
def test_a_line_for_each_trial_and_a_table_after_each_seed(
    compare_settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recbole_llminit.compare.comparison.save_report", lambda report, folder: [])
    baselines = {"ItemKNN": {"k": [2]}, "Pop": {}}
    drops = {"strategies": "none", "controls": "none", "baselines": baselines, "cold_start": [0.5], "epochs": 1}
    compare({**compare_settings, **drops}, tmp_path / "out", jobs=1)
    printed = capsys.readouterr().out
    for seed in (2020, 2021):
        assert re.search(rf"^tiny BPR none seed {seed}: recall@5 0\.\d{{4}}, .* \(\d+ s, epoch 1\)$", printed, re.M)
        assert re.search(rf"^tiny ItemKNN k 2 drop 0.5 seed {seed}: ", printed, re.M)
    # The table of the first seed comes before the trials of the second, whose table is the report's.
    first, second = printed[: printed.index("seed 2021")], printed[printed.index("seed 2021") :]
    assert "| BPR " in first and "| BPR " not in second


@pytest.mark.usefixtures("no_processes")
def test_ease_with_the_vectors_is_a_reference_of_its_own(
    compare_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_llminit.compare.comparison.save_report", lambda report, folder: [])
    baselines = {"EASE": {"reg_weight": 10.0}, "EASE with the vectors": None}
    report = compare({**compare_settings, "baselines": baselines, "seeds": 1}, tmp_path / "out", jobs=1)
    assert not report.problems
    runs = report.runs.set_index("model")
    assert runs.loc[["EASE", "EASE with the vectors"], "role"].to_list() == ["baseline"] * 2
    assert pd.isna(runs.loc["EASE", "strategy"])
    assert runs.loc["EASE with the vectors", "strategy"].startswith("LinearAutoencoder(")
    tested = report.tests[report.tests["initialization"] == "var"]
    assert {"EASE", "EASE with the vectors"} <= set(tested["reference"])
    assert not tested.loc[tested["reference"] == "EASE with the vectors", "of_model"].any()


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_interrupted(
    compare_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny learning rates: the largest wins, and the grid is widened."""
    monkeypatch.setattr("recbole_llminit.compare.comparison.save_report", lambda report, folder: [])
    grid = {"tune": "stock", "tune_grid": {"learning_rate": [0.0001, 0.0002, 0.0004]}, "strategies": "none"}
    settings, folder = {**compare_settings, **grid, "baselines": "Pop"}, tmp_path / "out"
    ran: list[str] = []

    def call_until_the_seventh(_: ChildProcesses, command: list[str], *others: Any) -> int:
        if len(ran) == 6:
            raise KeyboardInterrupt
        ran.append(command[-2])
        return call_trial(_, command, *others)

    monkeypatch.setattr(ChildProcesses, "call", call_until_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        compare(settings, folder, jobs=1)
    before = modified(folder)
    # The untuned trial, three of the grid, one beyond it, and one of those that follow; no seed is complete.
    assert len(before) == 6
    tuned = read_json(folder / "plan.json")["entries"][1]
    assert len(tuned["trials"]) > 4 and tuned["grids"] == [{"learning_rate": [0.0001, 0.0002, 0.0004]}]
    described = describe_plan(CompareOptions.from_settings(settings), folder)
    assert "up to 3 trials for each key and side" in described
    monkeypatch.setattr(ChildProcesses, "call", call_trial)
    report = compare(settings, folder, jobs=1)
    assert before.items() <= modified(folder).items()
    whole = compare(settings, tmp_path / "whole", jobs=1)
    columns = ["trial", "tuned", "chosen", "valid_score"]
    assert report.trials[columns].equals(whole.trials[columns])
    # A trial that is run again asks for those beyond the edge once more, which are there.
    (folder / "trials" / f"{tuned['trials'][0]}.json").unlink()
    before = modified(folder)
    compare(settings, folder, jobs=1)
    assert before.items() <= modified(folder).items() and len(modified(folder)) == len(before) + 1
    assert set(modified(folder)) == {folder / "trials" / path.name for path in modified(tmp_path / "whole")}
    rows = report.trials[report.trials["initialization"] == "none tuned"].groupby("seed")
    assert (rows["chosen"].sum() == 1).all() and rows.size().max() > 4
    assert (report.trials.loc[report.trials["chosen"], "valid_score"].groupby(report.trials["seed"]).count() == 3).all()
    assert all(
        rows["valid_score"].max() == report.runs.set_index(["initialization", "seed"])["valid_score"]["none tuned"]
    )


@pytest.mark.slow
def test_a_failed_trial_is_reported_and_the_rest_goes_on(
    compare_settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the processes of the command, which find a model of the user's own in the working directory."""
    Path("my_models.py").write_text(
        "from recbole.model.general_recommender import BPR\n"
        "class Failing(BPR):\n"
        "    def calculate_loss(self, interaction):\n"
        "        raise RuntimeError('no luck')\n"
    )
    # The command adds the working directory.
    monkeypatch.setattr(sys, "path", [*sys.path])
    change = {"models": "my_models.Failing", "strategies": "none", "controls": "none", "baselines": "Pop", "seeds": 1}
    status = cli.main(["compare", *as_arguments({**compare_settings, **change}), "--out=out", "--jobs=2"])
    printed = capsys.readouterr()
    assert status == 1
    assert "RuntimeError: no luck" in printed.out and "failed: tiny-Failing-none-2020" in printed.err
    report = Report.read("out")
    assert report.to_dataframe()["model"].to_list() == ["Pop"]
    assert "no luck" in report.problems[0]
    assert "no luck" in Path("out/report.html").read_text()
    assert not [path for path in Path("out/trials").iterdir() if path.name.startswith(".")]


def test_vectors_are_made_after_all_checks_and_before_the_first_trial(
    compare_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: CheckedComparison) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckedComparison, "make_vectors", stop)
    (tmp_path / "file").write_text("")
    for change, folder in (({"topk": [5, "x"]}, "out"), ({"baselines": "LihgtGCN"}, "out"), ({}, "file")):
        with pytest.raises(LLMInitError):
            compare({**compare_settings, **change}, tmp_path / folder)
    with pytest.raises(KeyboardInterrupt):
        compare(compare_settings, tmp_path / "out")
    assert not list((tmp_path / "out" / "trials").iterdir())


def test_an_unknown_name_stops_before_the_folder_is_made(compare_settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LLMInitError, match="LihgtGCN.*did you mean.*LightGCN"):
        compare({**compare_settings, "models": ["BPR", "LihgtGCN"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named(
    compare_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "statsmodels" else find(name))
    with pytest.raises(LLMInitError, match=r"statsmodels.*pip install \"recbole-llminit\[compare\]\""):
        compare(compare_settings, tmp_path / "out")
