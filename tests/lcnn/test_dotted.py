"""Settings by dotted names, by their former names too."""

import pytest
from pydantic import ValidationError

from data_prep.common.errors import InputError
from data_prep.preprocessing.picture import PictureConfig
from lcnn.config import ModelConfig, TrainConfig, TrainingConfig
from lcnn.dotted import RENAMED, assign, known_keys, look_up, replaced
from lcnn.settings_file import validate


def test_a_value_is_looked_up_in_mappings_and_in_settings() -> None:
    config = TrainConfig()
    for data in (config, config.model_dump()):
        assert look_up(data, "loss.dice") == 0.5
        assert look_up(data, "T") == 1
    with pytest.raises(KeyError):
        look_up(config.model_dump(), "loss.dices")
    with pytest.raises(AttributeError):
        look_up(config, "loss.dices")


def test_replacing_keeps_the_rest_and_checks_the_new() -> None:
    config = replaced(TrainConfig(), {"loss.dice": 0.25, "schedule": {"name": "polynomial", "power": 2.0}})
    assert (config.loss.dice, config.schedule.name, config.optim) == (0.25, "polynomial", TrainConfig().optim)
    with pytest.raises(ValidationError):
        replaced(TrainConfig(), {"loss.dice": 7.0})


def test_the_way_to_a_value_leads_through_no_other_value() -> None:
    with pytest.raises(InputError, match=r"^there: T.x: T is a value, not a section$"):
        assign({"T": 1}, ["T", "x"], 2, "there")


@pytest.mark.parametrize("former", RENAMED)
def test_a_former_name_means_the_setting_of_today(former: str) -> None:
    name = RENAMED[former]
    section, _, leaf = name.partition(".")
    assert look_up({section: {leaf: 4}}, former) == 4
    for given, data in ((former, {}), (name, {section: {former.partition(".")[2]: 3}}), (former, {section: {leaf: 3}})):
        assign(data, given.split("."), 4, "there")
        assert data == {section: {leaf: 4}}  # one name alone, whichever the file has


def test_files_of_earlier_versions_name_windows_otherwise() -> None:
    former = {"model": {"window": 4}, "picture": {"window": ["brain", "wide"]}}
    settings = validate(TrainingConfig, former, "file")
    assert settings.training.model.window_size == 4
    assert settings.picture == PictureConfig(intensity_window=("brain", "wide"))
    assert replaced(TrainConfig(), {"model.window": 4}).model == ModelConfig(window_size=4)
    with pytest.raises(InputError, match="file: model: window is the former name of window_size; give one of the two"):
        validate(TrainingConfig, {"model": {"window": 4, "window_size": 8}}, "file")


def test_the_settings_of_a_training_stand_at_the_top_of_a_file() -> None:
    keys = set(known_keys(TrainingConfig))
    assert {"T", "model.window_size", "picture.crop"} <= keys
    assert not [key for key in keys if key.startswith("training")]
    with pytest.raises(InputError, match="file: training: unknown key"):
        validate(TrainingConfig, {"training": {"T": 1}}, "file")
