# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Setting the number of classes in the config of a network."""

import inspect
from typing import Any

from mmengine.registry import DefaultScope
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS


def set_num_classes(node: Any, num_classes: int) -> None:
    """Set the number of classes in every part of a network's config, in place.

    - A part with a positive ``num_classes`` gets the new number. Backbones
      without a classifier have -1, which stays.
    - A part without it gets the number if its class requires ``num_classes``,
      or has a positive default: SeesawLoss, LeViTClsHead and InceptionV3 have
      1,000 by default. So does a network that has the classes of its weights by
      default, as TimmImageClassifier.
    - ``topk`` of heads is limited to the number of classes.

    Args:
        node (Any): The config of a classifier, or a part of it.
        num_classes (int): The number of classes C.
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
        node['topk'] = limit_topk(node['topk'], num_classes)


def _default(kind: Any) -> int | None:
    """Default of ``num_classes`` in a constructor; 1 if required, None if there is no argument.

    The constructors of base classes count too, if ``**kwargs`` are passed on to them.
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
            # A network with None has as many classes as its weights.
            required |= default is None and issubclass(kind, BaseClassifier)
            return 1 if required else default if isinstance(default, int) else None
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
    return None


def limit_topk(topk: Any, num_classes: int) -> Any:
    """Limit the k of top-k accuracies to the number of classes.

    Args:
        topk (int | Sequence[int]): One k or several.
        num_classes (int): The number of classes C.

    Returns:
        int | tuple[int, ...]: One k, at most C; or those of several that are at
        most C, and (1,) if there are none. Other values are returned unchanged.

    Example:
        >>> from mtkdrl_mm.models.num_classes import limit_topk
        >>> limit_topk(5, 3), limit_topk((1, 5), 3)
        (3, (1,))
    """
    if isinstance(topk, int):
        return min(topk, num_classes)
    if isinstance(topk, (list, tuple)):
        return tuple(k for k in topk if k <= num_classes) or (1,)
    return topk
