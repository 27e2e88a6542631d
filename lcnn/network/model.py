"""LCNN: the local path on the aligned stack, fused with the global path on the centre slice.

Legend: B stacks, D = 2T + 1 slices, K windows, C = OVERVIEW + D * K channels, H rows, W columns (H == W).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_prep.cohort.normalisation import Normalisation
from lcnn.config import TrainConfig
from lcnn.network.alignment import AlignmentNetwork, Pose, align, asymmetry, pose_view, soften_gradient, unalign
from lcnn.network.global_path import GlobalPath
from lcnn.network.local_path import LocalPath
from lcnn.network.norms import NORMS
from lcnn.network.stacks import OVERVIEW

PRIOR = 0.01
"""Probability of lesion that an untrained network predicts."""
SEGMENTATION_SHARE = 0.1
"""Share at which the segmentation's gradient moves the pose: at full size it drowns the symmetry, and the head is
turned to wherever the decoder happens to like it."""


class Prediction(NamedTuple):
    """What one forward pass gives."""

    logits_BHW: Tensor
    """Log-odds of lesion in the picture's own space."""
    asymmetry_B: Tensor
    """Mean absolute difference between each aligned head and its mirror image; 0 in evaluation mode."""
    untouched_B: Tensor
    """The same without alignment; no gradient."""
    pose: Pose
    """The midlines that were found."""


class LCNN(nn.Module):
    """Local path, global path and their fusion; grey values in, logits out.

    Args:
        slices: slices of a stack, 2T + 1.
        local: the local path.
        global_path: the global path.
        alignment: the alignment network.
        local_share: share of the local path's logits; the global path has the rest.
        normalisation: grey-value statistics of the training patients, for each window that slices come in; saved with
            the weights.
    """

    def __init__(
        self,
        slices: int,
        *,
        local: LocalPath,
        global_path: GlobalPath,
        alignment: AlignmentNetwork,
        local_share: float,
        normalisation: Normalisation,
    ) -> None:
        super().__init__()
        self.slices, self.windows, self.local_share = slices, normalisation.windows, local_share
        self.alignment, self.local, self.global_path = alignment, local, global_path
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", statistic(normalisation.mean))
        self.register_buffer("std", statistic(normalisation.std))

    def forward(self, grey_BCHW: Tensor) -> Prediction:
        """Segment the centre slice of each stack of grey values 0..255.

        A stack comes behind its patient's overview, as `lcnn.network.stacks.StackSource` gives it.
        """
        if grey_BCHW.shape[1] != OVERVIEW + self.slices * self.windows:
            raise ValueError(
                f"the network takes {OVERVIEW} pictures of an overview and {self.slices} slices in {self.windows} "
                f"windows, and got {grey_BCHW.shape[1]} channels"
            )
        stack_BCHW = grey_BCHW[:, OVERVIEW:]
        # The pose and the symmetry share one reduced view, which is made once.
        small = pose_view(grey_BCHW[:, :OVERVIEW] / 255)
        pose = self.alignment(small)
        warp = soften_gradient(pose, SEGMENTATION_SHARE)
        side = stack_BCHW.shape[-1]
        # On a canvas that halves evenly at every level, the midline stays in the middle of all maps.
        canvas = -(-side // self.local.multiple) * self.local.multiple
        # Air must be 0 while warping, so that what comes into view is air; hence normalise afterwards.
        draft = unalign(self.local(self.normalise(align(stack_BCHW, warp, canvas))), warp, side)
        middle = self.slices // 2 * self.windows
        centre = self.normalise(stack_BCHW[:, middle : middle + self.windows])
        local_logits, global_logits = self.local.draw(draft, centre).float(), self.global_path(centre).float()
        logits = self.local_share * local_logits + (1 - self.local_share) * global_logits
        # Validation and prediction have no use for the loss and need not pay for it.
        nothing_B = small.new_zeros(small.shape[0])  # len() would fix the size of the batch in an exported graph
        aligned_B, untouched_B = self._asymmetries(small, pose) if self.training else (nothing_B, nothing_B)
        return Prediction(logits.squeeze(1), aligned_B, untouched_B, pose)

    @staticmethod
    def _asymmetries(overview_BCHW: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            untouched_B = asymmetry(overview_BCHW, None)
        return asymmetry(overview_BCHW, pose), untouched_B

    def normalise(self, grey_BCHW: Tensor) -> Tensor:
        """(x - mean) / std of slices in all their windows, with the training patients' statistics."""
        return normalised(grey_BCHW, self.mean, self.std)


def statistic(values: Sequence[float]) -> Tensor:
    """A figure of each window as `normalised` takes it; of one window a number, as earlier versions have kept it."""
    return torch.tensor(values[0]) if len(values) == 1 else torch.tensor(values).view(-1, 1, 1)


def normalised(grey_BCHW: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std, where channels are slice by slice all windows."""
    return ((grey_BCHW.unflatten(1, (-1, mean.numel())) - mean) / std).flatten(1, 2)


def build_model(config: TrainConfig, normalisation: Normalisation) -> LCNN:
    """The network that a configuration describes, freshly initialised, for as many windows as are normalised.

    Raises:
        InputError: initial weights that cannot be read.
    """
    model = config.model
    slices = 2 * config.T + 1
    return LCNN(
        slices,
        local=LocalPath(
            slices,
            width=model.width,
            levels=model.levels,
            window_size=model.window_size,
            heads=model.heads,
            norm=NORMS[model.norm],
            prior=PRIOR,
            windows=normalisation.windows,
        ),
        global_path=GlobalPath(
            backbone=model.global_backbone,
            weights=model.weights,
            norm=NORMS[model.norm],
            prior=PRIOR,
            windows=normalisation.windows,
        ),
        alignment=AlignmentNetwork(OVERVIEW, max_angle_deg=model.max_angle_deg, max_shift=model.max_shift),
        local_share=config.fusion.local,
        normalisation=normalisation,
    )
