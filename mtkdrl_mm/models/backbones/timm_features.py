# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks of timm as backbones of mmpretrain's classifiers."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import first_line
from mtkdrl_mm.utils.optional_packages import import_optional
from mtkdrl_mm.weights.hub import SCHEME as HUB
from mtkdrl_mm.weights.timm_networks import check_network_name, read_hub_network

from ..token_map import token_grid, tokens_to_map


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
    token of DeiT and CaiT, the hidden layer of CAFormer's MLP). Weights are
    initialised by timm.

    Args:
        model_name (str): timm's name of the network, with or without a tag; or
            ``hf://ORG/REPO[@REVISION]`` for a network that was saved to the
            Hugging Face hub by timm.
        init_cfg (dict, optional): Initialisation. Defaults to None.
        **kwargs: Passed to ``timm.create_model``, for example
            ``drop_path_rate`` or ``img_size``.

    Raises:
        InputError: If timm is not installed or does not know the network or an
            argument, or if the network has not one linear classifier.

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
        timm = import_optional('timm', f'"{model_name}"')
        self._arguments: dict[str, Any] = dict(kwargs)
        if model_name.startswith(HUB):
            architecture, self._arguments = read_hub_network(model_name, kwargs)
        else:
            check_network_name(model_name)
            architecture = model_name
        self._architecture = architecture
        for key in ('pretrained', 'checkpoint_path', 'features_only', 'num_classes'):
            if key in kwargs:
                raise InputError(
                    f'TimmFeatures("{model_name}") takes no `{key}`: weights come from the '
                    "teacher's `checkpoint`, and classes from the head's `num_classes`."
                )
        try:
            # With a classifier, because timm leaves out all layers of an MLP without one.
            self.model = timm.create_model(architecture, **{**self._arguments, 'num_classes': 1})
        except Exception as error:  # networks raise errors of any type for wrong arguments
            raise InputError(
                f'timm cannot build "{model_name}" with {kwargs}: {first_line(error)}.'
            ) from error
        self.embedding_size = self._remove_classifier(model_name)
        self.register_load_state_dict_post_hook(_forget_cached_weights)

    def _remove_classifier(self, model_name: str) -> int:
        """Replace the last layer by its input; return the input's size d."""
        name = self.classifier_name
        if not isinstance(name, str):
            raise InputError(
                f'"{model_name}" has the classifiers {name}, but only networks with one are '
                'supported.'
            )
        parent, _, child = name.rpartition('.')
        layer = dict(self.model.named_modules()).get(name)
        size = getattr(layer, 'in_features', None)
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
            size = layer.in_channels
        if size is None:
            raise InputError(
                f'The classifier "{name}" of "{model_name}" is a {type(layer).__name__}, but only '
                'networks with one linear layer or 1x1 convolution as the last are supported.'
            )
        setattr(self.model.get_submodule(parent), child, nn.Identity())
        return int(size)

    @property
    def classifier_name(self) -> Any:
        """Name of the classifier in timm's checkpoints, such as ``head`` or ``fc``."""
        return self.model.pretrained_cfg.get('classifier')

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The normalisation of timm's training, as a ``data_preprocessor``."""
        from timm.data import resolve_model_data_config

        cfg = resolve_model_data_config(self.model)
        # Rounded, because equal normalisations of several teachers are computed once.
        return dict(
            mean=[round(255 * value, 6) for value in cfg['mean']],
            std=[round(255 * value, 6) for value in cfg['std']],
            to_rgb=True,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes of timm's weights; 0 if they have no classifier."""
        return int(self.model.pretrained_cfg.get('num_classes') or 0)

    @property
    def image_channels(self) -> int:
        """Number of channels of the images; the first convolution of TResNet has more."""
        return int(self._arguments.get('in_chans') or self.model.pretrained_cfg['input_size'][0])

    def convert_weights(
        self, weights: dict[str, Tensor], num_classes: int
    ) -> dict[str, Tensor] | None:
        """Have timm rename the weights of a network's authors, for example OpenCLIP's.

        Args:
            weights (dict[str, Tensor]): The weights with the authors' names.
            num_classes (int): Number of classes of their classifier.

        Returns:
            dict[str, Tensor] | None: The weights with timm's names and the
            classifier; None if timm cannot convert them.
        """
        import timm

        overlay = dict(state_dict=dict(weights), source=None, num_classes=num_classes)
        arguments = {
            **self._arguments,
            'num_classes': num_classes,
            'pretrained': True,
            'pretrained_cfg_overlay': overlay,
        }
        try:
            with torch.random.fork_rng(devices=[]):
                return timm.create_model(self._architecture, **arguments).state_dict()
        except Exception:  # each of timm's networks has a function of its own, for its own files
            return None

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
        embedding = self.model.forward_head(features)
        if embedding.ndim != 2 or embedding.shape[1] != self.embedding_size:
            raise InputError(
                f'"{self._architecture}" of timm gives its classifier the shape '
                f'{tuple(embedding.shape)} and not one embedding of {self.embedding_size} numbers '
                'per image, so that it is not supported.'
            )
        feature_map = self._feature_map(features, inputs.shape[-2:])
        return ([embedding] if feature_map is None else [feature_map, embedding],)

    def _feature_map(self, features: Any, image_size: Sequence[int]) -> Tensor | None:
        """Arrange timm's features as a map; None if they are none, as PiT's class token."""
        if not isinstance(features, Tensor):
            return None
        if features.ndim == 3 and self.gives_tokens:
            extra = getattr(self.model, 'num_prefix_tokens', 1)
            if token_grid(features.shape[1] - extra, image_size) is None:
                return None
            return tokens_to_map(features, image_size, extra)
        if features.ndim == 4 and getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC':
            return features.permute(0, 3, 1, 2)
        return features if features.ndim == 4 else None


def _forget_cached_weights(backbone: nn.Module, keys: Any) -> None:
    """Have attention biases computed from the loaded weights.

    Some networks (TinyViT, EfficientViT) keep those of their first pass in eval mode until they
    are set to train mode, which a frozen teacher never is.
    """
    training = backbone.training
    backbone.train()
    backbone.train(training)
