"""The console command ``recbole-llminit``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from recbole_llminit.errors import LLMInitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with its arguments (``sys.argv`` if left out); return the exit status."""
    parser = argparse.ArgumentParser(prog="recbole-llminit", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    add_run_arguments(
        commands.add_parser(
            "run",
            help="train and test a RecBole model from LLM embeddings",
            description="Train and test a RecBole model. All other arguments are configuration keys: --key=value.",
            allow_abbrev=False,
        )
    )
    options, others = parser.parse_known_args(arguments)
    return run(options, others)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of RecBole's ``run_recbole.py`` that are not configuration keys."""
    parser.add_argument("-m", "--model", help="a RecBole model's name, or the dotted path of your own class")
    parser.add_argument("-d", "--dataset", help="the dataset's name")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces")


def run(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Run one training with parsed options and ``--key=value`` arguments; print a clear error on bad input."""
    # As `python script.py` in this folder: a model of the user's own, given by its dotted path, may stand here.
    sys.path.insert(0, "")
    try:
        # The import says so, too, where RecBole is missing or another version.
        from recbole_llminit.quick_start import run_recbole_llminit

        run_recbole_llminit(
            model=options.model,
            dataset=options.dataset,
            config_file_list=options.config_files.split(),
            arguments=others,
        )
    except LLMInitError as error:
        sys.stderr.write(f"recbole-llminit: error: {error}\n")
        return 2
    return 0
