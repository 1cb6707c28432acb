# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The check on a GPU, in its reduced form, and how its results are kept."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import patience

TOOL = Path(__file__).parents[2] / 'tools' / 'dev' / 'gpu_check.sh'


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """Lets a test import the tool's package, as its shell script does."""
    monkeypatch.syspath_prepend(TOOL.parent)


@pytest.fixture
def run(tmp_path):
    """Function that runs a function as a check."""
    from gpu_check.checks import Check
    from gpu_check.runner import run_check

    (tmp_path / 'files').mkdir()
    args = argparse.Namespace(out=str(tmp_path), device='cpu', start_method='fork')
    return lambda function, seconds=30: run_check(Check(function, seconds), args, seconds)


def test_states(run):
    def within(report):
        report.limit('a', 1.0, 1.0)
        report.measure('b', 2.0, 's')

    def beyond(report):
        within(report)
        report.limit('c', float('nan'), 1.0)
        report.needs_gpu('d')

    def reduced(report):
        within(report)
        report.needs_gpu('d')

    def fails(report):
        within(report)
        raise RuntimeError('CUDA error: no kernel image')

    assert run(within).state == 'passed'
    result = run(beyond)
    assert result.state == 'FAILED'
    assert [finding.state for finding in result.findings] == [
        'passed',
        'measured',
        'FAILED',
        'needs a GPU',
    ]
    assert run(reduced).state == 'needs a GPU'  # never passed
    result = run(fails)
    assert (result.state, result.problem) == ('FAILED', 'RuntimeError: CUDA error: no kernel image')
    assert [finding.name for finding in result.findings] == ['a', 'b']


def test_a_check_that_takes_too_long_is_killed_and_keeps_its_findings(run, tmp_path):
    """With the processes that it has started."""

    seconds = patience(1)

    def slow(report):
        report.limit('a', 0.0, 1.0)
        subprocess.Popen(['sh', '-c', f'sleep {3 * seconds}; touch {tmp_path}/alive'])
        time.sleep(60 * seconds)

    start = time.monotonic()
    result = run(slow, seconds=seconds)
    assert result.state == 'FAILED' and result.problem.startswith(f'stopped after {seconds:.0f} s')
    assert [finding.state for finding in result.findings] == ['passed']
    time.sleep(max(0, start + 4 * seconds - time.monotonic()))
    assert not (tmp_path / 'alive').exists()


def test_json_and_page(run, tmp_path):
    from gpu_check.findings import Result
    from gpu_check.page import write_results

    def beyond(report):
        """What is too much.

        It must not be more.
        """
        report.limit('too much <b>', 0.5, 0.25, 's')
        report.text('a table', '1 | 2')

    results = [run(beyond), Result('later', 'What did not fit', problem='not run: 3 s left')]
    write_results(results, str(tmp_path), 12.0)
    found = json.loads((tmp_path / 'gpu_check.json').read_text())
    assert found['counts'] == {
        'FAILED': 1,
        'not run': 1,
        'needs a GPU': 0,
        'passed': 0,
        'measured': 0,
    }
    finding = dict(name='too much <b>', state='FAILED', value=0.5, limit=0.25, unit='s')
    assert found['checks'][0]['findings'] == [finding]
    assert [check['check'] for check in found['checks']] == ['beyond', 'later']
    assert found['checks'][0]['title'] == 'What is too much'
    page = (tmp_path / 'gpu_check.html').read_text()
    assert '1 FAILED, 1 not run.' in page
    assert 'too much &lt;b&gt;' in page and '1 | 2' in page and 'not run: 3 s left' in page


@pytest.mark.slow
def test_reduced_form(tmp_path):
    """In the environment of the tests, on the CPU."""
    done = subprocess.run(
        ['bash', str(TOOL), str(tmp_path / 'out'), '--seconds', str(patience(530))],
        env={**os.environ, 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / 'out' / 'gpu_check.json').read_text())
    assert found['device'] == 'cpu' and found['counts']['FAILED'] == 0
    findings = {
        (check['check'], finding['name']): finding['state']
        for check in found['checks']
        for finding in check['findings']
    }
    for check, name in (
        ('channels_last', 'deviation of the loss, first step'),
        ('teacher_modes', 'folded: deviation of the logits'),
        ('buffer_copies', 'deviation from a buffer that is filled on the CPU'),
        ('host_copies', 'deviation from resident teachers'),
        ('interruptions', 'resumed: deviation of all weights'),
    ):
        assert findings[check, name] == 'passed'
    for check, name in (
        ('precision', 'float16: deviation of the loss'),
        ('interruptions', 'NCCL with one process'),
        ('memory', 'peak memory'),
        ('step_times', 'time of a step of every method'),
        ('comparison', 'a comparison on CIFAR-10'),
    ):
        assert findings[check, name] == 'needs a GPU'
    assert (tmp_path / 'out' / 'gpu_check.html').stat().st_size > 10_000
