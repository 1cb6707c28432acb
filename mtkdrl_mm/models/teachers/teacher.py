# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One frozen teacher."""

from dataclasses import replace

import torch
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import find_weights, read_checkpoint

from ..classifier_output import run_classifier
from ..infer_output import infer_output
from ..load_weights import load_found_weights
from ..token_map import has_token_map
from .class_map import ClassMap
from .preprocessing import Preprocessing
from .zero_shot import ZeroShot


class Teacher(nn.Module):
    """A frozen network with its preprocessing, in the student's classes.

    It stays in eval mode whatever :meth:`train` is told: its BatchNorm
    statistics must not move.

    Args:
        name (str): For log and messages.
        network (BaseClassifier): The network.
        preprocessing (Preprocessing): What its inputs must look like.
        checkpoint (str, optional): Path or URL of its weights. Defaults to None.
        weights (str, optional): 'ema' or 'raw', where that file has both
            averaged and raw weights. Defaults to None: the averaged ones.
        class_map (ClassMap, optional): For other classes than the student's.
            Defaults to None.
        zero_shot (ZeroShot, optional): For networks whose outputs are image
            embeddings. Defaults to None.
        token_maps (bool): Whether a transformer's patch tokens count as its
            map. Defaults to False.
    """

    def __init__(
        self,
        name: str,
        network: BaseClassifier,
        preprocessing: Preprocessing,
        checkpoint: str | None = None,
        weights: str | None = None,
        class_map: ClassMap | None = None,
        zero_shot: ZeroShot | None = None,
        token_maps: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.preprocessing = preprocessing
        self.checkpoint = checkpoint
        self.weights = weights
        self.class_map = class_map
        self.zero_shot = zero_shot
        self.token_maps = token_maps
        self.requires_grad_(False)
        self.train(False)

    @property
    def role(self) -> str:
        """What it is, for messages: ``teacher "NAME"``."""
        return f'teacher "{self.name}"'

    @property
    def has_token_map(self) -> bool:
        """Whether its map is made of a transformer's tokens."""
        return self.token_maps and has_token_map(self.network.backbone)

    def train(self, mode: bool = True) -> 'Teacher':
        """Stay in eval mode."""
        return super().train(False)

    def load_weights(self) -> int:
        """Read the weights, all of them or none.

        Returns:
            int: Number of tensors.

        Raises:
            InputError: If there is no checkpoint, or the file is missing,
                damaged, unsafe, or of another architecture.
        """
        if self.checkpoint is None:
            raise InputError(
                f'Teacher "{self.name}" has no `checkpoint`. A teacher with random weights teaches '
                'nothing: give a path or URL of its trained weights.'
            )
        contents = read_checkpoint(self.checkpoint, self.role)
        found = find_weights(contents, self.checkpoint, self.role, self.weights)
        loaded = load_found_weights(
            self.network, found, self.checkpoint, self.role, which=self.weights
        )
        print_log(str(loaded), 'current')
        if self.zero_shot is not None:
            self.zero_shot.load(None if self.class_map is None else self.class_map.indices)
        return loaded.count

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> NetworkOutput:
        """Run the network.

        Args:
            inputs (Tensor): Images as :attr:`preprocessing` makes them, shape
                (B, c, H, W).

        Returns:
            NetworkOutput: Logits (B, C) in the student's classes, embedding and
            map; without gradient.
        """
        # no_grad and not inference_mode: the outputs enter the student's loss,
        # and autograd refuses to save inference tensors for backward.
        output = run_classifier(self.network, inputs, self.token_maps, role=self.role)
        if self.zero_shot is not None:
            # An image encoder: what its head returns is the embedding that the class texts
            # are compared with. The texts are those of the student's classes already.
            embedding = output.logits
            return replace(output, embedding=embedding, logits=self.zero_shot(embedding))
        if self.class_map is not None:
            return replace(output, logits=self.class_map(output.logits))
        return output

    def infer_output(self) -> NetworkOutput:
        """The network's own outputs on a black image, before class map and text."""
        return infer_output(self.network, self.role, self.preprocessing.input_size, self.token_maps)
