"""Hounsfield units to grey values: windows by name, and slices that keep the units themselves.

brain    level 40 HU, width 80 HU     grey and white matter; what stroke is read in
stroke   level 40 HU, width 40 HU     early infarcts: twice the contrast, but CSF and blood are cut off
wide     level 40 HU, width 200 HU    blood and calcification too; a grey value is 0.8 HU
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

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


WindowName = Literal["brain", "stroke", "wide"]
WINDOWS: dict[str, Window] = {
    "brain": Window(name="brain", level_hu=40, width_hu=80),
    "stroke": Window(name="stroke", level_hu=40, width_hu=40),
    "wide": Window(name="wide", level_hu=40, width_hu=200),
}


assert set(WINDOWS) == set(get_args(WindowName))
COLOURS = 3
"""Channels of a colour picture: 8-bit slices hold one window, or this many."""


class KeptHu(BaseModel):
    """How 16-bit slices hold HU, and the windows in which they are compiled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: int = HU_OFFSET
    """A pixel's value is its HU plus this."""
    windows: tuple[Window, ...] = Field(min_length=1)
    """The first one is shown to people."""

    @model_validator(mode="before")
    @classmethod
    def _one_window(cls, data: Any) -> Any:
        """Manifests of earlier versions hold the one window by itself."""
        if isinstance(data, dict) and "window" in data:
            rest = {key: value for key, value in data.items() if key != "window"}
            return {**rest, "windows": [data["window"]]}
        return data

    def to_pixels(self, values_hu: NDArray[np.float32]) -> NDArray[np.uint16]:
        """HU as 16-bit pixels, rounded to whole units."""
        return np.clip(np.round(values_hu + np.float32(self.offset)), 0, 65535).astype(np.uint16)


def to_pixels(values_hu: NDArray[np.float32], windows: Sequence[Window], *, keeps_hu: bool) -> NDArray[Any]:
    """HU as the pixels of slices: 16 bits that hold them, or 8 bits, of several windows as the colours of a picture."""
    if keeps_hu:
        return KeptHu(windows=tuple(windows)).to_pixels(values_hu)
    grey = [window.to_grey(values_hu) for window in windows]
    return grey[0] if len(grey) == 1 else np.stack(grey, axis=-1)


def in_words(windows: Sequence[Window]) -> str:
    """The windows, for people."""
    return ", ".join(map(str, windows)) or "a window that nobody has named"
