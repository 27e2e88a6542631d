"""Files below a folder, and what their names say: which are masks, and what belongs together.

A name is cut into words at everything that is neither letter nor digit. Words that tell a mask (``seg``, ``lesion``) or
an image (``ct``, ``img``) are no part of who a patient is; what is left is.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from data_prep.cohort import natural_key
from data_prep.errors import InputError

MASK_TEXT = """
mask masks msk seg segs segmentation segmentations label labels labelstr labelsts lesion lesions roi rois gt groundtruth
annotation annotations manual dseg
"""
IMAGE_TEXT = """
image images imagestr imagests img imgs ct ncct nect scan scans head volume vol slice slices anat derivatives desc space
"""
MASK_WORDS = frozenset(MASK_TEXT.split())
IMAGE_WORDS = frozenset(IMAGE_TEXT.split())
BIDS_SUBJECT = "sub-"
BIDS_SESSION = "ses-"


@dataclass(frozen=True)
class Patterns:
    """File name patterns (``*_ct.nii.gz``) that tell images and masks apart; None where names speak for themselves."""

    image: str | None = None
    mask: str | None = None

    @property
    def words(self) -> frozenset[str]:
        """What they say of a name: that it is an image's or a mask's, so not whose."""
        return frozenset(word for pattern in (self.image, self.mask) if pattern for word in words(bare_stem(pattern)))


@dataclass(frozen=True)
class Found:
    """A file below a source."""

    path: Path
    relative: PurePosixPath
    """From the source's root."""
    is_mask: bool
    untelling: frozenset[str] = frozenset()
    """Words that tell nothing of the patient, beside `MASK_WORDS` and `IMAGE_WORDS`."""

    @property
    def stem_words(self) -> str:
        """What the file's name says beside image or mask."""
        return telling(bare_stem(self.relative.name), self.untelling)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders above it that say more than image or mask."""
        return tuple(folder for folder in self.relative.parts[:-1] if telling(folder))


def files_below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of these endings (lower case) below ``root``, in natural order; hidden ones are left out.

    Links are followed, but no folder is entered twice, so loops end.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error

    entered: set[tuple[int, int]] = set()
    found = []
    for place, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        found += [Path(place, n) for n in names if n.lower().endswith(tuple(suffixes)) and not n.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.relative_to(root).as_posix()))


def sort_out(root: Path, files: Sequence[Path], patterns: Patterns) -> tuple[list[Found], list[Found]]:
    """Images and masks among the files below ``root``; files that a given pattern leaves out are in neither."""
    images, masks = [], []
    for path in files:
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if _is_mask(relative, patterns):
            masks.append(Found(path, relative, is_mask=True, untelling=patterns.words))
        elif patterns.image is None or matches(relative, patterns.image):
            images.append(Found(path, relative, is_mask=False, untelling=patterns.words))
    return images, masks


def _is_mask(relative: PurePosixPath, patterns: Patterns) -> bool:
    if patterns.mask is not None:
        return matches(relative, patterns.mask)
    if patterns.image is not None and matches(relative, patterns.image):
        return False
    if MASK_WORDS & set(words(bare_stem(relative.name))):
        return True
    return any(not telling(folder) and MASK_WORDS & set(words(folder)) for folder in relative.parts[:-1])


def matches(relative: PurePosixPath, pattern: str) -> bool:
    """Whether a pattern fits a file's name, or its path from the source's root."""
    return fnmatch(relative.name, pattern) or fnmatch(str(relative), pattern)


def bare_stem(name: str) -> str:
    """A file's name without its ending, ``.nii.gz`` and the channel of nnU-Net's ``_0000.nii.gz`` included."""
    return re.sub(r"(_0000)?(\.nii)?\.[^.]*$", "", name)


def words(name: str) -> list[str]:
    """The words of a name, in lower case."""
    return [word for word in re.split(r"[\W_]+", name.casefold()) if word]


def telling(name: str, untelling: frozenset[str] = frozenset()) -> str:
    """What is left of a name without the words for image and mask, and others; empty where nothing is."""
    return "-".join(word for word in words(name) if word not in MASK_WORDS | IMAGE_WORDS | untelling)


def subject(relative: PurePosixPath) -> str | None:
    """The subject in a BIDS name (``sub-01``): whose all sessions are.

    That of a folder is its whole name, and a file's name has one only where BIDS would write it so, with nothing but
    key-value pairs and a word for image or mask behind it: of ``sub-O_Brien`` half would name somebody else too.
    """
    for folder in relative.parts[:-1]:
        if folder.startswith(BIDS_SUBJECT):
            return folder
    label, *rest = bare_stem(relative.name).split("_")
    suffix = rest[-1:] if rest and "-" not in rest[-1] else []
    is_bids = label.startswith(BIDS_SUBJECT) and all("-" in part for part in rest[: len(rest) - len(suffix)])
    return label if is_bids and not any(map(telling, suffix)) else None


def session(relative: PurePosixPath) -> str | None:
    """The session in a BIDS name (``ses-01``), of a folder within the subject's or of the file; None without one."""
    name = subject(relative)
    if name is None:
        return None
    folders = relative.parts[:-1]
    inner = folders[folders.index(name) + 1 :] if name in folders else ()
    parts = (*inner, *bare_stem(relative.name).split("_"))
    return next((part for part in parts if part.startswith(BIDS_SESSION)), None)


def listed(files: Iterator[Found] | Sequence[Found], most: int = 3) -> str:
    """A few files' paths for a message."""
    names = [str(file.relative) for file in files]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
