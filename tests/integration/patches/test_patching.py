"""Attributes that are replaced once, and modules that another module sees with some names overridden."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from recbole_llminit.integration.patches.patching import Patches


class Base:
    """A class with a method."""

    def greet(self, name: str) -> str:
        """Greet somebody."""
        return f"hello {name}"


@pytest.fixture
def greeter() -> type[Base]:
    """A class that inherits its method."""

    class Greeter(Base):
        pass

    return Greeter


@pytest.fixture
def owner() -> Any:
    """A module that has imported another one."""
    module: Any = types.ModuleType("owner")
    module.tools = types.ModuleType("tools")
    module.tools.load, module.tools.save, module.tools.close = "load", "save", "close"
    return module


def loudly(greet: Callable[..., str]) -> Callable[..., str]:
    """Wrap a method."""

    def shout(self: Base, name: str) -> str:
        return greet(self, name).upper()

    return shout


def test_a_method_is_wrapped_once_and_keeps_its_name() -> None:
    patches, other = Patches(), Patches()
    stock = Base.greet
    patches.wrap(Base, "greet", loudly)
    wrapped = Base.greet
    patches.wrap(Base, "greet", loudly)
    assert Base.greet is wrapped
    assert (Base().greet("you"), wrapped.__name__, wrapped.__doc__) == ("HELLO YOU", "greet", "Greet somebody.")
    assert wrapped.__wrapped__ is stock  # type: ignore[attr-defined]
    # Another group wraps it again; the first one still knows that it has.
    other.wrap(Base, "greet", lambda greet: lambda self, name: f"{greet(self, name)}!")
    patches.wrap(Base, "greet", loudly)
    assert Base().greet("you") == "HELLO YOU!"
    other.undo()
    assert Base.greet is wrapped
    patches.undo()
    assert Base.greet is stock
    patches.wrap(Base, "greet", loudly)
    assert Base().greet("you") == "HELLO YOU"
    patches.undo()
    patches.undo()
    assert Base.greet is stock


def test_an_attribute_that_was_not_there_is_removed_again(greeter: type[Base], owner: Any) -> None:
    patches = Patches()
    patches.wrap(greeter, "greet", loudly)
    patches.replace(owner, "len", 7)
    assert (greeter().greet("you"), Base().greet("you"), owner.len) == ("HELLO YOU", "hello you", 7)
    patches.undo()
    assert greeter.greet is Base.greet
    assert "greet" not in vars(greeter)
    assert not hasattr(owner, "len")


def test_one_module_sees_another_with_overridden_names(owner: Any) -> None:
    patches, tools = Patches(), owner.tools
    patches.override(owner, "tools", load="ours")
    seen = owner.tools
    assert (seen.load, seen.save, seen.__name__) == ("ours", "save", "tools")
    assert (tools.load, tools.save) == ("load", "save")
    with pytest.raises(AttributeError, match="nothing"):
        seen.nothing  # noqa: B018
    # What changes later in the other module is seen.
    tools.close = "changed"
    assert seen.close == "changed"
    patches.undo()
    assert owner.tools is tools


def test_two_overrides_of_one_module_add_up(owner: Any) -> None:
    patches, other = Patches(), Patches()
    patches.override(owner, "tools", load="ours")
    seen = owner.tools
    other.override(owner, "tools", save="ours as well")
    patches.override(owner, "tools", load="ours")
    assert owner.tools is seen
    assert (seen.load, seen.save, seen.close) == ("ours", "ours as well", "close")
