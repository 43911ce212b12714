"""Copy a comparison's report into ``results/``.

``python benchmarks/publish_comparison.py --comparison=comparison --name=office --title=TITLE``

Writes ``<name>.md`` (the report), ``<name>.csv`` (a row per line and
seed), ``<name>_tests.csv`` and the figures.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path


def main() -> None:
    """Copy the files under their new names, and adapt the title and the links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparison", type=Path, default=Path("comparison"))
    parser.add_argument("--name", required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    text = (options.comparison / "report.md").read_text(encoding="utf-8")
    text = text.replace("# Comparison of initializations", f"# {options.title}", 1)
    for figure in re.findall(r"\]\(([^)]+\.png)\)", text):
        target = f"{options.name}_{figure.split('_', 1)[1]}"
        shutil.copyfile(options.comparison / figure, options.out / target)
        text = text.replace(f"]({figure})", f"]({target})")
    for source, target in (("trials", options.name), ("tests", f"{options.name}_tests")):
        shutil.copyfile(options.comparison / f"{source}.csv", options.out / f"{target}.csv")
    links = f"Every run: [{options.name}.csv]({options.name}.csv); every test: [{options.name}_tests.csv]"
    text = text.rstrip() + f"\n\n{links}({options.name}_tests.csv).\n"
    (options.out / f"{options.name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
