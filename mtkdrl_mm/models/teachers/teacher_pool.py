# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The frozen teachers and the only place that runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

from ..build_classifier import build_classifier, read_network_config
from ..classifier_output import check_classifier, run_classifier
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
    """

    names: tuple[str, ...]
    num_classes: int
    embedding_sizes: tuple[int, ...]
    map_channels: tuple[int | None, ...]

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
            - ``name`` (str, optional): Defaults to the config file's stem or
              the backbone's type and depth.
            - ``data_preprocessor`` (dict, optional): Its mean, std and to_rgb.
              Defaults to the config file's, else the student's.
            - ``input_size`` (int | tuple, optional): Its resolution. Defaults
              to the student's.
        student_preprocessing (Preprocessing): How the batches that the pool is
            asked with were normalised.
        num_classes (int, optional): Number of classes to set in every teacher
            given by ``cfg_path``. Defaults to None.

    Raises:
        InputError: If the pool is empty, two teachers share a name, a config
            is unusable, or the teachers disagree on the number of classes.
    """

    def __init__(
        self,
        teachers: Sequence[dict[str, Any]],
        student_preprocessing: Preprocessing,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(teachers, (list, tuple)) or len(teachers) == 0:
            raise InputError(
                f'`teachers` must be a list of at least one teacher, but is {teachers!r}.'
            )
        self.student_preprocessing = student_preprocessing
        self.checkpoints: list[str | None] = []
        self.preprocessings: list[Preprocessing] = []
        names: list[str] = []
        networks: list[BaseClassifier] = []
        # Building a network draws random numbers; the student's initialisation
        # must not depend on who its teachers are.
        with torch.random.fork_rng(devices=[]):
            for index, teacher in enumerate(teachers):
                name, checkpoint, preprocessing, network = _build_teacher(
                    teacher, index, student_preprocessing, num_classes
                )
                if name in names:
                    raise InputError(
                        f'Two teachers are named "{name}" (numbers {names.index(name)} and '
                        f'{index}). Give one of them another `name`.'
                    )
                names.append(name)
                self.checkpoints.append(checkpoint)
                self.preprocessings.append(preprocessing)
                networks.append(network)
        self.networks = nn.ModuleList(networks)
        self.requires_grad_(False)
        self.train(False)
        self.spec = self._probe(names)

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names."""
        return self.spec.names

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
        for name, network, checkpoint in zip(self.names, self.networks, self.checkpoints):
            if checkpoint is None:
                raise InputError(
                    f'Teacher "{name}" has no `checkpoint`. A teacher with random weights '
                    'teaches nothing: give a path or URL of its trained weights.'
                )
            count = load_teacher(network, checkpoint, name)
            print_log(f'Teacher "{name}": loaded {count} tensors from {checkpoint}', 'current')

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
        for network, preprocessing in zip(self.networks, self.preprocessings):
            if preprocessing not in converted:
                converted[preprocessing] = preprocessing.convert(inputs, self.student_preprocessing)
            outputs.append(run_classifier(network, converted[preprocessing]))
        return outputs

    def _probe(self, names: Sequence[str]) -> PoolSpec:
        """Find the sizes of every teacher's outputs from one black image."""
        outputs = []
        for network, preprocessing in zip(self.networks, self.preprocessings):
            size = preprocessing.input_size or probe_size(network)
            with torch.no_grad():
                outputs.append(run_classifier(network, torch.zeros(1, 3, *size)))
        classes = [output.logits.shape[1] for output in outputs]
        if len(set(classes)) > 1:
            listed = ', '.join(f'"{n}" has {c}' for n, c in zip(names, classes))
            raise InputError(
                f'The teachers disagree on the number of classes: {listed}. All teachers must '
                'have been trained on the same classes.'
            )
        return PoolSpec(
            names=tuple(names),
            num_classes=classes[0],
            embedding_sizes=tuple(output.embedding.shape[1] for output in outputs),
            map_channels=tuple(
                None if output.feature_map is None else output.feature_map.shape[1]
                for output in outputs
            ),
        )


def probe_size(network: nn.Module) -> tuple[int, int]:
    """Input height and width with which a network surely runs.

    Args:
        network (nn.Module): A classifier.

    Returns:
        tuple[int, int]: The backbone's own ``img_size`` if it has one
        (transformers), else 64 x 64.
    """
    size = getattr(getattr(network, 'backbone', None), 'img_size', 64)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _build_teacher(
    cfg: dict[str, Any],
    index: int,
    student_preprocessing: Preprocessing,
    num_classes: int | None,
) -> tuple[str, str | None, Preprocessing, BaseClassifier]:
    if not isinstance(cfg, dict):
        raise InputError(f'Teacher number {index} must be a dict, but is {cfg!r}.')
    cfg = dict(cfg)
    checkpoint = cfg.pop('checkpoint', None)
    input_size = cfg.pop('input_size', None)
    name = cfg.pop('name', None)
    own_preprocessor = cfg.pop('data_preprocessor', None)
    role = f'teacher "{name}"' if name else f'teacher number {index}'
    by_path = 'cfg_path' in cfg
    model, file_preprocessor = read_network_config(cfg, role)
    if name is None:
        name = _default_name(cfg, model)
        role = f'teacher "{name}"'
    preprocessor = own_preprocessor or model.pop('data_preprocessor', None) or file_preprocessor
    if preprocessor is None:
        preprocessor = dict(
            mean=student_preprocessing.mean,
            std=student_preprocessing.std,
            to_rgb=student_preprocessing.to_rgb,
        )
    preprocessing = Preprocessing.from_config(preprocessor, role, input_size)
    model.pop('train_cfg', None)  # a teacher blends no images of its own
    network = build_classifier(model, None, num_classes if by_path else None, role)
    check_classifier(network, role)
    return name, checkpoint, preprocessing, network


def _default_name(cfg: dict[str, Any], model: dict[str, Any]) -> str:
    if 'cfg_path' in cfg:
        return cfg['cfg_path'].replace('::', '/').rsplit('/', 1)[-1].rsplit('.', 1)[0]
    backbone = model.get('backbone', {})
    return str(backbone.get('type', model['type'])) + str(backbone.get('depth', ''))
