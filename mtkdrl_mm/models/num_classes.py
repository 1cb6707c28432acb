# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The number of classes, wherever a network's config depends on it."""

import inspect
from typing import Any

from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS


def set_num_classes(node: Any, num_classes: int) -> None:
    """Set the number of classes in every part of a network's config, in place.

    - A part that has ``num_classes`` gets the new number, unless it is not
      positive: that of a backbone without a classifier stays so.
    - A part whose class takes ``num_classes``, and needs it or has a positive
      default, gets it too: SeesawLoss, LeViTClsHead and InceptionV3 have 1,000
      unless told otherwise.
    - ``topk`` of heads loses what is above the number of classes.

    Args:
        node (Any): The config of a classifier, or of a part of it.
        num_classes (int): The number C.
    """
    if isinstance(node, (list, tuple)):
        for part in node:
            set_num_classes(part, num_classes)
    if not isinstance(node, dict):
        return
    for key, part in list(node.items()):
        if key != 'init_cfg':
            set_num_classes(part, num_classes)
    current = node.get('num_classes', _default(node.get('type')))
    if isinstance(current, int) and current > 0:
        node['num_classes'] = num_classes
    if 'topk' in node:
        node['topk'] = _limited(node['topk'], num_classes)


def _default(kind: Any) -> int | None:
    """The number of classes of a class that is not told; None if it takes none.

    Arguments that a constructor passes on to those of its base classes count.
    """
    if isinstance(kind, str):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            kind = MMPRETRAIN_MODELS.get(kind)
    if not inspect.isclass(kind):
        return None
    for cls in inspect.getmro(kind):
        if '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)['__init__']).parameters
        if 'num_classes' in parameters:
            default = parameters['num_classes'].default
            required = default is inspect.Parameter.empty
            return 1 if required else default if isinstance(default, int) else None
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
    return None


def _limited(topk: Any, num_classes: int) -> Any:
    if isinstance(topk, int):
        return min(topk, num_classes)
    if isinstance(topk, (list, tuple)):
        return tuple(k for k in topk if k <= num_classes) or (1,)
    return topk
