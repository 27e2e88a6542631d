"""Settings of the phantom cohort."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"a range must be (low, high), got {value}: swap its ends")
    return value


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Spread = Annotated[float, Field(ge=0.0)]
_Positive = Annotated[float, Field(gt=0.0)]
_Darker = Annotated[float, Field(ge=-50.0, lt=0.0)]
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
SpreadRange = Annotated[tuple[Spread, Spread], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]
DarkerRange = Annotated[tuple[_Darker, _Darker], AfterValidator(_ordered)]


class PhantomConfig(BaseModel):
    """What a phantom cohort is made of: ranges are (low, high), uniform if not said; `_sd` is a spread."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    patients: int = Field(60, ge=1, le=99_999)
    """Number of patients."""
    pixel_mm: float = Field(1.0, ge=0.4, le=8.0)
    """In-plane pixel size in mm."""
    slice_mm: float = Field(5.0, ge=1.0, le=10.0)
    """Slice thickness and distance in mm."""
    field_mm: float = Field(256.0, ge=200.0, le=400.0)
    """Side of the square picture in mm."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    lesion_free: Share = 0.18
    """Share of patients without a lesion, spread evenly over the patients' numbers."""
    hyperacute: Share = 0.15
    """Share of lesions that are hyperacute (fainter) and not acute."""
    acute_hu: DarkerRange = (-8.0, -3.0)
    """Density change of acute infarcts in HU, the strong end likelier."""
    hyperacute_hu: DarkerRange = (-3.0, -1.0)
    """Density change of hyperacute infarcts in HU, the strong end likelier."""
    lesion_median_ml: float = Field(15.0, ge=2.0, le=100.0)
    """Median of the log-normal lesion volume in ml."""
    lesion_log_sd: float = Field(0.8, ge=0.0, le=2.0)
    """Standard deviation of the natural logarithm of the lesion volume."""
    lesion_limits_ml: PositiveRange = (4.0, 150.0)
    """Smallest and largest volume drawn, in ml."""
    old_infarct: Share = 0.3
    """Share of patients with an old infarct, which is background."""
    old_infarct_hu: Range = (5.0, 12.0)
    """Density of old infarcts in HU."""
    old_infarct_ml: PositiveRange = (3.0, 20.0)
    """Volume of old infarcts in ml."""
    leukoaraiosis: Share = 0.35
    """Share of patients with dark white matter around the ventricles, which is background."""
    calcification: Share = 0.6
    """Share of patients with calcified pineal gland, choroid plexus or basal ganglia."""
    beam_hardening: Share = 0.7
    """Share of patients with a dark band between the petrous bones."""
    couch: Share = 0.7
    """Share of patients with the couch in the picture."""
    grey_hu: tuple[float, Spread] = (38.0, 1.5)
    """Mean and standard deviation between patients of grey matter in HU."""
    white_hu: tuple[float, Spread] = (29.0, 1.5)
    """Mean and standard deviation between patients of white matter in HU."""
    csf_hu: tuple[float, Spread] = (8.0, 3.0)
    """Mean and standard deviation between patients of cerebrospinal fluid in HU."""
    bone_hu: PositiveRange = (700.0, 1500.0)
    """Density of the skull in HU."""
    scalp_hu: Range = (20.0, 60.0)
    """Density of the scalp in HU."""
    noise_hu: SpreadRange = (3.0, 5.0)
    """Standard deviation of the noise in HU in a pixel of 1 mm; larger pixels average it."""
    noise_correlation_mm: Spread = 0.8
    """Standard deviation of the Gaussian that correlates the noise in-plane, in mm."""
    angle_sd_deg: float = Field(4.0, ge=0.0, le=15.0)
    """Spread of the in-plane rotation in degrees."""
    tilt_sd_deg: float = Field(4.0, ge=0.0, le=15.0)
    """Spread of the tilt about the front-back axis in degrees."""
    pitch_sd_deg: float = Field(6.0, ge=0.0, le=15.0)
    """Spread of the pitch about the left-right axis in degrees."""
    shift_sd_mm: float = Field(5.0, ge=0.0, le=20.0)
    """Spread of the shifts along x and y in mm."""
    head_scale: tuple[float, Spread] = (0.94, 0.025)
    """Mean and standard deviation of the head's size relative to MNI152, which is larger than life."""
    asymmetry_mm: SpreadRange = (2.0, 4.0)
    """Length of the smooth displacement that breaks the mirror symmetry, in mm."""
    shape_mm: SpreadRange = (1.0, 4.0)
    """Length of the smooth displacement that keeps the mirror symmetry, in mm."""
    ventricle_scale: PositiveRange = (0.8, 2.0)
    """Volume of the ventricles relative to the template."""
    atrophy: ShareRange = (0.0, 1.0)
    """Widening of the fluid spaces, 0 (young) to 1 (severe)."""
