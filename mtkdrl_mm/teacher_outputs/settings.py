# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The config key ``teacher_outputs``."""

import os.path as osp
from dataclasses import dataclass, fields
from typing import Any

from mtkdrl_mm.utils.errors import InputError, near_matches

#: Attribute of a data sample that holds its stored outputs.
SAMPLE_FIELD = 'teacher_outputs'
EMBEDDINGS = ('full', 'projected')
MAPS = ('none', 'pooled', 'full', 'projected')
#: Settings that say how outputs are stored.
FORM_KEYS = ('logits', 'embeddings', 'embedding_channels', 'maps', 'map_channels')
DTYPES = ('float16', 'float32')


@dataclass(frozen=True)
class TeacherOutputsSettings:
    """The config ``teacher_outputs``: where outputs are stored, and of which views.

    A path alone reads a store. With ``write=True`` a training fills the store
    while it runs. Without ``root`` the teachers run in every step, on the same
    views and blended images as a training from a store.

    Attributes:
        root (str, optional): Folder of the store.
        views (int, optional): Number of views V: epoch e has view e mod V. For
            reading, None is the store's number, and another number is refused.
        first_views (int, optional): For reading, use only the first views of the
            store. Defaults to None: all.
        seed (int, optional): Seed of the augmentations. Defaults to None: the
            store's, and 0 for a new one.
        write (bool): Whether the first V epochs run the teachers and store
            their outputs. Defaults to False.
        logits (str): For writing, 'float16' or 'float32', the data type of
            logits, embeddings and maps. Defaults to 'float16'.
        embeddings (str, optional): For writing, 'full', or 'projected' (stored
            and compared as leading principal components). Defaults to None:
            'projected' with float16, 'full' with float32, which is for those who
            want to lose nothing.
        embedding_channels (int): For writing, number of components of projected
            embeddings. Defaults to 256.
        maps (str): For writing, 'none', 'pooled' (averaged over positions),
            'full' or 'projected' (stored as leading principal components, and
            read with all channels). Defaults to 'projected'.
        map_channels (int): For writing, number of components of projected maps.
            Defaults to 64.

    Raises:
        InputError: If a value is unusable, or two do not fit together.

    Example:
        >>> from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings
        >>> TeacherOutputsSettings.from_config('/data/store').root
        '/data/store'
        >>> TeacherOutputsSettings.from_config(dict(root='store', views=8, write=True)).maps
        'projected'
    """

    root: str | None = None
    views: int | None = None
    first_views: int | None = None
    seed: int | None = None
    write: bool = False
    logits: str = 'float16'
    embeddings: str | None = None
    embedding_channels: int = 256
    maps: str = 'projected'
    map_channels: int = 64

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ('views', 'first_views', 'embedding_channels', 'map_channels'):
            value = getattr(self, name)
            if value is not None and not _is_integer(value, 1):
                raise InputError(
                    f'`teacher_outputs.{name}` must be a positive integer, but is {value!r}.'
                )
        if self.seed is not None and not _is_integer(self.seed, 0):
            raise InputError(
                f'`teacher_outputs.seed` must be an integer from 0, but is {self.seed!r}.'
            )
        if self.root is not None and not (isinstance(self.root, str) and self.root):
            raise InputError(
                f'`teacher_outputs.root` must be the path of a folder, but is {self.root!r}.'
            )
        if self.root is not None:
            # No shell expands "~" in a config, or after the "=" of a command-line option.
            object.__setattr__(self, 'root', osp.expanduser(self.root))
        if self.embeddings is None:
            chosen = 'full' if self.logits == 'float32' else 'projected'
            object.__setattr__(self, 'embeddings', chosen)
        for name, choices in (
            ('logits', DTYPES),
            ('embeddings', EMBEDDINGS),
            ('maps', MAPS),
            ('write', (True, False)),
        ):
            value = getattr(self, name)
            if value not in choices or isinstance(value, int) != (name == 'write'):
                listed = ', '.join(map(repr, choices))
                raise InputError(
                    f'`teacher_outputs.{name}` must be one of {listed}, but is {value!r}.'
                )
        if self.views is None and (self.root is None or self.write):
            what = 'writes a store' if self.write else 'names no store'
            raise InputError(
                f'`teacher_outputs` {what}: set `views`, the number of augmented views per image.'
            )
        if self.write and self.root is None:
            raise InputError('`teacher_outputs` has `write=True`: set `root`, the folder.')
        if self.first_views is not None and not self.reads:
            raise InputError(
                '`teacher_outputs.first_views` is for reading a store: set `views` instead.'
            )

    @property
    def reads(self) -> bool:
        """Whether all outputs are read, so that no network is needed."""
        return self.root is not None and not self.write

    @classmethod
    def from_config(cls, cfg: Any) -> 'TeacherOutputsSettings | None':
        """Build from a config.

        Args:
            cfg (str | dict | None): The folder, the attributes, or None.

        Raises:
            InputError: If a key is unknown or a value unusable.
        """
        if cfg is None or isinstance(cfg, cls):
            return cfg
        if isinstance(cfg, str):
            return cls(root=cfg)
        if not isinstance(cfg, dict):
            raise InputError(
                '`teacher_outputs` must be the folder of a store, or a dict with `root` and '
                f'`views`, but is {cfg!r}.'
            )
        known = [field.name for field in fields(cls)]
        for key in cfg:
            if key not in known:
                raise InputError(f'`teacher_outputs` takes no "{key}". {near_matches(key, known)}')
        settings = cls(**cfg)
        for key in FORM_KEYS:
            if key in cfg and not settings.write:
                raise InputError(
                    f'`teacher_outputs.{key}` is for `write=True`: what a store holds was chosen '
                    'when it was written, and running teachers give everything. Leave it out.'
                )
        return settings


def _is_integer(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
