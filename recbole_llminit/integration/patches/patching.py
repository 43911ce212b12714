"""How this package changes RecBole in the running process: replaced attributes, and stand-ins for modules.

Every change is made once, however often a function asks for it, and the changes of one group can be undone together.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any


class Patches:
    """A group of attributes of classes and modules that are replaced, each once, and can be put back together.

    Notes
    -----
    An attribute counts as replaced from the first call on, even where another group has replaced it since: applying a
    group again never wraps an attribute twice.
    """

    def __init__(self) -> None:
        self._undo: dict[tuple[Any, str], Callable[[], None]] = {}

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Replace an attribute of a class or module, or add it where there is none."""
        if (owner, name) not in self._undo:
            self._undo[owner, name] = _undoing(owner, name)
            setattr(owner, name, replacement)

    def wrap(self, owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a function or method by ``wrapper(original)``; its ``__wrapped__`` is the original.

        Parameters
        ----------
        owner : class or module
            Where the function stands.
        name : str
            The function's name.
        wrapper : callable
            Takes the original and returns a new function at every call.
        """
        if (owner, name) not in self._undo:
            original = getattr(owner, name)
            self.replace(owner, name, functools.wraps(original)(wrapper(original)))

    def override(self, owner: types.ModuleType, name: str, **overrides: Any) -> None:
        """Let one module see another one with some attributes overridden; all other modules see it as it is.

        Calls for the same module add up, also those of other groups: one stand-in has the overrides of all.

        Parameters
        ----------
        owner : module
            The module that has imported another one.
        name : str
            The name under which it has imported it.
        **overrides
            The attributes to override.
        """
        seen = getattr(owner, name)
        if not isinstance(seen, StandInModule):
            seen = StandInModule(seen)
            self.replace(owner, name, seen)
        seen.override(overrides)

    def undo(self) -> None:
        """Put back what was there before, the last one first."""
        while self._undo:
            _, put_back = self._undo.popitem()
            put_back()


def _undoing(owner: Any, name: str) -> Callable[[], None]:
    """Return the function that gives an attribute back its present value, or removes it where there is none."""
    if name in vars(owner):
        return functools.partial(setattr, owner, name, vars(owner)[name])
    return functools.partial(delattr, owner, name)


class StandInModule(types.ModuleType):
    """What a module sees in the place of another one: some attributes are overridden, all others are the other's.

    Parameters
    ----------
    module : module
        The module that it stands for.
    """

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._stands_for = module

    def override(self, overrides: Mapping[str, Any]) -> None:
        """Override attributes."""
        vars(self).update(overrides)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stands_for"], name)
