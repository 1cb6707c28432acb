# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""COCO data sets with labels by category name.

This module needs mmdet, and is imported only when it is used.
"""

from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from mtkdrl_mm.registry import DATASETS


class _CocoInOrder(COCO):
    """COCO's API; category ids are in the order of the names."""

    def get_cat_ids(self, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()) -> list[int]:
        """Ids of the named categories; negative ids for categories that the file lacks."""
        if sup_names or cat_ids or not cat_names:
            return super().get_cat_ids(cat_names, sup_names, cat_ids)
        ids = {category['name']: category['id'] for category in self.dataset['categories']}
        return [ids.get(name, -1 - label) for label, name in enumerate(cat_names)]


@DATASETS.register_module()
class CocoByNames(CocoDataset):
    """mmdet's ``CocoDataset``, with labels by category name.

    mmdet numbers the categories in the order of the annotation file. If the
    file of another split has another order, or lacks a category, all labels
    shift. Here the label is the index of the name in ``metainfo.classes``,
    independent of the order in the file.
    """

    COCOAPI = _CocoInOrder
