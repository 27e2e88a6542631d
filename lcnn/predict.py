"""Prediction on a patient's own pictures, on their own grid; the same code tests a model and uses it.

Legend: Z slices of a patient, H rows, W columns (native), B stacks, D slices of a stack, V of an overview, C = V + D,
S side the network sees.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.head import head_box, whole_box
from data_prep.store import to_native, to_stored
from lcnn.fit import predict_logits, resolve_precision
from lcnn.model_file import TrainedModel
from lcnn.stacks import neighbours, overview


@torch.inference_mode()
def predict_volume(model: TrainedModel, image_ZHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probability of lesion, float32 (Z, H, W), of 8-bit grey slices ordered from the skull base upward.

    The slices are cropped and resized as those that the model was trained on; the result is brought back.
    """
    slices, height, width = image_ZHW.shape
    box = head_box(image_ZHW) if model.picture.crop == "head" else whole_box(height, width)
    stored_ZSS = np.stack([to_stored(image_HW, box, model.picture.image_size) for image_HW in image_ZHW])
    stack_ZD = neighbours(np.arange(slices), model.config.T, 0, slices - 1)
    overview_VSS = overview(stored_ZSS)
    dtype = resolve_precision(model.config.train.precision, model.device)
    probability: list[NDArray[np.float32]] = []
    at_once = model.config.train.stacks_at_once
    for start in range(0, slices, at_once):
        stacks_BDSS = stored_ZSS[stack_ZD[start : start + at_once]]
        overviews_BVSS = np.broadcast_to(overview_VSS, (len(stacks_BDSS), *overview_VSS.shape))
        grey_BCSS = torch.from_numpy(np.concatenate([overviews_BVSS, stacks_BDSS], axis=1))
        logits_BSS = predict_logits(model.net, grey_BCSS.to(model.device), dtype)
        probability += list(torch.sigmoid(logits_BSS).cpu().numpy())
    return np.stack([to_native(p_SS, box, (height, width)) for p_SS in probability])
