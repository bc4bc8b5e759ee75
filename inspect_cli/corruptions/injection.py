"""Gaussian noise injected into a share of the patches: MVT section 3.5.2, NI-CAE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inspect_cli.corruptions.base import Corrupted, Patches


@dataclass(frozen=True)
class GaussianInjection:
    """Adds Gaussian noise to whole patches that are picked at random; the others stay as they are, bit for bit.

    The paper picks a tenth of all its images once (eq. 7). Patches are drawn anew in each step, so each is picked on
    its own with the probability ``share``, which comes to the same share over the training. Noise is not clipped:
    values next to 0 and 1 may leave that range.

    Attributes
    ----------
    variance
        Variance of the noise; its mean is 0, the material's range lies at 0 to 1.
    share
        Probability that a patch gets noise, 0 to 1.
    """

    variance: float = 0.001
    share: float = 0.1

    def __call__(self, patches: Patches, rng: np.random.Generator) -> Corrupted:
        """Return copies of ``patches`` (n, channels, height, width); ``changed`` is 1 all over noisy ones, else 0."""
        noisy = patches.copy()
        picked = rng.random(len(patches)) < self.share
        noise = rng.standard_normal((int(picked.sum()), *patches.shape[1:]), np.float32)
        noisy[picked] += np.float32(math.sqrt(self.variance)) * noise
        changed = np.zeros_like(patches[:, :1])
        changed[picked] = 1
        return Corrupted(noisy, changed)
