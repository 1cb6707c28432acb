# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check on one GPU all that only a GPU can show: numbers beside their limits, in JSON and a page.

    bash tools/dev/gpu_check.sh OUT

It needs no internet, no weights and no data, apart from the images of the comparison
(tools/dataset_converters/cifar10.py). Every check is a process of its own with a time limit, and
the results are written after each. What does not fit into --seconds is named as not run. On a CPU
the checks run in a reduced form, and what needs CUDA is named so, never as passed.

``__main__.py`` is read from top to bottom; ``checks/`` has the checks, and ``page.py`` what is
written of their findings.
"""

import os.path as osp

#: The repository.
ROOT = osp.abspath(osp.join(osp.dirname(__file__), '..', '..', '..'))
