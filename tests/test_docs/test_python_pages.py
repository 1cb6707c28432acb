# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The Python blocks of the tutorial and of the recipes run, from top to bottom."""

from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from .pages import ROOT


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Runs all blocks of a page in an empty folder; returns the names that they leave."""
    monkeypatch.chdir(tmp_path)
    # mmengine looks for compilers, to log them, whenever a runner is built.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', lambda: {})

    def run(name):
        page = ROOT / 'docs' / name
        sybil = Sybil([PythonCodeBlockParser()], path=str(page.parent), pattern=page.name)
        document = sybil.parse(page)
        for example in document.examples():
            example.evaluate()
        return document.namespace

    return run


@pytest.mark.slow
def test_tutorial(run_page):
    names = run_page('tutorial.md')
    # 96.2 % when it was written; a digit drawn at random is right in 10 %.
    assert names['student_accuracy'] > 85
    # The checkpoint, loaded anew, holds the student that was trained.
    accuracy = 100 * sum(names['right']) / len(names['right'])
    assert accuracy == pytest.approx(names['student_accuracy'], abs=1e-3)
    assert len(names['images']) == 1198
    # The step terms that the page shows, and the loss that is made of them.
    terms, weights, losses = names['terms'], names['weights'], names['losses']
    assert terms.logit_loss.shape == weights.logit.shape == (32, 2)
    torch.testing.assert_close(weights.logit.sum(dim=1), torch.ones(32))
    expected = (weights.logit * terms.logit_loss).sum(dim=1).mean()
    torch.testing.assert_close(losses['loss_logit'], expected)
    files = {path.name for path in Path('digits_tutorial/student').glob('*.pth')}
    assert 'epoch_8.pth' in files


def test_training_loop(run_page):
    names = run_page('api/rl.md')
    history = torch.stack(names['history'])
    assert history.shape == (12, 2)
    assert torch.equal(history[:4], torch.full((4, 2), 0.5))
    assert (history[4:] != 0.5).all()
    assert names['trainer'].algorithm.updates == len(names['updates']) == 3
    assert len(names['trainer'].buffer) == 0


def test_recipes(run_page):
    names = run_page('extending.md')
    terms, weights, losses = names['terms'], names['weights'], names['losses']
    expected = (-terms.teacher_ce / 0.5).softmax(dim=1)
    torch.testing.assert_close(weights.logit, expected)
    torch.testing.assert_close(weights.feature, expected)
    right, left, up = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), torch.eye(2)[1:]
    direction = names['FeatureDirection']()
    distances = [float(direction.compare(0, terms, right, other)) for other in (right, up, left)]
    assert distances == pytest.approx([0, 1, 2])
    feature = 5 * (expected * terms.feature_loss).sum(dim=1).mean()
    torch.testing.assert_close(losses['loss_feature'], feature)
    labels = torch.arange(4)[:, None, None]
    of_label = terms.teacher_logits.log_softmax(dim=-1).gather(-1, labels.expand(-1, 2, 1))[..., 0]
    own = terms.student_logits.log_softmax(dim=-1).gather(-1, labels[:, 0])
    torch.testing.assert_close(names['LeadOverStudent']()(terms, weights), of_label - own)
