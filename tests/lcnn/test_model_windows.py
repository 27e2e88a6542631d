"""Windows as channels, from the store through training to prediction, evaluation and the bundle."""

import json

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image

from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.layout import scan_cohort, write_manifest
from data_prep.cohort.normalisation import Normalisation
from data_prep.cohort.pixels import GREY, Pixels, pixels_of
from data_prep.cohort.store import read_patient
from data_prep.common.errors import InputError
from data_prep.intensity.window import WINDOWS, KeptHu, to_pixels
from data_prep.preprocessing.picture import PictureConfig
from lcnn.__main__ import main
from lcnn.export.bundle import bundle_metadata, write_bundle
from lcnn.export.graph import LogitNetwork
from lcnn.inference.model_file import CONFIG, TrainedModel, load_model, model_settings, save_model
from lcnn.inference.model_windows import in_named_windows, other_window, pixels_for
from lcnn.inference.predict import predict_volume
from lcnn.network.global_path import grey_adapter
from lcnn.network.model import build_model
from lcnn.network.stacks import OVERVIEW, StackSource, channels, overview
from lcnn.training.fit import TrainingData, fit

THREE = tuple(WINDOWS.values())
BRAIN, STROKE, WIDE = THREE
NORMALISATION = Normalisation(mean=(110.0, 100.0, 120.0), std=(40.0, 60.0, 30.0))
PICTURE = PictureConfig(image_size=32, crop="none")
SIDE = 36


def write_heads(root, windows, *, keeps_hu=False):
    """Three patients of four slices, in HU that differ from voxel to voxel; a lesion is darker than the brain."""
    for number, patient in enumerate("abc"):
        rng = np.random.default_rng(number)
        for z in range(4):
            values_hu = np.full((SIDE, SIDE), -1000, dtype=np.float32)
            values_hu[5:-5, 5:-5] = rng.uniform(25, 55, (SIDE - 10, SIDE - 10))
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            mask[12:22, 8:16] = 255 * (z in (1, 2))
            values_hu[mask > 0] -= 15
            for part, pixels in (("images", to_pixels(values_hu, windows, keeps_hu=keeps_hu)), ("masks", mask)):
                file = root / part / patient / f"{z}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    kept = KeptHu(windows=windows) if keeps_hu else None
    write_manifest(scan_cohort(root).model_copy(update={"windows": () if kept else windows, "hu": kept}), root)
    return root


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohorts")
    write_heads(root / "colour", THREE)
    write_heads(root / "grey", (BRAIN,))
    write_heads(root / "deep", (BRAIN,), keeps_hu=True)
    return root


@pytest.fixture(scope="module")
def colour(cohorts):
    return compile_cohort(cohorts / "colour", cohorts / "cache", PICTURE)


@pytest.fixture(scope="module")
def trained(colour, make_config, tmp_path_factory):
    """A training of one epoch on three windows, kept."""
    folder = tmp_path_factory.mktemp("trained")
    config = make_config({"train.epochs": 1, "train.stacks_per_epoch": 4})
    results = list(fit(config, TrainingData(colour.store, ("a", "b"), ("c",), NORMALISATION), folder=folder))
    assert len(results) == 1
    return folder


@pytest.fixture
def model(trained):
    return load_model(trained)


# The network


def test_a_stack_holds_slice_by_slice_all_windows(colour):
    store = colour.store
    grey, _ = StackSource(store, ["b"], 1).batch(np.arange(4))
    assert grey.shape == (4, channels(1, 3), 32, 32) == (4, OVERVIEW + 9, 32, 32)
    start = store.patients["b"].start
    assert np.array_equal(grey[2, :OVERVIEW], overview(store.images_NSS[start : start + 4]))
    assert np.array_equal(grey[2, OVERVIEW:], store.windows_NKSS[start + 1 : start + 4].reshape(9, 32, 32))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_every_window_reaches_the_logits_of_both_paths(make_config, share):
    net = build_model(make_config({"fusion.local": share}), NORMALISATION)
    stack = (255 * torch.rand(1, channels(1, 3), 32, 32)).requires_grad_()
    net(stack).logits_BHW.square().sum().backward()
    reached = stack.grad.abs().sum(dim=(0, 2, 3))[OVERVIEW:].unflatten(0, (3, 3))
    assert (reached[1] > 0).all()
    assert (reached > 0).all() if share else (reached[[0, 2]] == 0).all(), reached


@torch.no_grad()
def test_each_window_is_normalised_by_its_own_statistics(make_config):
    net = build_model(make_config(), NORMALISATION)
    mean = torch.tensor(NORMALISATION.mean)
    grey = (mean + torch.tensor(NORMALISATION.std)).repeat(2)[None, :, None, None].expand(1, 6, 2, 2)
    assert torch.allclose(net.normalise(grey), torch.ones(1, 6, 2, 2))


def test_three_windows_start_as_a_colour_each():
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(grey_adapter(3)(x), x)


def test_a_network_refuses_stacks_of_fewer_windows(make_config):
    with pytest.raises(ValueError, match="3 slices in 3 windows, and got 6 channels"):
        build_model(make_config(), NORMALISATION)(torch.zeros(1, channels(1), 32, 32))


# The model on disk


def test_a_model_keeps_its_windows_in_hu(model, tmp_path):
    assert model.windows == THREE
    save_model(tmp_path, model)
    kept = yaml.safe_load((tmp_path / CONFIG).read_text(encoding="utf-8"))
    assert kept["windows"][1] == {"name": "stroke", "level_hu": 40.0, "width_hu": 40.0}
    again = load_model(tmp_path)
    assert again.windows == THREE
    assert torch.equal(again.net.mean, model.net.mean)
    assert again.net.mean.shape == (3, 1, 1)


def test_settings_of_an_earlier_version_are_those_of_one_unknown_window(tmp_path, make_config, normalisation):
    net = build_model(make_config(), normalisation)
    save_model(tmp_path, TrainedModel(net, make_config(), PICTURE, (BRAIN,)))
    settings = yaml.safe_load((tmp_path / CONFIG).read_text(encoding="utf-8"))
    del settings["windows"], settings["picture"]["intensity_window"]
    settings["normalisation"] = {"mean": 110.0, "std": 30.0}
    (tmp_path / CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")
    found = load_model(tmp_path)
    assert found.windows == ()
    assert torch.equal(found.net.mean, net.mean)


def test_windows_without_statistics_are_refused(tmp_path, model):
    save_model(tmp_path, model)
    settings = yaml.safe_load((tmp_path / CONFIG).read_text(encoding="utf-8"))
    settings["windows"] = settings["windows"][:1]
    (tmp_path / CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(InputError, match="windows: 1, but normalisation is for 3"):
        load_model(tmp_path)


# Which windows slices are seen in


def one_window(model, *windows):
    return TrainedModel(model.net, model.config, model.picture, windows)


def test_a_model_sees_slices_in_its_own_windows_where_they_hold_them(model):
    deep = Pixels((BRAIN,), hu_offset=1024)
    assert pixels_for(model, deep, "x").windows == THREE
    assert pixels_for(one_window(model, STROKE), Pixels(THREE, colours=(0, 1, 2)), "x").colours == (1,)
    assert pixels_for(one_window(model), GREY, "x") == GREY
    assert pixels_for(one_window(model, STROKE), Pixels((BRAIN,)), "x") == Pixels((BRAIN,))


@pytest.mark.parametrize("pixels", [GREY, Pixels((BRAIN,))])
def test_too_few_windows_are_refused(model, pixels):
    with pytest.raises(InputError, match=r"^DATA: slices in .*, but the model sees brain .*, stroke .*, wide"):
        pixels_for(model, pixels, "DATA")


def test_other_windows_are_told_of_once(model):
    stroke = one_window(model, STROKE)
    line = other_window(stroke, {"a": Pixels((BRAIN,)), "b": Pixels((BRAIN,)), "c": Pixels((STROKE,)), "d": GREY})
    assert line.startswith("WARNING: a and 1 more: slices in brain")
    assert other_window(stroke, {"c": Pixels((STROKE,)), "d": GREY}) is None
    assert other_window(one_window(model), {"a": Pixels((BRAIN,))}) is None


@pytest.mark.parametrize("names", [["brain"], ["brain", "brain", "wide"]])
def test_a_window_option_must_fit_the_model(model, names):
    with pytest.raises(InputError, match="--window brain"):
        in_named_windows(model, names)


# The commands


def run(command, model, option, data, *more):
    return main([command, "--model", str(model), option, str(data), *map(str, more)])


def test_predict_uses_the_models_windows_without_asking(trained, cohorts, tmp_path, capsys):
    for kind in ("colour", "deep"):
        assert run("predict", trained, "--input", cohorts / kind, "--out", tmp_path / kind) == 0
    said = capsys.readouterr().out
    assert "window:" not in said
    assert "WARNING" not in said
    masks = [sorted((tmp_path / kind / "masks").rglob("*.png")) for kind in ("colour", "deep")]
    assert len(masks[0]) == 12
    assert [file.read_bytes() for file in masks[0]] == [file.read_bytes() for file in masks[1]]


def test_predict_in_other_windows_says_so(trained, cohorts, tmp_path, capsys):
    order = ("--window", "wide,brain,stroke")
    assert run("predict", trained, "--input", cohorts / "deep" / "images" / "a", "--out", tmp_path, *order) == 0
    assert "window: wide (level 40 HU, width 200 HU), brain" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "option"), [("predict", "--input"), ("evaluate", "--data")])
def test_grey_slices_are_refused_by_a_model_of_three_windows(trained, cohorts, tmp_path, capsys, command, option):
    more = ("--out", tmp_path / "out")
    assert run(command, trained, option, cohorts / "grey", *more) == 2
    errors = capsys.readouterr().err
    assert "slices in brain (level 40 HU, width 80 HU), but the model sees brain" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_evaluating_in_another_window_warns(cohorts, make_config, normalisation, tmp_path, capsys):
    net = build_model(make_config(), normalisation)
    for windows, warned in (((STROKE,), True), ((BRAIN,), False), ((), False)):
        save_model(tmp_path, TrainedModel(net, make_config(), PICTURE, windows))
        assert run("evaluate", tmp_path, "--data", cohorts / "grey", "--cache", tmp_path / "cache") == 0
        assert ("WARNING: grey: slices in brain" in capsys.readouterr().out) == warned


# The bundle


@pytest.fixture(params=[2, 3], ids=["two windows", "three windows"])
def bundled(model, make_config, request):
    """A model that sees two of the windows, and the one that was trained on three."""
    if request.param == 3:
        return model
    half = Normalisation(mean=NORMALISATION.mean[:2], std=NORMALISATION.std[:2])
    config = make_config()
    return TrainedModel(build_model(config, half).eval(), config, PICTURE, (BRAIN, STROKE))


@pytest.mark.filterwarnings("ignore")
def test_monai_reads_the_windows_as_we_do(bundled, colour, tmp_path):
    write_bundle(tmp_path / "bundle", LogitNetwork(bundled.net).eval(), model_settings(bundled), {})
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle" / "configs" / "inference.json")
    parser["dataset_dir"] = str(colour.root)
    parser["device"] = "cpu"
    items = parser.get_parsed_content("dataset")
    network, inferer = LogitNetwork(bundled.net).eval(), parser.get_parsed_content("inferer")
    pixels = pixels_of(colour.cohort).seen_in(bundled.windows)
    for item, patient in zip(items, colour.cohort.patients, strict=True):
        image_ZKHW, _ = read_patient(patient, colour.root, pixels)
        assert np.array_equal(item["image"].numpy(), image_ZKHW.swapaxes(0, 1))
        found = inferer(item["image"][None], network)
        assert found.shape == (1, 1, 4, SIDE, SIDE)
        assert np.allclose(found[0, 0].numpy(), predict_volume(bundled, image_ZKHW), atol=1e-6)


def test_a_bundle_names_every_channel(model):
    told = bundle_metadata(model_settings(model), {})["network_data_format"]["inputs"]["image"]
    assert told["num_channels"] == len(told["channel_def"]) == channels(1, 3)
    assert told["channel_def"]["5"] == "slice -1 from the centre, window wide"
    assert json.dumps(told)
