"""Pictures of a prediction: image, truth and prediction side by side, outlined in colour-blind-safe colours."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data_prep.cohort.layout import Cohort
from data_prep.cohort.store import is_lesion
from data_prep.common.files import write_png
from data_prep.preprocessing.framing import to_stored
from data_prep.preprocessing.head import Box, head_box
from lcnn.inference.model_file import TrainedModel
from lcnn.scoring.evaluate import Case, PatientResult, evaluate

BLUE = (86, 180, 233)
ORANGE = (230, 159, 0)
"""From the palette of Okabe and Ito (2008)."""
GREY = (150, 150, 150)
HATCH = 8
"""Pixels between the lines over what is ignored."""
PANEL = 384
CAPTION = 44


def save_overlay(path: Path, case: Case, *, title: str) -> None:
    """Write a PNG of the slice with the most lesion (true, or predicted where there is none).

    Three panels: the slice, the truth outlined in blue, the prediction outlined in orange. In the last two, what is
    ignored is hatched in grey: what is predicted there does not count.
    """
    chosen = most_telling_slice(case)
    # The same square around the head in all panels, so that pictures of any shape keep their proportions.
    box = head_box(case.image_ZHW)
    picture = to_stored(case.image_ZHW[chosen], box, PANEL)
    true, predicted = (shown_mask(mask_ZHW[chosen], box, PANEL) for mask_ZHW in (case.true_ZHW, case.predicted_ZHW))
    ignored = None if case.ignored_ZHW is None else shown_mask(case.ignored_ZHW[chosen], box, PANEL)
    panels = [_panel(picture), _panel(picture, true, BLUE, ignored), _panel(picture, predicted, ORANGE, ignored)]
    canvas = Image.new("RGB", (PANEL * 3 + 16, PANEL + CAPTION), (16, 16, 16))
    for position, panel in enumerate(panels):
        canvas.paste(panel, (position * (PANEL + 8), CAPTION))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=17)
    captions = [
        (title, (255, 255, 255)),
        (f"truth, slice {chosen + 1} of {len(case.image_ZHW)}{_hatched_text(ignored)}", BLUE),
        (f"prediction, {_dice_text(case)}", ORANGE),
    ]
    for position, (text, colour) in enumerate(captions):
        draw.text((position * (PANEL + 8) + 8, 12), text, fill=colour, font=font)
    write_png(path, canvas)


def save_prediction(path: Path, image_HW: NDArray[np.uint8], predicted_HW: NDArray[np.bool_]) -> None:
    """Write a PNG of one slice at its own size with the prediction outlined in orange."""
    write_png(path, _panel(image_HW, predicted_HW, ORANGE))


def save_best_median_worst(
    folder: Path, results: Sequence[PatientResult], model: TrainedModel, cohort: Cohort, root: Path
) -> None:
    """``best.png``, ``median.png`` and ``worst.png``: three of the scored patients by Dice, predicted once more.

    Predicting again costs three patients; keeping all pictures in memory would cost all of them.
    """
    ranked = sorted((r for r in results if not math.isnan(r.dice)), key=lambda r: -r.dice)
    if not ranked:
        return
    label = " (synthetic)" if cohort.synthetic else ""
    picks = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    for word, result in picks.items():
        draw = partial(save_overlay, folder / f"{word}.png", title=f"{word}: {result.patient}{label}")
        evaluate(model, cohort, root, [result.patient], on_case=draw)


def most_telling_slice(case: Case) -> int:
    """Index of the slice with the largest true lesion, or the largest predicted one without lesion."""
    area_Z = case.true_ZHW.sum(axis=(1, 2))
    if not area_Z.any():
        area_Z = case.predicted_ZHW.sum(axis=(1, 2))
    return int(area_Z.argmax()) if area_Z.any() else len(area_Z) // 2


def shown_mask(mask_HW: NDArray[np.bool_], box: Box, side: int) -> NDArray[np.bool_]:
    """A native mask, cropped to ``box``, at ``side`` pixels: a picture for people, not for figures."""
    share_SS = to_stored(mask_HW * np.uint8(255), box, side)
    shown_SS = is_lesion(share_SS)
    # A lesion of less than half a pixel must not vanish from the picture.
    return shown_SS if shown_SS.any() else share_SS > 0


def _dice_text(case: Case) -> str:
    return f"patient Dice {case.result.dice:.2f}" if case.true_ZHW.any() else "no lesion in truth"


def _hatched_text(ignored_PP: NDArray[np.bool_] | None) -> str:
    return "" if ignored_PP is None or not ignored_PP.any() else "; hatched: ignored"


def _panel(
    picture_PP: NDArray[np.uint8],
    mask_PP: NDArray[np.bool_] | None = None,
    colour: tuple[int, int, int] = BLUE,
    ignored_PP: NDArray[np.bool_] | None = None,
) -> Image.Image:
    pixels = np.repeat(picture_PP[..., None], 3, axis=-1)
    if ignored_PP is not None:
        row, column = np.indices(ignored_PP.shape)
        pixels[_outline(ignored_PP) | (ignored_PP & ((row + column) % HATCH == 0))] = GREY
    if mask_PP is not None:
        pixels[_outline(mask_PP)] = colour
    return Image.fromarray(pixels)


def _outline(mask_PP: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outline: NDArray[np.bool_] = ndimage.binary_dilation(mask_PP) & ~ndimage.binary_erosion(mask_PP)
    return outline
