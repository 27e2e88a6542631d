"""``download``: two archives from a real server, whole or not at all, and nothing outside the cohort."""

import io
import re
import stat
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refusal

from data_prep.__main__ import main
from data_prep.cohort.layout import scan_cohort
from data_prep.importing.archives import Limits, unpack_cohort
from data_prep.importing.fetching import link_of, page_remedy

GDOWN_CHUNK = 2**19
"""gdown keeps whole chunks of this size."""


@dataclass
class Site:
    """What a server offers, how it misbehaves, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes after which every connection is dropped."""
    ranges: list[str | None] = field(default_factory=list)

    def link(self, name: str) -> str:
        return f"{self.url}/{name}"


@pytest.fixture
def site() -> Iterator[Site]:
    offered = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = offered.files.get(self.path[1:])
            if body is None:
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            offered.ranges.append(asked)
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", '"1"')
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            self.wfile.write(body[start : offered.cut_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    offered.url = f"http://127.0.0.1:{server.server_port}"
    yield offered
    server.shutdown()
    thread.join()
    server.server_close()


def png(value: int = 90) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 255, (64, 64)).astype(np.uint8)
    Image.fromarray(noise if value else noise * 0).save(buffer, "PNG")
    return buffer.getvalue()


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def cohort_zip(value: int, *, top: str = "data/CT/", names: tuple[str, ...] = ("p1", "p2"), slices: int = 3) -> bytes:
    pictures = {f"{top}{patient}/{number}.png": png(value) for patient in names for number in range(slices)}
    return packed({**pictures, f"{top}readme.txt": b"hello", "__MACOSX/p1/._1.png": b"fork"})


def download(site: Site, folder: Path, *more: str) -> int:
    links = ["--image-id", site.link("images.zip"), "--mask-id", site.link("masks.zip")]
    return main(["download", str(folder), *links, *more])


@pytest.fixture
def offering(site: Site) -> Site:
    site.files = {"images.zip": cohort_zip(90), "masks.zip": cohort_zip(0, top="")}
    return site


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_two_archives_become_a_cohort(offering: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download(offering, tmp_path / "c") == 0
    assert [patient.id for patient in scan_cohort(tmp_path / "c").patients] == ["p1", "p2"]
    assert len(tree(tmp_path / "c")) == 12
    assert not (tmp_path / "c" / ".download").exists()
    told = capsys.readouterr().out
    assert "2 patients, 6 slices" in told
    assert "left out: 4 files" in told


@pytest.mark.parametrize(
    ("spoilt", "reason"), [("size=8k", "No space left"), ("size=1m", "MiB needed"), ("ro", "Read-only")]
)
def test_a_disk_without_room_is_one_line_and_the_command_goes_on_later(
    offering: Site, disk: Path, capsys: pytest.CaptureFixture[str], spoilt: str, reason: str
) -> None:
    offering.files["images.zip"] = cohort_zip(90, slices=60)
    subprocess.run(["mount", "-o", f"remount,{spoilt}", str(disk)], check=True)
    assert download(offering, disk / "c") == 2
    errors = capsys.readouterr().err
    assert (errors.count("\n"), reason in errors) == (1, True), errors
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(disk)], check=True)
    assert not (disk / "c" / "images").exists()
    assert download(offering, disk / "c") == 0


def test_archives_are_kept_when_asked(offering: Site, tmp_path: Path) -> None:
    assert download(offering, tmp_path / "c", "--keep-zip") == 0
    assert (tmp_path / "c" / "images.zip").read_bytes() == offering.files["images.zip"]
    assert (tmp_path / "c" / "masks.zip").read_bytes() == offering.files["masks.zip"]


def test_a_cohort_is_replaced_whole_or_left_alone(offering: Site, tmp_path: Path) -> None:
    download(offering, tmp_path / "c")
    offering.files = {name: cohort_zip(90, names=("p9",)) for name in offering.files}
    assert download(offering, tmp_path / "c", "--no-overwrite") == 0
    assert {name.split("/")[1] for name in tree(tmp_path / "c")} == {"p1", "p2"}
    assert download(offering, tmp_path / "c") == 0
    assert {name.split("/")[1] for name in tree(tmp_path / "c")} == {"p9"}


def test_a_dropped_connection_is_continued_where_it_broke(
    offering: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_prep.importing.fetching.RETRIES", 0)  # the second run does it, not gdown's retries
    offering.files = {name: cohort_zip(90, slices=100) for name in offering.files}
    offering.cut_after = 700_000
    assert download(offering, tmp_path / "c") == 2
    assert "the same command goes on" in capsys.readouterr().err
    (part,) = (tmp_path / "c" / ".download").iterdir()
    assert part.stat().st_size == GDOWN_CHUNK
    assert tree(tmp_path / "c") == {f".download/{part.name}"}
    offering.cut_after, offering.ranges = None, []
    assert download(offering, tmp_path / "c") == 0
    assert f"bytes={GDOWN_CHUNK}-" in offering.ranges
    assert scan_cohort(tmp_path / "c").slice_count == 200


def test_the_first_archive_is_not_fetched_again_when_the_second_fails(offering: Site, tmp_path: Path) -> None:
    masks = offering.files.pop("masks.zip")
    assert download(offering, tmp_path / "c") == 2
    offering.files["masks.zip"] = masks
    offering.files["images.zip"] = b"gone"
    assert download(offering, tmp_path / "c") == 0


PAGES = {
    "quota": ("<html>Sorry, too many users have viewed or downloaded this file recently.</html>", "quota"),
    "sign-in": ("<!doctype html><title>Sign in - Google Accounts</title>", "not public"),
    "any page": ("<html><body>Welcome</body></html>", "a web page instead of a ZIP"),
    "no page": ("just text", "not a ZIP file"),
    "nothing": ("", "not a ZIP file"),
}


@pytest.mark.parametrize("case", PAGES)
def test_a_page_instead_of_an_archive_is_said_in_one_line(
    offering: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    page, words = PAGES[case]
    masks, offering.files["masks.zip"] = offering.files["masks.zip"], page.encode()
    assert download(offering, tmp_path / "c") == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "c" / "images").exists()
    offering.files["masks.zip"] = masks
    assert download(offering, tmp_path / "c") == 0


def test_what_gdown_says_of_drives_pages_is_understood() -> None:
    said = (
        "Cannot retrieve the public link of the file. You may need to change the permission, or have had many accesses."
    )
    assert page_remedy(said)
    assert "quota" in str(page_remedy("Quota exceeded"))
    assert page_remedy("Welcome") is None


def test_no_server_is_one_line(tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert download(site, tmp_path / "c") == 2
    assert "404" in capsys.readouterr().err


def test_ids_and_links(tmp_path: Path) -> None:
    assert link_of("1aBcD_efghij-k", "--image-id") == "https://drive.google.com/uc?id=1aBcD_efghij-k"
    assert link_of("https://host/x.zip", "--image-id") == "https://host/x.zip"
    assert "--mask-id ../x" in refusal(lambda: link_of("../x", "--mask-id"))


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo("p1/1.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return buffer.getvalue()


def broken() -> bytes:
    content = bytearray(cohort_zip(0))
    content[200:260] = bytes(60)
    return bytes(content)


UNSAFE = {
    "absolute": (packed({"/p1/1.png": png()}), "leads out of it"),
    "parent": (packed({"p1/../../1.png": png()}), "leads out of it"),
    "drive letter": (packed({"C:/p1/1.png": png()}), "leads out of it"),
    "backslash": (packed({"p1\\..\\1.png": png()}), "leads out of it"),
    "symbolic link": (linked(), "symbolic link"),
    "bomb": (packed({"p1/1.png": bytes(2**20)}, zipfile.ZIP_DEFLATED), "times its size"),
    "too much": (packed({"p1/1.png": bytes(2**21)}), "unpacks to"),
    "too many": (packed({f"p1/{n}.png": b"" for n in range(21)}), "21 files"),
    "no slices": (packed({"p1/scan.dcm": b"x"}), "data_prep import"),
    "a patient in two folders": (packed({"a/p1/1.png": png(), "b/p1/2.png": png()}), "two folders"),
    "one name twice": (packed({"p1/1.png": png(), "p1/1.PNG": png()}), "twice"),
    "long name": (packed({f"p1/{'x' * 300}.png": png()}), "255 bytes"),
    "other patients": (packed({"q1/1.png": png()}), "no patient folder is in both"),
    "torn": (cohort_zip(0)[:-40], "not a whole ZIP"),
    "damaged": (broken(), "is damaged"),
}
SMALL = Limits(files=20, total_bytes=2**21 - 1, ratio=200, ratio_from_bytes=2**19)


@pytest.mark.parametrize("case", UNSAFE)
def test_an_unsafe_or_broken_archive_leaves_the_cohort_as_it_was(tmp_path: Path, case: str) -> None:
    content, words = UNSAFE[case]
    images, masks, root = tmp_path / "images.zip", tmp_path / "masks.zip", tmp_path / "c"
    images.write_bytes(cohort_zip(90))
    masks.write_bytes(cohort_zip(0))
    unpack_cohort(images, masks, root, limits=SMALL)
    before = tree(tmp_path)
    masks.write_bytes(content)
    assert words in refusal(lambda: unpack_cohort(images, masks, root, limits=SMALL))
    assert tree(tmp_path) == before


def test_patients_of_one_archive_only_are_told(
    offering: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offering.files["masks.zip"] = cohort_zip(0, names=("P1", "p3"))
    assert download(offering, tmp_path / "c") == 0
    told = capsys.readouterr().out
    assert "without masks: p2" in told
    assert "without images: p3" in told
    assert (tmp_path / "c" / "masks" / "p1").is_dir()
