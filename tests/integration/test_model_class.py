"""The class that a model's name, path or class stands for."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from recbole.model.general_recommender import BPR

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model import with_llm_init
from recbole_llminit.integration.model_class import resolve_model_class


def test_a_model_that_is_no_name() -> None:
    with pytest.raises(LLMInitError, match="the model is 5, a int"):
        Config(config_dict={"model": 5, "dataset": "ml-100k"})


@pytest.mark.parametrize("source", ["def broken(:", "1 / 0", "import nothing_of_that_name"])
def test_a_module_of_ones_own_that_is_broken(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"broken_{abs(zlib.crc32(source.encode()))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LLMInitError, match=f"the model '{name}.Mine' cannot be imported"):
        resolve_model_class(f"{name}.Mine")


def test_model_that_cannot_be_imported() -> None:
    with pytest.raises(LLMInitError, match="the model 'my.module.Model' cannot be imported"):
        resolve_model_class("my.module.Model")
    with pytest.raises(LLMInitError, match="has no attribute 'Nothing'"):
        resolve_model_class("recbole.model.general_recommender.bpr.Nothing")
    with pytest.raises(LLMInitError, match="'os.path'.*<module .*subclass"):
        resolve_model_class("os.path")


@pytest.mark.parametrize("name", ["LigthGCN", "lightgcn", "LightGNC"])
def test_misspelt_model_names_the_nearest(name: str) -> None:
    with pytest.raises(LLMInitError, match=rf"'{name}'.*'LightGCN'"):
        resolve_model_class(name)


def test_a_subclass_of_ours_stays_itself() -> None:
    class Mine(with_llm_init(BPR)):
        pass

    assert resolve_model_class(Mine) is Mine
    assert with_llm_init(Mine) is Mine
    assert resolve_model_class(with_llm_init(BPR)) is BPR


def test_a_model_of_ones_own_without_its_module() -> None:
    with pytest.raises(LLMInitError, match=r"'MyOwnRecommender'.*module"):
        resolve_model_class("MyOwnRecommender")
    with pytest.raises(LLMInitError, match="LightGBM.*pip install lightgbm"):
        resolve_model_class("LightGBM")
