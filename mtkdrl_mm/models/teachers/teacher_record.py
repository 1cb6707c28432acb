# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What a teacher's outputs depend on, read from its config without building the network."""

import inspect
from dataclasses import replace
from typing import Any

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.teacher_outputs import TeacherRecord
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.literal_config import plain_config
from mtkdrl_mm.weights.locations import find_digest, is_same_location, location_name

from ..num_classes import set_num_classes
from .build_teacher import TeacherConfig
from .class_map import ClassMap
from .preprocessing import Preprocessing, check_input_size
from .zero_shot import ZeroShot

# What does not change the outputs of loaded weights.
_IGNORED = ('init_cfg', 'pretrained', 'with_cp')


def teacher_record(
    config: TeacherConfig,
    student_preprocessing: Preprocessing,
    token_maps: bool = False,
    inference: dict[str, Any] | None = None,
) -> TeacherRecord:
    """Describe a teacher for a store.

    Args:
        config (TeacherConfig): The teacher.
        student_preprocessing (Preprocessing): That of a teacher whose config has
            none.
        token_maps (bool): Whether patch tokens count as its map. Defaults to
            False.
        inference (dict, optional): How the network is run. Defaults to None.

    Returns:
        TeacherRecord: Digests are '' where a file is not on this machine.

    Raises:
        InputError: If there is no checkpoint, or a setting is unusable.
    """
    if config.checkpoint is None:
        raise InputError(
            f'Teacher "{config.name}" has no `checkpoint`, and random weights are of no use: '
            'set it to the path or URL of its trained weights.'
        )
    model = plain_config(config.model)
    if config.num_classes is not None:
        set_num_classes(model, config.num_classes)
    classes: dict[str, Any] | None = None
    if config.class_map is not None:
        classes = dict(indices=ClassMap(config.class_map, config.role).indices.tolist())
    if config.zero_shot is not None:
        zero_shot = ZeroShot.from_config(config.zero_shot, config.role)
        classes = dict(
            indices=(classes or {}).get('indices'),
            text_embeddings=location_name(zero_shot.location),
            text_sha256=find_digest(zero_shot.location, config.role),
            logit_scale=float(zero_shot.logit_scale),
        )
    return TeacherRecord(
        name=config.name,
        weights_sha256=find_digest(config.checkpoint, config.role),
        config=dict(
            model=_without(model),
            weights=config.weights,
            token_maps=bool(token_maps),
        ),
        class_map=classes,
        preprocessing=_preprocessing(config, student_preprocessing),
        input_size=check_input_size(config.input_size, config.role),
        checkpoint=location_name(config.checkpoint),
        inference=inference or {},
    )


def complete_record(record: TeacherRecord, stored: TeacherRecord) -> TeacherRecord:
    """Take the digests of files that are gone from a store, if their names are equal.

    A training from a store needs no file of a teacher. Where the file is there,
    its contents decide, and else its name.

    Args:
        record (TeacherRecord): From :func:`teacher_record`.
        stored (TeacherRecord): What the store says.

    Returns:
        TeacherRecord: The record with all digests.

    Raises:
        InputError: If a file is gone, and the store was made from one of
            another name.
    """
    if not record.weights_sha256:
        _check_name('weights', record.name, record.checkpoint, stored.checkpoint)
        record = replace(record, weights_sha256=stored.weights_sha256)
    mine, theirs = record.class_map or {}, stored.class_map or {}
    if mine.get('text_sha256') == '' and theirs.get('text_sha256'):
        name = 'text_embeddings'
        _check_name('text embeddings', record.name, mine.get(name), theirs.get(name))
        mine = {**mine, 'text_sha256': theirs['text_sha256']}
    if mine.get('text_sha256') and mine.get('text_sha256') == theirs.get('text_sha256'):
        mine = {**mine, 'text_embeddings': theirs['text_embeddings']}
    return replace(record, class_map=mine or None)


def _check_name(what: str, teacher: str, here: str | None, there: str | None) -> None:
    same = here == there if here is None or there is None else is_same_location(here, there)
    if not same:
        raise InputError(
            f'The outputs of teacher "{teacher}" were stored with the {what} of "{there}", but '
            f'the config names "{here}", which is not on this machine, so that the contents '
            'cannot be compared. Name the same file, or store this teacher again.'
        )


def _preprocessing(config: TeacherConfig, student: Preprocessing) -> dict[str, Any]:
    keys = ('mean', 'std', 'to_rgb')
    given = {key: config.preprocessor[key] for key in keys if key in config.preprocessor}
    if not config.preprocessor_known and len(given) < len(keys):
        kind = (config.model.get('backbone') or config.model).get('type')
        cls = MODELS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(cls) and hasattr(cls, 'preprocessing'):
            return dict(of='timm', **_plain(given))
        given = {**dict(mean=student.mean, std=student.std, to_rgb=student.to_rgb), **given}
    return _plain({**dict(mean=None, std=None, to_rgb=False), **given})


def _plain(preprocessor: dict[str, Any]) -> dict[str, Any]:
    return {
        key: bool(value) if key == 'to_rgb' else value and [float(part) for part in value]
        for key, value in preprocessor.items()
    }


def _without(value: Any) -> Any:
    """A config without the keys that do not matter."""
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _IGNORED}
    if isinstance(value, (list, tuple)):
        return [_without(entry) for entry in value]
    return value
