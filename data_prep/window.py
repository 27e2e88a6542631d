"""Hounsfield units to grey values: windows by name, and slices that keep the units themselves.

brain    level 40 HU, width 80 HU     grey and white matter; what stroke is read in
stroke   level 40 HU, width 40 HU     early infarcts: twice the contrast, but CSF and blood are cut off
wide     level 40 HU, width 200 HU    blood and calcification too; a grey value is 0.8 HU
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

HU_OFFSET = 1024
"""Added to the HU in 16-bit slices, so that air is not below 0."""


class Window(BaseModel):
    """The range of HU that grey values show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    level_hu: float = Field(allow_inf_nan=False)
    """Its middle."""
    width_hu: float = Field(gt=0, allow_inf_nan=False)

    def to_grey(self, values_hu: NDArray[Any]) -> NDArray[np.uint8]:
        """Grey values 0..255; HU beyond the window are black or white."""
        lowest = np.float32(self.level_hu - self.width_hu / 2)
        grey = (np.asarray(values_hu, dtype=np.float32) - lowest) * np.float32(255 / self.width_hu)
        return np.clip(grey, 0, 255).round().astype(np.uint8)

    def __str__(self) -> str:
        return f"{self.name} (level {self.level_hu:g} HU, width {self.width_hu:g} HU)"


WINDOWS = {
    "brain": Window(name="brain", level_hu=40, width_hu=80),
    "stroke": Window(name="stroke", level_hu=40, width_hu=40),
    "wide": Window(name="wide", level_hu=40, width_hu=200),
}


class KeptHu(BaseModel):
    """How 16-bit slices hold HU, and the window in which they are compiled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: int = HU_OFFSET
    """A pixel's value is its HU plus this."""
    window: Window

    def to_pixels(self, values_hu: NDArray[np.float32]) -> NDArray[np.uint16]:
        """HU as 16-bit pixels, rounded to whole units."""
        return np.clip(np.round(values_hu + np.float32(self.offset)), 0, 65535).astype(np.uint16)

    def to_grey(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """16-bit pixels as grey values 0..255."""
        return self.window.to_grey(pixels.astype(np.float32) - np.float32(self.offset))
