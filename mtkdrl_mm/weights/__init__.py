# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Files of weights: where they are, how they are read safely, and how a student is published."""
