"""Head anatomy shared by all phantom patients: template fields, deformations and infarct shapes.

Axes and units: arrays are `_ZYX` and coordinates are stacked as (z, y, x) in mm, with z superior,
y posterior and x towards the patient's left (the LPS frame of DICOM, listed backwards). The template is
MNI152 (ICBM 2009a, symmetric), so an MNI coordinate (x, y, z) is (z, -y, -x) here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float32]

COARSE_MM = 2.0  # grid of everything that is smooth: distances, territories, skull base
WARP_STEP_MM = 10.0  # grid of the displacement fields
PIVOT_MM = np.array([5.0, 17.0, 0.0], np.float32)  # (z, y, x) centre of the template's brain
HULL_CLOSING_MM = 20.0  # bridges sulci and fissures, so that the skull is smooth
TERRITORIES = ("MCA", "PCA", "ACA", "deep")


@dataclass(frozen=True)
class Field:
    """A scalar on a regular grid: values_ZYX, the position of voxel 0 and the step, both in mm."""

    values_ZYX: NDArray[np.float32]
    origin_mm: Float
    step_mm: float

    def sample(self, points_mm: Float, outside: float | None = None) -> Float:
        """Trilinear values at points_mm (3, N); beyond the grid the edge value, or `outside` if given."""
        index = (points_mm - self.origin_mm[:, None]) / np.float32(self.step_mm)
        return ndimage.map_coordinates(
            self.values_ZYX,
            index,
            output=np.float32,
            order=1,
            mode="nearest" if outside is None else "constant",
            cval=outside or 0.0,
            prefilter=False,
        )


@dataclass(frozen=True)
class Template:
    """What all patients share. Distances are in mm, negative inside."""

    grey: Field  # share of grey matter, 0..1
    white: Field  # share of white matter, 0..1
    hull: Field  # distance to the smooth outer surface of the brain
    ventricles: Field  # distance to the ventricles
    ventricle_mm: Float  # distances of the voxels in and near the ventricles, ascending
    base: Field  # distance to the surface of face and upper neck
    base_hu: Field  # soft tissue, fat and air below the skull base, HU
    base_bone: Field  # share of bone below and in the skull base, 0..1
    territory_ZYX: NDArray[np.int8]  # 0 none, else 1 + index in TERRITORIES; grid of `hull`


def grid_mm(field: Field) -> Float:
    """Positions (3, Z, Y, X) in mm of the voxels of a field."""
    index = np.indices(field.values_ZYX.shape, np.float32)
    return index * np.float32(field.step_mm) + field.origin_mm[:, None, None, None]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Build the template from the MNI152 maps that nilearn's wheel ships (about 2 s, no download)."""
    # Importing nilearn takes seconds: only a process that builds the template should pay for it.
    from nilearn import datasets  # noqa: PLC0415

    grey = _to_field(datasets.load_mni152_gm_template(resolution=1))
    white = _to_field(datasets.load_mni152_wm_template(resolution=1))
    tissue_ZYX = _halve(grey.values_ZYX + white.values_ZYX)
    origin_mm = grey.origin_mm + np.float32(COARSE_MM / 4)
    hull = _coarse(_hull_distance(tissue_ZYX > 0.3), origin_mm)
    at = grid_mm(hull)
    ventricles = _coarse(_ventricle_distance(tissue_ZYX, hull.values_ZYX, at), origin_mm)
    base, base_hu, base_bone = _skull_base(at, tissue_ZYX)
    near = ventricles.values_ZYX[ventricles.values_ZYX < 8.0]
    return Template(
        grey=grey,
        white=white,
        hull=hull,
        ventricles=ventricles,
        ventricle_mm=np.sort(near),
        base=_coarse(base, origin_mm),
        base_hu=_coarse(base_hu, origin_mm),
        base_bone=_coarse(base_bone, origin_mm),
        territory_ZYX=_territories(at, tissue_ZYX, hull.values_ZYX),
    )


def _coarse(values_ZYX: NDArray[np.floating], origin_mm: Float) -> Field:
    return Field(np.ascontiguousarray(values_ZYX, np.float32), origin_mm, COARSE_MM)


def _to_field(image: object) -> Field:
    """A 1 mm nilearn image, axes (right, anterior, superior), as a field in this module's frame."""
    values_XYZ = np.asarray(image.dataobj, np.float32)  # type: ignore[attr-defined]
    corner_mm = image.affine[:3, 3] + np.array(values_XYZ.shape) - 1  # type: ignore[attr-defined]
    bottom_mm = image.affine[2, 3]  # type: ignore[attr-defined]
    origin_mm = np.array([bottom_mm, -corner_mm[1], -corner_mm[0]], np.float32)
    return Field(np.ascontiguousarray(values_XYZ[::-1, ::-1, :].transpose(2, 1, 0)), origin_mm, 1.0)


def _halve(values_ZYX: Float) -> Float:
    """Mean over 2 x 2 x 2 voxels; an odd last voxel is repeated."""
    even = np.pad(values_ZYX, [(0, n % 2) for n in values_ZYX.shape], mode="edge")
    z, y, x = (n // 2 for n in even.shape)
    return even.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))


def _distance(mask_ZYX: NDArray[np.bool_]) -> Float:
    """Signed distance in mm to the border of a mask on the coarse grid, negative inside."""
    outside = ndimage.distance_transform_edt(~mask_ZYX)
    inside = ndimage.distance_transform_edt(mask_ZYX)
    return ((outside - inside) * COARSE_MM).astype(np.float32)


def _hull_distance(brain_ZYX: NDArray[np.bool_]) -> Float:
    dilated = ndimage.distance_transform_edt(~brain_ZYX) * COARSE_MM <= HULL_CLOSING_MM
    closed = ndimage.distance_transform_edt(dilated) * COARSE_MM > HULL_CLOSING_MM
    return ndimage.gaussian_filter(_distance(closed | brain_ZYX), 2.5)


def _ventricle_distance(tissue_ZYX: Float, hull_ZYX: Float, at: Float) -> Float:
    """Distance to the central fluid: fluid deep in the brain, between midbrain and body of the ventricles."""
    z, y, x = at
    central = (hull_ZYX < -25.0) & (z > -14.0) & (z < 34.0) & (y > -45.0) & (y < 52.0) & (np.abs(x) < 42.0)
    return ndimage.gaussian_filter(_distance((tissue_ZYX < 0.5) & central), 0.6)


def _ellipsoid(at: Float, centre_mm: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> Float:
    """Approximate distance in mm to an ellipsoid; centre and radii as (x, y, z) of MNI, x mirrored."""
    z, y, x = at
    cx, cy, cz = centre_mm
    rx, ry, rz = radii_mm
    scaled = np.sqrt(((np.abs(x) - cx) / rx) ** 2 + ((-y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)
    return (scaled - 1.0) * min(radii_mm)


def _capsule(at: Float, start: tuple[float, float, float], end: tuple[float, float, float]) -> Float:
    """Distance in mm to a segment between two MNI points, on both sides."""
    points = np.stack([np.abs(at[2]), -at[1], at[0]])
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    along = np.tensordot(b - a, points - a[:, None, None, None], 1) / ((b - a) ** 2).sum()
    nearest = a[:, None, None, None] + np.clip(along, 0, 1) * (b - a)[:, None, None, None]
    return np.sqrt(((points - nearest) ** 2).sum(axis=0))


def _soft(distance_mm: Float) -> Float:
    """Share of a shape in a coarse voxel, from its signed distance."""
    return np.clip(0.5 - distance_mm / COARSE_MM, 0.0, 1.0)


def _skull_base(at: Float, tissue_ZYX: Float) -> tuple[Float, Float, Float]:
    """Face and upper neck, much simplified: surface distance in mm, soft tissue in HU, share of bone."""
    rng = np.random.default_rng(0)
    patches = smooth_noise(rng, at.shape[1:], 1.6)
    surface = np.minimum(_ellipsoid(at, (0, 14, -74), (66, 82, 58)), _ellipsoid(at, (0, 60, -52), (52, 34, 38)))
    orbit = _ellipsoid(at, (31, 64, -38), (18, 24, 17))
    globe = _ellipsoid(at, (32, 73, -38), (12, 12, 12))
    ethmoid = _ellipsoid(at, (0, 54, -40), (11, 26, 16))
    maxilla = _ellipsoid(at, (27, 50, -68), (14, 18, 13))
    sphenoid = _ellipsoid(at, (7, 16, -38), (8, 10, 8))
    mastoid = _ellipsoid(at, (56, -32, -44), (12, 15, 16))
    hu = np.where(patches > 0.6, -90.0, 50.0)
    for shape, value in (
        (orbit, -80.0),
        (globe, 12.0),
        (ethmoid, -800.0),
        (maxilla, -900.0),
        (sphenoid, -900.0),
    ):
        hu += _soft(shape) * (value - hu)
    bone = np.zeros_like(surface)
    for cavity in (orbit, ethmoid, maxilla, sphenoid):
        bone = np.maximum(bone, _soft(np.abs(cavity - 1.5) - 1.2))
    bone = np.where((globe < 2.0) | (-at[1] > 80.0), 0.0, bone)  # orbits are open in front
    septa = np.abs(smooth_noise(rng, at.shape[1:], 1.0)) < 0.3
    bone = np.maximum(bone, _soft(ethmoid) * septa)
    petrous = np.minimum(_capsule(at, (14, -18, -38), (58, -34, -36)) - 7.5, mastoid)
    cells = (mastoid < -2.0) & (patches > 0.1)
    bone = np.maximum(bone, np.where(cells, 0.0, _soft(petrous)))
    hu = np.where(cells, -500.0, hu)
    return surface, hu, bone * np.clip(1.0 - 1.5 * tissue_ZYX, 0.0, 1.0)


def _territories(at: Float, tissue_ZYX: Float, hull_ZYX: Float) -> NDArray[np.int8]:
    """Coarse arterial territories by MNI position; a rough partition, not an atlas."""
    x, y, z = np.abs(at[2]), -at[1], at[0]
    below_tentorium = (y < -30) & (z < -22 + 18 * np.exp(-((x / 28) ** 2)))
    brainstem = (x < 18) & (z < -8) & (y < -2)
    deep = ((x - 23) / 15) ** 2 + ((y + 2) / 27) ** 2 + ((z - 6) / 17) ** 2 < 1
    anterior = (x < 19) & (y > -45) & ((z > 22) | (y > 28))
    posterior = ((y < -62) & (z < 28)) | ((y < -12) & (z < -4) & (x < 42))
    labels = np.select([deep, anterior, posterior], [4, 3, 2], 1)
    brain = (tissue_ZYX > 0.3) & (hull_ZYX < 0) & ~below_tentorium & ~brainstem
    return np.where(brain, labels, 0).astype(np.int8)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Float:
    """Gaussian noise smoothed by `sigma` voxels, with zero mean and unit variance."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return (noise - noise.mean()) / noise.std()


def ventricle_margin_mm(template: Template, scale: float) -> float:
    """How far the ventricles' border must move outwards for their volume to grow by the factor `scale`."""
    inside = int(np.searchsorted(template.ventricle_mm, 0.0))
    return float(template.ventricle_mm[min(int(scale * inside), len(template.ventricle_mm) - 1)])


def displacement(rng: np.random.Generator, asymmetry_mm: float, symmetric_mm: float) -> tuple[Field, ...]:
    """Displacement of one head in mm, a field for each of z, y, x: symmetric plus antisymmetric shape.

    Under the mirror x -> -x an antisymmetric displacement has an even x component and odd y and z components;
    petalia is one. Each part is scaled so that its 95th percentile in the brain is the given length.
    Rotation and shift are removed, or they would be a second pose, unknown to the record.
    """
    shape = (23, 27, 21)
    origin_mm = PIVOT_MM - (np.array(shape, np.float32) - 1) * np.float32(WARP_STEP_MM / 2)
    at = grid_mm(Field(np.empty(shape, np.float32), origin_mm, WARP_STEP_MM)) - PIVOT_MM[:, None, None, None]
    brain = (at[0] / 75) ** 2 + (at[1] / 92) ** 2 + (at[2] / 72) ** 2 < 1
    noise = np.stack([smooth_noise(rng, shape, 2.6) for _ in range(3)])
    mirrored = noise[..., ::-1] * np.array([1, 1, -1], np.float32)[:, None, None, None]
    odd = noise - mirrored
    odd[1] += rng.uniform(0.5, 1.5) * np.tanh(at[2] / 25) * np.tanh(at[1] / 40)  # frontal and occipital petalia
    parts = [
        _scaled(_without_rigid(part, at, brain), brain, mm)
        for part, mm in ((odd, asymmetry_mm), (noise + mirrored, symmetric_mm))
    ]
    return tuple(Field(component, origin_mm, WARP_STEP_MM) for component in parts[0] + parts[1])


def _scaled(displacement_mm: Float, brain_ZYX: NDArray[np.bool_], length_mm: float) -> Float:
    length = np.sqrt((displacement_mm**2).sum(axis=0))[brain_ZYX]
    return displacement_mm * np.float32(length_mm / np.percentile(length, 95))


def _without_rigid(displacement_mm: Float, at: Float, brain_ZYX: NDArray[np.bool_]) -> Float:
    """Subtract the rotation and shift that fit the displacement best within the brain."""
    z, y, x = at
    one, zero = np.ones_like(z), np.zeros_like(z)
    rotations = [(zero, x, -y), (x, zero, -z), (y, -z, zero)]
    basis = np.stack([np.stack(m) for m in [(one, zero, zero), (zero, one, zero), (zero, zero, one), *rotations]])
    inside, target = basis[:, :, brain_ZYX].astype(np.float64), displacement_mm[:, brain_ZYX]
    # einsum without BLAS: the result must not depend on the number of threads.
    gram = np.einsum("acn,bcn->ab", inside, inside, optimize=False)
    right = np.einsum("acn,cn->a", inside, target, optimize=False)
    fit = np.linalg.solve(gram, right).astype(np.float32)
    return displacement_mm - np.einsum("a,aczyx->czyx", fit, basis, optimize=False)


def infarct(template: Template, rng: np.random.Generator, territory: str, left: bool, volume_mm3: float) -> Field:
    """Share (0..1) of an infarct in template space: it grows from one voxel of the territory, irregularly.

    Leaving the territory costs as much as 40 mm of distance, so that only large infarcts do; the other
    hemisphere and infratentorial tissue are closed.
    """
    hull = template.hull
    at = grid_mm(hull)
    side = (at[2] > 1.0) if left else (at[2] < -1.0)
    allowed = (template.territory_ZYX > 0) & side
    own = allowed & (template.territory_ZYX == 1 + TERRITORIES.index(territory))
    candidates = np.flatnonzero(own & (hull.values_ZYX < -4.0))
    centre = at.reshape(3, -1)[:, candidates[rng.integers(candidates.size)]]
    stretch = np.exp(rng.normal(0.0, 0.2, 3)).astype(np.float32)
    distance = np.sqrt((((at - centre[:, None, None, None]) * stretch[:, None, None, None]) ** 2).sum(axis=0))
    radius_mm = (volume_mm3 * 3 / (4 * np.pi)) ** (1 / 3)
    rough = smooth_noise(rng, allowed.shape, 4.0) + 0.4 * smooth_noise(rng, allowed.shape, 1.8)
    score = distance + np.float32(0.3 * radius_mm) * rough
    score += 40.0 * ndimage.gaussian_filter((~own).astype(np.float32), 1.5)
    score = np.where(allowed, score, np.float32(1e4))
    count = min(int(volume_mm3 / COARSE_MM**3), int(allowed.sum()) - 1)
    level = np.partition(score, count, axis=None)[count]
    share = np.clip(0.5 + (level - score) / 3.0, 0.0, 1.0)
    return _cropped(Field(share.astype(np.float32), hull.origin_mm, hull.step_mm))


def _cropped(field: Field) -> Field:
    """The part of a field that is not zero, with a margin of one voxel."""
    box = ndimage.find_objects((field.values_ZYX > 0).astype(np.int8))[0]
    start = [max(s.start - 1, 0) for s in box]
    part = tuple(slice(a, s.stop + 1) for a, s in zip(start, box, strict=True))
    origin_mm = field.origin_mm + np.array(start, np.float32) * np.float32(field.step_mm)
    return Field(np.ascontiguousarray(field.values_ZYX[part]), origin_mm, field.step_mm)
