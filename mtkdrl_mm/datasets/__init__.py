# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data sets, loaders and samplers."""

from .damaged_images import built_datasets, image_fault, intact_images, name_damaged_images
from .dataloader import check_dataloader
from .labelled_images import LabelledImageDataset
from .seeded_batch_sampler import SeededBatchSampler
from .seeded_dataset import SeededDataset, SeededIndex

__all__ = [
    'LabelledImageDataset',
    'SeededBatchSampler',
    'SeededDataset',
    'SeededIndex',
    'built_datasets',
    'check_dataloader',
    'image_fault',
    'intact_images',
    'name_damaged_images',
]
