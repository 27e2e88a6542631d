"""The model as a MONAI bundle: a folder that ``python -m monai.bundle`` verifies and runs.

Layout and keys after MONAI's bundle specification (docs.monai.io, "MONAI Bundle Specification").
"""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from data_prep.intensity.window import in_words
from lcnn.export.graph import INPUT, LogitNetwork
from lcnn.inference.model_file import ModelSettings
from lcnn.network.stacks import OVERVIEW, channels
from lcnn.scoring.evaluate import THRESHOLD

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
VERSION = "0.1.0"
"""Version of the bundle's layout."""
TASK = "Segmentation of stroke lesions on head CT"
OURS = "lcnn.export.inference"
REQUIRED = ("nibabel", "pytorch-ignite", "pillow", "pydantic")
"""What a bundle needs besides what MONAI itself requires, and besides this package."""
OVERVIEW_PARTS = ("lower", "middle", "upper")
"""The part of the volume that each picture of the overview is the mean of."""


def write_bundle(folder: Path, network: LogitNetwork, settings: ModelSettings, measured: Mapping[str, Any]) -> None:
    """Write the bundle.

    Args:
        folder: where; made.
        network: whose weights it holds.
        settings: the model's.
        measured: test figures by name, empty where the model was not tested.
    """
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    # The weights are in the file, so a path to initial ones has no place in a bundle that travels.
    bare = settings.model_copy(update={"training": settings.training.without_initial_weights()})
    _write_json(folder / "configs" / "metadata.json", bundle_metadata(bare, measured))
    _write_json(folder / "configs" / "inference.json", inference_config(bare))
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, folder / "models" / "model.pt")
    (folder / "docs" / "README.md").write_text(GUIDE, encoding="utf-8")


def bundle_metadata(settings: ModelSettings, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle is and what its network takes and gives."""
    side, width = settings.picture.image_size, 2 * settings.training.T + 1
    names = [f", window {window.name}" for window in settings.windows] if len(settings.windows) > 1 else [""]
    shown = [f"slice {k - settings.training.T:+d} from the centre{name}" for k in range(width) for name in names]
    slices = {str(channel): text for channel, text in enumerate(shown, start=OVERVIEW)}
    overview = {str(k): f"mean of the slices of the {part} third" for k, part in enumerate(OVERVIEW_PARTS)}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "exported"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch"),
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {name: metadata.version(name) for name in REQUIRED},
        "name": "LCNN",
        "task": TASK,
        "description": "LCNN marks stroke lesions slice by slice, from a stack of neighbouring slices and an overview "
        "of the volume. Research software, not for clinical use.",
        "authors": "made by LCNN Search",
        "copyright": "that of whoever trained the model",
        "data_type": "png",
        "image_classes": f"head CT in 8 bits, windowed to {in_words(settings.windows)}, from the skull base upward",
        "pred_classes": "one channel: log-odds of lesion on the centre slice",
        "eval_metrics": dict(measured),
        "intended_use": "Research on methods; not for clinical use",
        "network_data_format": {
            "inputs": {
                INPUT: {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "CT",
                    "num_channels": channels(settings.training.T, len(names)),
                    "spatial_shape": [side, side],
                    "dtype": "float32",
                    "value_range": [0, 255],
                    "is_patch_data": False,
                    "channel_def": {**overview, **slices},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": 1,
                    "spatial_shape": [side, side],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {"0": "log-odds of lesion"},
                }
            },
        },
    }


def inference_config(settings: ModelSettings) -> dict[str, Any]:
    """MONAI's configuration of an inference: our network and inferer between MONAI's reader, engine and writer."""
    windows = len(settings.windows)
    names = ("as_stack", "grey_picture", "colour_picture", "by_window", "patient_items")
    # MONAI stacks grey slices along a new axis, and joins the colours of all slices along theirs.
    to_windows: list[dict[str, Any]] = [
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": -1},
        {"_target_": "Lambdad", "keys": "image", "func": f"$lambda image: by_window(image, {windows})"},
    ]
    to_grey: list[dict[str, Any]] = [
        {"_target_": "Lambdad", "keys": "image", "func": "$as_stack"},
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
    ]
    return {
        "imports": ["$import torch", *(f"$from {OURS} import {name}" for name in names)],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "settings": settings.model_dump(mode="json"),
        "network_def": {"_target_": f"{OURS}.logit_network", "settings": "@settings"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    "dtype": "$torch.uint8",
                    "reader": {
                        "_target_": "PILReader",
                        "converter": "$colour_picture" if windows > 1 else "$grey_picture",
                        "reverse_indexing": False,
                    },
                },
                *(to_windows if windows > 1 else to_grey),
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$patient_items(@dataset_dir)",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": f"{OURS}.StackInferer", "settings": "@settings"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": THRESHOLD},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "lesion",
                    "output_ext": ".nii.gz",
                    "output_dtype": "$torch.uint8",
                    "data_root_dir": "@dataset_dir",
                    "separate_folder": False,
                    "resample": False,
                },
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


GUIDE = """# LCNN as a MONAI bundle

Marks stroke lesions on head CT slices. Research software, **not for clinical use**. What the model was trained on and
its results are in the model card that it was exported with.

MONAI reads the slices, runs the engine and writes the masks. The network, how slices are prepared for it and their
stacks are LCNN's: the package `lcnn` (of LCNN Search) must be importable. What needs a spacing (couch removal, skull
stripping, where the model was trained with them) takes a head of usual size.

Run these in this folder; `--dataset_dir` takes a folder of slices (8-bit grey, from the skull base upward; for a model
of several windows colour pictures, whose red, green and blue they are in the order of `settings.windows` in
`configs/inference.json`), or a folder of such folders, one a patient:

    python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath schema.json
    python -m monai.bundle verify_net_in_out network_def --meta_file configs/metadata.json \\
        --config_file configs/inference.json
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER --output_dir OUT

`verify_metadata` fetches MONAI's schema from the network unless the file given as `--filepath` is there already.

A patient's mask comes below OUT as the slices lie below FOLDER, under the name of the first slice:
`<patient>/001_lesion.nii.gz`: uint8, 0 and 1, axes slice, row and column of the slices as given, without spacing.

The network alone takes grey values 0..255, float32 (batch, channels, rows, columns): first the overview, that is the
means of the lower, middle and upper third of the patient's slices, then the 2T + 1 slices of the stack, each in all of
the model's windows, all of one patient, prepared and resized alike. It gives the log-odds of lesion on the centre
slice. `configs/metadata.json` names the channels.
"""
