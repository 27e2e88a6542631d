"""How a patient's slices are brought to the network: settings that a cohort's store and a model's folder share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Crop = Literal["head", "none"]


class PictureConfig(BaseModel):
    """How slices are brought to the network."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    image_size: int = Field(512, ge=8, le=1024)
    """Side in pixels to which slices are resized."""
    crop: Crop = "head"
    """Crop to the head before resizing, or use the whole picture."""
    remove_couch: bool = False
    """Make air of what is not the head: couch, head holder, wires."""
    strip_skull: bool = False
    """Make air of what is outside the intracranial space."""
    align_midline: bool = False
    """Turn and move each volume in 3D, so that the head's mirror plane stands upright in the middle."""
