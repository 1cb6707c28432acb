# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Data sets, loaders and samplers."""

from .damaged_images import (
    built_datasets,
    image_fault,
    intact_images,
    missing_files,
    name_damaged_images,
)
from .dataloader import check_dataloader
from .fingerprint import dataset_record, pipeline_digest, sample_digest
from .keyed_blend import KeyedBlend
from .labelled_images import LabelledImageDataset
from .sample_outputs import SampleAnnotator, SampleOutputs
from .seeded_batch_sampler import SeededBatchSampler
from .seeded_dataset import SeededDataset, SeededIndex

__all__ = [
    'KeyedBlend',
    'LabelledImageDataset',
    'SampleAnnotator',
    'SampleOutputs',
    'SeededBatchSampler',
    'SeededDataset',
    'SeededIndex',
    'built_datasets',
    'check_dataloader',
    'dataset_record',
    'image_fault',
    'intact_images',
    'missing_files',
    'name_damaged_images',
    'pipeline_digest',
    'sample_digest',
]
