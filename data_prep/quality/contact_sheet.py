"""A cohort at a glance: a tile a patient, with its lesion outlined and what was found written below.

Legend: H rows, W columns of a slice, T pixels of a tile.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data_prep.common.files import write_png
from data_prep.quality.findings import Finding, Severity

SIDE = 128
CAPTION = 34
GAP = 6
COLUMNS = 10
TILES_A_SHEET = 300
INK, PAPER = (235, 235, 235), (16, 16, 16)
OUTLINE = (86, 180, 233)
COLOURS: Mapping[Severity, tuple[int, int, int]] = {Severity.ERROR: (213, 94, 0), Severity.WARNING: (230, 159, 0)}
"""From the palette of Okabe and Ito (2008), as is the outline."""
LETTERS = 21
"""That fit below a tile."""


@dataclass(frozen=True)
class Tile:
    """One patient's picture."""

    patient: str
    slice_number: int
    """From 1."""
    png: bytes
    """Packed, as the tiles of all patients are held until the findings are known."""


def draw_tile(patient: str, image_HW: NDArray[np.uint8], mask_HW: NDArray[np.bool_] | None, place: int) -> Tile:
    """A slice at a tile's size, its proportions kept, the lesion outlined."""
    image = Image.fromarray(image_HW).convert("L")
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.repeat(np.asarray(image)[..., None], 3, axis=-1).copy()
    if mask_HW is not None:
        share = np.asarray(Image.fromarray(mask_HW * np.uint8(255)).resize(image.size, Image.Resampling.BOX))
        lesion = share > 0
        pixels[ndimage.binary_dilation(lesion) & ~lesion] = OUTLINE
    tile = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    top, left = (SIDE - pixels.shape[0]) // 2, (SIDE - pixels.shape[1]) // 2
    tile[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    packed = io.BytesIO()
    Image.fromarray(tile).save(packed, format="PNG")
    return Tile(patient, place + 1, packed.getvalue())


def save_contact_sheets(folder: Path, tiles: Sequence[Tile], findings: Sequence[Finding]) -> list[Path]:
    """Write ``contact_sheet.png``, or several where there are many patients; their paths."""
    marks: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity in COLOURS:
            marks.setdefault(finding.patient, []).append(finding)
    written = []
    for first in range(0, len(tiles), TILES_A_SHEET):
        number = f"_{first // TILES_A_SHEET + 1}" if len(tiles) > TILES_A_SHEET else ""
        path = folder / f"contact_sheet{number}.png"
        write_png(path, _sheet(tiles[first : first + TILES_A_SHEET], marks))
        written.append(path)
    return written


def _sheet(tiles: Sequence[Tile], marks: Mapping[str, Sequence[Finding]]) -> Image.Image:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, tile in enumerate(tiles):
        left = GAP + number % columns * (SIDE + GAP)
        top = GAP + number // columns * (SIDE + CAPTION + GAP)
        sheet.paste(Image.open(io.BytesIO(tile.png)), (left, top))
        found = sorted(marks.get(tile.patient, ()), key=lambda finding: finding.severity is not Severity.ERROR)
        draw.text((left, top + SIDE + 2), _short(f"{tile.patient}  #{tile.slice_number}"), fill=INK, font=font)
        if found:
            colour = COLOURS[found[0].severity]
            kinds = list(dict.fromkeys(finding.kind.value for finding in found))
            more = f" +{len(kinds) - 1}" if len(kinds) > 1 else ""
            draw.rectangle((left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), outline=colour, width=2)
            draw.text((left, top + SIDE + 16), _short(kinds[0], LETTERS - len(more)) + more, fill=colour, font=font)
    return sheet


def _short(text: str, most: int = LETTERS) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
