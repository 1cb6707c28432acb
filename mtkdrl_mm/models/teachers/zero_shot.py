# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Zero-shot class scores of vision-language models such as CLIP."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast

from mtkdrl_mm.utils import InputError, check_number, near_matches
from mtkdrl_mm.weights.checkpoint import read_tensor


class ZeroShot(nn.Module):
    r"""Zero-shot classifier: cosine of an image embedding and one text embedding per class.

    .. math::
        z_c = s \left\langle \frac{e}{\|e\|}, \frac{t_c}{\|t_c\|} \right\rangle

    The texts ("a photo of a dog") are embedded beforehand by the text encoder of
    the same model; no text encoder runs in training.
    Source: Radford et al., arXiv:2103.00020, section 3.1.

    Args:
        text_embeddings (str): Path or URL of a tensor of shape (C, d), one row
            per class in the order of the data set: ``.pt`` or ``.pth``,
            ``.npy``, or ``.safetensors`` with one tensor.
        logit_scale (float): s > 0, the inverse of the temperature that the
            network was trained with. Defaults to 100, CLIP's.
        role (str): Name of the teacher, for messages.

    Raises:
        InputError: If an argument is unusable.
    """

    text: Tensor

    def __init__(
        self, text_embeddings: str, logit_scale: float = 100.0, role: str = 'teacher'
    ) -> None:
        super().__init__()
        if not isinstance(text_embeddings, str):
            raise InputError(
                f'`zero_shot.text_embeddings` of {role} must be the path of a file, but is '
                f'{text_embeddings!r}.'
            )
        self.location = text_embeddings
        self.role = role
        self.logit_scale = check_number(
            f'zero_shot.logit_scale of {role}', logit_scale, exclusive=True
        )
        self.register_buffer('text', torch.empty(0, 0))

    @classmethod
    def from_config(cls, cfg: Any, role: str) -> 'ZeroShot':
        """Build from the key ``zero_shot`` of a teacher's config.

        Args:
            cfg (dict): With ``text_embeddings`` and optional ``logit_scale``.
            role (str): Name of the teacher, for messages.

        Raises:
            InputError: If a key is unknown or missing.
        """
        known = ('text_embeddings', 'logit_scale')
        if not isinstance(cfg, dict) or 'text_embeddings' not in cfg:
            raise InputError(
                f'`zero_shot` of {role} must be a dict with `text_embeddings`, the file of one '
                f'embedding per class, but is {cfg!r}.'
            )
        for key in cfg:
            if key not in known:
                raise InputError(
                    f'`zero_shot` of {role} takes no "{key}". {near_matches(key, known)}'
                )
        return cls(**cfg, role=role)

    def expect(self, num_classes: int, size: int) -> None:
        """Set the expected shape of the text embeddings, which are zero until they are read.

        Args:
            num_classes (int): Number of classes C.
            size (int): Size d of the image embeddings.
        """
        self.text = torch.zeros(num_classes, size)

    def load(self, rows: Tensor | None = None) -> None:
        """Read the text embeddings.

        Args:
            rows (Tensor, optional): Indices of the rows to keep, shape (C,),
                for a file with other classes. Defaults to None: all rows.

        Raises:
            InputError: If the file is unusable, or has another number of
                classes or another size than expected.
        """
        text = read_tensor(self.location, f'text embeddings of {self.role}').to(self.text)
        num_classes, size = self.text.shape
        where = f'The text embeddings of {self.role}, "{self.location}",'
        if text.ndim != 2 or text.shape[1] != size:
            raise InputError(
                f'{where} have the shape {tuple(text.shape)}, but (classes, {size}) is needed: '
                f'the image embeddings have {size} entries.'
            )
        if rows is not None:
            if int(rows.max()) >= len(text):
                raise InputError(
                    f'{where} have {len(text)} rows, but its `class_map` contains row '
                    f'{int(rows.max())}.'
                )
            text = text[rows.to(text.device)]
        if len(text) != num_classes:
            raise InputError(
                f'{where} have {len(text)} rows, but there are {num_classes} classes. The file '
                'must have one row per class, or a `class_map` must select the rows.'
            )
        norms = text.norm(dim=1)
        if not bool(norms.isfinite().all()) or bool((norms == 0).any()):
            bad = int((~norms.isfinite() | (norms == 0)).nonzero()[0, 0])
            raise InputError(
                f'{where} cannot be normalised in row {bad}, which is zero, NaN or infinite.'
            )
        self.text.copy_(text / norms[:, None])

    def forward(self, embedding: Tensor) -> Tensor:
        """Compute the logits of the classes.

        Args:
            embedding (Tensor): Embeddings of B images, shape (B, d).

        Returns:
            Tensor: The logits z, shape (B, C), float32: in half precision those of
            classes that are alike would be equal.
        """
        with autocast(embedding.device.type, enabled=False):
            unit = F.normalize(embedding.float(), dim=1)
            return self.logit_scale * unit @ self.text.float().T
