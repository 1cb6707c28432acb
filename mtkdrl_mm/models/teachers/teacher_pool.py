# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The frozen teachers and the only place that runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

from ..classifier_output import run_classifier
from ..infer_output import infer_output
from ..token_map import has_token_map
from .build_teacher import Teacher, build_teacher
from .load_teacher import load_teacher
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class PoolSpec:
    """What the rest of the code needs to know of a pool of M teachers.

    Attributes:
        names (tuple[str, ...]): The teachers' names, unique.
        num_classes (int): C, the same for all.
        embedding_sizes (tuple[int, ...]): d_m of every teacher.
        map_channels (tuple[int | None, ...]): c_m of every teacher, None where
            it has no spatial map.
        token_maps (tuple[bool, ...]): Whether a teacher's map is made of a
            transformer's tokens, which may be negative. Defaults to none.
    """

    names: tuple[str, ...]
    num_classes: int
    embedding_sizes: tuple[int, ...]
    map_channels: tuple[int | None, ...]
    token_maps: tuple[bool, ...] = ()

    @property
    def num_teachers(self) -> int:
        """Number of teachers M."""
        return len(self.names)


class TeacherPool(nn.Module):
    """Frozen teachers, each with its own preprocessing.

    The architectures are built with the pool; the weights are read by
    :meth:`load_checkpoints`, so that a model can be built and tested without
    the teachers' files. The teachers stay in eval mode whatever
    :meth:`train` is told: their BatchNorm statistics must not move.

    Args:
        teachers (Sequence[dict]): One config per teacher with the keys

            - ``cfg_path`` with optional ``cfg_options``, or an inline model
              with ``type``: the network.
            - ``checkpoint`` (str): Path or URL of its weights.
            - ``weights`` (str, optional): 'ema' or 'raw', where that file has
              both averaged and raw weights. Defaults to the averaged ones.
            - ``name`` (str, optional): Defaults to the config file's stem or
              the backbone's type and depth.
            - ``data_preprocessor`` (dict, optional): Its mean, std and to_rgb.
              Defaults to the config file's, else timm's for a network of
              timm, else the student's.
            - ``input_size`` (int | tuple, optional): Its resolution. Defaults
              to the student's, but for networks of timm that take one only.
            - ``class_map`` (Sequence[int], optional): For every student class,
              the index of the teacher's class, where they differ.
            - ``zero_shot`` (dict, optional): ``text_embeddings`` and
              ``logit_scale``, for a network that answers with an image
              embedding; see :class:`ZeroShot`.
        student_preprocessing (Preprocessing): How the batches that the pool is
            asked with were normalised.
        num_classes (int, optional): Number of classes to set in every teacher
            given by ``cfg_path``. Defaults to None.
        student_classes (int, optional): Number of classes C that every teacher
            must answer with, where it is known. Defaults to ``num_classes``.
        token_maps (bool): Whether transformers' patch tokens count as maps.
            Defaults to False.

    Raises:
        InputError: If the pool is empty, two teachers share a name, a config
            is unusable, or the teachers disagree on the number of classes.
    """

    def __init__(
        self,
        teachers: Sequence[dict[str, Any]],
        student_preprocessing: Preprocessing,
        num_classes: int | None = None,
        student_classes: int | None = None,
        token_maps: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(teachers, (list, tuple)) or len(teachers) == 0:
            raise InputError(
                f'`teachers` must be a list of at least one teacher, but is {teachers!r}.'
            )
        self.student_preprocessing = student_preprocessing
        self.token_maps = token_maps
        built: list[Teacher] = []
        # Building a network draws random numbers; the student's initialisation
        # must not depend on who its teachers are.
        with torch.random.fork_rng(devices=[]):
            for index, cfg in enumerate(teachers):
                teacher = build_teacher(cfg, index, student_preprocessing, num_classes)
                names = [other.name for other in built]
                if teacher.name in names:
                    raise InputError(
                        f'Two teachers are named "{teacher.name}" (numbers '
                        f'{names.index(teacher.name)} and {index}). Give one of them another '
                        '`name`.'
                    )
                built.append(teacher)
        self.checkpoints = [teacher.checkpoint for teacher in built]
        self.which_weights = [teacher.which_weights for teacher in built]
        self.preprocessings = [teacher.preprocessing for teacher in built]
        self.networks = nn.ModuleList(teacher.network for teacher in built)
        # By the teacher's number, only for those who have one.
        self.class_maps = nn.ModuleDict(
            {str(m): t.class_map for m, t in enumerate(built) if t.class_map is not None}
        )
        self.zero_shots = nn.ModuleDict(
            {str(m): t.zero_shot for m, t in enumerate(built) if t.zero_shot is not None}
        )
        self.requires_grad_(False)
        self.train(False)
        self._names = tuple(teacher.name for teacher in built)
        self.spec = self._infer_spec(student_classes or num_classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names."""
        return self._names

    def __len__(self) -> int:
        return len(self.networks)

    def train(self, mode: bool = True) -> 'TeacherPool':
        """Stay in eval mode."""
        return super().train(False)

    def load_checkpoints(self) -> None:
        """Read every teacher's weights, strictly.

        Raises:
            InputError: If a teacher has no checkpoint, or its file is missing,
                damaged, unsafe, or of another architecture.
        """
        for m, (name, checkpoint) in enumerate(zip(self.names, self.checkpoints)):
            if checkpoint is None:
                raise InputError(
                    f'Teacher "{name}" has no `checkpoint`. A teacher with random weights '
                    'teaches nothing: give a path or URL of its trained weights.'
                )
            load_teacher(self.networks[m], checkpoint, name, self.which_weights[m])
            if str(m) in self.zero_shots:
                class_map = self._part(self.class_maps, m)
                self.zero_shots[str(m)].load(None if class_map is None else class_map.indices)

    @torch.no_grad()
    def query(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None
    ) -> list[NetworkOutput]:
        """Ask all teachers about a batch.

        Args:
            inputs (Tensor): Images as normalised for the student, shape
                (B, 3, H, W).
            data_samples (Sequence[DataSample], optional): Who the images are.
                Not needed by teachers that really run. Defaults to None.

        Returns:
            list[NetworkOutput]: One per teacher, without gradient.
        """
        # no_grad and not inference_mode: the outputs enter the student's loss,
        # and autograd refuses to save inference tensors for backward.
        converted: dict[Preprocessing, Tensor] = {}
        outputs = []
        for m, preprocessing in enumerate(self.preprocessings):
            if preprocessing not in converted:
                converted[preprocessing] = preprocessing.convert(inputs, self.student_preprocessing)
            outputs.append(self._answer(m, converted[preprocessing]))
        return outputs

    @torch.no_grad()
    def ask(
        self, index: int, inputs: Tensor, preprocessing: Preprocessing | None = None
    ) -> NetworkOutput:
        """Ask one teacher about a batch.

        Args:
            index (int): The teacher's number.
            inputs (Tensor): Images as normalised for the student, shape
                (B, 3, H, W).
            preprocessing (Preprocessing, optional): Used in place of the
                teacher's own. Defaults to None.

        Returns:
            NetworkOutput: As from :meth:`query`.
        """
        preprocessing = preprocessing or self.preprocessings[index]
        return self._answer(index, preprocessing.convert(inputs, self.student_preprocessing))

    def _answer(self, index: int, converted: Tensor) -> NetworkOutput:
        """Run a teacher on its own inputs, and let it answer in the student's classes."""
        output = run_classifier(
            self.networks[index],
            converted,
            self.token_maps,
            role=f'teacher "{self.names[index]}"',
        )
        zero_shot = self._part(self.zero_shots, index)
        class_map = self._part(self.class_maps, index)
        if zero_shot is not None:  # whose rows are the student's classes already
            output.embedding = output.logits
            output.logits = zero_shot(output.embedding)
        elif class_map is not None:
            output.logits = class_map(output.logits)
        return output

    @staticmethod
    def _part(parts: nn.ModuleDict, index: int) -> Any:
        return parts[str(index)] if str(index) in parts else None

    def _infer_spec(self, num_classes: int | None) -> PoolSpec:
        """Find the sizes of every teacher's outputs from dummy images."""
        outputs = [
            infer_output(network, f'teacher "{name}"', preprocessing.input_size, self.token_maps)
            for name, network, preprocessing in zip(self.names, self.networks, self.preprocessings)
        ]
        num_classes = self._check_classes(self.names, outputs, num_classes)
        return PoolSpec(
            names=self.names,
            num_classes=num_classes,
            embedding_sizes=tuple(output.embedding.shape[1] for output in outputs),
            map_channels=tuple(
                None if output.feature_map is None else output.feature_map.shape[1]
                for output in outputs
            ),
            token_maps=tuple(
                self.token_maps and has_token_map(network.backbone) for network in self.networks
            ),
        )

    def _check_classes(
        self, names: Sequence[str], outputs: Sequence[NetworkOutput], num_classes: int | None
    ) -> int:
        """Let every teacher answer in the same C classes; return C."""
        counts: dict[str, int] = {}
        for m, (name, output) in enumerate(zip(names, outputs)):
            class_map, zero_shot = self._part(self.class_maps, m), self._part(self.zero_shots, m)
            if class_map is not None:
                own = None if zero_shot is not None else output.logits.shape[1]
                class_map.check(own, num_classes)
                counts[name] = len(class_map)
            elif zero_shot is None:
                counts[name] = output.logits.shape[1]
        if len(set(counts.values())) > 1:
            listed = ', '.join(f'"{n}" has {c}' for n, c in counts.items())
            raise InputError(
                f'The teachers disagree on the number of classes: {listed}. All teachers must '
                'have been trained on the same classes, or have a `class_map` that picks them.'
            )
        if not counts and num_classes is None:
            raise InputError(
                'The number of classes is not known, since all teachers have `zero_shot`: set '
                '`num_classes`.'
            )
        total = next(iter(counts.values())) if counts else int(num_classes or 0)
        for m, output in enumerate(outputs):
            if str(m) in self.zero_shots:
                self.zero_shots[str(m)].expect(total, output.logits.shape[1])
                output.embedding = output.logits
        return total
