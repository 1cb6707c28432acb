# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the overview of a training says of its config."""

from mtkdrl_mm.report import make_run_page, read_run, render

from .html_checks import check
from .test_run_page import distillation


def test_how_the_agent_learns(tmp_path):
    """MTKD-RL as published and its variants have the same weighting class."""
    assert 'Reward' not in check(render(make_run_page(distillation(tmp_path)))).words
    published = read_run(str(tmp_path))
    published.config['default_hooks'] = dict(agent=dict(type='mtkdrl_mm.AgentHook'))
    words = check(render(make_run_page(published))).words
    assert 'Reward ClosenessReward Advantage MinMaxAdvantage RL algorithm PolicyGradient' in words
    assert 'The agent learns from training images' in words
    published.config['default_hooks']['agent'].update(
        reward=dict(type='LabelProbabilityReward'), experience='held_out'
    )
    published.config['held_out_dataloader'] = dict(
        dataset=dict(type='CustomDataset', data_root='data/mine', ann_file='held_out.txt')
    )
    words = check(render(make_run_page(published))).words
    assert 'Reward LabelProbabilityReward' in words
    assert 'The agent learns from held-out images, CustomDataset (data_root=' in words
    assert 'by heart' not in words
    published.config['default_hooks']['agent']['discount_memorised'] = True
    words = check(render(make_run_page(published))).words
    assert "; what teachers repeat of the student's images by heart is discounted" in words
    assert 'by probes' not in words
    published.config['model']['weighting']['feature_weights'] = 'probes'
    words = check(render(make_run_page(published))).words
    assert 'Feature weights the same for all images, by probes on the same images' in words
