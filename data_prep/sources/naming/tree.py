"""Files below a folder, and what their names say: which are masks, and what belongs together.

A name is cut into words at everything that is neither letter nor digit, and, where that tells no masks, also where
letters meet digits. Words that tell a mask (``seg``, ``lesion``) or an image (``ct``, ``img``) are no part of who a
patient is; what is left is.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

from data_prep.cohort.layout import natural_key
from data_prep.common.errors import InputError
from data_prep.common.wording import few

MASK_TEXT = """
mask masks msk seg segs segmentation segmentations label labels labelstr labelsts lesion lesions roi rois gt groundtruth
ground truth truths annotation annotations manual dseg
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
    """Patterns of names that tell images and masks apart; None where names speak for themselves.

    They fit a file's name (``*_ct.nii.gz``), or its path (``ground truths/*``), from the source or any folder on.
    """

    image: str | None = None
    mask: str | None = None

    def below(self, root: Path) -> "Patterns":
        """The same, as they are meant below ``root``: a folder by itself is all that lies in it."""
        return Patterns(*(pattern and _from(root, pattern) for pattern in (self.image, self.mask)))

    @property
    def words(self) -> frozenset[str]:
        """What they say of a file's name: that it is an image's or a mask's, so not whose."""
        return frozenset(word for name in self._names for word in words(bare_stem(name.name)))

    @property
    def folder_words(self) -> frozenset[str]:
        """The same of the folders above it."""
        return frozenset(word for name in self._names for folder in name.parts[:-1] for word in words(folder))

    @property
    def _names(self) -> list[PurePosixPath]:
        return [PurePosixPath(pattern) for pattern in (self.image, self.mask) if pattern]


def _from(root: Path, pattern: str) -> str:
    inner = pattern.removeprefix("./").removeprefix(f"{root.as_posix()}/")
    return f"{inner}*" if inner.endswith("/") else inner


@dataclass(frozen=True)
class Found:
    """A file below a source."""

    path: Path
    relative: PurePosixPath
    """From the source's root."""
    is_mask: bool
    untelling: frozenset[str] = frozenset()
    """Words of a name that tell nothing of the patient, beside `MASK_WORDS` and `IMAGE_WORDS`."""
    untelling_folders: frozenset[str] = frozenset()
    """The same of folders; of loose names only, for names that were given stay."""

    @property
    def stem_words(self) -> str:
        """What the file's name says beside image or mask."""
        return telling(bare_stem(self.relative.name), self.untelling)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders above it that say more than image or mask."""
        return tuple(folder for folder in self.relative.parts[:-1] if telling(folder))

    def loose_name(self, cut: int) -> tuple[str, ...]:
        """What folders, without the first ``cut`` of them, and name say where words end at digits too."""
        parts = [telling(folder, self.untelling_folders, at_digits=True) for folder in self.folders[cut:]]
        parts.append(telling(bare_stem(self.relative.name), self.untelling, at_digits=True))
        return tuple(part for part in parts if part)


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
    """Images and masks among the files below ``root``; files that a given pattern leaves out are in neither.

    Raises:
        InputError: the pattern for masks fits none, so that every mask would be taken for an image.
    """
    patterns = patterns.below(root)
    relatives = [PurePosixPath(path.relative_to(root).as_posix()) for path in files]
    masks = _masks(relatives, patterns)
    if patterns.mask and not patterns.image and files and not masks:
        raise InputError(f"--mask-pattern {patterns.mask!r}: fits no mask below {root}, as {relatives[0]}; correct it")
    found: tuple[list[Found], list[Found]] = ([], [])
    for path, relative in zip(files, relatives, strict=True):
        is_mask = relative in masks
        if is_mask or patterns.image is None or matches(relative, patterns.image):
            file = Found(path, relative, is_mask, patterns.words, patterns.folder_words)
            found[is_mask].append(file)
    return found


def _masks(files: Sequence[PurePosixPath], patterns: Patterns) -> set[PurePosixPath]:
    if patterns.mask is not None:
        return {file for file in files if matches(file, patterns.mask)}
    free = [file for file in files if patterns.image is None or not matches(file, patterns.image)]
    masks = {file for file in free if _is_mask(file)}
    at_digits = {file for file in free if _is_mask(file, at_digits=True)}
    if masks or 0 < len(at_digits) < len(files):  # where all are, the word is of the patients' names
        return masks or at_digits
    return _in_folder_of_same_names(files) if patterns.image is None else set()


def names_mask(file: PurePath) -> bool:
    """Whether a path below a source has a word for masks in it."""
    return _is_mask(file) or _is_mask(file, at_digits=True)


def _is_mask(file: PurePath, *, at_digits: bool = False) -> bool:
    if MASK_WORDS & set(words(bare_stem(file.name), at_digits=at_digits)):
        return True
    return any(
        MASK_WORDS & set(words(folder, at_digits=at_digits)) and (at_digits or not telling(folder))
        for folder in file.parts[:-1]
    )


def _in_folder_of_same_names(files: Sequence[PurePosixPath]) -> set[PurePosixPath]:
    """Files that lie as others of the same names do, in a folder beside one that is called a folder of images.

    That is so of two folders only, for of three nobody can say which holds the masks.
    """
    depth = shared_depth([file.parts[:-1] for file in files])
    groups: dict[str, dict[tuple[str, ...], PurePosixPath]] = defaultdict(dict)
    for file in files:
        *folders, name = file.parts[depth:]
        if not folders:
            return set()
        groups[folders[0]][(*folders[1:], bare_stem(name))] = file
    images = [folder for folder in groups if not telling(folder)]
    if len(groups) != 2 or len(images) != 1:
        return set()
    (others,) = (names for folder, names in groups.items() if folder not in images)
    return set(others.values()) if others.keys() <= groups[images[0]].keys() else set()


def shared_depth(folders: Collection[tuple[str, ...]]) -> int:
    """How many folders, from the first on, all of these begin with."""
    if not folders:
        return 0
    first, last = min(folders), max(folders)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def matches(relative: PurePosixPath, pattern: str) -> bool:
    """Whether a pattern fits a file's name, or its path from the source's root or from a folder below it."""
    names = (relative.name, str(relative))
    return any(fnmatch(name, fitting) for name in names for fitting in (pattern, f"*/{pattern}"))


def bare_stem(name: str) -> str:
    """A file's name without its ending, ``.nii.gz`` and the channel of nnU-Net's ``_0000.nii.gz`` included."""
    return re.sub(r"(_0000)?(\.nii)?\.[^.]*$", "", name)


def words(name: str, *, at_digits: bool = False) -> list[str]:
    """The words of a name, in lower case; cut where letters meet digits too, where that is asked for."""
    cut = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    return [part for word in cut for part in _at_digits(word)] if at_digits else cut


def _at_digits(word: str) -> list[str]:
    return re.findall(r"\d+|\D+", word)


def telling(name: str, untelling: frozenset[str] = frozenset(), *, at_digits: bool = False) -> str:
    """What is left of a name without the words for image and mask, and others; empty where nothing is."""
    dull = MASK_WORDS | IMAGE_WORDS | untelling
    kept = [word for word in words(name) if word not in dull]
    if at_digits:
        kept = ["".join(part for part in _at_digits(word) if part not in dull) for word in kept]
    return "-".join(word for word in kept if word)


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


def listed(files: Iterable[Found]) -> str:
    """A few files' paths for a message."""
    return few(str(file.relative) for file in files)
