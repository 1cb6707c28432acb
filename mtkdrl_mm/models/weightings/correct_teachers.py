# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Equal weights for the teachers that are right about an image."""

from collections.abc import Mapping

import torch
from mmengine.fileio import join_path, list_from_file
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError

from ..teachers import PoolSpec
from .base import Weighting
from .static_weights import normalised_weights


@MODELS.register_module()
class CorrectTeachers(Weighting):
    r"""The teachers that are right about an image share its weight.

    .. math::
        w^m = c^m \Big/ \sum_k c^k, \qquad c^m = y_{\arg\max z^m}

    With hard labels, c is 1 for a teacher that is right; the label smoothing of the
    student's loss has no part in it. Where no teacher is right, all have equal
    weights. An oracle: it shows what there is to gain by following, on every image,
    those who know its class. Where the student's labels are partly wrong, it may know
    the right ones.

    Args:
        pool (PoolSpec): The pool of M teachers; supplied by the distiller.
        features (bool | Mapping[str, float]): Whether features are weighed in the
            same way; with False, all teachers have equal feature weights. Or weights
            by the teachers' names, the same for all images, as those of
            :class:`StaticWeights`. Defaults to True.
        ann_file (str, optional): Right labels in place of the student's, an image and
            a class number per line, as for mmpretrain's ``CustomDataset``. Not for
            blended images (mixup, cutmix), whose other image is not known. Defaults
            to None: the student's labels.
        data_prefix (str): Folder that the images of ``ann_file`` are in. Defaults to
            ''.

    Raises:
        InputError: If feature weights are none by name, a line of ``ann_file`` is no
            image and number, or an image of the training is not there, or is blended.
    """

    def __init__(
        self,
        pool: PoolSpec,
        features: bool | Mapping[str, float] = True,
        ann_file: str | None = None,
        data_prefix: str = '',
    ) -> None:
        super().__init__(pool)
        self.features = features
        self.static_features: Tensor | None
        static = (
            None if isinstance(features, bool) else normalised_weights(pool, 'features', features)
        )
        self.register_buffer('static_features', static, persistent=False)
        self.ann_file = ann_file
        self._right: dict[str, int] | None = None
        if ann_file is not None:
            self._right = _read_labels(ann_file, data_prefix, pool.num_classes)

    @torch.no_grad()
    def forward(self, terms: StepTerms) -> TeacherWeights:
        """Weigh by correctness."""
        if self._right is None:
            labels = terms.soft_data_labels
        else:
            labels = self._look_up(terms, self._right)
        correct = labels.gather(1, terms.teacher_logits.argmax(dim=-1))
        total = correct.sum(dim=1, keepdim=True)
        equal = torch.full_like(correct, 1 / terms.num_teachers)
        weights = torch.where(total > 0, correct / total.clamp_min(1e-30), equal)
        if self.static_features is not None:
            feature = self.static_features.to(weights).expand_as(weights)
        else:
            feature = weights if self.features else equal
        return TeacherWeights(logit=weights, feature=feature)

    def _look_up(self, terms: StepTerms, right: dict[str, int]) -> Tensor:
        """The right labels of a step's images as distributions, shape (B, C)."""
        # The shares of a blend sum to 1 up to rounding, also where both images have one class.
        if bool((terms.soft_data_labels.amax(dim=1) < 1 - 1e-6).any()):
            raise InputError(
                f'`weighting.ann_file` "{self.ann_file}" has the class of one image, but images '
                'are blended with others (mixup, cutmix): leave out `augments` of `train_cfg` and '
                '`batch_augments` of the data preprocessor, or `weighting.ann_file`.'
            )
        labels = torch.zeros_like(terms.soft_data_labels)
        for row, sample in enumerate(terms.data_samples or ()):
            path = sample.get('img_path', '')
            if path not in right:
                raise InputError(
                    f'`weighting.ann_file` "{self.ann_file}" has no label of "{path}": check '
                    'it and `weighting.data_prefix`.'
                )
            labels[row, right[path]] = 1
        return labels


def _read_labels(ann_file: str, data_prefix: str, num_classes: int) -> dict[str, int]:
    labels = {}
    for number, line in enumerate(list_from_file(ann_file), 1):
        path, _, label = line.strip().rpartition(' ')
        if not path or not label.isdecimal() or int(label) >= num_classes:
            raise InputError(
                f'Line {number} of `weighting.ann_file` "{ann_file}" must be an image and a class '
                f'number below {num_classes}, but is "{line}".'
            )
        labels[join_path(data_prefix, path) if data_prefix else path] = int(label)
    return labels
