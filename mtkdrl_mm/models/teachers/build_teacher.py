# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of a teacher from its config."""

from dataclasses import dataclass
from os import PathLike
from types import NoneType
from typing import Any

from mmengine.config import ConfigDict
from mmpretrain.models import ClsDataPreprocessor

from mtkdrl_mm.utils import InputError, near_matches
from mtkdrl_mm.utils.config_errors import parameters

from ..build_classifier import build_classifier, read_network_config
from ..build_preprocessor import check_preprocessor
from ..classifier_output import check_classifier
from ..infer_output import input_channels
from ..timm_classifier import is_timm_name, teacher_checkpoint
from .class_map import ClassMap
from .preprocessing import Preprocessing
from .teacher import Teacher
from .zero_shot import ZeroShot


@dataclass
class TeacherConfig:
    """What the config of a teacher says, before a network is built.

    Attributes:
        name (str): The teacher's name.
        model (ConfigDict): Config of the network.
        num_classes (int, optional): Number of classes to set in the network.
        preprocessor (dict): What is said of ``mean``, ``std`` and ``to_rgb``: by the
            teacher's config, and where that says nothing, by the network's.
        preprocessor_known (bool): Whether that is all. If not, what nothing is said of
            is as timm has it, or as for the student.
        checkpoint (str, optional): Path or URL of the weights.
        weights (str, optional): 'ema' or 'raw'.
        input_size (int | tuple, optional): The resolution.
        class_map (Sequence[int], optional): Classes of the student.
        zero_shot (dict, optional): Text embeddings.
        check_classes (bool): Whether the names of its classes are compared with the data's.
    """

    name: str
    model: ConfigDict
    num_classes: int | None
    preprocessor: dict[str, Any]
    preprocessor_known: bool
    checkpoint: str | None
    weights: str | None
    input_size: Any
    class_map: Any
    zero_shot: Any
    check_classes: bool

    @property
    def role(self) -> str:
        """Name for messages: ``teacher "NAME"``."""
        return f'teacher "{self.name}"'


def read_teacher_config(cfg: dict[str, Any], index: int, num_classes: int | None) -> TeacherConfig:
    """Read the config of a teacher.

    Args:
        cfg (dict): The config, see :func:`build_pool`.
        index (int): Index of the teacher in the pool, for messages.
        num_classes (int, optional): Number of classes to set in a network that has
            the student's: with a ``cfg_path``, or a ``model_name`` and a ``checkpoint``.

    Returns:
        TeacherConfig: Its parts.

    Raises:
        InputError: If the config is unusable.
    """
    if not isinstance(cfg, dict):
        raise InputError(f'Teacher number {index} must be a dict, but is {cfg!r}.')
    cfg = dict(cfg)
    name = cfg.pop('name', None)
    checkpoint = teacher_checkpoint(cfg)
    own_file = cfg.pop('checkpoint', None) is not None
    weights = cfg.pop('weights', None)
    input_size = cfg.pop('input_size', None)
    preprocessor = cfg.pop('data_preprocessor', None)
    class_map, zero_shot = cfg.pop('class_map', None), cfg.pop('zero_shot', None)
    check_classes = cfg.pop('check_classes', True)
    role = f'teacher "{name}"' if isinstance(name, str) and name else f'teacher number {index}'
    if not isinstance(name, (str, NoneType)):
        raise InputError(f'`name` of {role} must be a string, but is {name!r}.')
    if not isinstance(checkpoint, (str, PathLike, NoneType)):
        raise InputError(f'`checkpoint` of {role} must be a path or URL, but is {checkpoint!r}.')
    check_preprocessor(preprocessor, role)
    for key in (preprocessor or {}).keys() - parameters(ClsDataPreprocessor).keys():
        if key != 'type':
            raise InputError(
                f'`data_preprocessor` of {role} takes no "{key}". '
                f'{near_matches(key, ("mean", "std", "to_rgb"))}'
            )
    if weights not in (None, 'ema', 'raw'):
        raise InputError(f'`weights` of {role} must be "ema" or "raw", but is {weights!r}.')
    if not isinstance(check_classes, bool):
        raise InputError(
            f'`check_classes` of {role} must be True or False, but is {check_classes!r}.'
        )
    # A network by name has the classes of the weights of that name, unless it gets others.
    follows = 'cfg_path' in cfg
    if is_timm_name(cfg):
        follows = own_file and 'num_classes' not in cfg
        cfg['type'] = 'mtkdrl_mm.TimmImageClassifier'
    model, file_preprocessor = read_network_config(cfg, role)
    # A network with other classes, or with embeddings as outputs, keeps their number.
    other_outputs = class_map is not None or zero_shot is not None
    networks = model.pop('data_preprocessor', None) or file_preprocessor
    model.pop('train_cfg', None)  # no batch augmentation by the teacher
    return TeacherConfig(
        name=name or _default_name(cfg, model),
        model=model,
        num_classes=num_classes if follows and not other_outputs else None,
        preprocessor={**(networks or {}), **(preprocessor or {})},
        preprocessor_known=networks is not None,
        checkpoint=checkpoint,
        weights=weights,
        input_size=input_size,
        class_map=class_map,
        zero_shot=zero_shot,
        check_classes=check_classes,
    )


def build_teacher(
    cfg: dict[str, Any],
    index: int,
    student_preprocessing: Preprocessing,
    num_classes: int | None,
    token_maps: bool = False,
) -> Teacher:
    """Build a teacher from its config.

    Args:
        cfg (dict): The config, see :func:`build_pool`.
        index (int): Index of the teacher in the pool, for messages.
        student_preprocessing (Preprocessing): Preprocessing of a teacher whose
            config has none.
        num_classes (int, optional): Number of classes to set in a network that has
            the student's: with a ``cfg_path``, or a ``model_name`` and a ``checkpoint``.
        token_maps (bool): Whether a transformer's patch tokens count as its map.
            Defaults to False.

    Returns:
        Teacher: The teacher, with random weights.

    Raises:
        InputError: If the config is unusable.
    """
    config = read_teacher_config(cfg, index, num_classes)
    role = config.role
    network = build_classifier(config.model, None, config.num_classes, role)
    check_classifier(network, role)
    backbone, channels = network.backbone, input_channels(network)
    input_size = config.input_size
    if input_size is None and getattr(backbone, 'fixed_size', False):
        input_size = backbone.img_size
    given = config.preprocessor
    if not config.preprocessor_known:
        # timm records the normalisation of its training.
        default = getattr(backbone, 'preprocessing', None)
        if default is None:
            default = dict(
                mean=student_preprocessing.mean,
                std=student_preprocessing.std,
                to_rgb=student_preprocessing.to_rgb,
            )
            if channels != student_preprocessing.channels and len(set(default['mean'])) == 1:
                default.update(mean=default['mean'][:1], std=default['std'][:1])
        given = {**default, **given}
    class_map, zero_shot = config.class_map, config.zero_shot
    return Teacher(
        name=config.name,
        network=network,
        preprocessing=Preprocessing.from_config(given, role, input_size, channels),
        checkpoint=config.checkpoint,
        weights=config.weights,
        class_map=None if class_map is None else ClassMap(class_map, role),
        zero_shot=None if zero_shot is None else ZeroShot.from_config(zero_shot, role),
        token_maps=token_maps,
        names_checked=config.check_classes,
    )


def _default_name(cfg: dict[str, Any], model: dict[str, Any]) -> str:
    if 'cfg_path' in cfg:
        return cfg['cfg_path'].replace('::', '/').rsplit('/', 1)[-1].rsplit('.', 1)[0]
    backbone = model.get('backbone', {})
    timm_name = model.get('model_name') or backbone.get('model_name')
    if timm_name:
        return str(timm_name).rsplit('/', 1)[-1].split('@')[0]
    return str(backbone.get('type', model['type'])) + str(backbone.get('depth', ''))
