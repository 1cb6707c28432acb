# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One frozen teacher."""

from dataclasses import replace

import torch
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

from ..classifier_output import run_classifier
from ..infer_output import infer_output
from ..token_map import has_token_map
from .class_map import ClassMap
from .load_teacher import load_teacher
from .preprocessing import Preprocessing
from .zero_shot import ZeroShot


class Teacher(nn.Module):
    """A frozen network with its preprocessing, and logits in the student's classes.

    It always stays in eval mode, because its BatchNorm statistics must not
    change.

    Args:
        name (str): The teacher's name, for log and messages.
        network (BaseClassifier): The network.
        preprocessing (Preprocessing): Preprocessing of its inputs.
        checkpoint (str, optional): Path or URL of its weights. Defaults to None.
        weights (str, optional): 'ema' or 'raw', if that file has both averaged
            and raw weights. Defaults to None: the averaged ones.
        class_map (ClassMap, optional): Selection of the student's classes, if
            the network has others. Defaults to None.
        zero_shot (ZeroShot, optional): Text embeddings, if the network's outputs
            are image embeddings. Defaults to None.
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
        """Name for messages: ``teacher "NAME"``."""
        return f'teacher "{self.name}"'

    @property
    def has_token_map(self) -> bool:
        """Whether the map consists of a transformer's tokens."""
        return self.token_maps and has_token_map(self.network.backbone)

    def train(self, mode: bool = True) -> 'Teacher':
        """Keep eval mode, whatever ``mode`` is."""
        return super().train(False)

    def load_weights(self) -> int:
        """Load the weights of the checkpoint completely.

        Returns:
            int: Number of loaded tensors.

        Raises:
            InputError: If there is no checkpoint, or the file is missing,
                damaged, unsafe, or of another architecture.
        """
        if self.checkpoint is None:
            raise InputError(
                f'Teacher "{self.name}" has no `checkpoint`, and random weights are of no use: '
                'set it to the path or URL of its trained weights.'
            )
        count = load_teacher(self.network, self.checkpoint, self.name, self.weights)
        if self.zero_shot is not None:
            self.zero_shot.load(None if self.class_map is None else self.class_map.indices)
        return count

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> NetworkOutput:
        """Run the network on a batch.

        Args:
            inputs (Tensor): Images with :attr:`preprocessing`, shape
                (B, c, H, W).

        Returns:
            NetworkOutput: Logits (B, C) in the student's classes, embedding and
            map; without gradient.
        """
        # no_grad and not inference_mode: autograd cannot save inference tensors for the backward
        # pass of the student's loss.
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
        """Run the network on dummy images, without class map and text embeddings."""
        return infer_output(self.network, self.role, self.preprocessing.input_size, self.token_maps)
