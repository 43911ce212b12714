"""Bad texts, names, models, configuration and data files, and working folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustness_cases import PAYLOAD, Case, Expected, command, in_yaml, run, with_file
from robustness_making import both, file, folder, gzip_bomb, link, pipe
from robustness_valid import BASE, DATA, TOKENS
from robustness_values import FROM_VECTORS


def cases() -> Iterator[Case]:
    """Yield the table."""
    yield from _texts()
    yield from _names()
    yield from _models()
    yield from _configuration_files()
    yield from _data_files()
    yield from _own_folders()


_HEAD = "item_id:token\ttitle:token_seq\n"
_GOOD = _HEAD + "".join(f"{token}\tGreen tea number {token}\n" for token in TOKENS)
# One title more.
_TITLES: Mapping[str, str] = {
    "of 10 MB": "Tea " * 2_500_000,
    "of 10 MB without spaces": "x" * 10_000_000,
    "of 3 MB of &amp;": "&amp;" * 600_000,
    "of &amp;amp;...": "&" + "amp;" * 500_000,
    "of 1,000,000 brackets": "[" * 1_000_000 + "]" * 1_000_000,
    "of 5,000 brackets": "[" * 5_000 + "]" * 5_000,
    "of 1,000,000 minus signs": "[" + "-" * 1_000_000 + "1]",
    "that is a power": "[9**9**9**9]",
    "that is a call": f"[{PAYLOAD}]",
}
_TEXTS: Sequence[tuple[str, str, str | bytes]] = (
    ("no titles", "t.item", _HEAD + "".join(f"{token}\t\n" for token in TOKENS)),
    ("empty", "t.item", ""),
    ("header alone", "t.item", _HEAD),
    ("not UTF-8", "t.item", _HEAD.encode() + b"B001\t\xff\xfe\n"),
    ("zero bytes", "t.item", b"\0" * 1000),
    ("too many fields", "t.item", _HEAD + "B001\ta\tb\tc\n"),
    ("twice with other texts", "t.item", _GOOD + "B001\tOther\n"),
    ("no id column", "t.csv", "a,b\nx,y\n"),
    ("a field twice", "t.csv", "item_id,title,title\nB001,a,b\n"),
    ("open quote", "t.csv", 'item_id,title\n"B001,Green tea'),
    ("ids of another dataset", "t.csv", "item_id,title\nx,Green tea\n"),
    ("nested", "t.jsonl", "[" * 100_000),
    ("scalars", "t.jsonl", "5\n6\n"),
    ("a lone surrogate", "t.jsonl", '{"item_id": "B001", "title": "\\ud800"}\n'),
    ("a surrogate as id", "t.jsonl", '{"item_id": "\\ud800", "title": "Green tea"}\n'),
    ("not JSON", "t.jsonl", "{oops\n"),
    ("not gzip", "t.item.gz", b"hello"),
    ("a gzip bomb", "t.item.gz", gzip_bomb()),
    ("not Parquet", "t.parquet", b"PAR1hello"),
)


def _texts() -> Iterator[Case]:
    group = "bad texts"
    yield _encode(group, "right", "t.item", file("t.item", _GOOD), "right")
    for what, title in _TITLES.items():
        yield _encode(group, f"a title {what}", "t.item", file("t.item", f"{_GOOD}B999\t{title}\n"), "either")
    for what, name, content in _TEXTS:
        yield _encode(group, what, name, file(name, content))
    for name in ("t.item", "t.csv", "t.jsonl", "t.parquet"):
        yield _encode("hang", f"{name} is a pipe", name, pipe(name))
        yield _encode("hang", f"{name} is /dev/zero", name, link(name, "/dev/zero"))
    yield _encode(group, "a folder", "t.item", folder("t.item"))


def _encode(group: str, what: str, name: str, prepare: Callable[[], None], expected: Expected = "error") -> Case:
    """Return the case of texts that are looked at."""
    arguments = ("encode", "--config_files=base.yaml", "--dry-run", f"--llm_text_file={name}")
    made = command(group, *arguments, expected=expected, prepare=prepare, names=f"{name}|text")
    return replace(made, what=f"texts, {what}")


_DATASETS = ("../x", "../tiny", "/etc", "/", "", ".", "..", "tiny/../../x", "nope", "tin", "tiny\n", "a\0b", "x" * 300,
             "*", "[a]", "{a: b}", "5", "None", "~", "tiny.inter", "a/b", "~root", "tiny\\..\\x")  # fmt: skip


def _names() -> Iterator[Case]:
    group = "name of a dataset"
    base, file_ = with_file("base.yaml", BASE.replace("dataset: tiny\n", "")), "--config_files=base.yaml"
    own = ("--llm_cache_dir=cache", f"--llm_text_file={DATA / 'tiny' / 'tiny.item'}", "--dry-run")
    for name in _DATASETS:
        # The encoder needs no dataset where it has texts: the name of a folder will do.
        of_folder = name not in (".", "..") and re.fullmatch("[^/\0]{1,200}", name)
        for arguments in (
            ("run", "-m", "BPR", f"--dataset={name}", file_),
            ("run", "-m", "BPR", "-d", name, file_, *FROM_VECTORS),
            ("run", "-m", "BPR", "-d", name, file_, "--init_strategy=noise"),
            ("encode", "-d", name, file_, "--dry-run"),
            ("encode", f"--dataset={name}", file_, *own),
            ("inspect", "-d", name, file_, "--llm_embedding=store"),
        ):
            expected: Expected = "either" if of_folder and arguments[-3:] == own else "error"
            yield command(group, *arguments, prepare=base, spoiled=_outside, expected=expected)
    for value in ("5", "[a]", "{a: b}", "''", "null", "'../x'", "2020-01-01", "1.5", "true"):
        for key, more in (("dataset", ("-m", "BPR")), ("model", ())):
            # The same key on the command line would win.
            made = command(f"name of a {key}", "run", *more, "--config_files=base.yaml more.yaml")
            prepare = with_file("more.yaml", f"{key}: {value}\n")
            yield replace(made, what=f"run, YAML {key}: {value}", prepare=prepare)


def _outside(place: Path) -> str:
    return "written outside the cache" if (place.parent / "x").exists() or (place / "x").exists() else ""


_MODULES: Mapping[str, str | bytes] = {
    "my_syntax": "class Model(:\n",
    "my_error": "raise RuntimeError('oops')\n",
    "my_exit": "import sys\nsys.exit(3)\n",
    "my_exit0": "import sys\nsys.exit(0)\n",
    "my_plain": "class Model:\n    pass\n\n\ndef function():\n    pass\n\n\nvalue = 5\n",
    "my_import": "import nothing_of_this_name\n",
    "my_encoding": b"# \xff\xfe\nclass Model:\n    pass\n",
    "my_nul": b"\0",
    "my_module": "import torch\n\n\nclass Model(torch.nn.Module):\n    pass\n",
    "my_type": "class Model:\n    type = 5\n",
    "my_abstract": "from recbole.model.abstract_recommender import GeneralRecommender as Model\n",
}
_MODELS = ("", "nope", "LightGCNN", "os.system", "os.path", "os.nothing", "torch.nn.Linear", "my_plain.Missing",
           "my_plain.function", "my_plain.value", ".Model", "Model.", "..", ".", "a b", "a b.c d", "BPR\0", "my_plain",
           "5", "[a]", "../BPR", "GeneralRecommender", "AbstractRecommender", "x" * 300, "x" * 300 + ".A", "a\0b.C",
           "bpr.BPR", "BPR.BPR", *(f"{name}.Model" for name in _MODULES))  # fmt: skip


def _models() -> Iterator[Case]:
    group = "name of a model"
    write = both(*(file(f"{name}.py", content) for name, content in _MODULES.items()))
    for name in _MODELS:
        for others in ((), FROM_VECTORS):
            made = command(group, "run", "-m", name, "--config_files=base.yaml", *others, prepare=write)
            yield replace(made, what=f"{made.what} {name[:30]!r}")
    for name in ("bpr", "Bpr", "BPR "):
        yield replace(run(group, model=name, expected="either"), what=f"-m {name!r}")
    yield run("right", model="recbole.model.general_recommender.BPR", expected="right")


_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_YAML: Mapping[str, tuple[str | bytes, Expected]] = {
    "empty": ("", "right"),
    "a comment": ("# nothing\n", "right"),
    "three dashes": ("---\n", "right"),
    "a scalar": ("hello\n", "error"),
    "a number": ("5\n", "error"),
    "a list": ("- a\n- b\n", "error"),
    "two documents": ("epochs: 1\n---\nepochs: 2\n", "error"),
    "an alias bomb": (_BOMB, "error"),
    "an alias bomb as a value": (_BOMB.replace("a11:", "metrics:"), "error"),
    "an alias bomb as our value": (_BOMB.replace("a11:", "init_args:"), "error"),
    "a list inside itself": ("metrics: &a [*a]\n", "error"),
    "a mapping inside itself": ("eval_args: &a {split: *a}\n", "error"),
    "our list inside itself": ("init_tables: &a {item: *a}\n", "error"),
    "deep lists": ("metrics: " + "[" * 100_000 + "]" * 100_000, "error"),
    "deep mappings": ("eval_args: " + "{a: " * 5_000 + "1" + "}" * 5_000, "error"),
    "900 lists": ("metrics: " + "[" * 900 + "]" * 900, "error"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(2_000)), "error"),
    "an alias without an anchor": ("epochs: *nothing\n", "error"),
    "not UTF-8": (b"epochs: \xff\n", "error"),
    "UTF-16": ("epochs: 1\n".encode("utf-16"), "either"),
    "zero bytes": (b"\0" * 100, "error"),
    "random bytes": (bytes(range(256)), "error"),
    "a tab": ("eval_args:\n\tsplit: 1\n", "error"),
    "open bracket": ("metrics: [Recall\n", "error"),
    "open quote": ("metrics: 'Recall\n", "error"),
    "no space": ("epochs:1\n", "error"),
    "a list as key": ("? [a, b]\n: 1\n", "error"),
    "a mapping as key": ("? {a: b}\n: 1\n", "error"),
    "a number as key": ("5: 1\n", "error"),
    "null as key": ("~: 1\n", "error"),
    "true as key": ("yes: 1\n", "error"),
    "a key twice": ("epochs: 1\nepochs: 2\n", "either"),
    "a date": ("seed: 2020-01-01\n", "error"),
    "a time": ("learning_rate: 2020-01-01 10:00:00\n", "error"),
    "base sixty": ("epochs: 1:30\n", "either"),
    "infinity": ("epochs: .inf\n", "error"),
    "binary": ("epochs: !!binary aGVsbG8=\n", "error"),
    "a set": ("metrics: !!set {Recall, NDCG}\n", "error"),
    "pairs": ("eval_args: !!pairs [a: 1]\n", "error"),
    "10,000 digits": (f"seed: {'9' * 10_000}\n", "error"),
    "a merge of nothing": ("<<: 5\n", "error"),
    "an unknown tag": ("epochs: !foo 1\n", "error"),
    "1 MB of keys": ("".join(f"key_{n}: 1\n" for n in range(60_000)), "error"),
    "a text of 5 MB": ("metrics: " + "x" * 5_000_000 + "\n", "error"),
    "an alias of ours": ("a: &a 1\n", "error"),
    "null values": ("epochs:\nseed:\n", "error"),
    "null where it is allowed": ("clip_grad_norm:\ninit_strategy:\nllm_embedding: ~\n", "right"),
}


def _configuration_files() -> Iterator[Case]:
    group = "configuration file"
    for what, (content, expected) in _YAML.items():
        yield replace(in_yaml(group, content, expected=expected), what=f"run, YAML with {what}")
    # The encoder passes over keys of RecBole's.
    unread = ("a number as key", "null as key", "10,000 digits", "an alias bomb")
    for what in (*unread, "a scalar", "deep lists", "not UTF-8", "a list as key", "a key twice", "empty"):
        content, expected = _YAML[what]
        for arguments in (
            ("compare", "--models=BPR", "--strategies=none", "--baselines=none", "--controls=none", "--dry-run"),
            ("encode", "--dry-run"),
            ("inspect", "--llm_embedding=store"),
        ):
            own: Expected = "either" if what in unread and arguments[0] == "encode" else expected
            made = command(group, *arguments, "--config_files=base.yaml more.yaml", expected=own)
            yield replace(made, what=f"{arguments[0]}, YAML with {what}", prepare=with_file("more.yaml", content))
    commands: Sequence[Sequence[str]] = (
        ("run", "-m", "BPR"),
        ("compare", "--models=BPR", "--dry-run"),
        ("encode", "--dry-run"),
        ("inspect",),
    )
    for name in ("nowhere.yaml", "a_folder", "/dev/zero", "a_pipe", "/dev/null/x.yaml", "x" * 300, "x" * 5000):
        for first in commands:
            made = command(group, *first, f"--config_files=base.yaml {name}")
            yield replace(made, group="hang") if name in ("/dev/zero", "a_pipe") else made
    yield command(group, "run", "-m", "BPR", "--config_files=base.yaml /dev/null", expected="either")
    yield command(group, "run", "-m", "BPR", "--config_files=base.yaml a\0b")


_TYPES = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
_INTER = "".join((DATA / "tiny" / "tiny.inter").read_text().splitlines(keepends=True)[1:])
_DATA: Mapping[str, str | bytes] = {
    "empty": "",
    "header alone": _TYPES,
    "one row": _TYPES + _INTER.splitlines(keepends=True)[0],
    "no item column": "user_id:token\tx:token\n" + "u\ti\n" * 50,
    "no types": "user_id\titem_id\ttimestamp\n" + "u\ti\t1\n" * 50,
    "unknown type": _TYPES.replace("timestamp:float", "timestamp:foo") + _INTER,
    "a text for a number": _TYPES + _INTER.replace("\t1000\n", "\tabc\n"),
    "not UTF-8": _TYPES.encode() + b"\xff\t\xfe\t1\t1\n" * 50,
    "zero bytes": b"\0" * 1000,
    "an open quote": _TYPES + '"u01\tB001\t1\t1\n' + _INTER,
    "a column twice": _TYPES.replace("rating:float", "timestamp:float") + _INTER,
    "NaN as ids": _TYPES + "\t\t1\t1\n" * 50,
    "a number of 400 digits": f"{_TYPES}{_INTER}u01\tB001\t1\t{'9' * 400}\n",
}


def _data_files() -> Iterator[Case]:
    group, base = "dataset's files", file("base.yaml", BASE.replace(str(DATA), "."))
    for what, content in _DATA.items():
        prepare = both(file("tiny/tiny.inter", content), base)
        yield replace(run(group), what=f"tiny.inter, {what}", prepare=prepare)
    for what, make in (
        ("no .inter", folder("tiny")),
        ("a folder of that name", folder("tiny/tiny.inter")),
        ("a pipe", both(folder("tiny"), pipe("tiny/tiny.inter"))),
        ("/dev/zero", both(folder("tiny"), link("tiny/tiny.inter", "/dev/zero"))),
        ("a file in the folder's place", file("tiny", "hello")),
    ):
        for others in ((), FROM_VECTORS, ("--init_strategy=noise",)):
            made = run("hang" if what in ("a pipe", "/dev/zero") else group, *others)
            yield replace(made, what=f"tiny, {what} {' '.join(others)}", prepare=both(make, base))


def _entry(**changed: Any) -> Callable[[Any], Any]:
    """Return what leaves a plan one entry, changed."""
    return lambda plan: {**plan, "entries": [{**plan["entries"][0], **changed}]}


_PLANS: Mapping[str, Callable[[Any], Any]] = {
    "a list": lambda plan: [],
    "null": lambda plan: None,
    "entries a number": lambda plan: {**plan, "entries": 5},
    "entries of texts": lambda plan: {**plan, "entries": ["x"]},
    "options a list": lambda plan: {**plan, "options": []},
    "options null": lambda plan: {**plan, "options": None},
    "no options": lambda plan: {"entries": plan["entries"]},
    "command a list": lambda plan: {**plan, "command": [1]},
    "trials a number": _entry(trials=5),
    "a trial outside": _entry(trials=["../../x"]),
    "seed a text": _entry(seed="x"),
    "role unknown": _entry(role="x"),
    "initialization a list": _entry(initialization=["x"]),
}


def _own_folders() -> Iterator[Case]:
    """Yield what is wrong with the folder in which the command runs, or with that of a comparison."""
    group = "working folder"
    report = ("compare", "--report", "--out=comparison")
    made = command(group, "run", "-m", "BPR", "--config_files=../base.yaml", prepare=_gone)
    yield replace(made, what="a working folder that was deleted")
    for name in ("log", "log_tensorboard", "saved"):
        found = run(group, *FROM_VECTORS, names=name)
        yield replace(found, what=f"a file where the folder {name} should be", prepare=file(name, "hello"))
    for name, prepare in (("plan.json", file("comparison/plan.json", "{oops")), ("trials", _no_trials)):
        made = command(group, *report, names="comparison", prepare=prepare)
        yield replace(made, what=f"compare --report, {name} is broken")
    for what, change in _PLANS.items():
        made = command(group, *report, expected="either", prepare=_changed_plan(change))
        yield replace(made, what=f"compare --report, plan: {what}")
    html = command("silently wrong report", *report, expected="right", prepare=_html_plan, spoiled=_html)
    yield replace(html, what="compare --report, an initialization named <script>alert(1)</script>")


def _gone() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def _changed_plan(change: Callable[[Any], Any]) -> Callable[[], None]:
    def write() -> None:
        path = Path("comparison/plan.json")
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return write


def _html_plan() -> None:
    path = Path("comparison/plan.json")
    text = path.read_text().replace('"initialization": "var"', '"initialization": "<script>alert(1)</script>"')
    text = text.replace('"var": {', '"<script>alert(1)</script>": {').replace(
        '"dataset": "tiny"', '"dataset": "<img src=x>"'
    )
    path.write_text(text)


def _html(place: Path) -> str:
    page, text = ((place / "comparison" / f"report.{suffix}").read_text() for suffix in ("html", "md"))
    # What stands in a block of code is shown as it is.
    shown = page + "".join(line for line in text.splitlines() if not line.startswith("    "))
    return "raw HTML in the report" if "<script>alert" in shown or "<img src=x>" in shown else ""


def _no_trials() -> None:
    shutil.rmtree("comparison/trials")
    Path("comparison/trials").write_text("hello")
