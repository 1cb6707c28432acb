# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Norm and direction of the embedding."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import StepTerms
from mtkdrl_mm.structures.step_terms import pooled
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.weights.checkpoint import read_checkpoint

from .base import FeatureLoss

#: Key of the teachers' digests in the file of their centres.
DIGESTS_KEY = 'weights_sha256'


@MODELS.register_module()
class NormDirection(FeatureLoss):
    r"""Long embeddings that point at their class's centre ("ND").

    .. math::
        L_i^m = 1 - \frac{\langle f_i, e_{y_i} \rangle}{\max(\|f_i\|, \|f_i^m\|)}

    with f the student's pooled, projected features, f^m the teacher's, and e_y
    the unit vector to the centre of class y in teacher m's feature space; the
    labels of blended images (mixup, cutmix) mix the centres, smoothed ones do
    not. Source: Wang et al., "Improving Knowledge Distillation via Regularizing
    Feature Norm and Direction", arXiv:2305.17007.

    Args:
        centers (str): File that
            ``tools/analysis_tools/compute_class_centers.py`` wrote: by the
            teacher's name its centres, of shape (C, d_m), and under
            'weights_sha256' the digests of the teachers' weights.
        names (Sequence[str]): The teachers' names; supplied by the distiller.

    Raises:
        InputError: If the file is unusable or lacks a teacher.
    """

    def __init__(self, centers: str, names: Sequence[str]) -> None:
        super().__init__()
        self.path = centers
        contents = dict(read_checkpoint(centers, 'the class centres'))
        #: Digest of every teacher's weights that the centres were computed with.
        self.weights_sha256: dict[str, str] = contents.pop(DIGESTS_KEY, {})
        missing = [name for name in names if name not in contents]
        if missing:
            raise InputError(
                f'The class centres in "{centers}" are of {sorted(contents)} and lack {missing}. '
                'Write them anew with tools/analysis_tools/compute_class_centers.py.'
            )
        for index, name in enumerate(names):
            rows = contents[name]
            if not isinstance(rows, Tensor) or rows.ndim != 2 or not rows.is_floating_point():
                raise InputError(
                    f'The class centres in "{centers}" hold no table of numbers for "{name}". '
                    'Write them anew with tools/analysis_tools/compute_class_centers.py.'
                )
            self.register_buffer(f'centers_{index}', rows.float(), persistent=False)

    def check_teachers(self, digests: Mapping[str, str]) -> None:
        """Make sure that the centres are those of the teachers' feature spaces.

        Args:
            digests (Mapping[str, str]): Digest of every teacher's weights; '' where
                it is not known.

        Raises:
            InputError: If a teacher has other weights.
        """
        for name, digest in digests.items():
            then = self.weights_sha256.get(name)
            if then and digest and then != digest:
                raise InputError(
                    f'The class centres in "{self.path}" were computed with other weights of '
                    f'teacher "{name}". Write them anew with '
                    'tools/analysis_tools/compute_class_centers.py.'
                )

    def compare(self, index: int, terms: StepTerms, projection: Tensor, target: Tensor) -> Tensor:
        """Distance from one teacher's direction and norm, shape (B,)."""
        student, teacher = pooled(projection), pooled(target)
        centers = getattr(self, f'centers_{index}').to(student.dtype)
        labels = terms.soft_data_labels
        if centers.shape != (labels.shape[1], student.shape[1]):
            raise InputError(
                f'The class centres of teacher number {index} have the shape '
                f'{tuple(centers.shape)}, but there are {labels.shape[1]} classes '
                f'and {student.shape[1]} features. Write them anew with '
                'tools/analysis_tools/compute_class_centers.py.'
            )
        direction = F.normalize(labels.to(centers.dtype) @ centers, dim=1)
        length = torch.maximum(student.norm(dim=1), teacher.norm(dim=1))
        return 1 - (student * direction).sum(dim=1) / length.clamp_min(1e-12)
