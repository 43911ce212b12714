import hashlib
import os
from pathlib import Path

import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import (
    exists,
    foreign_reader,
    hash_files,
    is_file,
    is_folder,
    reason,
    require_file,
    whole_file,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "nowhere/file"])
def test_a_name_that_the_system_refuses_does_not_exist(tmp_path: Path, name: str) -> None:
    assert not is_file(tmp_path / name)
    assert not is_folder(tmp_path / name)
    assert not exists(tmp_path / name)


def test_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert (is_file(tmp_path / "file"), is_folder(tmp_path / "file"), exists(tmp_path / "file")) == (True, False, True)
    assert (is_file(tmp_path), is_folder(tmp_path), exists(tmp_path)) == (False, True, True)


def test_only_a_regular_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    require_file(tmp_path / "file", "vectors")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LLMInitError, match="pipe is a pipe or a device.*vectors"):
        require_file(tmp_path / "pipe", "vectors")
    with pytest.raises(LLMInitError, match=f"{tmp_path} is a folder.*vectors"):
        require_file(tmp_path, "vectors")
    with pytest.raises(LLMInitError, match="there is no .*nowhere .*looked in.*vectors.*check the path"):
        require_file(tmp_path / "nowhere", "vectors")


@pytest.mark.parametrize("error", [IndexError("list index"), AssertionError(), OSError(5, "Input/output error")])
def test_an_error_of_another_library_names_the_file(error: Exception) -> None:
    with (
        pytest.raises(LLMInitError, match=f"v.bin cannot be read .{type(error).__name__}.*expected vectors") as caught,
        foreign_reader("v.bin", "vectors"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_a_panic_of_rust_is_an_error() -> None:
    class PanicException(BaseException):
        pass

    message = "v.bin cannot be read .PanicException: out of bounds"
    with pytest.raises(LLMInitError, match=message), foreign_reader("v.bin", "vectors"):
        raise PanicException("out of bounds")


@pytest.mark.parametrize("error", [LLMInitError("its own message"), KeyboardInterrupt(), SystemExit(3)])
def test_errors_of_this_package_and_ends_of_the_process_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, foreign_reader("v.bin", "vectors"):
        raise error
    assert caught.value is error


def test_a_reason_is_one_short_line() -> None:
    assert reason(ValueError("one\n  two")) == "ValueError: one two"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("x" * 1000)) == "ValueError: " + "x" * 300 + " ..."


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with whole_file(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
    assert path.read_text() == "after"
    assert names(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_text_is_written_in_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "é\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9\n"


def test_files_are_hashed_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "b").write_bytes(b"y")
    expected = hashlib.sha256(b"x" * ((1 << 20) + 1) + b"y").hexdigest()[:16]
    assert hash_files([tmp_path / "a", tmp_path / "b"]) == expected
    assert hash_files([tmp_path / "b", tmp_path / "a"]) != expected
