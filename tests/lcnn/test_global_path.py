"""The global path: its maps, and initial weights from a file, from the hub, or refused."""

import json
import pickle
import urllib.request

import pytest
import torch
from torch import nn

from data_prep.common.errors import InputError
from lcnn.network.global_path import GlobalPath, ResNeXt14, ResNeXt50, grey_adapter, read_weights
from lcnn.network.torchvision_models import torchvision_models

WEIGHTS = torchvision_models().ResNeXt50_32X4D_Weights.IMAGENET1K_V2


@pytest.mark.parametrize(
    "encoder",
    [lambda: ResNeXt14(nn.BatchNorm2d), lambda: ResNeXt50("none", nn.BatchNorm2d)],
    ids=["resnext14", "resnext50"],
)
@torch.no_grad()
def test_maps_have_the_widths_that_are_announced_at_a_quarter_to_a_thirty_second(encoder):
    net = encoder().eval()
    maps = net(torch.rand(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [
        (2, width, 64 // stride, 64 // stride) for width, stride in zip(net.widths, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("side", [32, 45, 70])
@torch.no_grad()
def test_logits_have_the_size_of_the_slice_and_start_at_the_prior(side):
    torch.manual_seed(0)
    path = GlobalPath(backbone="resnext14_4x2d", weights="none", norm=nn.BatchNorm2d, prior=0.01).eval()
    logits = path(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 1, side, side)
    assert 0.004 < torch.sigmoid(logits).median() < 0.025


def test_every_level_of_the_pyramid_takes_part():
    torch.manual_seed(0)
    path = GlobalPath(backbone="resnext14_4x2d", weights="none", norm=nn.BatchNorm2d, prior=0.01)
    path(torch.randn(1, 1, 64, 64)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in path.parameters())


def test_grey_becomes_three_equal_channels():
    x = torch.randn(1, 1, 5, 5)
    assert torch.equal(grey_adapter()(x), x.expand(-1, 3, -1, -1))


@torch.no_grad()
def test_weights_from_a_file_reach_the_encoder(weights_file):
    state = torch.load(weights_file, weights_only=True)
    path = GlobalPath(backbone="resnext50_32x4d", weights=str(weights_file), norm=nn.BatchNorm2d, prior=0.01).eval()
    net = torchvision_models().resnext50_32x4d(weights=None).eval()
    net.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    pooled = path.encoder(x)[-1].mean(dim=(2, 3))
    assert torch.allclose(net.fc(pooled), net(x), atol=1e-4)


def test_a_missing_file_is_refused_by_key(tmp_path):
    with pytest.raises(InputError, match=r"model\.weights: .*gone\.pth cannot be read"):
        read_weights(str(tmp_path / "gone.pth"))


@pytest.mark.parametrize(
    "kept",
    [
        0,
        100,
        1_000_000,
    ],
)
def test_a_truncated_file_is_refused_by_key(weights_file, tmp_path, kept):
    with weights_file.open("rb") as whole:
        (tmp_path / "cut.pth").write_bytes(whole.read(kept))
    with pytest.raises(InputError, match=r"model\.weights: .*cut\.pth cannot be read"):
        read_weights(str(tmp_path / "cut.pth"))


def not_a_dict(path):
    torch.save(torch.zeros(3), path)


def another_net(path):
    torch.save(ResNeXt14(nn.BatchNorm2d).state_dict(), path)


def a_pickle(path):
    path.write_bytes(pickle.dumps(json.JSONDecoder, protocol=2))


def a_png(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))


def a_yaml(path):
    path.write_text("search:\n  T: 1\n")


def like(state):
    """A file's worth of entries with these shapes, but hardly any bytes: all share one number."""
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}


def entries(make, **arguments):
    with torch.device("meta"):
        state = make(weights=None, **arguments).state_dict()
    return like(state)


def same_names_other_shapes(path):
    torch.save(entries(torchvision_models().resnet50), path)


def two_classes(path):
    torch.save(entries(torchvision_models().resnext50_32x4d, num_classes=2), path)


def more_entries(path):
    torch.save({**entries(torchvision_models().resnext50_32x4d), "extra": torch.zeros(1)}, path)


def test_a_file_of_the_right_names_and_shapes_is_taken(tmp_path):
    torch.save(entries(torchvision_models().resnext50_32x4d), tmp_path / "zeros.pth")
    path = GlobalPath(backbone="resnext50_32x4d", weights=str(tmp_path / "zeros.pth"), norm=nn.BatchNorm2d, prior=0.01)
    assert all((parameter == 0).all() for parameter in path.encoder.parameters())


@pytest.mark.parametrize(
    "write",
    [
        not_a_dict,
        another_net,
        a_pickle,
        a_png,
        a_yaml,
        same_names_other_shapes,
        two_classes,
        more_entries,
    ],
)
def test_a_foreign_file_is_refused_by_key(tmp_path, write):
    file = tmp_path / "foreign.pth"
    write(file)
    with pytest.raises(InputError, match=r"model\.weights"):
        GlobalPath(backbone="resnext50_32x4d", weights=str(file), norm=nn.BatchNorm2d, prior=0.01)
    file.unlink()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No cached weights, and a proxy at a port where nothing listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    return tmp_path


def test_imagenet_without_a_network_is_refused_by_key(offline):
    with pytest.raises(InputError, match=r"model\.weights: imagenet cannot be fetched .*give the path"):
        read_weights("imagenet")


def test_imagenet_comes_from_the_hub_s_cache_where_it_is_there(offline, weights_file):
    cached = offline / "hub" / "checkpoints" / WEIGHTS.url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.symlink_to(weights_file)
    assert torch.equal(read_weights("imagenet")["fc.bias"], read_weights(str(weights_file))["fc.bias"])


def test_a_damaged_file_in_the_hub_s_cache_is_refused_by_key(offline):
    cached = offline / "hub" / "checkpoints" / WEIGHTS.url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"an error page of a proxy")
    with pytest.raises(InputError, match=r"model\.weights"):
        read_weights("imagenet")
