"""Reading settings without RecBole; how a configuration uses them is tested in integration/test_config.py."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.settings import (
    as_paths,
    is_none,
    parse_arguments,
    read_settings,
    read_value,
    read_values,
    read_yaml,
    read_yaml_file,
    unknown_key,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1e-3", {"a": 0.001}),
        ("a: 1e3", {"a": 1000.0}),
        ("a: .5", {"a": 0.5}),
        ("a: !!python/tuple [1, 2]", {"a": (1, 2)}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: ~", {"a": None}),
        ("a: 1.2.3", {"a": "1.2.3"}),
    ],
)
def test_yaml_is_read_as_recbole_reads_it(text: str, value: Any) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize("text", ["a: b: c", "a: !!python/object/apply:os.getpid []", "a: &a [*a]"])
def test_yaml_that_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


def test_aliases_expand_to_a_bounded_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    with pytest.raises(yaml.YAMLError, match="100,000 values"):
        read_yaml("\n".join(lines))
    # The mapping, its keys and its values, those of the alias as well: 7.
    monkeypatch.setattr("recbole_llminit.settings._MOST_VALUES", 7)
    assert read_yaml("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}
    monkeypatch.setattr("recbole_llminit.settings._MOST_VALUES", 6)
    with pytest.raises(yaml.YAMLError, match="6 values"):
        read_yaml("a: &x [1]\nb: *x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("5e-2", 0.05),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("None", None),
        ("none", "none"),
        ("'3'", "3"),
        ("['a', 1]", ["a", 1]),
        ("(1, 2)", (1, 2)),
        ("[a, b]", ["a", "b"]),
        ("{a: 1e0}", {"a": 1.0}),
        ("{a: [", "{a: ["),
        ("var", "var"),
        ("a=b", "a=b"),
        ("", ""),
        ("1 + 1", "1 + 1"),
        ("__import__('os')", "__import__('os')"),
        ("b'x'", "b'x'"),
        ("{1, 2}", "{1, 2}"),
        ("[" * 500, "[" * 500),
    ],
)
def test_a_literal_is_read_and_everything_else_is_text(text: str, value: Any) -> None:
    found = read_value(text)
    assert found == value
    assert type(found) is type(value)


def test_values_of_some_keys_stay_texts() -> None:
    settings = {"epochs": "3", "init_scale": "3", "topk": [10], "llm_x": "None"}
    expected = {"epochs": 3, "init_scale": "3", "topk": [10], "llm_x": "None"}
    assert read_values(settings, text_prefixes=("init_", "llm_")) == expected
    assert read_values({"a": "1"}) == {"a": 1}
    with pytest.raises(LLMInitError, match="key 5, a int"):
        read_values({5: "a"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("value", "none"),
    [
        (None, True),
        ("none", True),
        ("None", True),
        ("NULL", True),
        ("", False),
        (0, False),
        (False, False),
        ([], False),
    ],
)
def test_none_in_all_its_forms(value: Any, none: bool) -> None:
    assert is_none(value) is none


def test_arguments_are_split_at_the_first_equals_sign() -> None:
    arguments = ["--a=1", "--path=/x/dt=3", "--empty=", "--a=1"]
    assert parse_arguments(arguments) == {"a": "1", "path": "/x/dt=3", "empty": ""}


@pytest.mark.parametrize("argument", ["a=1", "-a=1", "--a", "--=1", "---a=1", "3", ""])
def test_arguments_of_another_form_are_refused(argument: str) -> None:
    with pytest.raises(LLMInitError, match=f"'{argument}'.*ignored by RecBole.*--key=value"):
        parse_arguments([argument])


def test_an_argument_with_two_values_is_refused() -> None:
    with pytest.raises(LLMInitError, match="--a.*twice.*'1'.*'2'"):
        parse_arguments(["--a=1", "--a=2"])


def test_an_unknown_key_names_the_nearest_and_all() -> None:
    message = str(unknown_key("init-Scal", ["init_scale", "init_user"]))
    assert "'init-Scal'" in message
    assert "did you mean 'init_scale'" in message
    assert "(init_scale, init_user)" in message


def test_arguments_win_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\ny: 1\nz: 1\n")
    (tmp_path / "b.yaml").write_text("y: 2\nz: 2\n")
    (tmp_path / "empty.yaml").touch()
    paths = [tmp_path / "a.yaml", str(tmp_path / "b.yaml"), tmp_path / "empty.yaml"]
    assert read_settings(paths, ["--z=3"]) == {"x": 1, "y": 2, "z": "3"}


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("a: b: c", "cannot be read.*ScannerError.*configuration in YAML"),
        ("- a", "holds a list.*key: value"),
        ("5: a", "key 5, a int"),
        ("a: " + "x" * (1 << 20), r"1,048,579 bytes.*1 MB"),
        ("a: " + "[" * 500 + "]" * 500, "RecursionError"),
    ],
    ids=["no YAML", "list", "key", "size", "depth"],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: str, facts: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(LLMInitError, match=f"a.yaml.*{facts}"):
        read_yaml_file(tmp_path / "a.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LLMInitError, match="no .*nowhere.yaml.*configuration"):
        read_yaml_file(tmp_path / "nowhere.yaml")


def test_a_list_of_paths_is_expected() -> None:
    assert as_paths(["a", Path("b")]) == [Path("a"), Path("b")]
    for value in ("a.yaml", Path("a.yaml"), [5]):
        with pytest.raises(LLMInitError, match="config_file_list.*list of paths"):
            as_paths(value)  # type: ignore[arg-type]
