# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What is drawn are the predictions of the whole checkpoint, of the classes that it has."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from mtkdrl_mm.utils import InputError

pytest.importorskip('mmseg')
PREPROCESSOR = dict(
    type='SegDataPreProcessor', mean=[78.0] * 3, std=[9.0] * 3, size=(16, 16), seg_pad_val=255
)


@pytest.fixture(scope='module')
def tool():
    path = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'compare_predictions.py'
    spec = importlib.util.spec_from_file_location('compare_predictions', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def segmentor(root, classes):
    """Config of a tiny segmentor and its test set."""
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=classes, palette=[[90 * i, 0, 0] for i in range(len(classes))]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    loader = dict(batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler'))
    head = dict(
        type='FCNHead',
        in_channels=8,
        in_index=0,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=len(classes),
        align_corners=False,
    )
    backbone = dict(
        type='mmpretrain.ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, out_indices=(0,)
    )
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=PREPROCESSOR,
        backbone=backbone,
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    return Config(
        dict(
            default_scope='mmseg',
            model=model,
            train_dataloader=loader,
            test_dataloader=loader,
            visualizer=dict(type='SegLocalVisualizer'),
        )
    )


def network(cfg):
    torch.manual_seed(0)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    # Such that both classes occur.
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    return model


@pytest.fixture
def compare(tool, tmp_path, monkeypatch):
    """Function that writes a config and checkpoints of the given classes, and compares them."""
    rng = np.random.default_rng(0)
    for folder, shape in (('images', (16, 16, 3)), ('labels', (16, 16))):
        (tmp_path / folder).mkdir()
        pixels = rng.integers(0, 256 if len(shape) == 3 else 2, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / '1.png')

    def run(classes, *trained, top_level=False, **changes):
        arguments = [str(tmp_path / 'config.py')]
        for index, names in enumerate(trained):
            weights = network(segmentor(tmp_path, names)).state_dict()
            path = tmp_path / f'{index}.pth'
            meta = dict(dataset_meta=dict(classes=names))
            torch.save(dict(meta=meta, state_dict={**weights, **changes}), path)
            arguments.append(f'{index}={path}')
        cfg = segmentor(tmp_path, classes)
        if top_level:
            cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
        cfg.dump(arguments[0])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['', *arguments, '--device', 'cpu'])
        tool.main()

    return run


@pytest.mark.parametrize('top_level', [False, True])
def test_predictions_are_those_of_the_checkpoint(compare, tool, tmp_path, capsys, top_level):
    names = ('background', 'road')
    compare(names, names, names, top_level=top_level)
    assert capsys.readouterr().out.endswith('1 images, 2 checkpoints: predictions.png\n')
    with Image.open(tmp_path / 'predictions.png') as picture:
        assert picture.width > 3 * 16

    cfg = segmentor(tmp_path, names)
    sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
    expected = network(cfg).test_step(pseudo_collate([sample]))[0].pred_sem_seg.data
    assert expected.unique().tolist() == [0, 1]
    if top_level:
        cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    torch.manual_seed(1)
    found = tool.predict(cfg, str(tmp_path / '0.pth'), [sample], 'cpu')[0].pred_sem_seg.data
    assert torch.equal(found, expected)


def test_a_checkpoint_of_another_head(compare):
    """mmengine would keep the random head, with a warning."""
    names = ('background', 'road')
    weight = {'decode_head.conv_seg.weight': torch.zeros(3, 8, 1, 1)}
    with pytest.raises(InputError, match=r'0\.pth" is of another architecture, the shapes differ'):
        compare(names, names, **weight)
    with pytest.raises(InputError, match=r'Only in the file: decode_head\.more'):
        compare(names, names, **{'decode_head.more': torch.zeros(1)})


def test_checkpoints_of_other_classes(compare, tmp_path):
    names = ('background', 'road')
    message = re.escape(
        f'"{tmp_path}/1.pth" was trained on the classes road, background, "{tmp_path}/0.pth" on '
        'background, road: compare checkpoints of the same classes in one order.'
    )
    with pytest.raises(InputError, match=message):
        compare(names, names, names[::-1])
    with pytest.raises(
        InputError,
        match=r'background, road, but .*checkpoint\) has the classes background, road, car',
    ):
        compare(names, (*names, 'car'))
