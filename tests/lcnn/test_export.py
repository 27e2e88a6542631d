"""A model leaves: graphs that compute what torch does, a card with the measured figures, a bundle that MONAI runs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out
from torch import nn

from data_prep.cohort.normalisation import Normalisation
from data_prep.cohort.store import read_windows
from data_prep.common.errors import InputError
from data_prep.preprocessing.picture import PictureConfig
from lcnn.export.graph import ExportFailed, LogitNetwork, grey_noise, largest_difference, trace, write_torch
from lcnn.export.model_card import Evidence, read_evidence
from lcnn.export.model_folder import export_model, refuse_foreign
from lcnn.inference.model_file import WEIGHTS, TrainedModel, hash_split, load_model, read_settings
from lcnn.inference.predict import input_patients, predict_volume
from lcnn.network.model import LCNN, build_model
from lcnn.scoring.calibration import BINS, Reliability
from lcnn.scoring.evaluate import THRESHOLD, PatientResult
from lcnn.scoring.evaluation import summarise, write_evaluation

ROOT = Path(__file__).parents[2]
SIDE = 32
PICTURE = PictureConfig(image_size=SIDE, crop="none")
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {"num_channels": {"type": "integer"}, "value_range": {"items": {"type": "number"}}},
}
TENSORS = {"type": "object", "additionalProperties": TENSOR, "minProperties": 1}
# What MONAI's published schema asks for, so that no test needs the network.
SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
        *("task", "description", "authors", "copyright", "network_data_format"),
    ],
    "properties": {
        **{key: {"type": "object"} for key in ("changelog", "eval_metrics", "required_packages_version")},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}


def awake(config, normalisation, *, kind=LCNN):
    """A network in which nothing is zero: the pose turns, the attention speaks, lesion and background both occur."""
    torch.manual_seed(3)
    net = build_model(config, normalisation)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        net.local.head.bias.zero_()
        net.global_path.head.bias.zero_()
    net.__class__ = kind
    return net.eval()


def figures(patient, dice):
    empty = Reliability((0,) * BINS, (0,) * BINS, (0.0,) * BINS)
    return PatientResult(patient, dice, 0.7, 3.0, 0.5, 0.5, 0.8, 1, 2, 10.0, 12.0, "mm", "ml", empty)


@pytest.fixture(scope="module")
def evidence():
    results = {
        role: [figures("ada", dice), figures("bob", dice + 0.2)] for role, dice in (("winner", 0.5), ("defaults", 0.4))
    }
    content = {
        "cohort": "phantom",
        "cohort_hash": "c0ffee",
        "synthetic": True,
        "profile": "cpu",
        "patients": {"train": 7, "val": 2, "test": 2},
        "winner": 4,
        "epochs": {"winner": 9, "defaults": 8},
        **summarise(results),
    }
    return Evidence("demo", content)


@pytest.fixture(scope="module")
def model(make_config, normalisation):
    config = make_config({"train.batch_size": 2})
    return TrainedModel(awake(config, normalisation), config, PICTURE)


@pytest.fixture(scope="module")
def folder(model, evidence, tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    (place / "split.json").write_text('{"test": ["ada", "bob"]}')
    graphs = export_model(place / "model", model, split_hash=hash_split(place), evidence=evidence)
    assert [(graph.name, graph.fault) for graph in graphs] == [
        ("exports/model.pt2", None),
        ("exports/model.onnx", None),
    ]
    return place / "model"


@pytest.mark.parametrize("batch", [1, 2, 5])
@torch.no_grad()
def test_the_graphs_compute_what_torch_does_for_any_batch(folder, model, batch):
    image = grey_noise(model.net, SIDE, batch) * torch.linspace(0.2, 1, SIDE)  # darker on one side
    logits = model.net(image).logits_BHW.unsqueeze(1)
    assert model.net(image).pose.angle_rad_B.abs().max() > 0.01
    assert logits.std() > 0.1
    session = onnxruntime.InferenceSession(folder / "exports" / "model.onnx", providers=["CPUExecutionProvider"])
    (onnx,) = session.run(["logits"], {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(onnx), logits, rtol=0, atol=1e-4)
    graph = torch.export.load(folder / "exports" / "model.pt2").module()
    torch.testing.assert_close(graph(image), logits, rtol=0, atol=1e-4)


def test_the_folder_is_a_model_again(folder, model):
    loaded = load_model(folder)
    assert (loaded.config, loaded.picture) == (model.config, model.picture)
    for name, value in model.net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], value), name
    split = (folder.parent / "split.json").read_bytes()
    assert read_settings(folder).split_hash == hashlib.sha256(split).hexdigest()


def test_nothing_that_leaves_names_a_patient_or_a_path_of_this_machine(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for word in (str(ROOT), str(folder.parent), '"ada"', "bob"):
                assert word.encode() not in content, file


def test_the_card_tells_what_was_measured_and_what_the_model_is_not_for(folder, evidence):
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "Not for clinical use",
        "SYNTHETIC",
        "Cohort phantom",
        "profile cpu: 2 test patients, after training on 9 others",
        "| figure | this model | the search's defaults |",
        "| dice | 0.600 [0.500, 0.700] (n = 2) | 0.500 [0.400, 0.600] (n = 2) |",
        "| hd95 | 3.000 [3.000, 3.000] mm (n = 2) |",
        "paired by patient: 0.100",
        "settings of trial 4, trained for 9 epochs",
        "cohort hash c0ffee",
        f"torch {torch.__version__.split('+')[0]}",
        "exports/model.onnx: at most",
    ):
        assert words in card


BAD_EVALUATIONS = {
    "no JSON": ('{"models": ', "damaged"),
    "no mapping": ("[]", "damaged"),
    "no cohort": ('{"models": {"winner": {}}}', "cohort is missing"),
}


@pytest.mark.parametrize("case", BAD_EVALUATIONS)
def test_a_damaged_evaluation_is_refused(tmp_path, case):
    text, words = BAD_EVALUATIONS[case]
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(InputError, match=rf"evaluation\.json: {words}"):
        read_evidence(tmp_path)


def test_a_run_s_evaluation_is_evidence_and_a_cohort_s_scores_are_not(tmp_path, evidence):
    assert read_evidence(tmp_path) is None
    write_evaluation(tmp_path / "evaluation.json", evidence.evaluation)
    found = read_evidence(tmp_path)
    assert found.run == tmp_path.name
    assert found.figures("winner") == evidence.figures("winner")
    write_evaluation(tmp_path / "evaluation.json", {"models": {"model": {}}})
    assert read_evidence(tmp_path) is None


def test_the_card_of_a_model_without_a_run_claims_nothing(tmp_path, model):
    assert export_model(tmp_path / "model", model, formats=()) == []
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "exported without a test" in card
    assert "Dice" not in card
    assert not (tmp_path / "model" / "exports").exists()


def test_the_card_tells_how_volumes_are_prepared(tmp_path, model):
    prepared = replace(model, picture=model.picture.model_copy(update={"strip_skull": True}))
    export_model(tmp_path / "model", prepared, formats=())
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "Before that, what is outside the intracranial space is made air." in card
    assert "what is not the head" not in card


def test_another_stack_of_an_odd_size_in_three_windows_is_traced_too(make_config, tmp_path):
    normalisation = Normalisation(mean=(110.0, 90.0, 120.0), std=(30.0, 40.0, 20.0))
    network = LogitNetwork(awake(make_config({"T": 2}), normalisation)).eval()
    assert write_torch(trace(network, 33), network, 33, tmp_path / "model.pt2") < 1e-5


@pytest.mark.parametrize("fault", [0.01, float("nan")])
def test_a_graph_of_other_numbers_is_refused(model, fault):
    network = LogitNetwork(model.net)
    assert largest_difference(network, SIDE, lambda image: network(image) + 1e-5, "model.pt2") < 2e-5
    with pytest.raises(ExportFailed, match=r"model\.pt2: .* off torch's logits in a batch of 1"):
        largest_difference(network, SIDE, lambda image: network(image) + fault, "model.pt2")


class Undecided(LCNN):
    """Takes another way by what it sees, which no graph can."""

    def forward(self, grey_BCHW):
        return super().forward(grey_BCHW if grey_BCHW.sum() > 0 else -grey_BCHW)


def test_a_graph_that_cannot_be_made_costs_the_graph_alone(make_config, normalisation, tmp_path):
    config = make_config()
    model = TrainedModel(awake(config, normalisation, kind=Undecided), config, PICTURE)
    graphs = export_model(tmp_path / "model", model)
    assert [graph.name for graph in graphs] == ["exports/model.pt2", "exports/model.onnx"]
    assert all(graph.fault.startswith("torch.export: ") and "\n" not in graph.fault for graph in graphs)
    assert list((tmp_path / "model" / "exports").iterdir()) == []
    assert "exports/model.onnx is missing: torch.export: " in (tmp_path / "model" / "README.md").read_text()
    assert load_model(tmp_path / "model").config == config


def test_a_later_export_takes_the_place_of_what_was_there(tmp_path, model):
    out = tmp_path / "model"
    out.mkdir()
    (out / "left_over").touch()
    export_model(out, model, formats=())
    assert not (out / "left_over").exists()
    assert load_model(out).config == model.config
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_a_model_may_give_way_where_a_person_names_the_folder(tmp_path):
    refuse_foreign(tmp_path / "new")
    refuse_foreign(tmp_path)
    (tmp_path / "thesis.tex").touch()
    for place in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(InputError, match="something else than a model"):
            refuse_foreign(place)
    (tmp_path / WEIGHTS).touch()
    refuse_foreign(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:monai")
def test_monai_verifies_the_bundle(folder, tmp_path):
    configs = folder / "bundle" / "configs"
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    meta = str(configs / "metadata.json")
    verify_metadata(meta_file=meta, filepath=tmp_path / "schema.json")
    verify_net_in_out("network_def", meta_file=meta, config_file=str(configs / "inference.json"), device="cpu")
    content = json.loads((configs / "metadata.json").read_text())
    assert content["eval_metrics"]["dice"]["mean"] == pytest.approx(0.6)
    assert list(content["network_data_format"]["inputs"]["image"]["channel_def"]) == ["0", "1", "2", "3", "4", "5"]


def test_monai_runs_the_bundle_and_marks_what_we_mark(folder, model, cohort_root, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    shutil.copytree(cohort_root / "images", scans)
    first = sorted(next(path for path in scans.iterdir() if path.is_dir()).iterdir())[1]
    (scans / "single").mkdir()
    shutil.copy(first, scans / "single" / "001.png")  # a patient of one slice, which MONAI does not stack
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    done = subprocess.run(
        [*command, "--dataset_dir", str(scans), "--output_dir", str(out)],
        cwd=folder / "bundle",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    marked = 0
    for name, files in input_patients(scans):
        expected = predict_volume(model, read_windows(files)) >= THRESHOLD
        mask = np.asarray(nibabel.load(out / name / f"{files[0].stem}_lesion.nii.gz").dataobj)
        assert np.array_equal(mask, expected)
        marked += expected.any() and not expected.all()
    assert marked


def test_the_networks_of_other_makers_have_no_graph(tmp_path, make_config):
    with pytest.raises(TypeError, match="Linear"):
        export_model(tmp_path / "model", TrainedModel(nn.Linear(1, 1), make_config(), PICTURE))
    assert list(tmp_path.iterdir()) == []
