# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Hooks and loops around the training."""
