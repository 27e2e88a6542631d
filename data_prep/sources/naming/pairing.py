"""Masks whose names do not say their scan as it says itself: paired by what is left of both without folders of theirs.

scans/p1.nii.gz  ground truths/p1.nii.gz          CT001.nii.gz  Mask001.nii.gz
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice, product
from typing import TypeVar

from data_prep.common.errors import InputError
from data_prep.sources.naming.tree import Found, shared_depth

Key = TypeVar("Key")
SHOWN = 3
"""Pairs in a refusal."""
MOST_COMPARED = 2000
"""Scans among which the one is looked for whose name is nearest to a mask's."""


@dataclass(frozen=True)
class _Attempt:
    """What pairing came to when so many folders above all scans, and above all masks, were passed over."""

    pairs: Mapping[int, Found]
    """By the mask's place."""
    cuts: tuple[int, int]


def paired(
    images: Mapping[Key, Found], masks: Sequence[tuple[Key, Found]], *, least: int, missing: str
) -> list[tuple[Key, Found]]:
    """Each mask with the key of its image.

    Masks whose keys are those of images keep them. If others are left, they are paired with the images that have no
    mask by looser names: without the folders that all images share, and all masks, and with words cut where letters
    meet digits. That is done for all of them or for none.

    Args:
        images: by what their names say.
        masks: with what theirs say.
        least: how many parts, folders and the name of the file, a looser name must have; 2 where the folder is the
            patient and the name the slice.
        missing: what to say of a mask whose image is not found.

    Raises:
        InputError: a mask's image is not found.
    """
    known = {key for key, _ in masks}
    orphans = [mask for key, mask in masks if key not in images]
    if not orphans:
        return list(masks)
    free = {id(image): key for key, image in images.items() if key not in known}
    best = _best(list(images.values()), [mask for _, mask in masks], orphans, free, least)
    if len(best.pairs) < len(orphans):
        lost = [mask for place, mask in enumerate(orphans) if place not in best.pairs]
        candidates = [image for key, image in images.items() if key not in known] or list(images.values())
        raise InputError(f"{lost[0].path}: {missing}{_tried(lost, candidates, best.cuts)}")
    keys = {orphan.path: free[id(best.pairs[place])] for place, orphan in enumerate(orphans)}
    return [(keys.get(mask.path, key), mask) for key, mask in masks]


def _best(
    images: Sequence[Found], masks: Sequence[Found], orphans: Sequence[Found], free: Mapping[int, object], least: int
) -> _Attempt:
    image_cuts, mask_cuts = (range(shared_depth([file.folders for file in group]) + 1) for group in (images, masks))
    cuts = sorted(product(image_cuts, mask_cuts), key=sum)
    attempts = [_attempt([image for image in images if id(image) in free], orphans, cut, least) for cut in cuts]
    return max(attempts, key=lambda attempt: len(attempt.pairs))


def _attempt(free: Sequence[Found], orphans: Sequence[Found], cuts: tuple[int, int], least: int) -> _Attempt:
    by_name: dict[tuple[str, ...], list[Found]] = {}
    for image in free:
        by_name.setdefault(image.loose_name(cuts[0]), []).append(image)
    pairs = {}
    for place, mask in enumerate(orphans):
        name = mask.loose_name(cuts[1])
        found = by_name.get(name, [])
        if len(name) >= least and len(found) == 1:
            pairs[place] = found[0]
    return _Attempt(pairs, cuts)


def _tried(masks: Sequence[Found], images: Sequence[Found], cuts: tuple[int, int]) -> str:
    by_name = {" ".join(image.loose_name(cuts[0])): image for image in islice(images, MOST_COMPARED)}
    shown = []
    for mask in masks[:SHOWN]:
        nearest = get_close_matches(" ".join(mask.loose_name(cuts[1])), by_name, n=1, cutoff=0)
        shown += [f"{mask.relative} with {by_name[name].relative}" for name in nearest]
    return f"; tried {', '.join(shown)}" if shown else ""
