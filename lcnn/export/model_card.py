"""The model card: what a model is, how good it was measured to be, and what it is not for.

After Mitchell et al. 2019, "Model Cards for Model Reporting". Every figure is taken from the run's evaluation.
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from data_prep.common.errors import InputError, first_line
from data_prep.common.wording import counted
from data_prep.preprocessing.picture import PictureConfig
from lcnn.export.graph import TOLERANCE
from lcnn.inference.model_file import CONFIG, WEIGHTS, ModelSettings
from lcnn.scoring.evaluation import comparison_text, estimate_text, find_comparison
from lcnn.scoring.intervals import Estimate

PACKAGES = ("torch", "torchvision", "monai", "numpy", "safetensors", "onnx", "onnxruntime")
ESTIMATE_KEYS = set(asdict(Estimate(None, None, None, 0)))
PREPARATIONS = {
    "remove_couch": "what is not the head is made air",
    "strip_skull": "what is outside the intracranial space is made air",
}
"""What is done to volumes where the setting of that name is true."""
NEEDED = ("cohort", "cohort_hash", "synthetic", "profile", "patients", "winner", "epochs")
"""Keys of an evaluation that the card quotes."""
UNITS = {"hd95": "distance_unit", "volume_difference": "volume_unit"}
"""Where the evaluation names the unit of a figure; the others have none."""


@dataclass(frozen=True)
class Evidence:
    """What a run knows about its winner."""

    run: str
    """The run's name."""
    evaluation: Mapping[str, Any]
    """Content of the run's evaluation.json."""

    @property
    def synthetic(self) -> bool:
        """Whether the cohort is the phantom."""
        return bool(self.evaluation["synthetic"])

    def figures(self, role: str) -> dict[str, Mapping[str, Any]]:
        """Estimates of a model's test figures by name; empty for a role that was not tested."""
        model = self.evaluation["models"].get(role, {})
        return {
            name: value for name, value in model.items() if isinstance(value, Mapping) and {*value} >= ESTIMATE_KEYS
        }

    def unit(self, role: str, name: str) -> str:
        """Unit of a figure, empty where it has none."""
        return str(self.evaluation["models"][role].get(UNITS.get(name, ""), ""))


@dataclass(frozen=True)
class Graph:
    """An exported graph, as far as it went."""

    name: str
    """Its file, within the model's folder."""
    difference: float | None
    """Largest difference from torch's logits; None where it failed."""
    fault: str | None = None
    """Why there is none, in one line."""

    def __str__(self) -> str:
        if self.fault is not None:
            return f"{self.name} is missing: {self.fault}"
        return f"{self.name}: at most {self.difference:.1g} from torch's logits"


def read_evidence(run: Path) -> Evidence | None:
    """The evidence in a run's folder; None where the folder was not evaluated.

    Raises:
        InputError: the evaluation is damaged.
    """
    path = run / "evaluation.json"
    if not path.is_file():
        return None
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        if "winner" not in evaluation["models"]:
            return None  # a cohort's scores, not a run's evaluation
        lacking = [key for key in NEEDED if key not in evaluation]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); restore it from a copy of the run") from error
    if lacking:
        raise InputError(f"{path}: {lacking[0]} is missing; restore it from a copy of the run")
    return Evidence(run.resolve().name, evaluation)


def model_card(settings: ModelSettings, evidence: Evidence | None, graphs: Sequence[Graph], parameters: int) -> str:
    """The card as Markdown.

    Args:
        settings: the model's.
        evidence: what its run measured; None: nothing was.
        graphs: what it was exported to.
        parameters: weights of the network.
    """
    label = " (trained on SYNTHETIC data)" if evidence and evidence.synthetic else ""
    sections = {
        "Measured": _measured(evidence) if evidence else ["Nothing: this model was exported without a test."],
        "Intended use and limits": _limits(settings, evidence),
        "Where it comes from": _provenance(settings, evidence),
        "Files": _files(settings, graphs),
        "Settings": _settings(settings),
    }
    lines = [f"# LCNN: stroke lesions on head CT{label}", "", "**Research software. Not for clinical use.**", ""]
    lines.append(_model(settings, parameters))
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _model(settings: ModelSettings, parameters: int) -> str:
    side, training = settings.picture.image_size, settings.training
    crop = "cropped to the head and resized" if settings.picture.crop == "head" else "resized"
    return (
        f"The network sees {2 * training.T + 1} neighbouring slices (T = {training.T}) and an overview of the volume, "
        "and marks lesion on the slice in the middle. A local path on the aligned stack gives "
        f"{training.fusion.local:.0%} of the logits, a global path ({training.model.global_backbone}) on the middle "
        f"slice the rest. {parameters:,} parameters. Slices are {crop} to {side} x {side} pixels{_windows(settings)}."
        f"{_preparation(settings.picture)}"
    )


def _windows(settings: ModelSettings) -> str:
    names = [window.name for window in settings.windows]
    return f", each in {len(names)} windows as channels ({', '.join(names)})" if len(names) > 1 else ""


def _preparation(picture: PictureConfig) -> str:
    done = [words for name, words in PREPARATIONS.items() if getattr(picture, name)]
    return f" Before that, {' and '.join(done)}." if done else ""


def _measured(evidence: Evidence) -> Iterator[str]:
    evaluation, patients = evidence.evaluation, evidence.evaluation["patients"]
    kind = " (**SYNTHETIC**: says nothing about real patients)" if evidence.synthetic else ""
    yield (
        f"Cohort {evaluation['cohort']}{kind}, profile {evaluation['profile'] or 'none'}: {patients['test']} test "
        f"patients, after training on {patients['train'] + patients['val']} others. Means over patients with 95% "
        "patient-bootstrap intervals; n counts the patients that have the figure."
    )
    yield ""
    yield from _table(evidence)
    yield from _difference(evidence)
    yield from _false_alarms(evaluation["models"]["winner"])


def _table(evidence: Evidence) -> Iterator[str]:
    names = {"winner": "this model", "defaults": "the search's defaults"}
    columns = {role: evidence.figures(role) for role in names if evidence.figures(role)}
    yield f"| figure | {' | '.join(names[role] for role in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for figure in columns["winner"]:
        cells = (estimate_text(column[figure], evidence.unit(role, figure)) for role, column in columns.items())
        yield f"| {figure.replace('_', ' ')} | {' | '.join(cells)} |"


def _difference(evidence: Evidence) -> Iterator[str]:
    comparison = find_comparison(evidence.evaluation, "defaults", "dice")
    if comparison is not None:
        yield ""
        yield f"Test Dice above the defaults', paired by patient: {comparison_text(comparison)}."


def _false_alarms(model: Mapping[str, Any]) -> Iterator[str]:
    if model["lesion_free_patients"]:
        yield ""
        yield (
            f"False alarms: on {model['lesion_free_with_false_alarm']} of {model['lesion_free_patients']} test "
            "patients without lesion."
        )


def _limits(settings: ModelSettings, evidence: Evidence | None) -> Iterator[str]:
    windows = "; ".join(map(str, settings.windows)) or "its cohort does not say how"
    yield (
        "For research on segmentation and on hyperparameter search. Not for diagnosis, triage or treatment, and no "
        "medical device."
    )
    yield ""
    yield "- It learned from one cohort; other scanners, protocols, windows and kinds of lesion are untested."
    yield (
        f"- It takes 8-bit grey slices, windowed as those that it was trained on ({windows}), from the skull base "
        "upward; `python -m lcnn predict` windows NIfTI and DICOM itself."
    )
    yield "- It does not check what it is given: a picture without a head is segmented like any other."
    if evidence and evidence.synthetic:
        yield "- It was trained on a computed phantom and has never seen a patient."
    if evidence:
        yield f"- {counted(evidence.evaluation['patients']['test'], 'patient')} tested it: mind the intervals."


def _provenance(settings: ModelSettings, evidence: Evidence | None) -> Iterator[str]:
    if evidence:
        winner, epochs = evidence.evaluation["winner"], evidence.evaluation["epochs"]["winner"]
        yield f"- run {evidence.run}: the settings of trial {winner}, trained for {counted(epochs, 'epoch')}"
        yield f"- cohort hash {evidence.evaluation['cohort_hash']}"
    yield f"- split hash {settings.split_hash or 'none'} (SHA-256 of the split file)"
    names = [f" in window {window.name}" for window in settings.windows] if len(settings.windows) > 1 else [""]
    for name, mean, std in zip(names, settings.normalisation.mean, settings.normalisation.std, strict=True):
        yield f"- grey values (0..255) of the training patients{name}: mean {mean:.4f}, deviation {std:.4f}"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    yield f"- exported with Python {platform.python_version()}, {versions}"


def _files(settings: ModelSettings, graphs: Sequence[Graph]) -> Iterator[str]:
    each = ", each in all windows" if len(settings.windows) > 1 else ""
    yield f"- `{WEIGHTS}`, `{CONFIG}`: the weights and all else that `python -m lcnn predict --model` needs"
    yield from (f"- {graph}" for graph in graphs)
    yield "- `bundle/`: a MONAI bundle; `bundle/docs/README.md` says how to run it"
    if graphs:
        yield ""
        yield (
            "The graphs take `image`, grey values 0..255, float32 (batch, channels, rows, columns): the means of the "
            f"lower, middle and upper third of a patient's slices, then the stack's slices{each}. They give `logits` "
            "(batch, 1, rows, columns), the log-odds of lesion. The batch may have any size. `torch.export.load` reads "
            f".pt2, onnxruntime .onnx. A graph further than {TOLERANCE:g} from torch, or than that share of the "
            "largest logit, would not be here."
        )


def _settings(settings: ModelSettings) -> Iterator[str]:
    yield "```yaml"
    yield yaml.safe_dump(settings.training.model_dump(mode="json"), sort_keys=False).rstrip()
    yield "```"
