# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks of timm as backbones of mmpretrain's classifiers."""

from typing import Any

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError, near_matches

from ..token_map import tokens_to_map


@MODELS.register_module()
class TimmFeatures(BaseBackbone):
    """A network of timm without its classifier; returns feature map and embedding.

    mmpretrain's ``TIMMBackbone`` returns a transformer's raw tokens, which none
    of its heads takes, and its ``TimmClassifier`` loses the weights of other
    modules when it is part of a larger model. Use it with
    ``VisionTransformerClsHead``, which takes the last entry of a list::

        dict(
            type='ImageClassifier',
            backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name='cait_s24_224'),
            head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=384),
        )

    A transformer's map consists of its patch tokens after the last
    normalisation; its embedding is the input of timm's classifier (the class
    token of DeiT and CaiT). Weights are initialised by timm.

    Args:
        model_name (str): timm's name of the network.
        init_cfg (dict, optional): Initialisation. Defaults to None.
        **kwargs: Passed to ``timm.create_model``, for example
            ``drop_path_rate`` or ``img_size``.

    Raises:
        InputError: If timm is not installed or does not know the network or an
            argument, or if the network has several classifiers.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import TimmFeatures
        >>> backbone = TimmFeatures('vit_tiny_patch16_224', img_size=64)
        >>> ((feature_map, embedding),) = backbone(torch.zeros(1, 3, 64, 64))
        >>> tuple(feature_map.shape), tuple(embedding.shape)
        ((1, 192, 4, 4), (1, 192))
    """

    def __init__(self, model_name: str, init_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        try:
            import timm
        except ImportError as error:
            raise InputError(
                f'"{model_name}" is a network of timm, which is not installed: '
                "pip install 'timm>=1.0.9'"
            ) from error
        architecture = model_name.split('.')[0]
        if not timm.is_model(architecture):
            raise InputError(
                f'timm {timm.__version__} has no network "{architecture}". '
                f'{near_matches(architecture, _alike(timm.list_models(), architecture))}'
            )
        for key in ('pretrained', 'checkpoint_path', 'features_only', 'num_classes'):
            if key in kwargs:
                raise InputError(
                    f'TimmFeatures("{model_name}") takes no `{key}`: weights come from the '
                    "teacher's `checkpoint`, and classes from the head's `num_classes`."
                )
        try:
            self.model = timm.create_model(model_name, num_classes=0, **kwargs)
        except (TypeError, RuntimeError, AssertionError) as error:
            raise InputError(f'timm cannot build "{model_name}" with {kwargs}: {error}') from error
        if not isinstance(self.classifier_name, str):
            raise InputError(
                f'"{model_name}" has the classifiers {self.classifier_name}, but only networks '
                'with one are supported.'
            )

    @property
    def classifier_name(self) -> Any:
        """Name of the classifier in timm's checkpoints, such as ``head`` or ``fc``."""
        return self.model.pretrained_cfg['classifier']

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The normalisation of timm's training, as a ``data_preprocessor``."""
        cfg = self.model.pretrained_cfg
        # Rounded, because equal normalisations of several teachers are computed once.
        return dict(
            mean=[round(255 * value, 6) for value in cfg['mean']],
            std=[round(255 * value, 6) for value in cfg['std']],
            to_rgb=True,
        )

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width that the network was designed for."""
        embed = getattr(self.model, 'patch_embed', None)
        size = getattr(embed, 'img_size', None) or self.model.pretrained_cfg['input_size'][1:]
        return int(size[0]), int(size[1])

    @property
    def fixed_size(self) -> bool:
        """Whether the network takes images of this size only."""
        return bool(self.model.pretrained_cfg.get('fixed_input_size'))

    @property
    def gives_tokens(self) -> bool:
        """Whether the map consists of patch tokens."""
        return hasattr(self.model, 'cls_token') or hasattr(self.model, 'num_prefix_tokens')

    def forward(self, inputs: Tensor) -> tuple[list[Tensor]]:
        """Run the network.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).

        Returns:
            tuple[list[Tensor]]: One stage: the map (B, c, h, w), if there is
            one, and the embedding (B, d).
        """
        features = self.model.forward_features(inputs)
        embedding = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 3 and self.gives_tokens:
            extra = getattr(self.model, 'num_prefix_tokens', 1)
            features = tokens_to_map(features, inputs.shape[-2:], extra)
        elif features.ndim == 4 and getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC':
            features = features.permute(0, 3, 1, 2)
        return ([features, embedding] if features.ndim == 4 else [embedding],)


def _alike(names: list[str], name: str) -> list[str]:
    """Select names of the same family; timm has more than a thousand names."""
    family = name.split('_')[0].lower()
    return [other for other in names if other.startswith(family)] or names[:20]
