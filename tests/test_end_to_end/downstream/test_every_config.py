# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Every detection and segmentation config trains and evaluates on data of its format."""

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkdrl_mm.utils.checkpoint import allow_mmengine_checkpoints
from mtkdrl_mm.utils.data_settings import follow_data
from mtkdrl_mm.utils.launch import check_data

from .conftest import SIZE, write_ade20k, write_cityscapes, write_coco, write_coco_stuff

CONFIGS = Path(__file__).parents[3] / 'configs'
DETECTION = sorted((CONFIGS / 'detection').glob('*_coco.py'))
SEGMENTATION = sorted((CONFIGS / 'segmentation').glob('*.py'))
EVERY = [*DETECTION, *SEGMENTATION]

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from mmdet.datasets import CocoDataset

    folder = tmp_path_factory.mktemp('data')
    return dict(
        coco=write_coco(folder / 'coco', CocoDataset.METAINFO['classes']),
        cityscapes=write_cityscapes(folder / 'cityscapes'),
        ade20k=write_ade20k(folder / 'ade20k'),
        stuff=write_coco_stuff(folder / 'coco_stuff164k'),
    )


def shrink(node: Any) -> None:
    """Make all images of a config's pipelines as small as the tiny data's."""
    if isinstance(node, dict):
        for key in ('scale', 'crop_size', 'size'):
            if isinstance(node.get(key), (list, tuple)):
                node[key] = (SIZE, SIZE)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            shrink(value)


def propose_little(node: Any) -> None:
    """Let detectors look at a few regions instead of hundreds, and keep unsure ones."""
    if isinstance(node, dict):
        node.update({key: 16 for key in ('num', 'nms_pre', 'max_per_img') if key in node})
        if 'score_thr' in node:
            node['score_thr'] = 0.0
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            propose_little(value)


def shortened(path: Path, root: Path, checkpoint: str, work_dir: Path) -> Config:
    """The config with its data, one iteration long."""
    cfg = Config.fromfile(path)
    before = Config.fromfile(path)
    options: dict[str, Any] = {
        'data_root': str(root),
        'model.backbone.init_cfg.checkpoint': checkpoint,
    }
    cfg.merge_from_dict(options)
    follow_data(cfg, before, options)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        shrink(loader.dataset)
    cfg.train_dataloader.batch_size = 2
    shrink(cfg.model.data_preprocessor)
    propose_little([cfg.model.train_cfg, cfg.model.test_cfg])
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=1, val_interval=1)
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.default_hooks.logger.interval = 1
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = uuid.uuid4().hex
    return cfg


class Watch(Hook):
    """Keeps the training's losses, and the backbone's weights before it."""

    def before_train(self, runner: Runner) -> None:
        self.before = {k: v.clone() for k, v in runner.model.backbone.state_dict().items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.loss = float(outputs['loss'])

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.metrics = metrics


@pytest.mark.parametrize('path', EVERY, ids=lambda path: path.stem)
def test_a_step_and_a_prediction(path, roots, backbones, tmp_path):
    allow_mmengine_checkpoints()
    root = roots[re.search('cityscapes|ade20k|stuff|coco$', path.stem)[0]]
    depth = int(re.search(r'_r(\d+)', path.stem)[1])
    runner = Runner.from_cfg(shortened(path, root, backbones[depth], tmp_path))
    watch = Watch()
    runner.register_hook(watch)
    runner.train()

    assert 0 < watch.loss < 100
    # Started from the checkpoint ...
    weights = torch.load(backbones[depth])['state_dict']
    assert len(watch.before) == {18: 122, 34: 218}[depth] - 2
    for key, value in watch.before.items():
        assert torch.equal(value, weights[f'backbone.{key}']), key
    # ... learnt, the stem and first stage of detectors being frozen ...
    after = runner.model.backbone.state_dict()
    assert not torch.equal(after['layer4.0.conv1.weight'], watch.before['layer4.0.conv1.weight'])
    frozen = torch.equal(after['conv1.weight'], watch.before['conv1.weight'])
    assert frozen == (path in DETECTION)
    # ... and was evaluated.
    metric = 'coco/bbox_mAP' if path in DETECTION else 'mIoU'
    assert 0 <= watch.metrics[metric] <= 100
    if 'mask' in path.stem:
        assert 0 <= watch.metrics['coco/segm_mAP'] <= 1


@pytest.mark.parametrize('path', EVERY, ids=lambda path: path.stem)
def test_a_variable_chooses_the_backbone(path, monkeypatch):
    depth = re.search(r'_r(\d+)', path.stem)[1]
    monkeypatch.delenv('BACKBONE', raising=False)
    default = Config.fromfile(path)
    monkeypatch.setenv('BACKBONE', f'baseline/r{depth}_imagenet')
    baseline = Config.fromfile(path)
    for cfg, method in ((default, 'mtkdrl'), (baseline, 'baseline')):
        training = f'{method}/r{depth}_imagenet'
        # The work dir is another one, too.
        assert cfg.variant == training
        checkpoint = cfg.model.backbone.init_cfg.checkpoint
        assert checkpoint == f'work_dirs/{training}/epoch_100.pth'
        assert (CONFIGS / f'{training}.py').is_file()
    default, baseline = default.to_dict(), baseline.to_dict()
    for cfg in (default, baseline):
        del cfg['model']['backbone']['init_cfg']['checkpoint']
        for variable in ('variant', '_backbone', 'detector', 'segmentor'):
            del cfg[variable]
    assert baseline == default


def test_the_configs_are_there():
    assert len(DETECTION) == 8
    assert len(SEGMENTATION) == 12
