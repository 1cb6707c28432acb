# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The images that a teacher has the highest and the lowest weight on."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .image_outputs import ImageOutputs

# Longest side of the pictures of a page, in pixels.
_SIDE = 160
# JPEG blurs images of so few pixels, and PNG is about as small.
_SMALL = 64
# Weights that differ by less are equal.
_EQUAL = 1e-4


@dataclass(frozen=True)
class Answer:
    """What a network says about an image.

    Attributes:
        name (str): The network.
        label (str): The class it predicts.
        probability (float): Its probability of that class.
        right (bool): Whether that is the image's label.
    """

    name: str
    label: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Picture:
    """An image with the answers about it.

    Attributes:
        source (str): The image as a ``data:`` URL.
        width (int): In pixels.
        height (int): In pixels.
        label (str): Its label; of a blended image, its labels and their shares.
        weight (float): The teacher's weight on it.
        answers (Sequence[Answer]): Of the student, then of the teachers.
    """

    source: str
    width: int
    height: int
    label: str
    weight: float
    answers: Sequence[Answer]

    @property
    def description(self) -> str:
        """The picture in words."""
        return f'Image with the label {self.label}'


def extreme_images(weights: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Find the images with the highest and with the lowest weights.

    No image is in both lists.

    Args:
        weights (Tensor): A teacher's weights, shape (N,).
        count (int): Greatest length of a list.

    Returns:
        tuple[list[int], list[int]]: Indices of the highest weights, decreasing,
        and of the lowest ones, increasing; both empty where all weights are
        equal.
    """
    if len(weights) < 2 or float(weights.max() - weights.min()) < _EQUAL:
        return [], []
    count = min(count, len(weights) // 2)
    order = torch.sort(weights, descending=True, stable=True).indices.tolist()
    return order[:count], order[::-1][:count]


def make_pictures(
    outputs: ImageOutputs, teacher: int, indices: Sequence[int], classes: Sequence[str]
) -> list[Picture]:
    """Make the pictures of some images.

    Args:
        outputs (ImageOutputs): With images and weights.
        teacher (int): Number of the teacher whose weights are shown.
        indices (Sequence[int]): Numbers of the images.
        classes (Sequence[str]): Names of the C classes.

    Returns:
        list[Picture]: One for each index.
    """
    assert outputs.logit_weights is not None
    pictures = []
    for index in indices:
        logits = torch.cat([outputs.student_logits[index][None], outputs.teacher_logits[index]])
        probabilities, predicted = logits.softmax(dim=1).max(dim=1)
        true = int(outputs.labels[index].argmax())
        answers = [
            Answer(name, classes[label], probability, label == true)
            for name, label, probability in zip(
                ('student', *outputs.names), predicted.tolist(), probabilities.tolist()
            )
        ]
        image = outputs.images[index]
        source, width, height = encode_image(image)
        pictures.append(
            Picture(
                source=source,
                width=width,
                height=height,
                label=describe_label(outputs.labels[index], classes),
                weight=float(outputs.logit_weights[index, teacher]),
                answers=answers,
            )
        )
    return pictures


def describe_label(label: Tensor, classes: Sequence[str]) -> str:
    """A label in words; of a blended image the two largest shares.

    Args:
        label (Tensor): A distribution over the classes, shape (C,).
        classes (Sequence[str]): Their names.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.report.gallery import describe_label
        >>> describe_label(torch.tensor([0.0, 0.7, 0.3]), ['cat', 'dog', 'cow'])
        'dog 70 %, cow 30 %'
    """
    shares, order = label.sort(descending=True)
    if len(label) < 2 or float(shares[1]) < 0.01:
        return classes[int(order[0])]
    return ', '.join(f'{classes[int(order[i])]} {100 * float(shares[i]):.0f} %' for i in (0, 1))


def encode_image(pixels: np.ndarray) -> tuple[str, int, int]:
    """Encode an image for a page, at most 160 pixels wide and high.

    Args:
        pixels (np.ndarray): RGB, shape (H, W, 3), uint8.

    Returns:
        tuple[str, int, int]: A ``data:`` URL, width and height.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    kind = 'PNG' if max(image.size) <= _SMALL else 'JPEG'
    file = io.BytesIO()
    image.save(file, kind, **(dict(optimize=True) if kind == 'PNG' else dict(quality=80)))
    text = base64.b64encode(file.getvalue()).decode()
    return f'data:image/{kind.lower()};base64,{text}', *image.size
