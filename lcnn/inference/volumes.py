"""Lesion volumes of predicted patients, on a line and in a table.

Legend: Z slices, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.common.files import table_text, write_text_atomically
from data_prep.common.wording import counted
from lcnn.inference.scans import Scan

VOLUMES = "volumes.csv"


@dataclass(frozen=True)
class VolumeRow:
    """One patient."""

    patient: str
    slices: int
    lesion_slices: int
    lesion_voxels: int
    lesion_ml: float | None
    """None where the files tell no spacing."""

    def __str__(self) -> str:
        size = f"{self.lesion_voxels} voxels" if self.lesion_ml is None else f"{self.lesion_ml:.1f} ml"
        return f"lesion on {self.lesion_slices} of {counted(self.slices, 'slice')}, {size}"


def volume_row(name: str, scan: Scan, mask_ZHW: NDArray[np.bool_]) -> VolumeRow:
    """The row of a patient with its predicted mask."""
    voxels = int(mask_ZHW.sum())
    return VolumeRow(
        patient=name,
        slices=len(mask_ZHW),
        lesion_slices=int(mask_ZHW.any(axis=(1, 2)).sum()),
        lesion_voxels=voxels,
        lesion_ml=None if scan.voxel_ml is None else round(voxels * scan.voxel_ml, 3),
    )


def write_volumes(path: Path, rows: Sequence[VolumeRow]) -> None:
    """Write the table, a row a patient; an unknown volume is left empty."""
    write_text_atomically(path, table_text(VolumeRow, rows))
