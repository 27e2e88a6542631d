"""How well the alignment network finds the midline: its angle against the phantom's true pose.

    python -m experiments.alignment                         the default phantom (SYNTHETIC), 96 pixels
    python -m experiments.alignment --steps 400 --seed 1

The network is trained alone by its symmetry loss, on augmented stacks of the training and validation patients, and
its angle is compared with the true in-plane angle of the test patients: of every stack, and of every volume (the mean
over its stacks). Beside it: doing nothing, and a network that sees the slices of a stack in place of the overview.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.layout import MANIFEST
from data_prep.cohort.split import SplitConfig, make_split
from data_prep.cohort.store import Store
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.phantom.cohort import TRUTH, build_phantom_cohort
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocessing.picture import PictureConfig
from lcnn.config import AugmentConfig, ModelConfig
from lcnn.network.alignment import AlignmentNetwork, asymmetry
from lcnn.network.stacks import OVERVIEW, StackSource
from lcnn.training.augment import augment, draw_affine
from lcnn.training.loss import symmetry_loss

HALF_WIDTH = 1
"""With it a stack has as many slices as an overview has pictures, and one network fits both."""
BATCH = 8
LEARNING_RATE = 2e-3
CACHE = Path("results/.cache")


@dataclass(frozen=True)
class AngleError:
    """Mean absolute errors of the in-plane angle on test patients, in degrees."""

    nothing: float
    """Of not aligning at all: the mean absolute true angle."""
    stack: float
    """Of the angle found in each stack."""
    volume: float
    """Of the mean angle over each patient's stacks."""


def train_alignment(store: Store, patients: Sequence[str], *, steps: int, seed: int, with_overview: bool) -> nn.Module:
    """An alignment network after a short training by the symmetry loss alone."""
    torch.manual_seed(seed)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    model = ModelConfig()
    network = AlignmentNetwork(OVERVIEW, max_angle_deg=model.max_angle_deg, max_shift=model.max_shift)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    source = StackSource(store, patients, HALF_WIDTH)
    for _ in range(steps):
        grey, lesion = source.batch(rng.integers(0, len(source), BATCH))
        matrix = draw_affine(AugmentConfig(), BATCH, generator)
        unit = seen(augment(grey.float(), lesion.float(), matrix)[0] / 255, with_overview)
        loss = symmetry_loss(asymmetry(unit, network(unit)), asymmetry(unit, None))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def seen(unit_BCHW: Tensor, with_overview: bool) -> Tensor:
    """The pictures in which the pose is looked for: the overview's, or in their place the stack's own slices."""
    return unit_BCHW[:, :OVERVIEW] if with_overview else unit_BCHW[:, -OVERVIEW:]


@torch.inference_mode()
def angle_error(
    network: nn.Module, store: Store, patients: Sequence[str], true_deg: Mapping[str, float], *, with_overview: bool
) -> AngleError:
    """Errors over all stacks of ``patients``, whose true angles are given in degrees."""
    source = StackSource(store, patients, HALF_WIDTH)
    found = torch.cat(
        [
            network(seen(source.batch(positions)[0].float() / 255, with_overview)).angle_rad_B
            for positions in source.in_order(BATCH)
        ]
    )
    found_deg = np.degrees(found.numpy())
    true = np.array([true_deg[name] for name in patients])
    volumes = np.array([found_deg[source.owner == i].mean() for i in range(len(patients))])
    return AngleError(
        nothing=float(np.abs(true).mean()),
        stack=float(np.abs(found_deg - true[source.owner]).mean()),
        volume=float(np.abs(volumes - true).mean()),
    )


def true_angles(root: Path) -> dict[str, float]:
    """In-plane angle of each phantom patient in degrees."""
    truth = json.loads((root / TRUTH).read_text(encoding="utf-8"))
    return {patient["patient"]: patient["pose"]["angle_deg"] for patient in truth["patients"]}


def measure(config: PhantomConfig, root: Path, cache: Path, *, steps: int, seed: int, jobs: int) -> list[AngleError]:
    """Errors with and without the overview, on the test patients of a phantom that is built where it is missing."""
    if not (root / MANIFEST).exists():
        build_phantom_cohort(root, config, jobs)
    store = compile_cohort(root, cache, PictureConfig(image_size=96)).store
    split = make_split(store, SplitConfig())
    errors = []
    for with_overview in (True, False):
        network = train_alignment(
            store, (*split.train, *split.val), steps=steps, seed=seed, with_overview=with_overview
        )
        errors.append(angle_error(network, store, split.test, true_angles(root), with_overview=with_overview))
    return errors


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the errors; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps of 8 stacks (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, stacks and augmentation (default 0)")
    parser.add_argument("--patients", type=int, default=60, help="phantom patients (default 60)")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.patients < 10:
        raise InputError("--steps must be at least 1, --patients at least 10")
    root = CACHE / f"phantom-alignment-{options.patients}"
    config = PhantomConfig(patients=options.patients, pixel_mm=2.0)
    whole, alone = measure(config, root, CACHE, steps=options.steps, seed=options.seed, jobs=2)
    print(f"phantom (synthetic), {options.patients} patients, {options.steps} steps: mean absolute error in degrees")
    print(f"doing nothing                 {whole.nothing:.2f}")
    print(f"overview of the volume        {whole.stack:.2f} a stack, {whole.volume:.2f} a volume")
    print(f"stack alone                   {alone.stack:.2f} a stack, {alone.volume:.2f} a volume")
    return 0


if __name__ == "__main__":
    sys.exit(main())
