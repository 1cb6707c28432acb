# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Tables of a comparison, character by character."""

import csv

from mtkdrl_mm.comparison import write_environment, write_tables
from mtkdrl_mm.utils.markdown import markdown_table


def test_tables(make_run, tmp_path):
    curves = {'teacher_weight/logit/a': [(1, 0.25)], 'teacher_weight/logit/b': [(1, 0.75)]}
    runs = {
        'aver': [make_run(), make_run(seed=1, metric=62.0)],
        'mtkdrl': [make_run('mtkdrl', seed=1, metric=62.5, curves=curves)],
    }
    text = write_tables(runs, 'accuracy/top1', 'aver', str(tmp_path))
    assert text == (
        '| method | runs | accuracy/top1 | std | minus aver | 95 % CI +- | s / epoch | peak MiB '
        '| logit weights | feature weights |\n'
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n'
        '| aver | 2 | 61.00 | 1.41 |  |  | 1.50 | 100 |  |  |\n'
        '| mtkdrl | 1 | 62.50 |  | +0.50 |  | 1.50 | 100 | a 0.25, b 0.75 |  |'
    )
    assert (tmp_path / 'table.md').read_text() == text + '\n'
    assert (tmp_path / 'table.csv').read_text().splitlines() == [
        'method,runs,accuracy/top1,std,minus aver,95 % CI +-,s / epoch,peak MiB,logit weights,'
        'feature weights',
        'aver,2,61.00,1.41,,,1.50,100,,',
        'mtkdrl,1,62.50,,+0.50,,1.50,100,"a 0.25, b 0.75",',
    ]
    assert (tmp_path / 'runs.csv').read_text().splitlines() == [
        'method,seed,accuracy/top1,seconds',
        'aver,0,60.0,3.0',
        'aver,1,62.0,3.0',
        'mtkdrl,1,62.5,3.0',
    ]


def test_small_metrics_have_more_digits(make_run, tmp_path):
    runs = {'a': [make_run('a', metric=0.51234)], 'b': [make_run('b', metric=0.4)]}
    lines = write_tables(runs, 'mAP', 'b', str(tmp_path)).splitlines()
    assert lines[2].startswith('| a | 1 | 0.5123 |  | +0.1123 |  |')


def test_differences_of_few_pairs_show_their_number(make_run, tmp_path):
    """And differences of 0.001 are no -0.00."""
    runs = {
        'aver': [make_run(seed=seed, metric=1.2345 + seed / 10_000) for seed in range(2)],
        'equal': [make_run('equal', seed, 1.2335) for seed in range(2)],
        'more': [make_run('more', seed, 1.2335) for seed in range(3)],
    }
    lines = write_tables(runs, 'loss/nll', 'aver', str(tmp_path)).splitlines()
    assert '| minus aver | 95 % CI +- | pairs | s / epoch |' in lines[0]
    # Of the differences -0.0010 and -0.0011, with t of one degree of freedom: 12.706 * 0.00005.
    assert [line.split(' | 1.50 |')[0] for line in lines[2:]] == [
        '| aver | 2 | 1.23455 | 0.00007 |  |  | ',
        '| equal | 2 | 1.23350 | 0.00000 | -0.00105 | 0.00064 | 2',
        '| more | 3 | 1.23350 | 0.00000 | -0.00105 | 0.00064 | 2',
    ]


def test_bars_in_names_end_no_cell(make_run, tmp_path):
    lines = write_tables({'a|b': [make_run('a|b')]}, 'mAP', 'a|b', str(tmp_path)).splitlines()
    assert lines[0].count(r'minus a\|b') == 1 and lines[2].startswith(r'| a\|b | 1 |')
    assert {len(line.replace(r'\|', '').split('|')) for line in lines} == {12}
    with open(tmp_path / 'table.csv', newline='') as file:
        assert [row[0] for row in csv.reader(file)] == ['method', 'a|b']
    assert markdown_table(['x|y'], [['a']]).splitlines()[0] == r'| x\|y |'


def test_environment(make_run, tmp_path):
    gpu = dict(device='H100, 16 cores', versions='Python 3.11.2, torch 2.1.2, numpy 1.26.4')
    runs = {'a': [make_run(commit='b+', **gpu), make_run(commit='a', **gpu)], 'b': [make_run()]}
    write_environment(runs, "python compare.py --row 'two words'", str(tmp_path))
    assert (tmp_path / 'environment.txt').read_text().splitlines() == [
        "command: python compare.py --row 'two words'",
        'commit: a, b+, unknown',
        'device: H100, 16 cores; unknown',
        'versions: Python 3.11.2, torch 2.1.2, numpy 1.26.4; unknown',
    ]
