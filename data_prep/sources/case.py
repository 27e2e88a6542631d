"""A patient's scan as found in a source, before anything of it is read."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class SourceFormat(StrEnum):
    """What a source's files are."""

    NIFTI = "NIfTI"
    DICOM = "DICOM"
    PICTURES = "pictures"
    AISD = "AISD pictures"
    NPZ = "npz arrays"


@dataclass(frozen=True)
class Case:
    """The files of one scan of a patient."""

    name: str
    """The source's own name for the scan, or for the patient where it has one scan. It may identify a person, so it
    stays in memory."""
    image: Path | tuple[Path, ...]
    """A volume, a folder of a series, or slices in order."""
    mask: Path | tuple[Path | None, ...] | None
    """The same for the mask; None where there is none, or where it lies in the image's file. Of DICOM, all masks of the
    patient, of which that of the series is taken."""
    kind: SourceFormat
    series: int | None = None
    """Number of the DICOM series that a person chose; None chooses by rule."""
    identity: str | None = field(default=None, repr=False)
    """Whom and which scan the files themselves name, an identifier: not to be printed. None where they name nobody."""
    patient: str | None = field(default=None, repr=False)
    """What all scans of the patient have in common, not to be printed either. None where nothing tells."""

    @property
    def images(self) -> tuple[Path, ...]:
        """The image's files or folder."""
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def masks(self) -> tuple[Path | None, ...]:
        """The masks' files or folder, beside `images`; all None where there is no mask."""
        if isinstance(self.mask, tuple):
            return self.mask
        return (self.mask,) * len(self.images)

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that belongs to the patient."""
        return (*self.images, *(mask for mask in self.masks if mask))
