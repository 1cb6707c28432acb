# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every part of the package can be the first one that is imported."""

import pkgutil
import subprocess
import sys

import mtkdrl_mm

# What takes long to import is imported once, and every part in a copy of that process.
SCRIPT = """
import os, sys
import mmpretrain.apis, mmpretrain.datasets, scipy.optimize, scipy.stats

assert not any(name.split('.')[0] == 'mtkdrl_mm' for name in sys.modules)
failed = []
for name in sys.argv[1:]:
    if os.fork() == 0:
        __import__(name)
        os._exit(0)
    if os.wait()[1]:
        failed.append(name)
if failed:
    sys.exit('cannot be imported first: ' + ', '.join(failed))
"""


def test_every_part_may_be_imported_first():
    """As by a config's `custom_imports`, or by one that builds a component of a registry."""
    names = [f'mtkdrl_mm.{module.name}' for module in pkgutil.iter_modules(mtkdrl_mm.__path__)]
    assert 'mtkdrl_mm.rl' in names and 'mtkdrl_mm.evaluation' in names
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, *names], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
