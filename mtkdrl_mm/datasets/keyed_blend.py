# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Mixup and cutmix whose partner and factor are a function of sample and view."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.models.utils import CutMix, Mixup, RandomBatchAugment, ResizeMix
from mmpretrain.structures import DataSample
from torch import Tensor

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.seeding import derive_seed, seed_host

Load = Callable[[int, int], dict[str, Any]]


class KeyedBlend:
    """Blends every image with a partner that its seed key decides.

    mmpretrain's batch augmentations blend an image with another one of its
    batch, so the result depends on the batch. Here the partner, the kind of
    blending and the factor lambda follow from (seed, sample, view). A blended
    image is then the same in every training, and what a teacher makes of it can
    be stored. Every image of a batch has a lambda of its own.

    Args:
        augment (RandomBatchAugment): mmpretrain's augmentations with their
            probabilities: ``Mixup``, ``CutMix`` or ``ResizeMix``.
        num_classes (int): C, the length of the soft labels.

    Raises:
        InputError: If an augmentation is of another type.
    """

    def __init__(self, augment: RandomBatchAugment, num_classes: int) -> None:
        self.num_classes = num_classes
        self.augments: list[Mixup | None] = list(augment.augments)
        self.probs = augment.probs
        for part in self.augments:
            if part is not None and type(part) not in (Mixup, CutMix, ResizeMix):
                raise InputError(
                    f'With `teacher_outputs`, {type(part).__name__} cannot blend images: partner '
                    'and factor must follow from the image. Use Mixup, CutMix or ResizeMix.'
                )

    def __call__(self, load: Load, num_samples: int, key: tuple[int, int, int]) -> dict[str, Any]:
        """Load and blend an image.

        Args:
            load (Callable): Loads the augmented image of a sample and a view:
                ``inputs`` (c, H, W) and ``data_samples`` with ``gt_label``.
            num_samples (int): Number of images to choose the partner from.
            key (tuple[int, int, int]): (seed, sample, view).

        Returns:
            dict[str, Any]: As ``load`` returns it, with float32 ``inputs`` and
            ``gt_score``, a soft label of shape (C,).
        """
        seed, sample, view = key
        seed_host(derive_seed(seed, 'blend', sample, view))
        partner = int(np.random.randint(num_samples))
        chosen = self.augments[np.random.choice(len(self.augments), p=self.probs)]
        # All numbers are drawn before an image is loaded, which seeds the generators anew.
        lam = 1.0 if chosen is None else float(np.random.beta(chosen.alpha, chosen.alpha))
        generators = np.random.get_state(), torch.get_rng_state()
        data = load(sample, view)
        image, score = data['inputs'].float(), self._one_hot(data['data_samples'])
        if chosen is not None:
            other = load(partner, view)
            np.random.set_state(generators[0])
            torch.set_rng_state(generators[1])
            image, lam = _blend(chosen, image, other['inputs'].float(), lam)
            score = score.mul(lam) + self._one_hot(other['data_samples']).mul(1 - lam)
        data['inputs'] = image
        data['data_samples'].set_gt_score(score)
        return data

    def _one_hot(self, sample: DataSample) -> Tensor:
        return F.one_hot(sample.gt_label.flatten()[0], self.num_classes).float()

    def describe(self) -> dict[str, Any]:
        """Settings as plain data, which a store of outputs is checked against."""
        parts = [
            None if part is None else dict(type=type(part).__name__, **vars(part))
            for part in self.augments
        ]
        probs = None if self.probs is None else [float(p) for p in self.probs]
        return dict(augments=parts, probs=probs, scheme=1)


def _blend(augment: Mixup, image: Tensor, other: Tensor, lam: float) -> tuple[Tensor, float]:
    """Blend two images of one size, (c, H, W); return the image's share in the label too."""
    if type(augment) is Mixup:
        return image.mul(lam) + other.mul(1 - lam), lam
    assert isinstance(augment, CutMix)
    height, width = image.shape[-2:]
    if isinstance(augment, ResizeMix):
        lam = lam * (augment.lam_max - augment.lam_min) + augment.lam_min
    (y1, y2, x1, x2), lam = augment.cutmix_bbox_and_lam((height, width), lam)
    image = image.clone()
    patch = other[:, y1:y2, x1:x2]
    if isinstance(augment, ResizeMix):
        if y2 <= y1 or x2 <= x1:
            return image, 1.0
        resized = F.interpolate(
            other[None],
            size=(int(y2 - y1), int(x2 - x1)),
            mode=augment.interpolation,
            align_corners=False,
        )
        patch = resized[0]
    image[:, y1:y2, x1:x2] = patch
    return image, float(lam)
