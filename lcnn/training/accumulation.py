"""A batch cut into micro-batches that fit into memory, with the prediction and the gradient of the whole.

The loss of a batch is not the mean of its parts' losses (Dice, weighted cross-entropy and symmetry are ratios of
sums), so gradients of the parts' losses do not add up to its gradient. Instead, as in gradient caching (Gao et al.
2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup): every micro-batch goes forward
without keeping its activations, the loss is taken of all predictions together, and going back, one micro-batch
after the other is run forward once more. torch's checkpointing does just that, and repeats random numbers too.

Legend: B stacks, D slices, S side.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lcnn.network.alignment import Pose
from lcnn.network.model import Prediction


def forward(model: nn.Module, grey_BDSS: Tensor, dtype: torch.dtype, parts: int = 1) -> Prediction:
    """Predict a batch in the given arithmetic; with ``parts`` above 1, in micro-batches, forward once more going back.

    Layers that treat stacks independently compute the same whatever the parts. Batch normalisation does not: it
    normalises by the statistics of a micro-batch, and its running statistics move once a micro-batch.

    Args:
        model: answers with a `Prediction`.
        grey_BDSS: grey values 0..255.
        dtype: of the autocast; float32 for none.
        parts: micro-batches; no more than there are stacks.
    """

    def predict(part: Tensor) -> Prediction:
        # An autocast of its own: in one around all, weights' gradients would be summed over parts in half precision.
        with torch.autocast(part.device.type, dtype, enabled=dtype != torch.float32):
            prediction: Prediction = model(part)
        return prediction

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(model)

    parts = min(parts, len(grey_BDSS))
    if parts <= 1:
        return predict(grey_BDSS)
    return _joined(
        [checkpoint(predict, part, use_reentrant=False, context_fn=contexts) for part in grey_BDSS.tensor_split(parts)]
    )


def _joined(predictions: list[Prediction]) -> Prediction:
    logits, asymmetry, untouched, poses = zip(*predictions, strict=True)
    pose = Pose(*(torch.cat(part) for part in zip(*poses, strict=True)))
    return Prediction(torch.cat(logits), torch.cat(asymmetry), torch.cat(untouched), pose)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within, forward passes leave the running statistics of batch normalisation as they are."""
    before = [
        (layer, layer.momentum, layer.num_batches_tracked.clone())
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None
    ]
    try:
        for layer, _, _ in before:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum, tracked in before:
            layer.momentum, layer.num_batches_tracked = momentum, tracked
