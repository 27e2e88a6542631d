"""From a drawn head to noise-free CT slices: the map to template space, and densities at its points.

Axes and units are those of `_phantom_anatomy`: coordinates (z, y, x) in mm, arrays `_ZYX`, densities in HU,
distances negative inside. `N` is a number of points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from data_prep.phantom import anatomy
from data_prep.phantom.anatomy import Float, Template

AIR_HU = -1000.0
SUBSLICE_MM = 1.0  # slices are means of samples this far apart
POSE_STEP_MM = 5.0  # template coordinates are computed on this grid and interpolated


@dataclass(frozen=True)
class Infarct:
    """An infarct in template space: its share, and a change in HU (early) or a density in HU (old)."""

    share: anatomy.Field
    hu: float


@dataclass(frozen=True)
class Head:
    """All drawn properties of a head, lengths in mm and densities in HU, in template space."""

    to_head: Float  # (3, 3): turns picture coordinates (z, y, x) into the head's
    shift_mm: Float  # (z, y, x)
    scale: Float  # (z, y, x), relative to the template
    displacement: tuple[anatomy.Field, ...]
    ventricle_mm: float
    ventricle_asymmetry_mm: float
    atrophy: float
    gap_mm: float
    skull_mm: float
    scalp_mm: float
    grey_hu: float
    white_hu: float
    csf_hu: float
    bone_hu: float
    scalp_hu: float
    cupping_hu: float
    band_hu: float
    leukoaraiosis_hu: float
    calcifications: Float  # (n, 5): z, y, x, radius, density
    old_infarct: Infarct | None
    lesion: Infarct | None = None


@dataclass(frozen=True)
class Grid:
    """Sample positions of one patient: picture coordinates in mm and the coarse map to template space.

    coarse (4, Z, Y, X): template z, y, x in mm and the distance to the head's surface in mm.
    edge_mm: width of the soft edges of bone and skin.
    """

    coarse: Float
    coarse_z_mm: Float
    coarse_xy_mm: Float
    pixel_xy_mm: Float
    slice_z_mm: Float
    slice_mm: float
    edge_mm: float


@dataclass(frozen=True)
class Slice:
    """Densities in HU and shares (0..1) of a slice (Y, X) or of all (Z, Y, X), means over the thickness."""

    hu: Float
    head: Float
    brain: Float
    lesion: Float
    old: Float


def _axis(low_mm: float, high_mm: float) -> Float:
    """Positions from low to beyond high in steps of POSE_STEP_MM."""
    count = math.ceil((high_mm - low_mm) / POSE_STEP_MM) + 2
    return np.float32(low_mm) + np.arange(count, dtype=np.float32) * np.float32(POSE_STEP_MM)


def make_grid(
    template: Template,
    head: Head,
    *,
    pixel_mm: float,
    field_mm: float,
    slice_mm: float,
    start_mm: float,
    above_mm: float,
) -> Grid:
    """Map the picture to template space on a coarse grid, and place slices.

    The slices reach from the height start_mm (at the skull base, negative) to above_mm over the brain's top.
    """
    pixels = round(field_mm / pixel_mm)
    pixel_xy_mm = (np.arange(pixels, dtype=np.float32) - np.float32((pixels - 1) / 2)) * np.float32(pixel_mm)
    coarse_xy_mm = _axis(float(pixel_xy_mm[0]), float(pixel_xy_mm[-1]))
    coarse_z_mm = _axis(-90.0, 120.0)
    points = np.stack(np.meshgrid(coarse_z_mm, coarse_xy_mm, coarse_xy_mm, indexing="ij"))
    at = _to_template(points.reshape(3, -1), head)
    hull = template.hull.sample(at)
    surface = _surface_distance(head, hull, template.base.sample(at))
    top_mm = float(points[0].reshape(-1)[hull < 0].max()) + above_mm
    count = math.ceil((top_mm - start_mm) / slice_mm)
    return Grid(
        coarse=np.concatenate([at, surface[None]]).reshape(4, *points.shape[1:]),
        coarse_z_mm=coarse_z_mm,
        coarse_xy_mm=coarse_xy_mm,
        pixel_xy_mm=pixel_xy_mm,
        slice_z_mm=(start_mm + (np.arange(count) + 0.5) * slice_mm).astype(np.float32),
        slice_mm=slice_mm,
        edge_mm=max(pixel_mm, 1.0),
    )


def _to_template(points_mm: Float, head: Head) -> Float:
    """Template coordinates (3, N) of picture coordinates (3, N)."""
    turned = np.einsum("ij,jn->in", head.to_head, points_mm - head.shift_mm[:, None])
    at = turned / head.scale[:, None] + anatomy.PIVOT_MM[:, None]
    return at + np.stack([component.sample(at) for component in head.displacement])


def _surface_distance(head: Head, hull_mm: Float, base_mm: Float) -> Float:
    """Distance in mm to the head's surface: scalp over the skull, or face and neck."""
    return np.minimum(hull_mm - np.float32(head.gap_mm + head.skull_mm + head.scalp_mm), base_mm)


def _interpolate(values: Float, axis: int, coarse_mm: Float, fine_mm: Float) -> Float:
    """Linear interpolation along one axis of a regular grid."""
    position = (fine_mm - coarse_mm[0]) / np.float32(POSE_STEP_MM)
    low = np.clip(position.astype(np.intp), 0, len(coarse_mm) - 2)
    weight = (position - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    lower = values.take(low, axis)
    return lower + weight * (values.take(low + 1, axis) - lower)


def make_slice(template: Template, head: Head, grid: Grid, z_mm: float) -> Slice:
    """One slice: sample the anatomy at thin sub-slices, average over the thickness."""
    count = max(round(grid.slice_mm / SUBSLICE_MM), 1)
    offset = (np.arange(count, dtype=np.float32) + 0.5) / count - 0.5
    z = (z_mm + offset * grid.slice_mm).astype(np.float32)
    fine = _interpolate(grid.coarse, 1, grid.coarse_z_mm, z)
    fine = _interpolate(fine, 2, grid.coarse_xy_mm, grid.pixel_xy_mm)
    fine = _interpolate(fine, 3, grid.coarse_xy_mm, grid.pixel_xy_mm)
    # Only the head is worth sampling; the interpolated distance is a little off, hence the margin.
    near = fine[3] < 4.0
    columns = _compose(template, head, fine[:3, near], grid.edge_mm)
    background = (AIR_HU, 0.0, 0.0, 0.0, 0.0)
    planes = []
    for values, outside in zip(columns, background, strict=True):
        volume = np.full(near.shape, outside, np.float32)
        volume[near] = values
        planes.append(volume.mean(axis=0))
    return Slice(*planes)


def stack(slices: Sequence[Slice]) -> Slice:
    """Slices (Y, X) stacked to volumes (Z, Y, X)."""
    return Slice(*(np.stack([getattr(s, field.name) for s in slices]) for field in fields(Slice)))


def ramp(distance_mm: Float, width_mm: float) -> Float:
    """Share inside a surface from its signed distance (negative inside), with an edge of the given width."""
    return np.clip(0.5 - distance_mm / np.float32(width_mm), 0.0, 1.0)


def _compose(template: Template, head: Head, at: Float, edge_mm: float) -> tuple[Float, Float, Float, Float, Float]:
    """Density in HU and shares of head, brain tissue, lesion and old infarct at template points (3, N)."""
    hull = template.hull.sample(at)
    base = np.where(at[0] < 15.0, template.base.sample(at), np.float32(99.0))
    inside = ramp(_surface_distance(head, hull, base), edge_mm)
    cranium = ramp(hull - np.float32(head.gap_mm), edge_mm)
    hu = _outer_hu(template, head, at, hull, base, edge_mm)
    hu = np.float32(AIR_HU) + inside * (hu - np.float32(AIR_HU))

    brain, lesion_share, old_share = (np.zeros_like(hull) for _ in range(3))
    deep = cranium > 0
    points = at[:, deep]
    inner, brain[deep], lesion_share[deep], old_share[deep] = _inner_hu(template, head, points, hull[deep])
    bone = template.base_bone.sample(points) if points[0].min(initial=99.0) < 0 else np.zeros_like(inner)
    inner += bone * (np.float32(head.bone_hu) - inner)
    hu[deep] += cranium[deep] * (inner - hu[deep])
    return hu, inside, brain * cranium, lesion_share, old_share


def _outer_hu(template: Template, head: Head, at: Float, hull: Float, base: Float, edge_mm: float) -> Float:
    """Density in HU of scalp, face and skull, as if the cranium were solid bone."""
    hu = np.full(hull.shape, head.scalp_hu, np.float32)
    low = base < edge_mm
    if low.any():
        points = at[:, low]
        # A rim of skin covers the face; below it are muscle, fat, sinuses and their bone.
        flesh = ramp(base[low] + 4.0, edge_mm)
        hu[low] += flesh * (template.base_hu.sample(points) - hu[low])
        hu[low] += template.base_bone.sample(points) * (np.float32(head.bone_hu) - hu[low])
    # Frontal and occipital bone are thicker than temporal bone.
    thickness = np.float32(head.skull_mm) * (0.75 + 0.5 * np.minimum((at[1] - 17.0) / 90.0, 1.0) ** 2)
    skull = ramp(hull - np.float32(head.gap_mm) - thickness, edge_mm)
    return hu + skull * (np.float32(head.bone_hu) - hu)


def _inner_hu(template: Template, head: Head, at: Float, hull: Float) -> tuple[Float, Float, Float, Float]:
    """Density in HU and shares of brain tissue, lesion and old infarct at points (3, N) in the cranium."""
    grey, white = template.grey.sample(at), template.white.sample(at)
    border = template.ventricles.sample(at) - np.float32(head.ventricle_mm)
    border -= np.float32(head.ventricle_asymmetry_mm) * np.tanh(at[2] / 5.0)
    tissue = _tissue_share(head, grey + white, border)
    grey_share = grey / (grey + white + 0.02)
    hu = np.float32(head.white_hu) + grey_share * np.float32(head.grey_hu - head.white_hu)
    hu += np.float32(head.leukoaraiosis_hu) * (1.0 - grey_share) * np.exp(-np.maximum(border, 0.0) / 5.0)
    lesion_share = _share(head.lesion, at)
    old_share = _share(head.old_infarct, at)
    if head.lesion is not None:
        hu += np.float32(head.lesion.hu) * lesion_share
    if head.old_infarct is not None:
        hu += old_share * (np.float32(head.old_infarct.hu) - hu)
    hu = np.float32(head.csf_hu) + tissue * (hu - np.float32(head.csf_hu))
    hu = _with_dense_parts(head, hu, at, hull, tissue)
    return hu + _shading(head, at, hull), tissue, lesion_share, old_share


def _tissue_share(head: Head, matter: Float, border: Float) -> Float:
    """Share of brain tissue: the template's blurred sulci sharpened, wider with atrophy, ventricles cut out.

    The template's ventricles are filled before the patient's are cut out, which may be smaller.
    """
    low = 0.3 + 0.3 * head.atrophy
    tissue = np.clip((matter - np.float32(low)) / 0.4, 0.0, 1.0)
    tissue = np.maximum(tissue, ramp(border - 2.0, 2.0))
    return tissue * (1.0 - ramp(border, 2.0))


def _share(infarct: Infarct | None, at: Float) -> Float:
    return np.zeros_like(at[0]) if infarct is None else infarct.share.sample(at, outside=0.0)


def _with_dense_parts(head: Head, hu: Float, at: Float, hull: Float, tissue: Float) -> Float:
    """Add the falx (a thin dense sheet in the fluid of the midline) and calcifications."""
    z, y, x = at
    midline = np.exp(-((x / 1.2) ** 2)) * (1.0 - tissue) * ((z > 25.0) | (y > 60.0) | (y < -40.0)) * (hull > -32.0)
    hu = hu + midline * (50.0 - hu)
    for cz, cy, cx, radius, density in head.calcifications:
        box = np.flatnonzero((np.abs(z - cz) < radius + 1) & (np.abs(y - cy) < radius + 1))
        distance = np.sqrt(((at[:, box] - np.array([[cz], [cy], [cx]], np.float32)) ** 2).sum(axis=0)) - radius
        hu[box] += ramp(distance, 1.0) * (density - hu[box])
    return hu


def _shading(head: Head, at: Float, hull: Float) -> Float:
    """Beam hardening in HU: a bright rim under the skull and a dark band between the petrous bones."""
    z, y, x = at
    rim = np.float32(head.cupping_hu) * np.exp((hull - np.float32(head.gap_mm)) / 5.0)
    if head.band_hu == 0.0 or z.min(initial=99.0) > -10.0:
        return rim
    band = np.exp(-(((z + 37.0) / 9.0) ** 2) - ((y - 26.0) / 8.0) ** 2) / (1.0 + np.exp((np.abs(x) - 45.0) / 3.0))
    return rim - np.float32(head.band_hu) * band
