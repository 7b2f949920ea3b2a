"""From a label map to HU: one renderer for drawn anatomy and for masks of real patients.

The renderer sees labels, spacing, phase, protocol, seed and tissue appearances, and never a clinical field. What it
makes is a phantom: mean enhancement and texture are plausible, no voxel was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import correlate1d, gaussian_filter

from datamodules.anatomy.appearance import TYPICAL, Appearance, Hu, patient_tissues
from datamodules.anatomy.tissues import KIDNEY_WITH_LESION, LESION, Tissue
from datamodules.cohort.columns import PHASES

PHASE_SECONDS = dict(zip(PHASES, (0.0, 35.0, 80.0, 300.0), strict=True))
"""Delay after the start of injection; a centre that scans earlier or later moves along the enhancement curve."""


@dataclass(frozen=True)
class CenterProtocol:
    """How a centre scans and reconstructs one series.

    Args:
        noise_hu: Standard deviation of the noise in the finished image, in HU.
        kernel_fwhm_mm: In-plane width of the reconstruction kernel; the noise is as coarse as the kernel.
        slice_thickness_mm: Width of the slice profile along D.
        timing_shift_s: Seconds that an enhanced phase is scanned after its nominal delay (35, 80, 300 s).
        contrast_gain: Factor on every enhancement: contrast dose and tube voltage.
        offset_hu: Error of calibration.
    """

    noise_hu: float = 10.0
    kernel_fwhm_mm: float = 2.0
    slice_thickness_mm: float = 3.0
    timing_shift_s: float = 0.0
    contrast_gain: float = 1.0
    offset_hu: float = 0.0


_ORGAN = (
    *KIDNEY_WITH_LESION,
    Tissue.RENAL_SINUS,
    Tissue.COLLECTING_SYSTEM,
    Tissue.RENAL_VEIN,
    Tissue.RENAL_ARTERY,
    Tissue.STONE,
)
# Where each core lies: the medulla below the surface of the whole organ, the centre of a lesion below its own border.
_BODIES: Mapping[Tissue, tuple[Tissue, ...]] = {Tissue.KIDNEY: _ORGAN, Tissue.TUMOR: LESION}
_FWHM = 2.3548


class Scene:
    """A region of one patient, prepared once and rendered once per series.

    Texture, cortex and surroundings belong to the anatomy, so the phases of a patient share them; noise belongs to
    the series.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes. `UNLABELED` voxels receive plausible surroundings.
        spacing_mm: Distance of voxel centres, D, H, W.
        seed: Seed of the anatomy and of its noise.
        tissues: Appearances; by default those of `patient_tissues(seed)`. What it leaves out is typical.
    """

    def __init__(
        self,
        labels: np.ndarray,
        spacing_mm: tuple[float, float, float],
        seed: int,
        *,
        tissues: Mapping[Tissue, Appearance] | None = None,
    ) -> None:
        self.spacing_mm = spacing_mm
        self.seed = seed
        self.tissues = {**TYPICAL, **(patient_tissues(seed) if tissues is None else tissues)}
        rng = np.random.default_rng([seed, 1])
        self.labels = _surrounded(labels, spacing_mm, rng)
        counts = np.bincount(self.labels.ravel(), minlength=256)
        present = [tissue for tissue in self.tissues if counts[tissue]]
        self.texture = self._texture(present, rng)
        self.core = self._core(present, rng)

    def render(self, phase: str, protocol: CenterProtocol, series: int = 0) -> np.ndarray:
        """One series.

        Args:
            phase: One of `datamodules.cohort.columns.PHASES`.
            protocol: How the series is scanned.
            series: Number of the series; another one has other noise.

        Returns:
            int16 HU [D, H, W].
        """
        mean, spread, core = (np.zeros(256, dtype=np.float32) for _ in range(3))
        for tissue, look in self.tissues.items():
            value = _at_time(look.hu, phase, protocol)
            mean[tissue] = value
            spread[tissue] = look.texture_hu + look.texture_share * abs(value - look.hu[0])
            core[tissue] = 0.0 if look.core_hu is None else _at_time(look.core_hu, phase, protocol) - value
        image = mean[self.labels]
        image += spread[self.labels] * self.texture
        image += core[self.labels] * self.core
        kernels = _point_spread(protocol, self.spacing_mm)
        # Noise passes the same kernel as the signal, so it is as coarse as the centre's images are smooth.
        rng = np.random.default_rng([self.seed, 2, PHASES.index(phase), series])
        amplitude = protocol.noise_hu / np.prod([np.sqrt(np.sum(kernel**2)) for kernel in kernels])
        image += np.float32(amplitude) * rng.standard_normal(image.shape, dtype=np.float32)
        for axis, kernel in enumerate(kernels):
            if len(kernel) > 1:
                image = correlate1d(image, kernel, axis=axis, mode="nearest")
        image += np.float32(protocol.offset_hu)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16)

    def _texture(self, present: Iterable[Tissue], rng: np.random.Generator) -> np.ndarray:
        """Unit-variance structure, each tissue with its own correlation length."""
        lengths: dict[float, list[Tissue]] = {}
        for tissue in present:
            lengths.setdefault(round(self.tissues[tissue].texture_mm, 3), []).append(tissue)
        field = np.zeros(self.labels.shape, dtype=np.float32)
        for length, members in sorted(lengths.items()):
            inside = _mask(self.labels, members)
            box = _bounding_box(inside)
            values = _random_field(rng, field[box].shape, length, self.spacing_mm)
            field[box] = np.where(inside[box], values, field[box])
        return field

    def _core(self, present: Iterable[Tissue], rng: np.random.Generator) -> np.ndarray:
        """Share of the core's appearance in every voxel, from the depth below the surface of its body."""
        share = np.zeros(self.labels.shape, dtype=np.float32)
        for tissue in present:
            look = self.tissues[tissue]
            if look.core_hu is None:
                continue
            inside = self.labels == tissue
            box = _bounding_box(inside, margin=4)
            body = _mask(self.labels[box], _BODIES.get(tissue, (tissue,)))
            # Below a flat surface a mask blurred with sigma reads Phi(depth / sigma): .84 at one sigma.
            blurred = _smooth(body, look.core_depth_mm, self.spacing_mm)
            if tissue is Tissue.KIDNEY:
                # Columns of cortex reach between the pyramids.
                blurred -= 0.13 * np.maximum(_random_field(rng, body.shape, 11.0, self.spacing_mm), 0.0)
            depth = np.clip((blurred - 0.80) / 0.08, 0.0, 1.0)
            share[box] = np.where(inside[box], depth, share[box])
        return share


def render(
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    phase: str,
    protocol: CenterProtocol,
    seed: int,
    *,
    tissues: Mapping[Tissue, Appearance] | None = None,
    series: int = 0,
) -> np.ndarray:
    """Render one series of a label map.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes; D inferior to superior, H posterior to anterior, W left to right.
        spacing_mm: Distance of voxel centres, D, H, W.
        phase: One of `datamodules.cohort.columns.PHASES`.
        protocol: How the centre scans.
        seed: Seed of the patient: the same anatomy in every phase, other noise in every series.
        tissues: Appearances; by default those of `patient_tissues(seed)`.
        series: Number of the series among those of one phase.

    Returns:
        int16 HU [D, H, W]. For several phases of one region, make a `Scene` once.
    """
    return Scene(labels, spacing_mm, seed, tissues=tissues).render(phase, protocol, series)


def _at_time(hu: Hu, phase: str, protocol: CenterProtocol) -> float:
    """HU on the piecewise linear enhancement curve at the time that the centre scans the phase."""
    if phase == "non_contrast":
        return hu[0]
    seconds = PHASE_SECONDS[phase] + protocol.timing_shift_s
    value = float(np.interp(seconds, list(PHASE_SECONDS.values()), hu))
    return hu[0] + protocol.contrast_gain * (value - hu[0])


def _point_spread(protocol: CenterProtocol, spacing_mm: tuple[float, float, float]) -> list[np.ndarray]:
    """One normalised kernel per axis: slice profile along D, reconstruction kernel in plane."""
    widths = (protocol.slice_thickness_mm / np.sqrt(12.0), *([protocol.kernel_fwhm_mm / _FWHM] * 2))
    kernels = []
    for width, step in zip(widths, spacing_mm, strict=True):
        sigma = max(width / step, 1e-3)
        reach = int(np.ceil(2.5 * sigma)) if sigma > 0.2 else 0
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernels.append(kernel / kernel.sum())
    return kernels


def _mask(labels: np.ndarray, members: Iterable[Tissue]) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[list(members)] = True
    return table[labels]


def _bounding_box(inside: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    box = []
    for axis in range(inside.ndim):
        rows = np.flatnonzero(inside.any(axis=tuple(other for other in range(inside.ndim) if other != axis)))
        box.append(slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin))
    return tuple(box)


def _upsample(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(coarse, dtype=np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size=shape, mode="trilinear")[0, 0].numpy()


def _smooth(inside: np.ndarray, sigma_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """A mask blurred with a Gaussian, on a grid as coarse as the Gaussian allows."""
    factor = [max(1, min(int(sigma_mm / 2 / step), size)) for step, size in zip(spacing_mm, inside.shape, strict=True)]
    tensor = torch.from_numpy(inside.astype(np.float32))[None, None]
    pooled = torch.nn.functional.avg_pool3d(tensor, factor, ceil_mode=True)[0, 0].numpy()
    steps = [step * count for step, count in zip(spacing_mm, factor, strict=True)]
    blurred = gaussian_filter(pooled, [sigma_mm / step for step in steps], mode="nearest", truncate=3.0)
    return _upsample(blurred, inside.shape)


def _random_field(
    rng: np.random.Generator, shape: tuple[int, ...], length_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Gaussian field of zero mean and unit variance with a correlation length, drawn coarsely where it allows."""
    coarse = tuple(
        max(2, round(size * step / max(length_mm / 2, step))) for size, step in zip(shape, spacing_mm, strict=True)
    )
    noise = rng.standard_normal(coarse, dtype=np.float32)
    field = _upsample(gaussian_filter(noise, 0.8, mode="nearest", truncate=3.0), shape)
    return (field - field.mean()) / (field.std() + 1e-6)


def _surrounded(labels: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Fill unlabeled voxels: sinus fat in the concavity, perirenal fat, then muscle behind and bowel before."""
    unknown = labels == Tissue.UNLABELED
    if not unknown.any():
        return labels
    organ = _mask(labels, _ORGAN)
    near = _smooth(organ, 12.0, spacing_mm)
    field = _random_field(rng, labels.shape, 30.0, spacing_mm)
    rows = np.arange(labels.shape[1], dtype=np.float32) * spacing_mm[1]
    middle = float((organ.sum(axis=(0, 2)) * rows).sum() / organ.sum()) if organ.any() else float(rows.mean())
    # Behind a kidney lie psoas and quadratus lumborum, before it bowel; both give way to fat here and there.
    forward = ((rows - middle) / 30.0)[None, :, None] + 0.25 * field
    tissue = np.full(labels.shape, Tissue.FAT, dtype=np.uint8)
    tissue[(near < 0.03) & (forward < -0.6) & (field > -0.9)] = Tissue.MUSCLE
    tissue[(near < 0.03) & (forward >= 0.0) & (field > 0.1)] = Tissue.BOWEL
    tissue[_smooth(organ, 7.0, spacing_mm) > 0.5] = Tissue.RENAL_SINUS
    return np.where(unknown, tissue, labels)
