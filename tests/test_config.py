from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from ebapose.config import Config, dump_yaml, load_config, load_yaml, parse_config
from ebapose.errors import UsageError


class Optim(Config):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Source(Config):
    annotations: str
    repeat: int = Field(1, ge=1)


class Data(Config):
    train: tuple[Source, ...] = ()
    val: Source | None = None


class Recipe(Config):
    name: str = "test"
    epochs: int = 3
    optim: Optim = Optim()
    data: Data = Data()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epoch": 3}, "r.yaml: unknown key 'epoch', did you mean 'epochs'?"),
        ({"optim": {"lrr": 1}}, "r.yaml: unknown key 'optim.lrr', did you mean 'optim.lr'?"),
        ({"optim": {"beta": 1}}, "r.yaml: unknown key 'optim.beta', did you mean 'optim.betas'?"),
        ({"lr": 1}, "r.yaml: unknown key 'lr', did you mean 'optim.lr'?"),
        ({"optim": {"epochs": 1}}, "r.yaml: unknown key 'optim.epochs', did you mean 'epochs'?"),
        ({"zzzzzzzz": 1}, "r.yaml: unknown key 'zzzzzzzz'"),
        (
            {"data": {"train": [{"annotations": "a"}, {"annotation": "b"}]}},
            "r.yaml: data.train.1.annotations: Field required",
        ),
        (
            {"data": {"train": [{"annotations": "a", "repeats": 2}]}},
            "r.yaml: unknown key 'data.train.0.repeats', did you mean 'data.train.repeat'?",
        ),
        (
            {"data": {"val": {"annotations": "a", "repaet": 2}}},
            "r.yaml: unknown key 'data.val.repaet', did you mean 'data.val.repeat'?",
        ),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(data, message):
    with pytest.raises(UsageError) as caught:
        parse_config(Recipe, data, "r.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epochs": "many"}, "r.yaml: epochs: Input should be a valid integer"),
        ({"epochs": 1.5}, "r.yaml: epochs: "),
        ({"optim": {"lr": float("nan")}}, "r.yaml: optim.lr: Input should be a finite number"),
        ({"optim": {"betas": [0.9]}}, "r.yaml: optim.betas"),
        ({"optim": 3}, "r.yaml: optim: "),
        ([1, 2], "r.yaml: "),
        (None, "r.yaml: "),
    ],
)
def test_wrong_values_are_refused_with_the_key(data, message):
    with pytest.raises(UsageError) as caught:
        parse_config(Recipe, data, "r.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_configs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().epochs = 5


def test_yaml_round_trip(tmp_path):
    recipe = Recipe(name="0123", optim=Optim(lr=3e-5), data=Data(train=(Source(annotations="é.json", repeat=2),)))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    assert load_config(Recipe, path) == recipe


def test_numbers_without_a_point_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-5 as text."""
    path = tmp_path / "recipe.yaml"
    path.write_text("optim: {lr: 1e-5}\n")
    assert load_config(Recipe, path).optim.lr == 1e-5


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: [1, 2", "not a YAML file"),
        (b"\xff\xfe\x00", "not a YAML file"),
        (b"- 1\n- 2\n", "expected keys and values, found list"),
        (b"", "expected keys and values, found NoneType"),
        (b"!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_files_that_are_no_configs_are_refused(tmp_path, content, why):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=why) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no\.yaml: No such file"):
        load_yaml(tmp_path / "no.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_yaml(tmp_path)
