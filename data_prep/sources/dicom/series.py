"""The series of a DICOM study, and which of them is the head CT.

A series is what shares a SeriesInstanceUID and a plane, so that scouts and reformats stand apart; where one holds
several pictures at one place, it is divided by kernel, contrast or acquisition, if that leaves one picture a place.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
from highdicom.spatial import get_normal_vector

from data_prep.common.errors import InputError
from data_prep.common.wording import counted
from data_prep.sources.dicom.headers import AcquisitionInfo, Frame, Header, Kernel

LEAST_SLICES = 8
"""Fewer are no head: scouts, and single slices of a perfusion."""
USUAL_MM = 5.0
"""Thickness that stroke is read at; of several series, the one nearest to it is taken."""
SAME_PLANE = 1e-3
"""Largest difference of direction cosines in one plane, as headers round them."""
SAME_PLACE_MM = 0.01
THICKNESS_STEP_MM = 0.5
"""Thicknesses that differ by less decide nothing."""
DIVIDERS: tuple[Callable[[AcquisitionInfo], object], ...] = (
    lambda acquisition: acquisition.kernel_name,
    lambda acquisition: acquisition.has_contrast,
    lambda acquisition: acquisition.acquisition,
)
KERNEL_RANK = {Kernel.SOFT: 0, Kernel.UNKNOWN: 1, Kernel.BONE: 2}


class Plane(Enum):
    """How slices lie, to the nearest of the three."""

    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"


@dataclass(frozen=True)
class Series:
    """Pictures that make one volume."""

    number: int
    """As it is listed, from 1."""
    frames: tuple[Frame, ...]
    world: str
    strays: tuple[Frame, ...] = ()
    """Pictures of the same series in nearly the same direction that do not fit in."""
    fault: str | None = None
    """Why a file of the same series cannot be used."""

    @property
    def plane(self) -> Plane:
        """How its slices lie."""
        return list(Plane)[int(np.abs(get_normal_vector(self.frames[0].orientation)).argmax())]

    @property
    def thickness_mm(self) -> float | None:
        """Of a slice, by its header."""
        return self.frames[0].acquisition.thickness_mm

    def __str__(self) -> str:
        acquisition = self.frames[0].acquisition
        parts = [self.plane.value, counted(len(self.frames), "slice"), acquisition.kernel.value]
        parts += [f"{acquisition.thickness_mm:g} mm"] if acquisition.thickness_mm is not None else []
        parts += ["contrast"] if acquisition.has_contrast else []
        return f"{self.number}: {', '.join(parts)}"


def find_series(headers: Iterable[Header]) -> tuple[Series, ...]:
    """The CT series of a study, numbered by their own series number, then by name of the file."""
    by_series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        by_series[header.series].append(header)
    found: list[tuple[int, Series]] = []
    for members in by_series.values():
        fault = next((header.fault for header in members if header.fault), None)
        found += [(members[0].series_number, series) for series in _divide(members, fault)]
    found.sort(key=lambda entry: entry[0])
    return tuple(replace(series, number=number) for number, (_, series) in enumerate(found, start=1))


def choose_series(series: Sequence[Series], number: int | None, place: Path) -> Series:
    """The head CT of a study.

    Of axial series of `LEAST_SLICES` or more: one without contrast before one with, a soft kernel before bone, the
    thickness nearest to 5 mm. Where two are alike in all this, a person has to say which.

    Args:
        series: those of `find_series`.
        number: a series that a person chose; None chooses by rule.
        place: the study's folder, for messages.

    Raises:
        InputError: there is none, several are alike, or the one chosen cannot be used.
    """
    if not series:
        raise InputError(f"{place}: no CT pictures that can be placed; give the folder of the CT series")
    if number is not None:
        chosen = next((one for one in series if one.number == number), None)
        if chosen is None:
            raise InputError(f"{place}: no series {number}; there are {listed(series)}")
        return _usable(chosen)
    ranked = sorted((one for one in series if is_candidate(one)), key=_rank)
    if not ranked:
        _refuse_none(series, place)
    if len(ranked) > 1 and _rank(ranked[0]) == _rank(ranked[1]):
        alike = [one for one in ranked if _rank(one) == _rank(ranked[0])]
        raise InputError(
            f"{place}: several series may be the head CT; keep one, or choose by --series: {listed(alike)}"
        )
    chosen = ranked[0]
    if chosen.strays:
        raise InputError(
            f"{chosen.strays[0].file}: of another size or direction than the other {len(chosen.frames)} slices of its "
            f"series; remove it, or choose by --series: {listed(series)}"
        )
    return _usable(chosen)


def is_candidate(series: Series) -> bool:
    """Whether a series can be the head CT by rule."""
    acquisition = series.frames[0].acquisition
    is_head = not acquisition.is_localizer and not acquisition.is_other_part
    return is_head and series.plane is Plane.AXIAL and len(series.frames) >= LEAST_SLICES


def listed(series: Iterable[Series]) -> str:
    """Series on one line."""
    return "; ".join(map(str, series))


def _usable(series: Series) -> Series:
    if series.fault:
        raise InputError(series.fault)
    return series


def _refuse_none(series: Sequence[Series], place: Path) -> None:
    fault = next((one.fault for one in series if one.fault), None)
    if fault:
        raise InputError(fault)
    if len(series) == 1 and len(series[0].frames) == 1:
        raise InputError(f"{series[0].frames[0].file}: one slice makes no volume; give the whole series")
    raise InputError(
        f"{place}: no axial head CT of {LEAST_SLICES} slices or more; where one of these is meant, choose it "
        f"by --series: {listed(series)}"
    )


def _rank(series: Series) -> tuple[bool, int, float]:
    acquisition = series.frames[0].acquisition
    thickness = acquisition.thickness_mm if acquisition.thickness_mm is not None else float("inf")
    distance = abs(thickness - USUAL_MM) // THICKNESS_STEP_MM if thickness != float("inf") else float("inf")
    return acquisition.has_contrast, KERNEL_RANK[acquisition.kernel], distance


def _divide(members: Sequence[Header], fault: str | None) -> list[Series]:
    """One SeriesInstanceUID as series of one plane and size each, the largest first."""
    distinct = {(frame.instance, frame.number, frame.position_mm): frame for one in members for frame in one.frames}
    planes: list[list[Frame]] = []
    for frame in distinct.values():
        mates = next((plane for plane in planes if _fits(plane[0], frame)), None)
        if mates is None:
            planes.append([frame])
        else:
            mates.append(frame)
    planes.sort(key=len, reverse=True)
    parts = [part for plane in planes for part in _one_a_place(plane)]
    return [Series(0, tuple(part), members[0].world, _strays(part, planes), fault) for part in parts]


def _fits(first: Frame, frame: Frame) -> bool:
    apart = np.abs(np.subtract(first.orientation, frame.orientation)).max()
    same_spacing = np.allclose(first.spacing_mm, frame.spacing_mm, rtol=1e-3, atol=0)
    same_type = first.acquisition.is_localizer == frame.acquisition.is_localizer
    return bool(apart < SAME_PLANE) and same_spacing and same_type and first.size == frame.size


def _strays(part: Sequence[Frame], planes: Sequence[Sequence[Frame]]) -> tuple[Frame, ...]:
    """Pictures too few to be a volume of their own, that look as if they belonged to this one."""
    return tuple(
        frame
        for plane in planes
        if len(plane) < LEAST_SLICES <= len(part) and not plane[0].acquisition.is_localizer
        for frame in plane
        if abs(get_normal_vector(part[0].orientation) @ get_normal_vector(frame.orientation)) > 0.9
    )


def _one_a_place(plane: list[Frame]) -> list[list[Frame]]:
    """The frames of a plane, divided by how they were made where that leaves one a place."""
    if not _has_doubles(plane):
        return [plane]
    for divider in DIVIDERS:
        parts: dict[object, list[Frame]] = defaultdict(list)
        for frame in plane:
            parts[divider(frame.acquisition)].append(frame)
        if len(parts) > 1 and not any(_has_doubles(part) for part in parts.values()):
            return list(parts.values())
    return [plane]


def _has_doubles(frames: Sequence[Frame]) -> bool:
    normal = get_normal_vector(frames[0].orientation)
    heights_mm = np.sort([np.dot(frame.position_mm, normal) for frame in frames])
    return bool((np.diff(heights_mm) < SAME_PLACE_MM).any())
