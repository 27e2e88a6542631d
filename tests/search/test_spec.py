"""The space file: what is accepted, what is refused, and in which words."""

from pathlib import Path

import pytest

from data_prep.common.errors import InputError
from search.spec.settings import Overrides, Spec, load_spec
from search.spec.space import SearchSpace

SPACES = Path(__file__).parents[2] / "spaces"
MINIMAL = """
name: small
train: {epochs: 4}
scheduler: {grace: 2}
search:
  optim.lr: {log: [1e-4, 1e-2]}
profiles:
  cpu: {model.width: 8}
  gpu: {}
"""


def load(tmp_path: Path, text: str, *, has_gpu: bool = False, **overrides: object) -> Spec:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    spec = load_spec(path, Overrides(**overrides), has_gpu=has_gpu)  # type: ignore[arg-type]
    SearchSpace(spec.search, spec.training, str(path))
    return spec


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_shipped_space_is_valid_in_every_profile(path: Path, profile: str) -> None:
    spec = load_spec(path, Overrides(profile=profile), has_gpu=False)
    space = SearchSpace(spec.search, spec.training, str(path))
    assert space.config(space.params(spec.training)) == spec.training


def test_the_gpu_profile_of_the_shipped_space_is_the_full_model() -> None:
    spec = load_spec(SPACES / "lcnn.yaml", Overrides(profile="gpu"), has_gpu=True)
    assert (spec.cohort.image_size, spec.training.model.width, spec.training.model.global_backbone) == (
        512,
        32,
        "resnext50_32x4d",
    )
    assert (
        spec.training.T,
        spec.training.fusion.local,
        spec.training.loss.dice,
        spec.training.loss.alignment,
        spec.training.optim.lr,
    ) == (1, 0.7, 0.5, 0.1, 1e-3)
    assert spec.training.schedule.model_dump() == {"name": "cosine_restarts", "t0": 10, "t_mult": 2}


@pytest.mark.parametrize(("has_gpu", "profile"), [(True, "gpu"), (False, "cpu")])
def test_auto_takes_the_profile_of_the_hardware(tmp_path: Path, has_gpu: bool, profile: str) -> None:
    assert load(tmp_path, MINIMAL, has_gpu=has_gpu).profile == profile


def test_the_command_line_overrides_the_profile_which_overrides_the_file(tmp_path: Path) -> None:
    text = MINIMAL.replace("name: small", "name: small\nmodel: {width: 16}")
    assert load(tmp_path, text, profile="gpu").training.model.width == 16
    assert load(tmp_path, text).training.model.width == 8
    assert load(tmp_path, text, settings=("model.width=12",)).training.model.width == 12


def test_trials_hours_and_name_reach_the_spec(tmp_path: Path) -> None:
    spec = load(tmp_path, MINIMAL, trials=7, hours=0.5, name="other")
    assert (spec.budget.trials, spec.budget.hours, spec.name) == (7, 0.5, "other")


def test_the_winner_is_exported_to_all_graphs_or_to_those_that_are_named(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).exports == ("torch", "onnx")
    assert load(tmp_path, MINIMAL, settings=("exports=[]",)).exports == ()
    with pytest.raises(InputError, match=r"exports.0: input should be 'torch' or 'onnx'"):
        load(tmp_path, MINIMAL, settings=("exports=[tflite]",))


def test_a_file_that_names_the_former_alignment_as_off_is_read_without_it(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL + "cohort: {align_midline: false}") == load(tmp_path, MINIMAL)
    assert load(tmp_path, MINIMAL, settings=("cohort.align_midline=false",)) == load(tmp_path, MINIMAL)


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, settings=("optim.lr=1e-3",)).training.optim.lr == 0.001


def test_a_searched_range_can_be_replaced_and_removed(tmp_path: Path) -> None:
    text = MINIMAL.replace("search:", "search:\n  T: {choice: [1, 2]}")
    spec = load(tmp_path, text, settings=("search.T=null", "T=3", "search.fusion.local={uniform: [0.5, 0.9]}"))
    assert set(spec.search) == {"optim.lr", "fusion.local"}
    assert spec.training.T == 3


BAD_FILES = {
    "unknown key": ("modle: {width: 8}", ["modle", "unknown key", "did you mean model?"]),
    "unknown key in a section": ("model: {widht: 8}", ["model.widht", "did you mean model.width?"]),
    "text for a number": ("optim: {lr: fast}", ["optim.lr", "number", '"fast"']),
    "number out of range": ("fusion: {local: 1.5}", ["fusion.local", "less than or equal to 1", "1.5"]),
    "yes for a number": ("T: yes", ["T", "integer", "true"]),
    "a pair too short": ("loss: {class_weights: [0.1]}", ["loss.class_weights"]),
    "unknown scheduler": ("scheduler: {name: hyper}", ["scheduler.name", "'hyperband', 'median' or 'none'"]),
    "unknown schedule": ("schedule: {name: linear}", ["schedule", "cosine_restarts"]),
    "wrong field of a schedule": ("schedule: {name: polynomial, t0: 3}", ["schedule.t0", "unknown key"]),
    "no trials": ("budget: {trials: 0}", ["budget.trials", "greater than or equal to 1"]),
    "no time": ("budget: {hours: 0}", ["budget.hours", "greater than 0"]),
    "grace beyond the budget": ("scheduler: {grace: 9}", ["scheduler.grace", "train.epochs = 4", "lower grace"]),
    "shares": ("cohort: {split: {train: 0.9}}", ["cohort.split", "add up to 1"]),
    "section is a list": ("model: [1]", ["model"]),
    "a key twice": ("T: 1\nT: 2", ["line", "T is given twice"]),
    "broken YAML": ("model: {width: 8", ["line", "mend the YAML"]),
    "a date": ("name: 2024-01-01", ["quote it"]),
    "profile in the file": ("profile: gpu", ["profile: chosen with --profile"]),
    "heads that do not divide": ("model: {heads: 3}", ["model", "heads: 3 does not divide 32, half the channels"]),
    "weights of another backbone": (
        "model: {weights: imagenet, global_backbone: resnext14_4x2d}",
        ["model", "weights: imagenet is for resnext50_32x4d"],
    ),
    "enormous seed": ("train: {seed: 99999999999}", ["train.seed", "less than"]),
    "name with a slash": ("name: a/b", ["name", "letters, digits"]),
    "two sections at odds": (
        "train: {epochs: 4, batch_size: 1}\nmodel: {norm: batch}",
        ["space.yaml: model.norm: batch needs two stacks", "set norm: group"],
    ),
    "the former alignment": (
        "cohort: {align_midline: true}",
        ["cohort: align_midline: volumes are no longer turned upright", "leave it out and train anew"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_file_gives_one_line_with_file_key_and_remedy(tmp_path: Path, case: str) -> None:
    addition, words = BAD_FILES[case]
    key = addition.split(":", maxsplit=1)[0]
    kept = [line for line in MINIMAL.splitlines() if not line.startswith(f"{key}:") or case == "a key twice"]
    with pytest.raises(InputError) as error:
        load(tmp_path, "\n".join([*kept, addition]))
    message = str(error.value)
    assert "\n" not in message
    assert "space.yaml" in message
    for word in words:
        assert word in message


BAD_COMMANDS = {
    "no equals sign": ({"settings": ("model.width",)}, ["--set model.width", "key=value"]),
    "unknown key": ({"settings": ("model.depth=3",)}, ["model.depth", "unknown key"]),
    "through a value": ({"settings": ("T.x=3",)}, ["T.x", "T is a value, not a section"]),
    "unknown profile": ({"profile": "tpu"}, ["no profile tpu", "cpu, gpu"]),
    "negative trials": ({"trials": -1}, ["budget.trials", "-1"]),
    "absent range": ({"settings": ("search.lr=null",)}, ["search.lr", "no such range; searched are optim.lr"]),
    "profile as a setting": ({"settings": ("profile=gpu",)}, ["profile is chosen with --profile"]),
    "profiles as a setting": ({"settings": ("profiles.cpu.T=2",)}, ["profile is chosen with --profile"]),
    "no date": ({"settings": ("name=2026-13-45",)}, ["--set name", "mend the YAML"]),
    "circular": ({"settings": ("train=&a {x: *a}",)}, ["quote it"]),
    "broken value": ({"settings": ("model={width: 8",)}, ["--set model", "mend the YAML"]),
}


@pytest.mark.parametrize("case", BAD_COMMANDS, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_override_gives_one_line(tmp_path: Path, case: str) -> None:
    overrides, words = BAD_COMMANDS[case]
    text = MINIMAL.replace("name: small", "name: small\nT: 1")
    with pytest.raises(InputError) as error:
        load(tmp_path, text, **overrides)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "No such file"), (b"\xff\xfe\x00", "UTF-8"), (b"- a\n- b\n", "mapping"), (b"", "mapping")],
)
def test_a_file_that_is_no_space_file_is_refused(tmp_path: Path, content: bytes | None, word: str) -> None:
    path = tmp_path / "space.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=word):
        load_spec(path, Overrides(), has_gpu=False)
