"""What the network costs: operations and memory for every T, counted on this machine without training.

    python -m experiments.cost                             the gpu profile of spaces/lcnn.yaml
    python -m experiments.cost --set model.width=64 --tflops 60 --card-gb 24

Operations are counted by torch while one stack goes forward and back on the CPU; memory is the sum of weights,
gradients, AdamW's two moments and the tensors kept for the backward pass, scaled to the batch. Both are counts,
not measurements on a GPU: allocator, cuDNN workspaces and fused kernels are not in them. What a GPU does in an
hour follows from the operations and from ``--tflops``, an assumption that the table repeats.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from data_prep.common.cli_errors import Parser, cli_errors
from lcnn.config import TrainConfig
from lcnn.network.model import build_model
from lcnn.network.stacks import channels
from lcnn.training.loss import lcnn_loss
from search.placement.rehearsal import usual_normalisation
from search.spec.settings import Overrides, Spec, load_spec

CONTEXT_GB = 1.0
"""Left for the CUDA context and libraries on a GPU."""
BYTES_A_WEIGHT = 16
"""float32 weight, gradient and two moments."""


@dataclass(frozen=True)
class Cost:
    """Counts for one configuration."""

    parameters: int
    train_gflop_a_stack: float
    """Forward and backward, counting a multiply-add as two."""
    weights_gb: float
    activations_gb_a_stack: float

    def batch_that_fits(self, card_gb: float) -> int:
        """Largest batch on a GPU of so many GB; 0 where not even one stack fits."""
        return max(0, int((card_gb - CONTEXT_GB - self.weights_gb) / self.activations_gb_a_stack))

    def stacks_an_hour(self, tflops: float) -> float:
        """Training stacks an hour at so many achieved TFLOP/s."""
        return tflops * 1e3 / self.train_gflop_a_stack * 3600


def count_cost(config: TrainConfig, image_size: int, *, mixed: bool, windows: int = 1) -> Cost:
    """Count one training step on one stack in so many windows; ``mixed``: with the bf16 autocast of a GPU."""
    torch.manual_seed(0)
    model = build_model(config, usual_normalisation(windows)).train()
    grey = torch.rand(1, channels(config.T, windows), image_size, image_size) * 255
    lesion = torch.zeros(1, image_size, image_size)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            prediction = model(grey)
        loss = lcnn_loss(prediction, lesion, config.loss).total
        activations = sum(kept.values())
        loss.backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() / 1e9, parameters * BYTES_A_WEIGHT / 1e9, activations / 1e9)


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("spaces/lcnn.yaml"))
    parser.add_argument("--profile", default="gpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--card-gb", type=float, default=24.0, help="memory of the GPU (default 24)")
    parser.add_argument("--tflops", type=float, default=30.0, help="TFLOP/s assumed to be achieved (default 30)")
    parser.add_argument("--fp32", action="store_true", help="count without mixed precision")
    options = parser.parse_args(arguments)
    spec = load_spec(options.space, Overrides(options.profile, tuple(options.set)), has_gpu=False)
    _print_table(spec, options)
    return 0


def _print_table(spec: Spec, options: argparse.Namespace) -> None:
    size, batch, stacks = (
        spec.cohort.image_size,
        spec.training.train.batch_size,
        spec.training.train.stacks_per_epoch or 1000,
    )
    windows = len(spec.cohort.intensity_window or ("one",))
    print(
        f"{size}x{size}, {windows} window{'s' * (windows > 1)}, width {spec.training.model.width}, "
        f"{spec.training.model.global_backbone}, batch {batch}, "
        f"{'fp32' if options.fp32 else 'bf16 autocast'}; counted, not measured"
    )
    print(f"a GPU of {options.card_gb:g} GB, {options.tflops:g} TFLOP/s achieved (assumed)")
    print("T  parameters  GFLOP/stack  GB/stack  GB at batch  largest batch  stacks/hour  epochs/hour")
    for half_width in (1, 2, 3):
        config = spec.training.model_copy(update={"T": half_width})
        cost = count_cost(config, size, mixed=not options.fp32, windows=windows)
        hourly = cost.stacks_an_hour(options.tflops)
        print(
            f"{half_width}  {cost.parameters / 1e6:8.1f} M  {cost.train_gflop_a_stack:11.0f}  "
            f"{cost.activations_gb_a_stack:8.2f}  {cost.weights_gb + batch * cost.activations_gb_a_stack:11.1f}  "
            f"{cost.batch_that_fits(options.card_gb):13d}  {hourly:11.0f}  {hourly / stacks:11.1f}"
        )
    print(f"an epoch is taken as {stacks} stacks; validation is not counted")


if __name__ == "__main__":
    sys.exit(main())
