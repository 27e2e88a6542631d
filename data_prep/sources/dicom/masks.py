"""NIfTI masks drawn on the pictures of a DICOM series, as viewers save them: whose they are, and reading them.

    p1/*.dcm  p1/lesion.nii.gz      p1/ct/*.dcm  p1/masks/infarct_seg.nii.gz
    dicom/p1/*.dcm  masks/p1.nii.gz      p1/*.dcm  p1_mask.nii.gz

Legend: N pictures of the series in order, Z slices, H rows, W columns, canonical.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError
from data_prep.sources.dicom.stack import picture_grids
from data_prep.sources.dicom.study import DicomScan
from data_prep.sources.formats.nifti import SUFFIXES, check_same_grid, grid_difference, read_labels
from data_prep.sources.labels import labels_of
from data_prep.sources.naming.tree import Found, Patterns, files_below, sort_out, telling
from data_prep.volumes.mask import ignored_in, labelled, lesion_in

UNTELLING = frozenset({"dicom", "dcm"})
"""Words of folders that tell nothing of the patient, beside those of all sources."""


def find_nifti_masks(root: Path, patterns: Patterns) -> list[Found]:
    """The NIfTI files below a folder that are masks by their names, or by the pattern for masks."""
    return sort_out(root, files_below(root, SUFFIXES), patterns)[1]


def pair_masks(root: Path, masks: Iterable[Found], patients: Sequence[Collection[Path]]) -> dict[Path, int]:
    """To which patient each mask belongs: the only one in its folder, or the one with a folder of its name.

    Args:
        root: the source.
        masks: those of `find_nifti_masks`.
        patients: the folders that hold a patient's files, for each.

    Returns:
        A mask's file with its patient's place in ``patients``.

    Raises:
        InputError: a mask whose patient is not clear.
    """
    inside: dict[Path, set[int]] = defaultdict(set)
    by_name: dict[str, set[int]] = defaultdict(set)
    for number, folders in enumerate(patients):
        for folder in folders:
            for ancestor in (folder, *folder.parents):
                inside[ancestor].add(number)
            for part in folder.relative_to(root).parts:
                by_name[telling(part, UNTELLING)].add(number)
    owners = {}
    for mask in masks:
        own = _housemates(mask.path, root, inside) or by_name.get(_name(mask), set())
        if len(own) != 1:
            raise InputError(
                f"{mask.path}: a mask, but of which of {len(patients)} DICOM studies is not clear; put it into the "
                "folder of its study, or name it as that folder"
            )
        (owners[mask.path],) = own
    return owners


def _housemates(file: Path, root: Path, inside: dict[Path, set[int]]) -> set[int] | None:
    """The only patient in a mask's folder, or in the one above where its own tells no more than that it holds masks."""
    for folder in file.parents:
        found = inside.get(folder, set())
        if len(found) == 1:
            return found
        if found or folder == root or telling(folder.name):
            return None
    return None


def _name(mask: Found) -> str:
    return mask.stem_words or telling("/".join(mask.folders[-1:]))


def read_drawn_mask(
    file: Path, scan: DicomScan, lesion: Collection[int] | None, ignored: Collection[int] = ()
) -> NDArray[np.uint8]:
    """A mask that was drawn on a scan's pictures, as `Label`, (Z, H, W) in the grid of its volume.

    Args:
        file: a NIfTI file.
        scan: the scan.
        lesion: values that are lesion; None takes the one beside 0 that is not ignored.
        ignored: values that are neither learnt nor scored.

    Raises:
        InputError: it cannot be read, or lies on another grid than the pictures.
    """
    values, own = read_labels(file)
    grids = picture_grids(scan.stack.frames)
    grid = next((grid for grid in grids if not grid_difference(own, grid)), grids[0])
    check_same_grid(file, own, grid)
    labels = grid.to_source(labels_of(file, own.to_canonical(values), lesion, ignored)).astype(np.uint8)
    return labelled(scan.to_volume(lesion_in(labels)), scan.to_volume(ignored_in(labels)) if ignored else None)
