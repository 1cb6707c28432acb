# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A whole network of timm, by its name alone."""

from typing import Any

from mmpretrain.models import ImageClassifier
from torch import nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import check_number
from mtkdrl_mm.weights.hub import SCHEME as HUB

from .backbones import TimmFeatures


@MODELS.register_module()
class TimmImageClassifier(ImageClassifier):
    """A network of timm with its classifier, as mmpretrain's ``ImageClassifier``.

    It consists of :class:`TimmFeatures` and a ``VisionTransformerClsHead``, so
    that its embedding and map can be distilled, unlike those of mmpretrain's
    ``TimmClassifier``. A teacher that has only a ``model_name`` is one.

    Args:
        model_name (str): timm's name, such as ``resnet50.a1_in1k``, or
            ``hf://ORG/REPO[@REVISION]`` for a network that was saved to the
            Hugging Face hub by timm.
        num_classes (int, optional): Number of classes C. Defaults to None: that
            of timm's weights.
        head (dict, optional): Further arguments of the head, such as ``loss``.
            Defaults to None.
        data_preprocessor (dict | nn.Module, optional): As of
            ``ImageClassifier``. Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None: timm's.
        train_cfg (dict, optional): As of ``ImageClassifier``. Defaults to None.
        **kwargs: Passed to ``timm.create_model``.

    Raises:
        InputError: If timm has no such network, or its weights have no
            classifier and ``num_classes`` is not set.

    Example:
        >>> from mtkdrl_mm.models import TimmImageClassifier
        >>> network = TimmImageClassifier('resnet18.a1_in1k', num_classes=10)
        >>> network.head.in_channels, network.head.num_classes
        (512, 10)
    """

    def __init__(
        self,
        model_name: str,
        num_classes: int | None = None,
        head: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict | None = None,
        train_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model_name, str):
            raise InputError(f'`model_name` must be a name of timm, but is {model_name!r}.')
        backbone = TimmFeatures(model_name, **kwargs)
        if num_classes is None and backbone.num_classes == 0:
            raise InputError(
                f'timm\'s weights of "{model_name}" have no classifier, and so no classes. Set '
                '`num_classes`, and `checkpoint` to weights that were fine-tuned.'
            )
        classes = backbone.num_classes if num_classes is None else num_classes
        super().__init__(
            backbone=backbone,
            head={
                'type': 'VisionTransformerClsHead',
                'in_channels': backbone.embedding_size,
                **(head or {}),
                'num_classes': int(check_number('num_classes', classes, 1)),
            },
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            train_cfg=train_cfg,
        )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The normalisation of timm's training, as a ``data_preprocessor``."""
        return self.backbone.preprocessing


def is_timm_name(teacher: dict[str, Any]) -> bool:
    """Whether the config of a teacher has timm's name of its network, and no network."""
    return 'model_name' in teacher and not {'cfg_path', 'type'} & teacher.keys()


def teacher_checkpoint(teacher: dict[str, Any]) -> str | None:
    """The location of a teacher's weights.

    Args:
        teacher (dict): Its config.

    Returns:
        str | None: Its ``checkpoint``; for timm's name alone timm's weights
        (``timm://NAME``), or the repository of the hub; else None.
    """
    if teacher.get('checkpoint') is not None or not is_timm_name(teacher):
        return teacher.get('checkpoint')
    name = str(teacher['model_name'])
    return name if name.startswith(HUB) else f'timm://{name}'
