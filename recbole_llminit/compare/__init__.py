"""Comparisons of initializations: trials, statistics, strata, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_llminit import import_when_used

if TYPE_CHECKING:
    from recbole_llminit.compare.comparison import compare as compare
    from recbole_llminit.compare.options import CompareOptions as CompareOptions
    from recbole_llminit.compare.report import Report as Report

_modules = {"CompareOptions": "options", "Report": "report", "compare": "comparison"}

__all__ = [
    *_modules,
]

# Not imported here: a trial is run as a module of this package.
__getattr__ = import_when_used(__name__, _modules)
