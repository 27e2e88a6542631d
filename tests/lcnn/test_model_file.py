"""A model on disk, as a folder and as a checkpoint: the same logits again, refusals, no need of initial weights."""

import pytest
import torch
import yaml

from data_prep.cohort.normalisation import Normalisation
from data_prep.common.errors import InputError
from data_prep.preprocessing.picture import PictureConfig
from lcnn.checkpoint import save_checkpoint
from lcnn.inference.model_file import CONFIG, WEIGHTS, TrainedModel, load_model, read_settings, save_model
from lcnn.network.model import build_model
from lcnn.network.stacks import channels

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


def save_checkpoint_of(path, net, config):
    content = {"config": config.model_dump_json(), "picture": PICTURE.model_dump(), "model": net.state_dict()}
    save_checkpoint(path, content)


def save_folder_of(path, net, config):
    save_model(path, TrainedModel(net, config, PICTURE))


@pytest.mark.parametrize("save", [save_checkpoint_of, save_folder_of], ids=["checkpoint", "folder"])
@pytest.mark.parametrize(
    "changes", [{}, {"T": 2, "fusion.local": 0.4, "model.levels": 3, "schedule.name": "one_cycle", "optim.lr": 0.3}]
)
@torch.no_grad()
def test_a_round_trip_gives_the_same_settings_and_logits(tmp_path, make_config, normalisation, changes, save):
    config = make_config(changes)
    model = trained(config, normalisation)
    save(tmp_path / "model", model, config)
    loaded = load_model(tmp_path / "model")
    found = loaded.net
    assert (loaded.config, loaded.picture) == (config, PICTURE)
    assert not found.training
    stack = grey(config.T)
    assert torch.equal(found(stack).logits_BHW, model(stack).logits_BHW)
    assert torch.equal(found(stack).pose.angle_rad_B, model(stack).pose.angle_rad_B)


@pytest.mark.parametrize("save", [save_checkpoint_of, save_folder_of], ids=["checkpoint", "folder"])
@torch.no_grad()
def test_the_initial_weights_need_not_be_at_hand(tmp_path, make_config, normalisation, save):
    big = {"model.global_backbone": "resnext50_32x4d", "model.norm": "batch"}
    model = trained(make_config(big), normalisation)
    config = make_config({**big, "model.weights": str(tmp_path / "long_gone.pth")})
    save(tmp_path / "model", model, config)
    loaded = load_model(tmp_path / "model")
    assert (loaded.config, loaded.picture) == (config, PICTURE)
    assert torch.equal(loaded.net(grey()).logits_BHW, model(grey()).logits_BHW)


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
def test_a_model_that_names_the_former_alignment_opens_where_it_was_off(
    tmp_path, make_config, normalisation, value, kind
):
    config, path = make_config(), tmp_path / "model"
    net = trained(config, normalisation)
    former = {**PICTURE.model_dump(), "align_midline": value}
    if kind == "checkpoint":
        save_checkpoint(path, {"config": config.model_dump_json(), "picture": former, "model": net.state_dict()})
    else:
        save_folder_of(path, net, config)
        settings = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        (path / CONFIG).write_text(yaml.safe_dump({**settings, "picture": former}), encoding="utf-8")
    if value:
        with pytest.raises(
            InputError, match=r"model.*: picture: align_midline: .* no longer .*; leave it out"
        ) as refused:
            load_model(path)
        assert "\n" not in str(refused.value)
    else:
        assert load_model(path).picture == PICTURE


@pytest.mark.parametrize("mean", [0.1, 47.123456789, 1e-3])
def test_the_normalisation_lies_among_the_settings_and_comes_back_exactly(tmp_path, make_config, mean):
    net = build_model(make_config(), Normalisation(mean=mean, std=1 / 3))
    save_folder_of(tmp_path, net, make_config())
    found = load_model(tmp_path).net
    assert torch.equal(found.mean, net.mean)
    assert torch.equal(found.std, net.std)
    assert read_settings(tmp_path).normalisation.mean == pytest.approx((mean,))


@pytest.mark.parametrize(
    ("place", "found"),
    [("model", "model"), ("", "model"), ("best.pt", "best.pt"), ("last.pt", "last.pt"), ("two", "best.pt")],
)
def test_a_path_may_mean_a_file_a_training_a_model_or_a_run(tmp_path, make_config, normalisation, place, found):
    nets = {}
    for name in ("model", "best.pt", "last.pt"):
        torch.manual_seed(len(nets))
        nets[name] = build_model(make_config(), normalisation)
        save = save_checkpoint_of if name.endswith(".pt") else save_folder_of
        save(tmp_path / name, nets[name], make_config())
        if name.endswith(".pt"):
            save(tmp_path / "two" / name, nets[name], make_config())
    for name, value in load_model(tmp_path / place).net.state_dict().items():
        assert torch.equal(value, nets[found].state_dict()[name])


def test_a_missing_or_truncated_file_is_refused(tmp_path, make_config, normalisation):
    net = build_model(make_config(), normalisation)
    with pytest.raises(InputError, match=r"model\.pt: no model there"):
        load_model(tmp_path / "model.pt")
    save_checkpoint_of(tmp_path / "model.pt", net, make_config())
    save_folder_of(tmp_path / "model", net, make_config())
    for path, words in (
        (tmp_path / "model.pt", r"model\.pt: truncated"),
        (tmp_path / "model" / WEIGHTS, r"weights\.safetensors: not readable"),
    ):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(InputError, match=words):
            load_model(path)


@pytest.mark.parametrize("changes", [{"model.width": 8}, {"T": 2}, {"model.levels": 3}])
@pytest.mark.parametrize("save", [save_checkpoint_of, save_folder_of], ids=["checkpoint", "folder"])
def test_weights_that_do_not_fit_their_settings_are_refused(tmp_path, make_config, normalisation, changes, save):
    save(tmp_path / "model", build_model(make_config(), normalisation), make_config(changes))
    with pytest.raises(InputError, match=r"model.*: weights do not fit"):
        load_model(tmp_path / "model")


BAD_SETTINGS = {
    "missing": (None, r"config\.yaml: No such file"),
    "of no model": ("T: 1", r"config\.yaml: normalisation: field required"),
    "unknown": ("T: 1\nlearning: 2\nnormalisation: {mean: 1, std: 2}", r"config\.yaml: learning: unknown key"),
    "no deviation": ("normalisation: {mean: 1, std: 0}", r"config\.yaml: normalisation.std"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_folder_without_its_settings_is_refused(tmp_path, make_config, normalisation, case):
    text, words = BAD_SETTINGS[case]
    save_folder_of(tmp_path, build_model(make_config(), normalisation), make_config())
    (tmp_path / CONFIG).unlink()
    if text:
        (tmp_path / CONFIG).write_text(text)
    with pytest.raises(InputError, match=words):
        load_model(tmp_path)


@pytest.mark.parametrize("lacking", ["mean", "local.head.bias"])
def test_a_file_that_lacks_weights_is_refused(tmp_path, make_config, normalisation, lacking):
    state = build_model(make_config(), normalisation).state_dict()
    state.pop(lacking)
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
