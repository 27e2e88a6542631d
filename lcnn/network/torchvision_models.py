"""Import of torchvision's models, also where its compiled extension does not fit the installed torch.

The public torchvision wheel beside a CPU-only torch fails at import with "operator torchvision::nms does not
exist": its Python code registers shape rules for two operators that its extension would have defined. Only
their schemas are needed for that; the detection operators themselves are never called here.
"""

import torch

try:
    from torchvision import models
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define(
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    )
    from torchvision import models

__all__ = ["models"]
