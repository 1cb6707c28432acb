# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Connectors from the student's features to a teacher's."""

from .base import Connector
from .build_connectors import build_connectors, target_channels
from .embedding_connector import EmbeddingConnector
from .map_connector import MapConnector

__all__ = ['Connector', 'EmbeddingConnector', 'MapConnector', 'build_connectors', 'target_channels']
