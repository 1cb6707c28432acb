# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Building of the connectors from a student to its teachers."""

import inspect
from typing import Any

from mmengine.model import ModuleDict

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError, build_component

from ..teachers import PoolSpec
from .base import Connector
from .embedding_connector import EmbeddingConnector
from .map_connector import MapConnector


def build_connectors(output: NetworkOutput, pool: PoolSpec, cfg: dict[str, Any]) -> ModuleDict:
    """Build a connector for every teacher.

    Maps are compared where both student and teacher have one, else embeddings.

    Args:
        output (NetworkOutput): An output of the student, for its sizes.
        pool (PoolSpec): The teachers' sizes.
        cfg (dict): Arguments of the connectors, and their ``type`` if it is not
            to be chosen.

    Returns:
        ModuleDict: By the names of :attr:`PoolSpec.module_names`, in the order of
        the teachers. mmengine's, which initialises what it holds.

    Raises:
        InputError: If ``type`` is MapConnector, but the student or a teacher
            has no map, or an argument is unusable.
    """
    if not isinstance(cfg, dict):
        raise InputError(
            f'`connector` must be a dict of arguments, with or without a `type`, but is {cfg!r}.'
        )
    connectors = ModuleDict()
    scales = pool.embedding_scales or (1.0,) * pool.num_teachers
    for name, embedding_size, map_channels, signed, scale in zip(
        pool.module_names, pool.embedding_sizes, pool.map_channels, pool.signed_maps, scales
    ):
        use_map = output.feature_map is not None and map_channels is not None
        chosen, other = (MapConnector, EmbeddingConnector)[:: 1 if use_map else -1]
        kind = cfg.get('type') or chosen.__name__
        features = output.feature_map if kind == 'MapConnector' else output.embedding
        if features is None or (kind == 'MapConnector' and map_channels is None):
            raise InputError(
                'MapConnector needs a student and teachers with spatial maps. Leave `type` '
                'out of `connector`, or use EmbeddingConnector.'
            )
        defaults: dict[str, Any] = {}
        if signed and kind == 'MapConnector':
            defaults['act_cfg'] = None  # what may be negative cannot follow a ReLU
        if scale != 1 and kind == 'EmbeddingConnector':
            defaults['scale'] = scale
        settings = {**defaults, **cfg, 'type': kind}
        if 'type' not in cfg:
            # Settings of connectors between maps, in a pool where some have none.
            for key in set(settings) & (_arguments(other) - _arguments(chosen)):
                del settings[key]
        connectors[name] = build_component(
            MODELS,
            settings,
            Connector,
            'connector',
            in_channels=features.shape[1],
            out_channels=map_channels if kind == 'MapConnector' else embedding_size,
        )
    return connectors


def target_channels(connectors: ModuleDict, pool: PoolSpec) -> tuple[int, ...]:
    """Channels of the features that connectors compare the student with.

    Args:
        connectors (ModuleDict): From :func:`build_connectors`.
        pool (PoolSpec): The teachers' sizes.

    Returns:
        tuple[int, ...]: c_m of maps, and d_m of embeddings.
    """
    return tuple(
        maps if isinstance(connector, MapConnector) and maps is not None else embedding
        for connector, maps, embedding in zip(
            connectors.values(), pool.map_channels, pool.embedding_sizes
        )
    )


def _arguments(kind: type) -> set[str]:
    """Names of the arguments of a class."""
    return set(inspect.signature(kind).parameters)
