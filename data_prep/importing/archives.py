"""A cohort out of two ZIP files: one of images, one of masks, a folder a patient in each.

What an archive holds besides slices is left where it is. The folder that a slice lies in is its patient, at whatever
depth; nothing else of a member's path is used, so no path can lead out of the target. Archives whose paths try to are
refused all the same, for nobody means them.
"""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.cohort.layout import SLICE_SUFFIXES, natural_key
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import replacing_folder, require_room

Progress = Callable[[int, int], None]
"""Called with what is done and of all there is."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most. A small file can claim to hold petabytes."""

    files: int = 500_000
    total_bytes: int = 200 * 2**30
    """Of all files, unpacked."""
    ratio: float = 200.0
    """Unpacked against packed size of the archive; slices are 1 to 3, uncompressed masks in it up to 100."""
    ratio_from_bytes: int = 64 * 2**20
    """Archives that unpack to less may have any ratio."""


@dataclass(frozen=True)
class Unpacked:
    """What came out of the two archives."""

    patients: int
    slices: int
    without_masks: tuple[str, ...]
    """Patients that only the archive of images holds."""
    without_images: tuple[str, ...]
    others: int
    """Files that are no slices, left out."""


Patients = Mapping[str, list[zipfile.ZipInfo]]
"""An archive's slices by patient."""


def unpack_cohort(
    images_zip: Path, masks_zip: Path, root: Path, on_file: Progress | None = None, limits: Limits | None = None
) -> Unpacked:
    """Unpack both archives into ``root/images`` and ``root/masks``, written whole before they take their names.

    Args:
        images_zip: a folder of slices a patient, at any depth.
        masks_zip: the same for masks; its patients have the names of the images', in whatever case.
        root: the cohort to make.
        on_file: called with files unpacked and their number.
        limits: of each archive.

    Raises:
        InputError: an archive is damaged, too large, or holds paths that lead elsewhere; or no patient is in both.
        OSError: there is no room for it.
    """
    limits = limits or Limits()
    with _opened(images_zip) as images, _opened(masks_zip) as masks:
        image_slices, image_others = _slices(images, images_zip, limits)
        mask_slices, mask_others = _slices(masks, masks_zip, limits)
        mask_slices = _named_alike(mask_slices, image_slices)
        both = image_slices.keys() & mask_slices.keys()
        if not both:
            raise InputError(
                f"{images_zip.name} and {masks_zip.name}: no patient folder is in both ({min(image_slices)}, "
                f"{min(mask_slices)}, ...); name the folders alike, or check that the links are not exchanged"
            )
        listed = [member for patients in (image_slices, mask_slices) for held in patients.values() for member in held]
        root.mkdir(parents=True, exist_ok=True)
        require_room(root, sum(member.file_size for member in listed))
        done = 0
        with (
            replacing_folder(root / "images", keep_existing=False) as image_folder,
            replacing_folder(root / "masks", keep_existing=False) as mask_folder,
        ):
            parts = ((images, images_zip, image_slices, image_folder), (masks, masks_zip, mask_slices, mask_folder))
            for archive, file, patients, folder in parts:
                for patient, members in patients.items():
                    (folder / patient).mkdir()
                    for member in members:
                        _extract(archive, file, member, folder / patient / PurePosixPath(member.filename).name)
                        done += 1
                        if on_file:
                            on_file(done, len(listed))
    return Unpacked(
        patients=len(both),
        slices=sum(len(image_slices[patient]) for patient in both),
        without_masks=_sorted(image_slices.keys() - both),
        without_images=_sorted(mask_slices.keys() - both),
        others=image_others + mask_others,
    )


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, ValueError) as error:
        raise InputError(f"{file}: not a whole ZIP file ({first_line(error)}); delete it and fetch it again") from error


def _slices(archive: zipfile.ZipFile, file: Path, limits: Limits) -> tuple[Patients, int]:
    """The slices by patient, and how many other files there are."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    _check_limits(members, file, limits)
    patients: dict[str, list[zipfile.ZipInfo]] = {}
    folders: dict[str, PurePosixPath] = {}
    others = 0
    for member in members:
        path = _safe_path(member, file)
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if hidden or path.suffix.lower() not in SLICE_SUFFIXES or len(path.parts) < 2:
            others += 1
            continue
        patient = path.parent.name
        if folders.setdefault(patient, path.parent) != path.parent:
            raise InputError(
                f"{file.name}: two folders are named {patient} ({folders[patient]} and {path.parent}); a patient has "
                "one; rename them in the archive"
            )
        patients.setdefault(patient, []).append(member)
    if not patients:
        raise InputError(
            f"{file.name}: no slices in it ({', '.join(SLICE_SUFFIXES)} in a folder a patient); "
            "for other formats unpack it and use `python -m data_prep import`"
        )
    for held in patients.values():
        _check_names(held, file)
    return patients, others


def _check_limits(members: list[zipfile.ZipInfo], file: Path, limits: Limits) -> None:
    unpacked = sum(member.file_size for member in members)
    packed = max(sum(member.compress_size for member in members), 1)
    if len(members) > limits.files:
        raise InputError(f"{file.name}: {len(members)} files, more than {limits.files}; unpack it by hand")
    if unpacked > limits.total_bytes:
        most = limits.total_bytes / 2**30
        raise InputError(f"{file.name}: unpacks to {unpacked / 2**30:.0f} GiB, more than {most:g}; unpack it by hand")
    if unpacked > limits.ratio_from_bytes and unpacked > limits.ratio * packed:
        raise InputError(
            f"{file.name}: unpacks to {unpacked / packed:.0f} times its size, which slices never do; "
            "fetch it from a source that you trust, or unpack it by hand"
        )
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{file.name}: locked by a password; unpack it by hand")


def _safe_path(member: zipfile.ZipInfo, file: Path) -> PurePosixPath:
    # As written in the archive: zipfile has its own, more forgiving reading of odd names.
    name = member.orig_filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{file.name}: the path {name!r} leads out of it; such an archive is not unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{file.name}: {name} is a symbolic link; such an archive is not unpacked")
    return path


def _check_names(members: list[zipfile.ZipInfo], file: Path) -> None:
    seen: dict[str, str] = {}
    for member in members:
        name = PurePosixPath(member.filename).name
        if len(name.encode()) > 255:
            raise InputError(f"{file.name}: the name {name[:40]}... has more than 255 bytes; shorten it")
        if name.casefold() in seen:
            raise InputError(f"{file.name}: {member.filename} is in it twice; pack it again")
        seen[name.casefold()] = name
    members.sort(key=lambda member: natural_key(member.filename))


def _named_alike(masks: Patients, images: Patients) -> Patients:
    """The masks under the images' names, where only the case of letters differs."""
    names = {name.casefold(): name for name in images}
    if len(names) < len(images):
        return masks
    renamed = {names.get(name.casefold(), name): members for name, members in masks.items()}
    return renamed if len(renamed) == len(masks) else masks


def _extract(archive: zipfile.ZipFile, file: Path, member: zipfile.ZipInfo, target: Path) -> None:
    try:
        with archive.open(member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = first_line(error)
        raise InputError(f"{file.name}: {member.filename} is damaged ({reason}); fetch the archive again") from error


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural_key))
