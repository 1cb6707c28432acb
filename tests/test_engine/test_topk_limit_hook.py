# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Top-k accuracies of more classes than there are."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.evaluation import Accuracy, MultiLabelMetric
from mmpretrain.structures import DataSample
from torch import nn

from mtkdrl_mm.engine.hooks import TopKLimitHook
from mtkdrl_mm.utils import InputError


def samples(classes):
    return [
        DataSample().set_gt_label(i % classes).set_pred_score(torch.rand(classes)) for i in range(6)
    ]


@pytest.mark.parametrize(
    ('classes', 'topk', 'expected'),
    [
        (3, (1, 5), (1,)),
        (5, (1, 5), (1, 5)),
        (2, 5, (1,)),
        (4, (1, 3, 5), (1, 3)),
        (3, 1, (1,)),
    ],
)
@pytest.mark.parametrize('which', ['val', 'test'])
def test_topk_is_limited_to_the_scores(classes, topk, expected, which):
    """Also in a list of metrics; the result is that without the others."""
    evaluator = Evaluator([MultiLabelMetric(), Accuracy(topk=topk)])
    runner = SimpleNamespace(**{f'{which}_evaluator': evaluator})
    outputs = samples(classes)
    hook = getattr(TopKLimitHook(), f'after_{which}_iter')
    hook(runner, 0, outputs=outputs)
    metric = evaluator.metrics[1]
    assert metric.topk == expected
    metric.process(None, [sample.to_dict() for sample in outputs])
    assert list(metric.evaluate(6)) == [f'accuracy/top{k}' for k in expected]


def test_multi_label_metric():
    evaluator = Evaluator([MultiLabelMetric(topk=5)])
    TopKLimitHook().after_val_iter(SimpleNamespace(val_evaluator=evaluator), 0, outputs=samples(3))
    assert evaluator.metrics[0].topk == 3


def test_the_best_checkpoint_by_an_accuracy_that_is_not_there():
    model = nn.Module()
    model.head = nn.Module()
    model.head.num_classes = 3
    best = SimpleNamespace(key_indicators=['accuracy/top5'])
    with pytest.raises(InputError, match=r'save_best is "accuracy/top5", .* only 3 classes'):
        TopKLimitHook().before_train(SimpleNamespace(model=model, hooks=[best]))
    best.key_indicators = ['accuracy/top1', 'auto']
    TopKLimitHook().before_train(SimpleNamespace(model=model, hooks=[best]))
