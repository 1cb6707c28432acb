# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The pages of a training and of a comparison, from the command line, and in a browser."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mtkdrl_mm.comparison import Plan, Row, Run
from mtkdrl_mm.comparison.logs import read_logs
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.report import read_run
from mtkdrl_mm.report.image_outputs import look_at_images

from .conftest import Workshop
from .stored import BLENDED, BY_ITERATIONS

pytestmark = pytest.mark.slow
TOOL = 'tools/analysis_tools/report.py'
BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason='there is no Chromium or Chrome')
# A page of its own measures the report in a frame: browsers have a least width for windows.
FRAME = """<!DOCTYPE html><iframe id="frame" src="{page}" style="width: {width}px; height: 800px">
</iframe><script>document.getElementById('frame').onload = event => {{
const page = event.target.contentDocument.documentElement;
document.title = [page.clientWidth, page.scrollWidth].join(' ');
}}</script>"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A workshop with a finished training of four epochs."""
    workshop = Workshop(tmp_path_factory.mktemp('report'))
    config = workshop.config()
    # No blank in it: the page must break it to fit a phone.
    work_dir = str(workshop.folder / ('run_' + 80 * 'x'))
    done = workshop.train(config, '--work-dir', work_dir)
    assert done.returncode == 0, done.stderr[-2000:]
    return workshop, config, work_dir


def page_of(workshop, work_dir, *flags):
    out = workshop.folder / 'page.html'
    done = workshop.tool(TOOL, work_dir, '--out', str(out), *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    return out.read_text(), done.stdout


def test_page(trained):
    workshop, _, work_dir = trained
    html, printed = page_of(workshop, work_dir, '--images', '20')
    assert 'Left out' not in printed
    for title in ('Weights per class', 'Accuracy, calibration and agreement', 'Images by weight'):
        assert f'>{title}</h2>' in html
    assert 'On 16 validation images' in html and 'among 20 training images' in html
    # 2 teachers, twice 6 images; all classes have a name.
    assert html.count('<img ') == 24 and 'label: class_' in html
    assert not re.search(r'(src|href)="(?!data:image/|#)', html)


def test_without_images(trained):
    workshop, _, work_dir = trained
    html, printed = page_of(workshop, work_dir, '--no-images')
    assert '<img ' not in html and printed.count('Left out by --no-images.') == 2


def test_missing_teacher_is_a_reason(trained):
    """The rest of the page is there."""
    workshop, _, work_dir = trained
    option = 'model.teachers.0.checkpoint=/no.pth'
    html, printed = page_of(workshop, work_dir, '--cfg-options', option)
    assert printed.count('"/no.pth" does not exist') == 2
    assert '>Weights per class</h2>' in html


def test_outputs_are_those_of_the_networks(trained):
    """What is left of the weights without their two known parts is the agent's policy."""
    work_dir = trained[2]
    found = look_at_images(read_run(work_dir), Config.fromfile, 12)
    outputs = found.weighted
    assert found.class_names == [f'class_{i}' for i in range(4)] and outputs.names == (
        'teacher0',
        'teacher1',
    )
    assert len(outputs) == 12 and outputs.images[0].shape == (16, 16, 3)
    assert torch.allclose(outputs.logit_weights.sum(dim=1), torch.ones(12))
    # After the warm-up, the published weights are the mean of policy, confidence and divergence.
    assert (outputs.logit_weights - 0.5).abs().max() > 0.01
    ce = -(outputs.labels[:, None] * outputs.teacher_logits.log_softmax(dim=2)).sum(dim=2)
    confidence = 1 - ce.softmax(dim=1)
    soft = (outputs.teacher_logits / 4).log_softmax(dim=2)
    student = (outputs.student_logits / 4).log_softmax(dim=1)[:, None]
    divergence = (16 * (soft.exp() * (soft - student)).sum(dim=2)).softmax(dim=1)
    policy = 3 * outputs.logit_weights - confidence - divergence
    assert (policy > -1e-5).all() and torch.allclose(policy.sum(dim=1), torch.ones(12), atol=1e-5)
    assert np.asarray(found.evaluated.labels).shape == (12, 4)


def check_width(page, tmp_path):
    """Check in a browser that a page needs no scrolling to the side on a phone."""
    frame = tmp_path / 'frame.html'
    frame.write_text(FRAME.format(page=page.as_uri(), width=390))
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--allow-file-access-from-files']
    flags += [f'--user-data-dir={tmp_path / "profile"}', '--dump-dom', frame.as_uri()]
    done = subprocess.run([BROWSER, *flags], capture_output=True, text=True, timeout=120)
    width, needed = map(int, re.search('<title>([0-9]+) ([0-9]+)</title>', done.stdout).groups())
    assert 0 < needed <= width <= 390


@needs_browser
def test_page_fits_a_phone(trained, tmp_path):
    workshop, _, work_dir = trained
    page_of(workshop, work_dir, '--images', '20')
    check_width(workshop.folder / 'page.html', tmp_path)


@pytest.fixture(scope='module')
def compared(trained, tmp_path_factory):
    """The work dir of a comparison, of one training under many long names."""
    work_dir = tmp_path_factory.mktemp('compared')
    names = [name + 60 * 'x' for name in 'abc']
    seeds = list(range(12))
    rows = [Row(name, 'configs/' + 80 * 'y', (f'key={80 * "z"}',)) for name in names]
    Plan(rows=rows, seeds=seeds, reference=names[0], command=200 * 'c').write(str(work_dir))
    for number, name in enumerate(names[:2]):
        for seed in seeds:
            folder = work_dir / name / f'seed_{seed}'
            shutil.copytree(trained[2], folder, ignore=shutil.ignore_patterns('*.pth'))
            log = vars(read_logs(str(folder), 'accuracy/top1'))
            log['metric'] = 60.0 + number + seed % 3 * number
            Run(**log, method=name, seed=seed, seconds=3.0).write(result_path(str(folder)))
    (folder / 'result.json').unlink()
    (folder / 'failure.json').write_text('{"exit_code": 1}')
    (folder / 'output.txt').write_text('Error: ' + 250 * 'e')
    return work_dir


def test_page_of_a_comparison(trained, compared):
    """Charts, weights per class and failures come from the files of real trainings."""
    html, printed = page_of(trained[0], str(compared))
    assert 'Left out' not in printed
    assert '3 methods, 12 seeds: 23 of 36 trainings finished, 1 failed.' in html
    for title in ('Results over the training', 'Weights per class', 'Cost'):
        assert f'>{title}</h2>' in html
    # Of the seeds 0 to 10: 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2; t with ten degrees of freedom: 2.228.
    assert '<td class="above">+1.91 ± 0.56</td>' in html
    html, _ = page_of(trained[0], str(compared), '--reference', 'b' + 60 * 'x')
    assert '<td class="below">-1.91 ± 0.56 (11 common seeds)</td>' in html


@needs_browser
def test_page_of_a_comparison_fits_a_phone(trained, compared, tmp_path):
    html, _ = page_of(trained[0], str(compared))
    page = tmp_path / 'open.html'
    page.write_text(html.replace('<details>', '<details open>'))
    check_width(page, tmp_path)


def test_stored_outputs(trained):
    """Of teachers whose outputs were read, no network is needed."""
    workshop = trained[0]
    gone = f'/no/{workshop.folder.name}/teacher0.pth'
    options = ['train_cfg.max_epochs=2', f'model.teachers.0.checkpoint={gone}']
    html, printed = page_of(workshop, train_from_store(workshop, trained[1], 'plain', options))
    assert 'Left out' not in printed and html.count('<img ') == 24
    assert 'On 32 training images, augmented as in epoch 3' in html
    assert 'Measured on training images, by the labels that the student was trained with' in html


def test_stored_outputs_of_blended_images_in_a_training_by_iterations(trained):
    workshop = trained[0]
    config = workshop.config('blended', extra=BLENDED + BY_ITERATIONS)
    html, printed = page_of(workshop, train_from_store(workshop, config, 'blended', []))
    assert printed.count('Left out') == 1 and 'blended by mixup or cutmix' in printed
    assert re.search(r'label: class_\d \d\d %, class_\d \d\d? %', html)
    assert '20 of 20 iterations, finished' in html


def train_from_store(workshop, config, name, options):
    """Store the outputs of two views and train from them; returns the work dir."""
    store, work_dir = (str(workshop.folder / f'{name}_{what}') for what in ('store', 'run'))
    done = workshop.tool('tools/store_teacher_outputs.py', config, store, '--views', '2')
    assert done.returncode == 0, done.stderr[-2000:]
    options = [f'model.teacher_outputs={store}', *options]
    done = workshop.train(config, '--work-dir', work_dir, '--cfg-options', *options)
    assert done.returncode == 0, done.stderr[-2000:]
    return work_dir


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['/no'], 'The work dir "/no" does not exist'),
        (['.', '--images', '0'], '`--images` must be'),
        (['tools'], '"tools" is no work dir of a training: it has no folder */vis_data.'),
        (['{compared}', '--images', '9'], 'Error: --images is for the page of one training'),
        (['{compared}', '--cfg-options', 'a=1'], 'Error: --cfg-options is for the page of one'),
        (['{compared}', '--reference', 'gone'], 'Error: No row is named "gone": the rows are'),
        (['{trained}', '--reference', 'a'], 'Error: --reference is for the page of a comparison'),
    ],
)
def test_bad_input(trained, compared, flags, message):
    flags = [flag.format(compared=compared, trained=trained[2]) for flag in flags]
    done = trained[0].tool(TOOL, *flags)
    assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
