"""The console command ``recbole-llminit``."""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llminit.errors import LLMInitError

_INTERRUPTED = 130
_LONGEST = 1500


@dataclass(frozen=True)
class Command:
    """One command of ``recbole-llminit``.

    Parameters
    ----------
    help : str
        The command's line in the list of commands.
    description : str
        What the command's own ``--help`` says first.
    add_arguments : callable
        Adds the command's arguments to its parser.
    run : callable
        Runs the command with its parsed options and the arguments that its parser does not know, in their order.
        Returns the exit status; None is 0.
    kept : str
        What an interrupted run leaves for the next one; empty where there is nothing.
    """

    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Sequence[str]], int | None]
    kept: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``recbole-llminit`` and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command and its arguments. ``sys.argv`` is read if they are left out.

    Returns
    -------
    int
        0 where the command did what was asked, 1 where a comparison has trials that failed or are missing, 2 for input
        that cannot be used (one line on standard error says why), 130 after an interrupt from the keyboard.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An encoding without a sign of a table or a name of the user's data shows a question mark in its place.
        sys.stdout.reconfigure(errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    options = argparse.Namespace(command=None, command_line=["recbole-llminit", *given])
    try:
        _, others = _make_parser().parse_known_args(given, options)
        return _COMMANDS[options.command].run(options, others) or 0
    except LLMInitError as error:
        sys.stderr.write(f"recbole-llminit: error: {_shorten(str(error))}\n")
        return 2
    except KeyboardInterrupt:
        command = _COMMANDS.get(options.command)
        kept = f"; {command.kept}, run again to continue" if command and command.kept else ""
        sys.stderr.write(f"recbole-llminit: interrupted{kept}\n")
        return _INTERRUPTED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recbole-llminit", allow_abbrev=False, description=__doc__)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in _COMMANDS.items():
        command.add_arguments(
            parsers.add_parser(name, help=command.help, description=command.description, allow_abbrev=False)
        )
    return parser


def _shorten(message: str) -> str:
    """Put a message on one line: a library's may have several, and a value given by the user has any length."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


class _Once(argparse.Action):
    """An argument that is given once, under whichever of its names. The same value twice counts as once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = vars(namespace).setdefault("given", {})
        if given.setdefault(self.dest, values) != values:
            raise LLMInitError(
                f"the argument {' or '.join(self.option_strings)} is given twice, as {given[self.dest]!r} and "
                f"{values!r}: give it once"
            )
        setattr(namespace, self.dest, values)


def _add_config_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config_files", action=_Once, default="", help="YAML files, separated by spaces")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--dataset", action=_Once, help="the dataset's name")
    _add_config_files(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="read the checkpoints and saved datasets that are named whole, which can run code: say so only where you "
        "trust whoever made them. Without it classes other than RecBole's are refused",
    )


def _find_classes_in_this_folder() -> None:
    """Let a dotted path name a module in the working folder, as ``python script.py`` does with the script's folder."""
    sys.path.insert(0, "")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of RecBole's ``run_recbole.py`` that are not configuration keys, and this package's own."""
    parser.add_argument(
        "-m", "--model", action=_Once, help="a RecBole model's name, or the dotted path of your own class"
    )
    parser.add_argument(
        "--resume",
        action=_Once,
        metavar="CHECKPOINT",
        help="go on training from the best epoch of an earlier run, in its file; give the same arguments, and as "
        "--epochs the number in all",
    )
    _add_trust(parser)
    _add_data(parser)


def _run(options: argparse.Namespace, others: Sequence[str]) -> None:
    _find_classes_in_this_folder()
    # The import is an error of one line, too, where RecBole is missing or another version.
    from recbole_llminit.integration.quick_start import run_recbole_llminit

    run_recbole_llminit(
        model=options.model,
        dataset=options.dataset,
        config_file_list=options.config_files.split(),
        arguments=others,
        resume=options.resume,
        trust_pickles=options.trust_pickles,
    )


def _add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--dry-run", action="store_true", help="print five texts and the counts, and encode nothing")


def _encode(options: argparse.Namespace, others: Sequence[str]) -> None:
    from recbole_llminit.encode.options import EncodeOptions
    from recbole_llminit.encode.pipeline import encode_items
    from recbole_llminit.encode.plan import plan_encoding
    from recbole_llminit.processes import join_ranks

    dataset = [] if options.dataset is None else [f"--dataset={options.dataset}"]
    settings = EncodeOptions.from_files(options.config_files.split(), [*dataset, *others])
    if options.dry_run:
        sys.stdout.write(f"{plan_encoding(settings)}\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with join_ranks() as ranks:
        report = encode_items(settings, ranks)
    # Every rank has the report of them all.
    if ranks.rank == 0:
        sys.stdout.write(f"{report}\n")


def _add_stores_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--llm_cache_dir", action=_Once, help="where stores lie (~/.cache/recbole-llminit)")
    parser.add_argument(
        "--export",
        action=_Once,
        nargs=2,
        metavar=("STORE", "FILE"),
        help="write a store to FILE, .parquet or .npy with ids beside it",
    )


def _stores(options: argparse.Namespace, others: Sequence[str]) -> None:
    from recbole_llminit.vectors.cache import DEFAULT_CACHE, describe_stores
    from recbole_llminit.vectors.export import export_embeddings
    from recbole_llminit.vectors.readers import read_embeddings

    if others:
        raise LLMInitError(f"stores knows no {others[0]}")
    if options.export:
        store, target = options.export
        written = export_embeddings(read_embeddings(store), target)
        sys.stdout.write("".join(f"{path} ({path.stat().st_size / 1e6:.1f} MB)\n" for path in written))
        return
    sys.stdout.write(f"{describe_stores(Path(options.llm_cache_dir or DEFAULT_CACHE).expanduser())}\n")


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="MODEL", help="only these")


def _models(options: argparse.Namespace, others: Sequence[str]) -> None:
    from recbole_llminit.integration.model_support import draw_models, list_models
    from recbole_llminit.suggest import suggest

    if others:
        raise LLMInitError(f"models knows no {others[0]}")
    rows = {row.model: row for row in list_models()}
    for name in options.names:
        if name not in rows:
            raise LLMInitError(
                f"there is no row for {name!r}{suggest(name, list(rows))} (a model of your own: see its log)"
            )
    sys.stdout.write(f"{draw_models([rows[name] for name in options.names or rows])}\n")


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", action=_Once, help="a RecBole model's name, for its split of the data (BPR)")
    _add_data(parser)
    parser.add_argument("--checkpoint", action=_Once, help="a trained model's file; the other arguments are in it")
    _add_trust(parser)
    parser.add_argument("--png", action=_Once, metavar="FILE", help="draw spectra and variances into FILE")


def _inspect(options: argparse.Namespace, others: Sequence[str]) -> None:
    _find_classes_in_this_folder()
    from recbole_llminit.inspection import check_png, inspect_checkpoint, inspect_vectors
    from recbole_llminit.integration.config import Config
    from recbole_llminit.settings import read_settings

    if options.png:
        check_png(options.png)
    files = options.config_files.split()
    if options.checkpoint:
        if others or files or options.model or options.dataset:
            raise LLMInitError("--checkpoint has its configuration in it: leave the other arguments out, but --png")
        inspection = inspect_checkpoint(options.checkpoint, trust_pickles=options.trust_pickles)
    else:
        if options.trust_pickles:
            raise LLMInitError("--trust-pickles is said of --checkpoint: give one, or leave it out")
        given = read_settings(files, others)
        model = options.model or given.get("model", "BPR")
        strategy = {} if "init_strategy" in given else {"init_strategy": "var"}
        inspection = inspect_vectors(Config(model, options.dataset, files, strategy, others))
    sys.stdout.write(f"{inspection}\n")
    if options.png:
        inspection.save_png(options.png)
        sys.stdout.write(f"\n{options.png}\n")


def _add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config_files(parser)
    parser.add_argument(
        "--out", action=_Once, default="comparison", help="the folder of trials and report (comparison)"
    )
    parser.add_argument(
        "--jobs", action=_Once, type=int, help="processes that train side by side (the cores of this machine)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of the time")
    parser.add_argument(
        "--report", action="store_true", help="write the report of what has finished, and train nothing"
    )


def _compare(options: argparse.Namespace, others: Sequence[str]) -> int:
    _find_classes_in_this_folder()
    from recbole_llminit.compare.comparison import compare, describe_plan, write_report
    from recbole_llminit.compare.options import CompareOptions

    if options.report:
        if others or options.config_files or options.jobs or options.dry_run:
            raise LLMInitError("--report reads the folder --out alone: leave the other arguments out")
        report = write_report(options.out)
    else:
        arguments = ["--tune=stock" if argument == "--tune" else argument for argument in others]
        settings = CompareOptions.from_files(options.config_files.split(), arguments)
        if options.dry_run:
            sys.stdout.write(f"{describe_plan(settings, options.out, jobs=options.jobs)}\n")
            return 0
        report = compare(settings, options.out, jobs=options.jobs, command=options.command_line)
    sys.stdout.write(f"\n{report}\n\n{Path(options.out) / 'report.html'}\n")
    return 1 if report.problems else 0


_COMMANDS = {
    "run": Command(
        "train and test a RecBole model from LLM embeddings",
        "Train and test a RecBole model. All other arguments are configuration keys: --key=value.",
        _add_run_arguments,
        _run,
    ),
    "encode": Command(
        "make the LLM embeddings of a dataset's items",
        "Encode the item texts of a dataset that have no vector yet. All other arguments are configuration keys: "
        "--dataset, --data_path, --llm_encoder, --llm_text_template, ... as --key=value. Under torchrun the items are "
        "split over the processes.",
        _add_encode_arguments,
        _encode,
        kept="what was encoded is kept",
    ),
    "stores": Command(
        "list the embedding stores, or export one",
        "List the embedding stores with their metadata and sizes, or export one.",
        _add_stores_arguments,
        _stores,
    ),
    "models": Command(
        "list the models, and which of their tables are initialized from LLM embeddings",
        "List every model of RecBole: whether it is initialized from LLM embeddings, in which tables, and why not.",
        _add_models_arguments,
        _models,
    ),
    "inspect": Command(
        "look at a dataset's item vectors, or at a trained model's tables",
        "Measure the item vectors of a dataset and what a strategy (var unless --init_strategy is given) makes of "
        "them, or the tables of a trained model: coverage, lengths, angles, spectrum, variance, and the nearest "
        "neighbors of popular items. All other arguments are configuration keys, as --key=value.",
        _add_inspect_arguments,
        _inspect,
    ),
    "compare": Command(
        "compare initializations over models, datasets and seeds, with tests and controls",
        "Train every model from every initialization with every seed, and write a report: --models=NAME,NAME, "
        "--datasets=, --strategies=, --seeds=, --tune, ... (README). All other arguments are configuration keys of "
        "every trial, as --key=value. What is finished in the folder is not run again.",
        _add_compare_arguments,
        _compare,
        kept="finished trials are kept",
    ),
}
