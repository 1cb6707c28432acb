# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Labels of a batch as tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtkdrl_mm.utils import InputError


def hard_labels(data_samples: Sequence[Any]) -> Tensor:
    """Concatenate the hard labels of a batch.

    Args:
        data_samples (Sequence[DataSample]): B samples with ``gt_label``.

    Returns:
        Tensor: Shape (B,), int64.

    Raises:
        InputError: If an image has no label, or several.
    """
    labels = [_label(sample) for sample in data_samples]
    for sample, label in zip(data_samples, labels):
        if label.numel() != 1:
            raise _not_one_class(sample, f'{label.numel()} labels')
    return torch.cat(labels)


def target_labels(data_samples: Sequence[Any]) -> Tensor:
    """Collect the training targets of a batch: scores if there are any, else hard labels.

    Args:
        data_samples (Sequence[DataSample]): B samples with ``gt_label``, or
            with ``gt_score`` (after mixup and cutmix).

    Returns:
        Tensor: Hard labels of shape (B,), or soft ones of shape (B, C).

    Raises:
        InputError: If an image has no label, or several.
    """
    if 'gt_score' not in data_samples[0]:
        return hard_labels(data_samples)
    for sample in data_samples:
        if 'gt_label' in sample and sample.gt_label.numel() != 1:
            raise _not_one_class(sample, f'{sample.gt_label.numel()} labels')
    return torch.stack([sample.gt_score for sample in data_samples])


def _label(sample: Any) -> Tensor:
    if 'gt_label' not in sample:
        raise _not_one_class(sample, 'no label')
    return sample.gt_label


def _not_one_class(sample: Any, found: str) -> InputError:
    path = sample.get('img_path') or 'of the data'
    return InputError(
        f'The image {path} has {found}. Distillation compares softmax probabilities, with one '
        'class per image: multi-label data is not supported. Use a data set with one label per '
        'image, such as CustomDataset.'
    )
