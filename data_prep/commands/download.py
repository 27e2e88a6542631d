"""``download``: two ZIP files from Google Drive, unpacked into the common layout."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from data_prep.cohort.layout import has_layout
from data_prep.common.errors import InputError
from data_prep.common.files import IF_BUSY, locked
from data_prep.common.progress import bar
from data_prep.common.wording import counted, few, pasted
from data_prep.importing.archives import Unpacked, unpack_cohort
from data_prep.importing.fetching import fetch_zip, link_of

DOWNLOADS = ".download"
"""Folder of the target in which archives are kept until they are unpacked."""


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("folder", type=Path, help="folder of the cohort; images/ and masks/ are made in it")
    parser.add_argument("--image-id", required=True, metavar="ID", help="ZIP of the slices: its Drive id, or a link")
    parser.add_argument("--mask-id", required=True, metavar="ID", help="ZIP of the masks")
    parser.add_argument("--keep-zip", action="store_true", help="leave images.zip and masks.zip in the folder")
    parser.add_argument(
        "--no-overwrite", action="store_true", help="leave images/ and masks/ as they are where they are there already"
    )


def run(options: argparse.Namespace) -> None:
    """Fetch what is missing, then unpack both.

    Raises:
        InputError: a link is wrong, a server refuses, or an archive is damaged, unsafe or no cohort.
    """
    root = options.folder
    links = {"images": link_of(options.image_id, "--image-id"), "masks": link_of(options.mask_id, "--mask-id")}
    if links["images"] == links["masks"]:
        raise InputError(f"--image-id and --mask-id {options.mask_id}: the same file; give the masks' own")
    if options.no_overwrite and has_layout(root):
        print(f"{root}: holds a cohort already; left as it is")
        return
    with locked(root, if_busy=IF_BUSY, if_unwritable="make room, or choose another folder"):
        _tell(root, _fetched(root, links, keeps_zip=options.keep_zip))


def _fetched(root: Path, links: Mapping[str, str], *, keeps_zip: bool) -> Unpacked:
    files = {}
    for part, link in links.items():
        with bar(f"fetching {part}", None, in_bytes=True) as show:
            files[part] = fetch_zip(link, root / DOWNLOADS, show)
    with bar("unpacking", None) as show:
        unpacked = unpack_cohort(files["images"], files["masks"], root, show)
    if keeps_zip:
        for part, file in files.items():
            file.replace(root / f"{part}.zip")
    shutil.rmtree(root / DOWNLOADS)
    return unpacked


def _tell(root: Path, unpacked: Unpacked) -> None:
    print(f"{root}: {counted(unpacked.patients, 'patient')}, {counted(unpacked.slices, 'slice')}")
    for names, lack in ((unpacked.without_masks, "masks"), (unpacked.without_images, "images")):
        if names:
            print(f"without {lack}: {few(names)}; add them, or remove the folders")
    if unpacked.others:
        print(f"left out: {unpacked.others} files that are no slices")
    print(f"next: python -m data_prep check {pasted(root)}")
