"""Karhunen-Loeve transform of image patches: the transform coder that training starts from.

A network started from noise spends thousands of steps rediscovering the DCT. Started from the KLT of
16x16x3 patches, it is a sane transform coder at step 0, and its convolutions only learn what to add.
"""

from __future__ import annotations

import numpy as np


def klt(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), orthonormal basis (D, D) in rows and standard deviations (D,), largest first.

    `patches` is (count, D), float, in the channel order of pixel_unshuffle. Jolliffe, "Principal Component
    Analysis", 2002, chapter 1.
    """
    mean = patches.mean(axis=0)
    centred = patches - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(patches))
    order = np.argsort(variances)[::-1]
    return mean, vectors[:, order].T.copy(), np.sqrt(np.maximum(variances[order], 1e-12))
