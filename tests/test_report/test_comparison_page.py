# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The page of a comparison: its numbers, links, colours, and what is not there yet."""

import json
import re

import numpy as np
import pytest

from mtkdrl_mm.comparison import Plan, Row, Run, read_comparison
from mtkdrl_mm.comparison.results import result_path
from mtkdrl_mm.report import make_comparison_page, render

from .html_checks import HOSTILE, check
from .work_dirs import step, validation, write_session

METRIC = 'accuracy/top1'
CONFIG = """
model = dict(type='Distiller', teachers=[dict(name='a')]{more})
train_cfg = dict(max_epochs=2)
"""
# Differences of "better" from "aver": 2, 3, 4; of "equal": -1, 1, 0; of "worse": -4, -5, -3.
RESULTS = dict(
    aver=[60.0, 61.0, 62.0],
    better=[62.0, 64.0, 66.0],
    equal=[59.0, 62.0, 62.0],
    worse=[56.0, 56.0, 59.0],
)


def write_plan(work_dir, names, seeds=(0, 1, 2), **kwargs):
    rows = [Row(name, f'configs/{name}.py', ('a.b=2',), (('POOL', 'weak'),)) for name in names]
    Plan(rows=rows, seeds=list(seeds), metric=METRIC, **kwargs).write(str(work_dir))


def write_log(work_dir, name, seed, values, weight=0.25, more=''):
    """Write the log of a training with these results after its epochs; returns its folder."""
    folder = work_dir / name / f'seed_{seed}'
    records = []
    for epoch, value in enumerate(values, 1):
        weights = {f'teacher_weight/{k}/a': weight for k in ('logit', 'feature')}
        records += [step(epoch, 4 * epoch, **weights), validation(epoch, value)]
    start = write_session(folder, '20260101_000000', records, CONFIG.format(more=more))
    head = f'    Python: 3.{seed}.0 (main)\n    seed: {seed}\n'
    (start / '20260101_000000.log').write_text(head)
    return folder


def write_result(work_dir, name, seed, value, **kwargs):
    """Write what a finished training leaves; returns its folder."""
    weight = kwargs.pop('weight', 0.25)
    folder = write_log(work_dir, name, seed, [value / 2, value], weight, kwargs.pop('more', ''))
    curves = {f'teacher_weight/{k}/a': [(4, weight)] for k in ('logit', 'feature')}
    defaults = dict(seconds=30.0, seconds_per_epoch=1.5, peak_mib=100.0, curves=curves)
    Run(method=name, seed=seed, metric=value, **{**defaults, **kwargs}).write(
        result_path(str(folder))
    )
    return folder


def finished(work_dir, results=RESULTS):
    write_plan(work_dir, results)
    for name, values in results.items():
        for seed, value in enumerate(values):
            write_result(work_dir, name, seed, value)


def page_of(work_dir, links=(), **kwargs):
    """The page, and what is in its HTML."""
    page = make_comparison_page(read_comparison(str(work_dir)), **kwargs)
    html = render(page)
    return page, check(html, links), html


def section(page, anchor):
    return next(one for one in page.sections if one.anchor == anchor)


def test_numbers_and_colours(tmp_path):
    # Differences of "unsure": 1, 2, 3. Its interval contains 0, half of it would not.
    finished(tmp_path, dict(RESULTS, unsure=[61.0, 63.0, 65.0]))
    _, content, html = page_of(tmp_path)
    # Student's t with two degrees of freedom: 4.3027; half the width is 4.3027 / sqrt(3) = 2.484.
    assert 'aver 61.00 ± 1.00 reference 3' in content.words
    assert 'better 64.00 ± 2.00 +3.00 ± 2.48 3' in content.words
    assert 'equal 61.00 ± 1.73 +0.00 ± 2.48 3' in content.words
    assert 'worse 57.00 ± 1.73 -4.00 ± 2.48 3' in content.words
    assert 'unsure 63.00 ± 2.00 +2.00 ± 2.48 3' in content.words
    colored = re.findall(r'<td class="(above|below)">([^<]*)</td>', html)
    assert colored == [('above', '+3.00 ± 2.48'), ('below', '-4.00 ± 2.48')]
    assert '5 methods, 3 seeds: 15 of 15 trainings finished.' in content.words
    assert 'worse 56.00 56.00 59.00' in content.words  # by seed


def test_differences_of_few_pairs_show_their_number(tmp_path):
    finished(tmp_path, dict(aver=[1.0, 1.1], loss=[0.9, 1.0002, 1.1], even=[0.5, 0.6]))
    _, content, _ = page_of(tmp_path)
    # -0.1 and -0.0998: half a width of 12.706 times 0.0001.
    assert 'loss 1.000 ± 0.100 -0.100 ± 0.001 (2 common seeds) 3' in content.words
    assert 'even 0.550 ± 0.071 -0.500 ± 0.000 2' in content.words
    assert 'which of them is better depends on the metric' in content.words


def test_sections(tmp_path):
    finished(tmp_path)
    page, content, _ = page_of(tmp_path)
    assert content.headings == [
        'Results',
        'Results over the training',
        'Weights of the teachers',
        'Cost',
        'Rows and options',
        'Environment and versions',
        'Not on this page',
    ]
    assert page.left_out == [
        ('Weights per class', 'They are written when a training with teachers ends.')
    ]
    for text in ('configs/worse.py POOL=weak a.b=2', 'seeds 0, 1, 2', 'Python 3.0.0; 3.1.0; 3.2.0'):
        assert text in content.words
    assert 'worse 1.50 1.00 100 30 s' in content.words


def test_costs_are_relative_to_the_reference(tmp_path):
    write_plan(tmp_path, ['aver', 'slow'], [0], reference='aver')
    write_result(tmp_path, 'aver', 0, 60.0, seconds_per_epoch=1.5)
    write_result(tmp_path, 'slow', 0, 60.0, seconds_per_epoch=6.0)
    words = page_of(tmp_path)[1].words
    assert 'aver 1.50 1.00 100 30 s' in words and 'slow 6.00 4.00 100 30 s' in words


@pytest.mark.parametrize(('reference', 'whole'), [('other', 'other'), ('gone', 'aver')])
def test_one_config_is_whole_and_of_the_others_what_differs(tmp_path, reference, whole):
    """A comparison's reference may be none of its rows; then it is the first one."""
    write_plan(tmp_path, ['aver', 'other'], [3], reference=reference)
    write_result(tmp_path, 'aver', 3, 60.0)
    write_result(tmp_path, 'other', 3, 61.0, more=", weighting='CAMKD'")
    configs = section(page_of(tmp_path)[0], 'rows').blocks[-1]
    more = dict(aver='', other=", weighting='CAMKD'")
    start = CONFIG.split('{')[0]
    first, second = configs.blocks
    assert first.title == f'{whole} (seed_3), the whole config'
    assert first.text == CONFIG.format(more=more[whole])
    other = 'aver' if whole == 'other' else 'other'
    assert second.title == f'{other} (seed_3), lines that differ from {whole}'
    assert second.text.splitlines() == [
        f'--- {whole} (seed_3)',
        f'+++ {other} (seed_3)',
        '@@ -1,3 +1,3 @@',
        ' ',
        f'-{start.strip()}{more[whole]})',
        f'+{start.strip()}{more[other]})',
        ' train_cfg = dict(max_epochs=2)',
    ]


def test_the_device_is_that_of_the_trainings(tmp_path):
    write_plan(tmp_path, ['a'], [0, 1], device='of the report')
    write_result(tmp_path, 'a', 0, 60.0)
    assert 'device of the report' in page_of(tmp_path)[1].words
    write_result(tmp_path, 'a', 1, 61.0, device='of the training')
    words = page_of(tmp_path)[1].words
    assert 'device of the training; unknown' in words and 'of the report' not in words


def test_curves_are_means_with_their_spread(tmp_path):
    finished(tmp_path)
    page, _, _ = page_of(tmp_path)
    means, panels = section(page, 'curves').blocks
    by_name = {one.name: one for one in means.charts[0].series}
    assert by_name['better'].points == [(1.0, 32.0), (2.0, 64.0)]
    better = next(one for one in panels.charts if one.title == 'better')
    assert better.series[0].spread == pytest.approx([1.0, 2.0])
    assert better.series[1].name == 'aver' and better.series[1].reference
    assert better.series[1].points == [(1.0, 30.5), (2.0, 61.0)]
    # All panels have the same scale, which holds all of them: from 28 - 0.87 to 66.
    assert {one.limits for one in panels.charts} == {(20, 70)}


def test_weights(tmp_path):
    write_plan(tmp_path, ['aver', 'other', 'logits'], seeds=[0, 1])
    table = dict(teachers=['a', 'b'], feature=[[0.5, 0.5]] * 2)
    for seed, weight in enumerate((0.5, 0.75)):
        write_result(tmp_path, 'aver', seed, 60.0)
        write_result(tmp_path, 'logits', seed, 60.0, more=', feature_loss_weight=0')
        folder = write_result(tmp_path, 'other', seed, 60.0, weight=weight)
        tables = dict(**table, logit=[[weight, 1 - weight], [0.125, 0.875]])
        (folder / 'class_weights.json').write_text(json.dumps(tables))
    page, content, _ = page_of(tmp_path)
    logit, feature, *folds = section(page, 'weights').blocks
    assert logit.rows == [['aver', '0.25'], ['other', '0.62'], ['logits', '0.25']]
    assert logit.shades == [[0.25], [0.625], [0.25]]
    assert [row[0] for row in feature.rows] == ['aver', 'other']  # the third has no such loss
    other = folds[0].blocks[0].charts[1]
    assert other.title == 'other' and other.series[0].points == [(4.0, 0.625), (8.0, 0.625)]
    (fold,) = section(page, 'classes').blocks
    assert fold.title == 'other, 2 seeds'
    assert fold.blocks[0].rows == [['class 0', '0.62', '0.38'], ['class 1', '0.12', '0.88']]
    assert 'class 0 0.50 0.50' in content.words


def test_what_has_no_result_is_named(tmp_path):
    write_plan(tmp_path, ['aver', 'new', 'late'])
    write_result(tmp_path, 'aver', 0, 60.0)
    failed = write_log(tmp_path, 'new', 0, [50.0])
    (failed / 'failure.json').write_text('{"exit_code": 3}')
    (failed / 'output.txt').write_text('Error: No file "a.pth".\n')
    write_log(tmp_path, 'new', 1, [50.0, 60.0])
    write_log(tmp_path, 'new', 2, [52.0])
    (tmp_path / 'aver' / 'seed_1').mkdir()
    page, content, _ = page_of(tmp_path, links=['new/seed_0/output.txt'])
    assert '3 methods, 3 seeds: 1 of 9 trainings finished, 1 failed.' in content.words
    assert (
        'new, seed 0 failed, exit code 3 1 of 2 epochs Error: No file "a.pth". output.txt'
    ) in content.words
    assert 'aver, seed 1 not finished' in content.words
    assert 'new, seed 1 not finished 2 of 2 epochs' in content.words
    assert 'Not started: aver: seed 2' in content.words
    assert 'Not started: late: seeds 0, 1, 2' in content.words
    assert 'new failed not finished not finished' in content.words
    # A method without any result shows how far all of its trainings are; others what is finished.
    series = {one.name: one for one in section(page, 'curves').blocks[0].charts[0].series}
    assert series['aver'].points == [(1.0, 30.0), (2.0, 60.0)]
    assert series['new (not finished)'].points == [(1.0, pytest.approx(152 / 3))]


def test_a_comparison_that_has_just_started(tmp_path):
    write_plan(tmp_path, ['aver', 'new'])
    page, content, _ = page_of(tmp_path)
    assert content.headings == [
        'Trainings without a result',
        'Rows and options',
        'Not on this page',
    ]
    assert [name for name, _ in page.left_out] == [
        'Results',
        'Results over the training',
        'Weights of the teachers',
        'Weights per class',
        'Environment and versions',
    ]


@pytest.mark.parametrize(
    ('reference', 'reason'),
    [
        ('late', 'No training of "late" has finished.'),
        ('gone', 'No row is named "gone": name another one with `--reference`.'),
    ],
)
def test_a_reference_without_results(tmp_path, reference, reason):
    write_plan(tmp_path, ['aver', 'late'], seeds=[0], reference=reference)
    write_result(tmp_path, 'aver', 0, 60.0)
    page, content, _ = page_of(tmp_path)
    assert ('Differences', reason) in page.left_out
    assert 'aver 60.00 1' in content.words and 'minus' not in content.words


def test_single_seeds_have_no_interval(tmp_path):
    write_plan(tmp_path, ['aver', 'one', 'apart'], seeds=[0, 1])
    write_result(tmp_path, 'aver', 0, 0.25)
    write_result(tmp_path, 'one', 0, 0.5)
    write_result(tmp_path, 'apart', 1, 0.5)
    _, content, html = page_of(tmp_path)
    assert 'one 0.5000 +0.2500 (one seed) 1' in content.words
    assert 'apart 0.5000 no common seed 1' in content.words
    assert 'class="above"' not in html


def test_pages_of_single_trainings_are_linked(tmp_path):
    write_plan(tmp_path, ['a b#1'], seeds=[0, 1])
    for seed in (0, 1):
        folder = write_result(tmp_path, 'a b#1', seed, 60.0)
    _, content, _ = page_of(tmp_path)
    assert 'python tools/analysis_tools/report.py' in content.words
    (folder / 'report.html').write_text('')
    link = 'a%20b%231/seed_1/report.html'
    _, _, html = page_of(tmp_path, links=[link])
    assert f'<td><a href="{link}">60.00</a></td>' in html
    out = tmp_path / 'pages' / 'page.html'
    _, _, html = page_of(tmp_path, links=[f'../{link}'], out=str(out))
    assert f'href="../{link}"' in html


def test_a_page_for_elsewhere_has_no_links(tmp_path):
    write_plan(tmp_path, ['aver'], seeds=[0, 1])
    folder = write_result(tmp_path, 'aver', 0, 60.0)
    (folder / 'report.html').write_text('')
    broken = tmp_path / 'aver' / 'seed_1'
    broken.mkdir()
    (broken / 'output.txt').write_text('an error')
    linked = ['aver/seed_0/report.html', 'aver/seed_1/output.txt']
    page_of(tmp_path, links=linked)
    html = render(make_comparison_page(read_comparison(str(tmp_path)), links=False))
    content = check(html, ())
    assert '60.00' in content.words and 'an error' in content.words
    assert 'report.py' not in content.words and not any(link in html for link in linked)


def test_damaged_logs_are_a_reason(tmp_path):
    """The rest of the page is there."""
    finished(tmp_path, dict(aver=[60.0, 61.0], new=[62.0, 63.0]))
    (tmp_path / 'new/seed_1/20260101_000000/vis_data/scalars.json').write_text('{\n{}\n')
    (tmp_path / 'aver/seed_0/class_weights.json').write_text('[]')
    page, content, _ = page_of(tmp_path)
    reasons = dict(page.left_out)
    assert 'scalars.json" is damaged' in reasons['Logs of new, seed 1']
    assert 'class_weights.json" is damaged' in reasons['Weights per class of aver']
    assert 'new 62.50 ± 0.71 +2.00' in content.words


def test_class_weights_of_other_teachers_are_not_averaged(tmp_path):
    write_plan(tmp_path, ['aver'], seeds=[0, 1])
    for seed in (0, 1):
        folder = write_result(tmp_path, 'aver', seed, 60.0)
        table = np.full((2, 1), 1.0).tolist()
        contents = dict(teachers=[f't{seed}'], logit=table, feature=table)
        (folder / 'class_weights.json').write_text(json.dumps(contents))
    page, _, _ = page_of(tmp_path)
    reason = 'Its trainings differ in their teachers or classes.'
    assert ('Weights per class of aver', reason) in page.left_out


def test_many_methods_are_folded(tmp_path):
    finished(tmp_path, {f'm{i}': [60.0 + i] for i in range(7)})
    page, _, html = page_of(tmp_path)
    _, panels = section(page, 'curves').blocks
    assert panels.kind == 'fold' and len(panels.blocks[0].charts) == 7
    assert '<summary>Each method with its standard deviation</summary>' in html


def test_hostile_names_are_escaped(tmp_path):
    name = HOSTILE.replace('/', '')
    rows = [Row(name, HOSTILE, (HOSTILE,))]
    plan = Plan(rows=rows, seeds=[0, 1], metric=METRIC, reference=name, command=HOSTILE)
    plan.write(str(tmp_path))
    folder = write_result(tmp_path, name, 0, 60.0, commit=HOSTILE)
    (folder / 'report.html').write_text('')
    broken = tmp_path / name / 'seed_1'
    broken.mkdir()
    (broken / 'output.txt').write_text(HOSTILE)
    links = [f'%3Cscript%3Ealert%28%221%22%29%3Cscript%3E/seed_{i}' for i in range(2)]
    links = [f'{links[0]}/report.html', f'{links[1]}/output.txt']
    _, content, html = page_of(tmp_path, links=links)  # no element came from them
    assert content.words.count(HOSTILE) == 5 and HOSTILE not in html
