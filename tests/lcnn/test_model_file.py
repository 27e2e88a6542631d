"""A model as one file: the same logits again, refusals, and no need of the initial weights."""

import pytest
import torch

from data_prep.errors import InputError
from lcnn.checkpoint import save_checkpoint
from lcnn.config import PictureConfig
from lcnn.model import build_model
from lcnn.model_file import TrainedModel, load_model, save_model
from lcnn.stacks import channels

PICTURE = PictureConfig(image_size=40, crop="none")


def grey(T=1):
    return 255 * torch.rand(1, channels(T), 32, 32, generator=torch.Generator().manual_seed(0))


def trained(config, normalisation):
    """A network whose every weight and running statistic differs from a fresh one's."""
    torch.manual_seed(1)
    model = build_model(config, normalisation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        model.train()(grey(config.T).expand(2, -1, -1, -1))
    return model.eval()


@pytest.mark.parametrize(
    "changes", [{}, {"T": 2, "fusion.local": 0.4, "model.levels": 3, "schedule.name": "one_cycle", "optim.lr": 0.3}]
)
@torch.no_grad()
def test_a_round_trip_gives_the_same_settings_and_logits(tmp_path, make_config, normalisation, changes):
    config = make_config(changes)
    model = trained(config, normalisation)
    save_model(tmp_path / "model.pt", TrainedModel(model, config, PICTURE))
    loaded = load_model(tmp_path / "model.pt")
    found = loaded.net
    assert (loaded.config, loaded.picture) == (config, PICTURE)
    assert not found.training
    stack = grey(config.T)
    assert torch.equal(found(stack).logits_BHW, model(stack).logits_BHW)
    assert torch.equal(found(stack).pose.angle_rad_B, model(stack).pose.angle_rad_B)


@torch.no_grad()
def test_the_initial_weights_need_not_be_at_hand(tmp_path, make_config, normalisation):
    big = {"model.global_backbone": "resnext50_32x4d", "model.norm": "batch"}
    model = trained(make_config(big), normalisation)
    config = make_config({**big, "model.weights": str(tmp_path / "long_gone.pth")})
    save_model(tmp_path / "model.pt", TrainedModel(model, config, PICTURE))
    loaded = load_model(tmp_path / "model.pt")
    found = loaded.net
    (tmp_path / "model.pt").unlink()
    assert (loaded.config, loaded.picture) == (config, PICTURE)
    assert torch.equal(found(grey()).logits_BHW, model(grey()).logits_BHW)


def test_a_missing_or_truncated_file_is_refused(tmp_path, make_config, normalisation):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match=r"model\.pt: no such"):
        load_model(path)
    save_model(path, TrainedModel(build_model(make_config(), normalisation), make_config(), PICTURE))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model\.pt: truncated"):
        load_model(path)


@pytest.mark.parametrize("changes", [{"model.width": 8}, {"T": 2}, {"model.levels": 3}])
def test_weights_that_do_not_fit_their_settings_are_refused(tmp_path, make_config, normalisation, changes):
    net = build_model(make_config(), normalisation)
    save_model(tmp_path / "model.pt", TrainedModel(net, make_config(changes), PICTURE))
    with pytest.raises(InputError, match=r"model\.pt: weights do not fit"):
        load_model(tmp_path / "model.pt")


def test_a_file_that_lacks_weights_is_refused(tmp_path, make_config, normalisation):
    state = build_model(make_config(), normalisation).state_dict()
    state.pop("mean")
    save_checkpoint(
        tmp_path / "model.pt",
        {"config": make_config().model_dump_json(), "picture": PICTURE.model_dump(), "model": state},
    )
    with pytest.raises(InputError, match=r"model\.pt: weights do not fit"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [{}, {"config": '{"no_such_field": 1}', "model": {}}], ids=["none", "unknown"])
def test_a_checkpoint_without_readable_settings_is_refused(tmp_path, content):
    save_checkpoint(tmp_path / "model.pt", content)
    with pytest.raises(InputError, match=r"model\.pt"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("picture", [None, {"image_size": 1, "crop": "none"}, {"image_size": 96, "crop": "tail"}])
def test_a_file_without_a_valid_picture_size_is_refused(tmp_path, make_config, normalisation, picture):
    state = build_model(make_config(), normalisation).state_dict()
    content = {"config": make_config().model_dump_json(), "model": state}
    save_checkpoint(tmp_path / "model.pt", content if picture is None else {**content, "picture": picture})
    with pytest.raises(InputError, match=r"model\.pt"):
        load_model(tmp_path / "model.pt")
