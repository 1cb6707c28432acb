# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the model card of a student says."""

import pytest
import yaml

from mtkdrl_mm.weights.model_card import CardFacts, data_name, model_card, student_name

pytest.importorskip('huggingface_hub')


def facts(**changes):
    return CardFacts(
        **{
            **dict(
                repo='me/small',
                file='pytorch_model.bin',
                student='ResNet18',
                num_parameters=11_689_512,
                method='MTKDRL',
                teachers=[('r50', 'timm://resnet50.a1_in1k'), ('own', 'own.pth')],
                data='imagenet (ImageNet)',
                classes=['cat', 'dog'],
                accuracy={'accuracy/top1': 72.8125},
                epoch=100,
            ),
            **changes,
        }
    )


def test_facts_are_in_the_card():
    card = model_card(facts(license='apache-2.0'))
    _, head, text = card.split('---\n', 2)
    metadata = yaml.safe_load(head)
    assert metadata['license'] == 'apache-2.0'
    assert metadata['library_name'] == 'mmpretrain'
    assert metadata['tags'] == ['mtkdrl_mm', 'knowledge-distillation']
    (result,) = metadata['model-index'][0]['results']
    assert result['metrics'][0]['value'] == 72.8125
    cells = {tuple(c.strip() for c in line.split('|')[1:-1]) for line in text.splitlines()}
    assert {
        ('method', 'MTKDRL'),
        ('student', 'ResNet18, 11.69 M parameters'),
        ('data', 'imagenet (ImageNet), 2 classes'),
        ('epochs', '100'),
        ('accuracy/top1', '72.81 %'),
        ('r50', 'timm://resnet50.a1_in1k'),
        ('own', 'own.pth'),
    } <= cells
    assert 'distilled from 2 teachers by MTKDRL' in text
    assert 'under the licence `apache-2.0`. The student learned from the outputs of the' in text
    assert "hf_hub_download('me/small', 'pytorch_model.bin')" in text


def test_what_is_not_known_is_not_invented():
    card = model_card(facts(method=None, teachers=[], accuracy={}, epoch=None, classes=[]))
    _, head, text = card.split('---\n', 2)
    metadata = yaml.safe_load(head)
    assert not {'license', 'model-index'} & metadata.keys()
    assert metadata['tags'] == ['mtkdrl_mm']
    assert 'trained without teachers' in text and '## Teachers' not in text
    assert 'No accuracy was logged' in text and 'No licence was stated' in text


def usage(**changes):
    return model_card(facts(**changes)).split('```python\n')[1].split('```')[0]


def test_use_depends_on_what_was_exported():
    assert 'import mtkdrl_mm' not in usage()
    assert usage(file='model.safetensors').startswith('import mtkdrl_mm')
    assert "prefix='backbone.'" in usage(backbone_only=True)
    for file, load in (('pytorch_model.bin', 'torch'), ('model.safetensors', 'safetensors.torch')):
        named = dict(format='torchvision', student='resnext50_32x4d', file=file)
        code = usage(**named, num_classes=5)
        compile(code, 'card', 'exec')
        assert f'from {load} import' in code and 'models.resnext50_32x4d(num_classes=5)' in code
        code = usage(**named, backbone_only=True)
        compile(code, 'card', 'exec')
        assert 'models.resnext50_32x4d()' in code and 'prefix' not in code


def test_the_library_is_that_of_the_format():
    card = model_card(facts(format='torchvision', student='resnet18', num_classes=2))
    assert yaml.safe_load(card.split('---\n')[1])['library_name'] == 'torchvision'
    assert 'and runs with torchvision;' in card and 'mmpretrain' not in card


@pytest.mark.parametrize(
    ('dataset', 'name'),
    [
        (dict(type='CustomDataset', data_root='/home/me/data/pets/'), 'pets (CustomDataset)'),
        (dict(type='RepeatDataset', dataset=dict(type='mmpretrain.CIFAR10')), 'CIFAR10'),
        (None, 'unknown'),
    ],
)
def test_name_of_the_data(dataset, name):
    assert data_name(dataset) == name


@pytest.mark.parametrize(
    ('model', 'name'),
    [
        (dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18)), 'ResNet18'),
        (dict(backbone=dict(type='VisionTransformer', arch='b')), 'VisionTransformerb'),
        (dict(type='mtkdrl_mm.TimmImageClassifier', model_name='cait_s24_224'), 'cait_s24_224'),
    ],
)
def test_name_of_the_student(model, name):
    assert student_name(model) == name
