# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""One frozen teacher."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import shorten

from ..classifier_output import run_classifier
from ..infer_output import infer_output
from ..memory_format import is_channels_last, memory_format
from .class_map import ClassMap
from .fold_batch_norm import fold_batch_norms
from .host_copy import HostCopy
from .inference_mode import EAGER, InferenceMode, autocast_dtype
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
        names_checked (bool): Whether :meth:`check_classes` compares names.
            Defaults to True.

    Attributes:
        mode (InferenceMode): How the network is run; eager unless
            :meth:`adopt` has changed it.
        classes (list[str], optional): The network's classes, if the file of its
            weights names them; None before it is loaded.
        offload (bool): Whether the network is kept in host memory, and on the
            device only while it runs.
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
        names_checked: bool = True,
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
        self.names_checked = names_checked
        self.classes: list[str] | None = None
        self.mode = EAGER
        self.offload = False
        self._host_copy: HostCopy | None = None
        self._num_loaded = 0
        self.requires_grad_(False)
        self.train(False)

    @property
    def role(self) -> str:
        """Name for messages: ``teacher "NAME"``."""
        return f'teacher "{self.name}"'

    @property
    def is_loaded(self) -> bool:
        """Whether the weights of the checkpoint have been loaded."""
        return self._num_loaded > 0

    def train(self, mode: bool = True) -> 'Teacher':
        """Keep eval mode, whatever ``mode`` is."""
        return super().train(False)

    def load_weights(self) -> int:
        """Load the weights of the checkpoint completely.

        Returns:
            int: Number of loaded tensors.

        Raises:
            InputError: If there is no checkpoint, or the file is missing,
                damaged, unsafe, or of another architecture; or if the teacher
                has run before, in another mode.
        """
        if self.mode != EAGER:  # frozen weights, which were read before
            if self.checkpoint is not None and not self.is_loaded:
                raise InputError(
                    f'The weights of teacher "{self.name}" cannot be loaded any more: it has run '
                    'with random ones, which are part of its mode. Build the distiller again, and '
                    'call `init_weights()` before its first step.'
                )
            return self._num_loaded
        if self.checkpoint is None:
            raise InputError(
                f'Teacher "{self.name}" has no `checkpoint`, and random weights are of no use: '
                'set it to the path or URL of its trained weights.'
            )
        count, self.classes = load_teacher(self.network, self.checkpoint, self.name, self.weights)
        if self.zero_shot is not None:
            self.zero_shot.load(None if self.class_map is None else self.class_map.indices)
        self._num_loaded = count
        return count

    def check_classes(self, classes: Sequence[str]) -> None:
        """Make sure that the logits are those of the data's classes, by their names.

        What the file of the weights calls otherwise is not compared: "tabby" may be
        ``n02123045``.

        Args:
            classes (Sequence[str]): The classes of the data, in their order.

        Raises:
            InputError: If the file has a class of the data at another place.
        """
        if not self.names_checked or self.classes is None or self.zero_shot is not None:
            return
        mapped = range(len(classes)) if self.class_map is None else self.class_map.indices.tolist()
        for number, (name, index) in enumerate(zip(classes, mapped)):
            places = [i for i, other in enumerate(self.classes) if other == name]
            if not places or index in places:
                continue
            if self.class_map is not None:
                remedy = 'Correct the `class_map` of this teacher'
            elif all(self.classes.count(other) == 1 for other in classes):
                order = shorten(map(self.classes.index, classes), 20)
                remedy = f'Give the teacher `class_map=[{order}]`'
            else:
                remedy = 'Give the teacher a `class_map`'
            raise InputError(
                f'The classes of {self.role} are not those of the data: class {number} of the data '
                f'is "{name}", which is class {places[0]} in "{self.checkpoint}", but class '
                f"{index} of the teacher would be taken for it. {remedy}, or if the file's names "
                'are wrong, set `check_classes=False`.'
            )

    def candidate(self, mode: InferenceMode, inputs: Tensor) -> 'Teacher | None':
        """Copy the teacher, with its network prepared for another mode.

        Args:
            mode (InferenceMode): The mode.
            inputs (Tensor): Images with :attr:`preprocessing`, shape
                (B, c, H, W); the first two show which layers follow each other.

        Returns:
            Teacher | None: The copy, which shares class map and text embeddings;
            None if no BatchNorm can be folded.
        """
        network = copy.deepcopy(self.network)
        device = next(network.parameters()).device
        images = inputs[:2].float().to(device)
        if mode.reparameterized:
            network.backbone.switch_to_deploy()
            network.eval()
        if mode.folded:
            with torch.no_grad(), autocast(device.type, enabled=False):
                count = fold_batch_norms(
                    network,
                    lambda: run_classifier(network, images, self.token_maps, role=self.role),
                )
            if count == 0 and not mode.reparameterized:
                return None
        if mode.channels_last is not None:
            network.to(memory_format=memory_format(mode.channels_last))
        if mode.half is not None:
            _store_in(network, mode.half)
        if mode.compiled:
            # An attribute of the instance: the backbone remains of its class.
            network.backbone.forward = torch.compile(network.backbone.forward)
        result = Teacher(
            self.name,
            network,
            self.preprocessing,
            self.checkpoint,
            self.weights,
            self.class_map,
            self.zero_shot,
            self.token_maps,
            self.names_checked,
        )
        result.mode, result.offload = mode, self.offload
        return result

    def adopt(self, candidate: 'Teacher') -> None:
        """Take over the network of a :meth:`candidate`, and its mode.

        Args:
            candidate (Teacher): The candidate.
        """
        self.network, self.mode, self._host_copy = candidate.network, candidate.mode, None

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> NetworkOutput:
        """Run the network on a batch.

        Args:
            inputs (Tensor): Images with :attr:`preprocessing`, shape
                (B, c, H, W).

        Returns:
            NetworkOutput: Logits (B, C) in the student's classes, embedding and
            map; without gradient, and in every mode of the same dtypes and
            memory formats.
        """
        # no_grad and not inference_mode: autograd cannot save inference tensors for the backward
        # pass of the student's loss.
        with self._on_device(inputs.device):
            output = self._run(inputs)
            if self.zero_shot is not None:
                # An image encoder: what its head returns is the embedding that the class texts
                # are compared with. The texts are those of the student's classes already.
                embedding = output.logits
                output = replace(output, embedding=embedding, logits=self.zero_shot(embedding))
            elif self.class_map is not None:
                output = replace(output, logits=self.class_map(output.logits))
        return in_layout_of(inputs, output)

    def prefetch(self, device: torch.device) -> None:
        """Begin to copy the network to the device, if it is offloaded.

        Args:
            device (torch.device): The device.
        """
        if self.offload and device.type != 'cpu':
            self._held_on_host().prefetch(device)

    def _run(self, inputs: Tensor) -> NetworkOutput:
        """Run the network in its mode."""
        mode, given = self.mode, inputs
        if mode == EAGER:
            return run_classifier(self.network, inputs, self.token_maps, role=self.role)
        if mode.channels_last is not None:
            inputs = inputs.contiguous(memory_format=memory_format(mode.channels_last))
        with _precision(mode, inputs.device):
            output = run_classifier(self.network, inputs, self.token_maps, role=self.role)
        if mode.dtype is not None and autocast_dtype(inputs.device) != mode.half:
            output.logits = output.logits.to(given.dtype)
            output.embedding = output.embedding.to(given.dtype)
            if output.feature_map is not None:
                output.feature_map = output.feature_map.to(given.dtype)
        return output

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> 'Teacher':
        """Stay in host memory if the network is offloaded."""
        self._host_copy = None
        if self.offload:
            return super()._apply(lambda tensor: fn(tensor).cpu(), *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def _held_on_host(self) -> HostCopy:
        if self._host_copy is None:
            self._host_copy = HostCopy(self)
        return self._host_copy

    @contextmanager
    def _on_device(self, device: torch.device) -> Iterator[None]:
        """Have an offloaded network on the device."""
        if not self.offload or device.type == 'cpu':
            yield
            return
        held = self._held_on_host()
        try:
            held.load(device)
            yield
        finally:
            held.unload()

    def infer_output(self) -> NetworkOutput:
        """Run the network on dummy images, without class map and text embeddings."""
        return infer_output(self.network, self.role, self.preprocessing.input_size, self.token_maps)


def in_layout_of(images: Tensor, output: NetworkOutput) -> NetworkOutput:
    """Bring outputs to the memory formats that they have however they came about.

    The map gets that of the images, which the student's map has that it is
    compared with; logits and embedding are contiguous. The roundings of sums
    depend on it: outputs of a network, such as a transformer's tokens, are
    views of larger tensors, and those that were stored are not.

    Args:
        images (Tensor): The batch, shape (B, c, H, W).
        output (NetworkOutput): The outputs for it.

    Returns:
        NetworkOutput: The same numbers.
    """
    feature_map = output.feature_map
    if feature_map is not None:
        layout = memory_format(is_channels_last(images))
        feature_map = feature_map.contiguous(memory_format=layout)
    return replace(
        output,
        logits=output.logits.contiguous(),
        embedding=output.embedding.contiguous(),
        feature_map=feature_map,
    )


def _precision(mode: InferenceMode, device: torch.device) -> Any:
    """The context in which a network computes in its mode's precision."""
    if mode.dtype is None:
        return nullcontext()
    if mode.half is None:
        return autocast(device.type, enabled=False)
    return autocast(device.type, dtype=mode.half)


def _store_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of convolutions and linear layers in half precision.

    Autocast converts weights in every step; these are converted already. All
    others, as those of normalisations, stay in float32.
    """
    for module in network.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            for parameter in module._parameters.values():
                if parameter is not None:
                    parameter.data = parameter.data.to(dtype)
