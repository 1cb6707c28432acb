# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Everything that is an ``nn.Module``. Importing this registers it."""

from .agents import *  # noqa: F403
from .backbones import *  # noqa: F403
from .connectors import *  # noqa: F403
from .distilled_backbone import DistilledBackbone as DistilledBackbone
from .distillers import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .teachers import *  # noqa: F403
from .timm_classifier import TimmImageClassifier as TimmImageClassifier
from .weightings import *  # noqa: F403
