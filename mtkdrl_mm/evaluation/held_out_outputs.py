# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What teachers say about the held-out images of a config, from a store."""

import copy
import os
import os.path as osp
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor

from mtkdrl_mm.datasets import dataset_record
from mtkdrl_mm.engine.build_distiller import build_distiller
from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.engine.teacher_outputs import check_stored
from mtkdrl_mm.teacher_outputs import Manifest, StoreReader, held_out_root, inputs_folder
from mtkdrl_mm.teacher_outputs.codec import EMBEDDING_KEYS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.launch import check_data


class HeldOutOutputs(NamedTuple):
    """Outputs of M teachers on V views of N images that none of them was trained on.

    Attributes:
        names (list[str]): The teachers' names.
        logits (Tensor): Shape (V, N, M, C), float32.
        embeddings (list[Tensor]): M tensors of shape (V, N, d_m), float32; their
            principal components, where these were stored.
        labels (Tensor): Shape (N,), int64.
    """

    names: list[str]
    logits: Tensor
    embeddings: list[Tensor]
    labels: Tensor


def read_held_out(cfg: Config, store: str) -> HeldOutOutputs:
    """Read what teachers say about the images that none of them was trained on.

    Args:
        cfg (Config): With ``held_out_dataloader`` and ``model.teachers``.
        store (str): The store of the teachers' outputs.

    Returns:
        HeldOutOutputs: Of all teachers, and the labels.

    Raises:
        InputError: If the config has no such images, or the store does not hold
            them, or holds those of other teachers.
    """
    if cfg.get('held_out_dataloader') is None:
        raise InputError(
            'The config has no `held_out_dataloader`: give labelled images that no teacher was '
            'trained on.'
        )
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    check_data(cfg, ('held_out_dataloader',))
    root = held_out_root(store)
    if Manifest.find(inputs_folder(root)) is None:
        inside = _stores_inside(store)
        if inside:
            raise InputError(
                f'"{store}" is no store, but a folder of stores, as `compare_methods.py --store` '
                f'makes it. Give one of them: {", ".join(inside)}.'
            )
        raise InputError(
            f'"{store}" holds no outputs of the held-out images. Run '
            'tools/store_teacher_outputs.py with this config: it adds what a store lacks.'
        )
    names = [teacher_name(teacher) for teacher in cfg.model.get('teachers') or ()]
    reader = StoreReader(root, names)
    dataset = DATASETS.build(cfg.held_out_dataloader.dataset)
    settings = copy.deepcopy(cfg)
    settings.model.teacher_outputs = store
    check_stored(
        build_distiller(settings, read_stored_outputs=True), reader, dataset_record(dataset)
    )
    labels = torch.tensor([dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))])
    reader.check_complete(range(reader.num_views))
    views = [reader.read_rows(range(len(labels)), view) for view in range(reader.num_views)]

    def stack(name: str, keys: Sequence[str]) -> Tensor:
        arrays = (next(rows[name][key] for key in keys if key in rows[name]) for rows in views)
        return torch.stack([torch.tensor(array) for array in arrays]).float()

    return HeldOutOutputs(
        names,
        torch.stack([stack(name, ['logits']) for name in names], dim=2),
        [stack(name, EMBEDDING_KEYS) for name in names],
        labels,
    )


def _stores_inside(folder: str) -> list[str]:
    """Stores with held-out images in a folder that is no store itself."""
    if not osp.isdir(folder) or Manifest.find(inputs_folder(folder)) is not None:
        return []
    paths = [osp.join(folder, name) for name in sorted(os.listdir(folder))]
    return [one for one in paths if Manifest.find(inputs_folder(held_out_root(one))) is not None]
