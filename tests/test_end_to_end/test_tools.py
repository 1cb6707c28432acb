# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The command-line tools, as a user runs them."""

import json
import os
import re
from importlib.util import find_spec

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import models as torchvision_models

from .conftest import ROOT, Workshop

pytestmark = pytest.mark.slow


def test_train_then_test_without_teachers(workshop: Workshop):
    config = workshop.config()
    work_dir = workshop.folder / 'run'
    command = ['tools/train.py', config, '--work-dir', str(work_dir)]
    done = workshop.tool(*command, '--cfg-options', 'train_cfg.max_epochs=2', fresh=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for words in (
        "Teachers' accuracy on 16 validation images:",
        'teacher "teacher0": loaded 62/62 tensors of ',
        'loss_ce: ',
        'loss_logit: ',
        'loss_feature: ',
        'reward: ',
        'policy_entropy: ',
        'teacher_weight/logit/teacher0: 0.5000',
        'teacher_weight/feature/teacher1: ',
        'Agent update 2 from 32 of 32 images',
    ):
        assert words in done.stdout, words
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    last = [r for r in records if 'loss_ce' in r][-1]
    assert last['teacher_weight/logit/teacher0'] + last[
        'teacher_weight/logit/teacher1'
    ] == pytest.approx(1)
    assert last['loss'] == pytest.approx(
        last['loss_ce'] + last['loss_logit'] + last['loss_feature'], rel=1e-4
    )

    checkpoint = work_dir / 'epoch_2.pth'
    weights = torch.load(checkpoint)['state_dict']
    assert {k.split('.')[0] for k in weights} == {'student', 'connectors', 'weighting'}
    accuracy = [r['accuracy/top1'] for r in records if 'accuracy/top1' in r][-1]

    for teacher in workshop.teachers:
        os.remove(teacher['checkpoint'])
        os.remove(teacher['cfg_path'])
    out = workshop.folder / 'metrics.json'
    flags = ['--work-dir', str(work_dir), '--out', str(out), '--out-item', 'metrics']
    tested = workshop.tool('tools/test.py', config, str(checkpoint), *flags, fresh=True)
    assert tested.returncode == 0, tested.stderr[-2000:]
    assert json.loads(out.read_text())['accuracy/top1'] == pytest.approx(accuracy)
    assert 'unexpected key' not in tested.stdout + tested.stderr

    # The student's part is a plain mmpretrain checkpoint under a prefix.
    cfg = Config.fromfile(workshop.student)
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='student.')
    student = get_model(cfg)
    student.init_weights()
    for key, value in student.state_dict().items():
        assert torch.equal(value, weights[f'student.{key}']), key


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['model.teachers.0.checkpoint=nowhere.pth'], ['teacher0', 'nowhere.pth', 'not exist']),
        (['model.num_classes=7'], ['4 classes', '7']),
        (['train_dataloader.dataset.data_root=nowhere'], ['data folder', 'nowhere']),
        (['model.weighting.type=MTKDLR'], ['MTKDLR', 'Did you mean "MTKDRL"']),
        (['model.weighting.agent.type=PerTeacher'], ['PerTeacher', '"PerTeacherAgent"']),
        (['model.logit_loss_weight=-1'], ['logit_loss_weight', '-1']),
        (['default_hooks.agent.buffer_budget=0'], ['buffer_budget', '0']),
        (['default_hooks.agent.reward.type=Closeness'], ['"ClosenessReward"']),
        (['model.student.cfg_path=nowhere.py'], ['student', 'nowhere.py']),
    ],
)
def test_bad_input_is_one_clear_error(workshop: Workshop, options, words):
    config = workshop.config()
    work_dir = str(workshop.folder / 'bad')
    done = workshop.train(config, '--work-dir', work_dir, '--cfg-options', *options)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    message = done.stderr[done.stderr.index('\nError') :].strip()
    assert '\n' not in message, message
    for word in words:
        assert word in message, message
    assert 'Epoch(train)' not in done.stdout


def test_other_classes_in_the_data(workshop: Workshop):
    os.rename(workshop.data / 'train' / 'class_3', workshop.folder / 'gone')
    done = workshop.train(workshop.config(), '--work-dir', str(workshop.folder / 'bad'))
    assert done.returncode == 1
    assert (
        'data/val" holds the folders class_3, which are none of the 3 classes of the training data'
    ) in done.stderr
    os.rename(workshop.data / 'val' / 'class_3', workshop.folder / 'gone_too')
    done = workshop.train(workshop.config(), '--work-dir', str(workshop.folder / 'bad'))
    assert done.returncode == 1
    assert '`model.num_classes` is 4, but the training set has 3 classes: class_0, ' in done.stderr


def test_nan_stops_and_the_last_checkpoint_stays(workshop: Workshop):
    config = workshop.config()
    work_dir = workshop.folder / 'nan'
    # The learning rate of the second epoch is beyond all bounds.
    options = ['param_scheduler.gamma=1e30', 'param_scheduler.milestones=[1]']
    done = workshop.train(config, '--work-dir', str(work_dir), '--cfg-options', *options)
    assert done.returncode == 1
    message = done.stderr[done.stderr.index('\nError') :]
    assert 'epoch 2' in message
    assert "the student's cross entropy is not finite" in message
    assert f'The last good state is in {work_dir}/epoch_1.pth' in message
    weights = torch.load(work_dir / 'epoch_1.pth')['state_dict']
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert not (work_dir / 'epoch_2.pth').exists()


def test_the_imagenet_config_on_photographs(workshop: Workshop):
    """configs/mtkdrl/r18_imagenet.py with its real teachers' architectures."""
    folder = workshop.folder / 'photos'
    for split, count in (('train', 4), ('val', 1)):
        for name in ('china.jpg', 'flower.jpg'):
            photo = Image.fromarray(load_sample_image(name))
            (folder / split / name[:-4]).mkdir(parents=True)
            for i in range(count):
                crop = photo.crop((40 * i, 30 * i, 40 * i + 150, 30 * i + 150))
                crop.save(folder / split / name[:-4] / f'{i}.jpg')
    options = ['model.num_classes=2', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']
    options += ['default_hooks.logger.interval=1', 'optim_wrapper.optimizer.lr=0.001']
    # Four large teachers, and every mode that they could run in, take long on large crops.
    options += ['train_dataloader.dataset.pipeline.1.scale=64']
    for part in ('train', 'val', 'test'):
        options += [f'{part}_dataloader.dataset.data_root={folder}']
        options += [f'{part}_dataloader.num_workers=0']
    torch.manual_seed(0)
    names = ('resnet50', 'resnet101', 'wide_resnet50_2', 'resnext50_32x4d')
    for index, name in enumerate(names):
        path = str(workshop.folder / f'{name}.pth')
        torch.save(getattr(torchvision_models, name)(num_classes=2).state_dict(), path)
        options += [f'model.teachers.{index}.checkpoint={path}']
    config = str(ROOT / 'configs' / 'mtkdrl' / 'r18_imagenet.py')
    flags = ['--work-dir', str(workshop.folder / 'run'), '--cfg-options', *options]
    done = workshop.train(config, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'the 2 folders are the classes' in done.stdout
    assert 'teacher_weight/logit/wide_resnet50: 0.2500' in done.stdout
    for name in names:
        os.remove(workshop.folder / f'{name}.pth')
    checkpoint = str(workshop.folder / 'run' / 'epoch_1.pth')
    out = workshop.folder / 'pred.pkl'
    tested = workshop.tool('tools/test.py', config, checkpoint, *flags, '--out', str(out))
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert 'accuracy/top1' in tested.stdout
    before = out.read_bytes()
    # A full disk costs a sentence, and not the results that are there.
    partial = workshop.folder / 'pred.tmp.pkl'
    for item in ('pred', 'metrics'):
        partial.symlink_to('/dev/full')
        more = ['--out', str(out), '--out-item', item]
        tested = workshop.tool('tools/test.py', config, checkpoint, *flags, *more)
        assert tested.returncode == 1 and 'Traceback' not in tested.stderr, tested.stderr[-3000:]
        assert f'"{out}" cannot be written: No space left on device' in tested.stderr
        assert out.read_bytes() == before and not partial.is_symlink()


def test_the_demo(workshop: Workshop):
    folder = workshop.folder / 'demo'
    command = ['tools/demo.py', '--epochs', '2', '--task-epochs', '1', '--task-images', '80']
    command += ['--seeds', '0', '--work-dir', str(folder)]
    # Its trainings are forks, for which multiprocessing needs the folder that it was started in.
    done = workshop.tool(*command, fresh=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    for label in (
        'AVER',
        'MTKD-RL, as published',
        'one set of learned weights',
        'mtkdrl_stacking (ours)',
    ):
        assert re.search(rf'^{label}|\({label}\)|^{re.escape(label)}', done.stdout, re.M), label
    assert '0.25  0.25  0.25  0.25' in done.stdout
    assert 'with one seed, which proves nothing.' in done.stdout
    assert f'The picture of it all: {folder}/demo.png' in done.stdout
    width, height = Image.open(folder / 'demo.png').size
    assert width > height > 500
    # The agent learned from the held-out images, and all read from the same store.
    log = (folder / 'mtkdrl_stacking' / 'seed_0' / 'output.txt').read_text()
    assert 'from 50 of 50 images' in log
    assert len(list((folder / 'store').iterdir())) == 1
    if not all(find_spec(package) for package in ('mmdet', 'pycocotools')):
        assert 'No detectors: not installed: mmdet' in done.stdout
        return
    for backbone in ('random', 'student without teachers', 'student by mtkdrl_stacking'):
        (mean_ap,) = re.findall(rf'^{backbone} +([-\d.]+)', done.stdout, re.M)
        assert -100 <= float(mean_ap) <= 100
    log = (folder / 'detector' / 'mtkdrl_stacking' / 'seed_0' / 'output.txt').read_text()
    assert f'loaded 120/120 tensors of {folder}/mtkdrl_stacking/seed_0/epoch_2.pth' in log


def test_the_benchmark(workshop: Workshop):
    methods = ['configs/aver/r18_imagenet.py', 'mtkdrl_ddpg', 'mmkd']
    flags = ['--input-size', '32', '--batch-size', '2', '--num-classes', '10', '--steps', '2']
    flags += ['--warmup', '1', '--no-memory', '--update-steps', '2']
    tool = 'tools/analysis_tools/benchmark_distill.py'
    done = workshop.tool(tool, *methods, *flags, fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines() if '_imagenet' in line]
    names = ['aver', 'mtkdrl_ddpg', 'mmkd']
    assert [row[0] for row in rows] == [f'{name}/r18_imagenet' for name in names]
    update, to_first, limits = ([float(row[column]) for row in rows] for column in (2, 5, 6))
    assert to_first[0] == 1 and min(to_first) > 0 and limits == [1, 1.05, 2.5]
    (plain,) = [line.split() for line in done.stdout.splitlines() if 'plain training' in line]
    to_plain = [float(row[3]) for row in rows]
    assert float(plain[4]) == 1 and min(to_plain) > 1
    # Only methods with an agent have updates.
    assert update[0] == update[2] == 0 and update[1] > 0
    for row, ratio, limit in zip(rows, to_first, limits):
        assert (row[7:] == ['above', 'the', 'limit']) == (ratio > limit)

    done = workshop.tool(tool, 'aver', 'mtkdlr')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert '"mtkdlr" is neither a config file nor one of aver, ebkd' in done.stderr
