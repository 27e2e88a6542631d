"""Import of torchvision's models: late, and also where its compiled extension does not fit the installed torch.

The public torchvision wheel beside a CPU-only torch fails at import with "operator torchvision::nms does not
exist": its Python code registers shape rules for two operators that its extension would have defined. Only
their schemas are needed for that; the detection operators themselves are never called here.
"""

from functools import cache
from typing import Any

import torch

_LIBRARIES: list[torch.library.Library] = []
"""Schemas go with the object that defined them."""


@cache
def torchvision_models() -> Any:
    """The module ``torchvision.models``.

    Its import takes as long as all else together, for it brings torch's compiler along; so whoever builds no network
    does without it.
    """
    try:
        from torchvision import models  # noqa: PLC0415
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        _LIBRARIES.append(library)
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import models  # noqa: PLC0415
    return models
