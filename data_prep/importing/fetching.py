"""A ZIP file from Google Drive, or from any link, by gdown: kept in part where the line breaks, continued next time.

gdown finds the way through Drive's pages and asks for the rest of a file by HTTP Range. What it fetches is seen to be a
ZIP file here, for a server that refuses answers with a web page and a cheerful 200.
"""

import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import gdown
import requests

from data_prep.common.errors import InputError, first_line

TIMEOUT_S = 60.0
"""Longest silence of a server."""
RETRIES = 3
ZIP_START = b"PK"
PAGE_BYTES = 512 * 2**10
"""As much of a web page is looked at."""
SHARE = "share the file with anyone who has the link, or download it in a browser and unpack it by hand"
PAGES = {
    r"quota|too many users|many accesses|viewed or downloaded this file": (
        "Google Drive's quota for the file is used up; try again in a day, or copy the file to a Drive of your own"
    ),
    r"sign in|servicelogin|log in|request access|need access|permission": f"it is not public; {SHARE}",
    r"not found|does not exist|no longer available": "there is no such file; check the id",
}
"""How pages that stand in for a file are told apart, and what each asks for; the first that fits is taken."""


def link_of(text: str, option: str) -> str:
    """The link of a Drive id, or of a link.

    Raises:
        InputError: ``text`` is neither.
    """
    if re.fullmatch(r"https?://\S+", text):
        return text
    if re.fullmatch(r"[-\w]{10,}", text, re.ASCII):
        return f"https://drive.google.com/uc?id={text}"
    raise InputError(
        f"{option} {text}: neither an id nor a link; the id is the long part of drive.google.com/file/d/<id>/view"
    )


def fetch_zip(link: str, folder: Path, on_bytes: Callable[[int, int | None], None] | None = None) -> Path:
    """The ZIP file behind ``link``, in ``folder``; what an earlier call has fetched of it is not fetched again.

    Args:
        link: from `link_of`.
        folder: where it is kept, in part or whole, under a name that only this link has.
        on_bytes: called with bytes so far, and of all where the server says.

    Raises:
        InputError: the server cannot be reached, refuses, or sends something else than a ZIP file.
        OSError: there is no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{hashlib.sha256(link.encode()).hexdigest()[:16]}.zip"
    for part in _parts(target):
        if not _starts_as_zip(part):
            part.unlink()  # an empty one, or the beginning of a web page
    try:
        gdown.download(
            url=link,
            output=str(target),
            quiet=True,
            use_cookies=False,
            resume=True,
            timeout=TIMEOUT_S,
            retries=RETRIES,
            progress=on_bytes,
        )
    except gdown.DownloadError as error:
        raise InputError(f"{link}: {_refusal(str(error), _parts(target))}") from error
    except requests.HTTPError as error:
        raise InputError(f"{link}: the server answers {_status(error)}; check the link, or try later") from error
    except requests.RequestException as error:
        raise InputError(
            f"{link}: cannot be reached ({type(error).__name__}); check the network, then the same command goes on"
        ) from error
    if not _starts_as_zip(target):
        reason = _page_reason(target)
        target.unlink()
        raise InputError(f"{link}: {reason}")
    if not zipfile.is_zipfile(target):
        target.unlink()
        raise InputError(f"{link}: not a whole ZIP file; it was removed, the same command fetches it anew")
    return target


def page_remedy(text: str) -> str | None:
    """What a page that stands in for a file asks for; None where it is none that is known."""
    return next((remedy for words, remedy in PAGES.items() if re.search(words, text, re.IGNORECASE)), None)


def _parts(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{target.name}*.part"))


def _starts_as_zip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(ZIP_START)) == ZIP_START


def _page_reason(file: Path) -> str:
    with file.open("rb") as opened:
        text = opened.read(PAGE_BYTES).decode("utf-8", errors="replace")
    if not re.search(r"<html|<!doctype html", text, re.IGNORECASE):
        return "not a ZIP file; check the id or the link"
    return f"a web page instead of a ZIP file: {page_remedy(text) or SHARE}"


def _refusal(message: str, parts: list[Path]) -> str:
    """gdown's paragraphs in one line with a remedy."""
    if "byte range" in message or "temporary files" in message:
        return f"the server does not continue what is there; delete {parts[0]} to fetch it from the start"
    if "retrieve" in message:
        return f"a web page instead of a ZIP file: {page_remedy(message) or SHARE}"
    return f"broken off ({message.splitlines()[0].rstrip('.')}); the same command goes on"


def _status(error: requests.HTTPError) -> str:
    return f"{error.response.status_code} {error.response.reason}" if error.response is not None else first_line(error)
