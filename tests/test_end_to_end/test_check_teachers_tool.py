# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The tool that checks a pool, from the command line."""

import csv
import json

import pytest

from .conftest import Workshop

pytestmark = pytest.mark.slow
TOOL = 'tools/analysis_tools/check_teachers.py'


def check(workshop: Workshop, *flags: str, fresh: bool = False):
    return workshop.tool(TOOL, workshop.config(), *flags, fresh=fresh)


@pytest.mark.parametrize('suffix', ['md', 'csv', 'json'])
def test_report(workshop: Workshop, suffix):
    out = workshop.folder / 'reports' / f'pool.{suffix}'
    done = check(workshop, '--batch-size', '4', '--num-batches', '3', '--repeats', '1',
                 '--out', str(out), fresh=suffix == 'md')  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Measured on 12 validation images.' in done.stdout
    assert '| teacher0 | ' in done.stdout and 'a batch of 4' in done.stdout
    if suffix == 'md':
        assert out.read_text().strip() in done.stdout
    elif suffix == 'csv':
        with open(out) as file:
            rows = list(csv.DictReader(file))
        assert [row['teacher'] for row in rows] == ['teacher0', 'teacher1']
        assert all(float(row['ms_per_image']) > 0 for row in rows)
    else:
        contents = json.loads(out.read_text())
        assert contents['num_images'] == 12 and len(contents['agreements']) == 1


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--out', 'report.txt'], 'must end in one of .md, .csv, .json'),
        (['--num-batches', '0'], '`--num-batches` must be at least 1'),
        (['--cfg-options', 'val_dataloader.dataset.data_root=/no'], 'folder "/no"'),
        (['--cfg-options', 'model.teachers.0.checkpoint=/no.pth'], '"/no.pth" does not exist'),
    ],
)
def test_bad_input(workshop: Workshop, flags, message):
    done = check(workshop, *flags)
    assert done.returncode != 0 and message in done.stderr
    assert 'Traceback' not in done.stderr
