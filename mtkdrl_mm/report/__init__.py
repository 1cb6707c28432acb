# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""HTML pages about trainings and comparisons, each in one file that needs no network.

- ``engine/run_record.py`` has read a work dir into plain data.
- ``image_outputs.py`` runs a training's networks on some images.
- ``charts.py``, ``gallery.py`` and ``page.py`` are the parts of pages.
- ``run_page.py`` makes the page of one training from them, and ``comparison_page.py``
  that of a comparison.
"""

from mtkdrl_mm.engine.run_record import RunRecord, read_run

from .charts import DotChart, LineChart, Series
from .comparison_page import make_comparison_page
from .page import Page, render, write_page
from .run_page import make_run_page

__all__ = [
    'DotChart',
    'LineChart',
    'Page',
    'RunRecord',
    'Series',
    'make_comparison_page',
    'make_run_page',
    'read_run',
    'render',
    'write_page',
]
