"""How a patient's slices are brought to the network: settings that a cohort's store and a model's folder share."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from data_prep.common.settings import renamed
from data_prep.intensity.window import WindowName

FORMER_NAME = "window"
"""Of the intensity window, in files of earlier versions."""
Crop = Literal["head", "none"]
REMOVED = "align_midline"
"""A former option that turned whole volumes upright; docs/explanation/measurements.md says why it went."""


def _as_several(value: Any) -> Any:
    """A name by itself is a list of one; lists, as JSON has them, become tuples."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _each_once(names: tuple[WindowName, ...]) -> tuple[WindowName, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: a window twice; name each once")
    return names


WindowNames = Annotated[tuple[WindowName, ...], Field(min_length=1), AfterValidator(_each_once)]


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
    intensity_window: Annotated[
        WindowNames | None, BeforeValidator(_as_several, json_schema_input_type=WindowName | WindowNames | None)
    ] = None
    """Window, or windows, in which slices that keep their HU are seen: brain, stroke, wide; null: the cohort's own."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:
        """Their files name the removed option, nearly always as false: how all pictures are now."""
        if not isinstance(data, Mapping):
            return data
        data = renamed(data, FORMER_NAME, "intensity_window")
        if data.get(REMOVED, False) is not False:
            raise ValueError(
                f"{REMOVED}: volumes are no longer turned upright, which made models worse; leave it out and train "
                "anew, or use an earlier version"
            )
        return {name: value for name, value in data.items() if name != REMOVED}
