# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Initialisation of a backbone from a distilled student."""

import re
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from torch import Tensor, nn

from mtkdrl_mm.registry import WEIGHT_INITIALIZERS
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.config_components import component_class
from mtkdrl_mm.utils.errors import summarise
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.state_dict import find_weights

from .load_weights import Fit, Loaded, fit_network

ROLE = 'distilled backbone'
# Normalisation of an output of Swin, ConvNeXt and others, which have those of `out_indices`.
_OUTPUT_NORM = re.compile(r'norm\d+\.(weight|bias)')


@WEIGHT_INITIALIZERS.register_module()
class DistilledBackbone:
    """Initialises a backbone completely from a classification checkpoint.

    It is used as ``init_cfg`` of a backbone in any mmpretrain, mmdet or mmseg
    config, with ``custom_imports = dict(imports=['mtkdrl_mm'])``::

        backbone=dict(init_cfg=dict(type='mtkdrl_mm.DistilledBackbone', checkpoint='FILE'))

    The file may be a training checkpoint of this package (of which the student
    is loaded), a file of ``tools/model_converters/export_student.py``, or any
    mmpretrain or torchvision file. The backbone is found by the names of its
    tensors. mmengine's ``Pretrained`` only warns if no name matches; this one
    raises an error unless every parameter and buffer of the backbone is loaded. Only
    the normalisations ``norm0``, ``norm1`` ... of outputs (``out_indices`` of Swin,
    ConvNeXt) may differ: those of outputs that the student did not have begin anew.

    Args:
        checkpoint (str): Path or URL.
        weights (str, optional): 'ema' or 'raw', where the file has both averaged
            and raw weights. Defaults to the averaged ones.
        prefix (str, optional): Not used: the backbone is found without it. It is what
            an ``init_cfg`` inherits from one of mmengine's ``Pretrained`` in a base
            config. Defaults to None.
        map_location (str, optional): Not used, likewise. Defaults to None.

    Raises:
        InputError: When the backbone is initialised, if the file is missing or
            unusable, or is of another backbone.

    Example:
        >>> import torch
        >>> from mmpretrain import get_model
        >>> from mmpretrain.models import ResNet
        >>> student = get_model('resnet18_8xb32_in1k')
        >>> torch.save(dict(state_dict=student.state_dict()), 'student.pth')
        >>> init_cfg = dict(type='mtkdrl_mm.DistilledBackbone', checkpoint='student.pth')
        >>> backbone = ResNet(18, init_cfg=init_cfg)
        >>> backbone.init_weights()
        >>> torch.equal(backbone.conv1.weight, student.backbone.conv1.weight)
        True
    """

    def __init__(
        self,
        checkpoint: str,
        weights: str | None = None,
        prefix: str | None = None,
        map_location: str | None = None,
    ) -> None:
        if not isinstance(checkpoint, str) or not checkpoint:
            raise InputError(
                f'DistilledBackbone needs the path or URL of a checkpoint, but got {checkpoint!r}. '
                'Set model.backbone.init_cfg.checkpoint.'
            )
        self.checkpoint = checkpoint
        self.weights = weights

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a backbone.

        Args:
            module (nn.Module): The backbone.
        """
        self._check_order(module)
        contents = read_checkpoint(self.checkpoint, ROLE)
        found = find_weights(contents, self.checkpoint, ROLE, self.weights)
        fit = fit_network(module, found.weights, self.checkpoint, ROLE, self.weights)
        expected = module.state_dict()
        new = self._check(module, expected, fit)
        self._check_style(module, expected, contents)
        module.load_state_dict(fit.weights, strict=False)
        name = type(module).__name__
        loaded = Loaded(
            name, self.checkpoint, len(fit.weights), len(expected), found.kind or fit.kind
        )
        line = str(loaded)
        if new:
            line += f' (new, for outputs that the file does not have: {summarise(new)})'
        print_log(line, 'current')
        # With this type, backbones do not set the last BatchNorm of every block to zero.
        setattr(module, 'init_cfg', dict(type='Pretrained', checkpoint=self.checkpoint))  # noqa: B010
        # mmengine's next step would initialise the children, mmcv's ConvModules among them.
        for child in module.modules():
            if child is not module and hasattr(child, 'init_weights'):
                setattr(child, 'is_init', True)  # noqa: B010
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'DistilledBackbone: loaded from {self.checkpoint}')

    @staticmethod
    def _check_order(module: nn.Module) -> None:
        """Raise an error if another initialisation of the same module follows."""
        entries = getattr(module, 'init_cfg', None)
        if not isinstance(entries, list):
            return
        # mmengine's own are moved to the end, wherever they stand in the list.
        own = [entry for entry in entries if entry.get('type') in ('Pretrained', PretrainedInit)]
        last = (own or entries)[-1]
        if component_class(last.get('type')) is not DistilledBackbone:
            raise InputError(
                f'`init_cfg` of the backbone {type(module).__name__} has {last["type"]}, which '
                'acts after DistilledBackbone and would replace what has been loaded: write '
                'DistilledBackbone last, without Pretrained, or alone.'
            )

    def _check_style(
        self, module: nn.Module, expected: dict[str, Tensor], contents: dict[str, Any]
    ) -> None:
        """Raise an error if the strides of bottlenecks are elsewhere, which no shape tells."""
        if not any(key.endswith('.conv3.weight') for key in expected):
            return
        meta = contents.get('meta')
        saved = meta.get('student_cfg') if isinstance(meta, dict) else None
        style = 'pytorch'  # that of mmpretrain's and torchvision's networks
        if isinstance(saved, dict):
            backbone = (saved.get('model') or {}).get('backbone') or {}
            style = backbone.get('style', style)
        wanted = getattr(module, 'style', style)
        if wanted == style:
            return
        remedy = f"Set style='{style}'"
        if saved is None:
            remedy += ", or if the student has this style too, load its training's checkpoint"
        raise InputError(
            f'"{self.checkpoint}" does not fit the backbone {type(module).__name__} with '
            f"style='{wanted}', whose bottlenecks have their strides in another layer than those "
            f'of the file. {remedy}.'
        )

    def _check(self, module: nn.Module, expected: dict[str, Tensor], fit: Fit) -> list[str]:
        """Raise an error unless the file holds exactly this backbone.

        Returns:
            list[str]: Names of the tensors that only further outputs need.
        """
        weights = fit.weights
        new = []
        if hasattr(module, 'out_indices') and any(
            map(_OUTPUT_NORM.fullmatch, [*weights, *fit.left_out])
        ):
            new = [k for k in expected if k not in weights and _OUTPUT_NORM.fullmatch(k)]
        # Files from before PyTorch 0.4.1 have no count of batches, which nothing depends on.
        missing = [
            k
            for k in expected
            if k not in weights and k not in new and not k.endswith('num_batches_tracked')
        ]
        unexpected = [key for key in weights if key not in expected]
        shapes = [
            f'{key} is {tuple(weights[key].shape)}, but {tuple(expected[key].shape)} in the config'
            for key in expected
            if key in weights and weights[key].shape != expected[key].shape
        ]
        if not (missing or unexpected or shapes):
            return new
        name = type(module).__name__
        message = f'"{self.checkpoint}" does not fit the backbone {name}. '
        if 'stem.0.weight' in expected and 'conv1.weight' in fit.left_out:
            raise InputError(
                message + f'{name} has the deep stem of a ResNetV1c (three convolutions), the file '
                "is a plain ResNet's. Use backbone=dict(type='ResNet', ...) without `deep_stem`."
            )
        if 'conv1.weight' in expected and 'stem.0.weight' in fit.left_out:
            raise InputError(
                message + "The file is a ResNetV1c's (deep stem of three convolutions), the "
                "config's backbone has a plain stem. Use type='ResNetV1c'."
            )
        if shapes and not (missing or unexpected):
            message += f'The widths differ: {summarise(shapes, 2)}. '
        else:
            message += ''.join(
                f'{label}: {summarise(keys, 6)}. '
                for label, keys in (
                    ('Missing in the file', missing),
                    ('Only in the file', unexpected),
                    ('Of another shape', shapes),
                )
                if keys
            )
        raise InputError(
            message
            + 'Set the type, depth and width of the backbone that the checkpoint was trained '
            'with, or another checkpoint.'
        )


def backbone_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the weights of the backbone from those of a network.

    Args:
        weights (dict[str, Tensor]): Weights of a classifier, detector or
            segmentor of OpenMMLab (names begin with ``backbone.``), of a
            torchvision network, or of a backbone alone.

    Returns:
        dict[str, Tensor]: The backbone's weights under its own names.
    """
    prefix = 'backbone.'
    if any(key.startswith(prefix) for key in weights):
        return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return {key: value for key, value in weights.items() if not key.startswith('fc.')}
