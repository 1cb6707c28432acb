# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The benchmark of trainings: one command measures all that has a limit."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

from mtkdrl_mm.benchmark import PeakMemory, Variant, write_images
from mtkdrl_mm.utils import InputError

ROOT = Path(__file__).parents[2]
NETWORK = """model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, base_channels={c}, stem_channels={c}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels={o}, topk=(1,)))"""
CONFIG = """
_base_ = {base!r}
data_preprocessor = dict(mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)
train_dataloader = dict(num_workers=1, dataset=dict(type='ImageNet', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=224),
    dict(type='PackInputs')]))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path={student!r}),
    teachers=[
        dict(cfg_path={teacher!r}, name='a', checkpoint='of_no_use.pth'),
        dict(cfg_path={teacher!r}, name='b')],
    weighting=dict(type='MTKDRL'),
)
default_hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook'))
"""


@pytest.fixture
def tool():
    path = ROOT / 'tools' / 'analysis_tools' / 'benchmark_training.py'
    spec = importlib.util.spec_from_file_location('benchmark_training', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path):
    paths = {name: tmp_path / f'{name}.py' for name in ('student', 'teacher', 'config')}
    paths['student'].write_text(NETWORK.format(c=4, o=32))
    paths['teacher'].write_text(NETWORK.format(c=8, o=64))
    networks = {name: str(paths[name]) for name in ('student', 'teacher')}
    base = str(ROOT / 'configs' / '_base_' / 'distillation.py')
    paths['config'].write_text(CONFIG.format(base=base, **networks))
    return str(paths['config'])


def run(tool, monkeypatch, *flags):
    monkeypatch.setattr(sys, 'argv', ['benchmark_training.py', *flags])
    tool.main()


@pytest.mark.slow
def test_all_is_measured_by_one_command(tool, config, tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / 'folder', tmp_path / 'out'
    folder.mkdir()
    flags = '--num-images 12 --input-size 32 --batch-size 4 --num-classes 4 --rounds 3 --warmup 1'
    flags += ' --update-rounds 2 --loading-rounds 2 --loading-steps 2 --map-channels 5'
    flags += f' --folder {folder} --out {out} --reading-samples 64'
    measured = []

    def measure_memory(names, arguments, runs):
        """In this process, for one variant; the argument is the folder with images and stores."""
        assert runs == 3
        assert sorted(os.listdir(arguments[1])) == [
            'embeddings',
            'full_embeddings',
            'images',
            'maps',
        ]
        with monkeypatch.context() as context:
            run(tool, context, *sys.argv[1:], '--memory-of', 'embeddings', *arguments)
        found = PeakMemory(**json.loads(capsys.readouterr().out.strip().split('\n')[-1]))
        measured.append(found)
        return {name: found if name == 'embeddings' else PeakMemory(1000.0) for name in names}

    monkeypatch.setattr(tool, 'measure_memory', measure_memory)
    run(tool, monkeypatch, config, *flags.split())
    text = capsys.readouterr().out
    numbers = json.loads((tmp_path / 'out.json').read_text())
    assert (tmp_path / 'out.md').read_text().strip() in text
    assert list(folder.iterdir()) == []

    variants = numbers['variants']
    stores = ('embeddings', 'full_embeddings', 'maps')
    assert list(variants) == ['plain', *stores, 'live', 'aver', 'bound']
    for name, one in variants.items():
        assert len(one['step_seconds']) == 3 and min(one['step_seconds']) > 0
        # An interval of two rounds; the last, shorter one does not count.
        assert len(one['update_seconds']) == (name in (*stores, 'live'))
        # The lower bound reads no data.
        assert len(one['loading_seconds']) == (0 if name == 'bound' else 2)
    rows = [line for line in text.splitlines() if line.startswith('| ')]
    assert sum('limit' in row or 'aim' in row for row in rows) == 8
    assert any('MTKDRL from a store: logits, embeddings' in row for row in rows)

    # Four logits, 64 numbers of the embedding and a projected map of 5 channels, of two teachers.
    figures = numbers['figures']
    assert figures['bytes_per_image'] == 2 * 2 * (4 + 64)
    assert figures['bytes_per_image_with_maps'] == 2 * 2 * (4 + 64 + 5)
    measures = {one['name']: one for one in numbers['measures']}
    ratio = measures['store / plain step']
    update = median(variants['embeddings']['update_seconds'])
    expected = [
        (seconds + update) / plain
        for seconds, plain in zip(
            variants['embeddings']['step_seconds'], variants['plain']['step_seconds']
        )
    ]
    assert ratio['value'] == figures['step_ratio'] == pytest.approx(median(expected))
    assert (ratio['limit'], ratio['aim']) == (1.15, 1.05) and ratio['loading'] > 0
    # 4 steps of 4 images: 2 x (64 + 4 + 3) halves and two rewards each.
    assert measured[0].buffer_mib == 16 * (2 * 2 * 71 + 8) / 2**20
    memory = measures["memory besides the agent's buffer: store / plain"]['value']
    assert memory == measured[0].besides_buffer / 1000
    speed = measures['reading, images per second and process, warm page cache']
    assert speed['value'] == median(numbers['reading']['warm']['store']) > 0
    assert numbers['reading']['bytes_per_sample'] == 2 * 2 * (4 + 64)


def test_images_of_a_folder_and_their_classes(tool, config, tmp_path, monkeypatch):
    images = tmp_path / 'images'
    images.mkdir()
    write_images(str(images), 6, num_classes=3, side=32)
    flags = ['--images', str(images), '--workers', '0', '--num-images', '5', '--batch-size', '4']
    monkeypatch.setattr(sys, 'argv', ['tool', config, *flags])
    args = tool.parse_args()
    cfg, settings = tool.read_config(args, args.images)
    assert settings.num_classes == 3 and cfg.train_dataloader.num_workers == 0
    assert {teacher.checkpoint for teacher in cfg.model.teachers} == {
        'random weights of a benchmark'
    }
    variant, teachers = tool.build_variant('aver', cfg, settings, str(tmp_path))
    assert [t.network.head.num_classes for t in teachers] == [3, 3]
    assert teachers.inference.fold_bn == 'auto'
    assert len(variant.feed.loader.dataset) == 5
    variant.run()


def test_ratios_are_those_of_the_same_rounds(tool):
    def variant(steps, loading, update=0.0):
        return Variant(
            lambda batch: None,
            [],
            step_seconds=steps,
            loading_seconds=loading,
            update_seconds=[update],
        )

    names = ('plain', 'embeddings', 'full_embeddings', 'maps', 'live', 'aver', 'bound')
    variants = {name: variant([1.0, 2.0, 10.0], [2.0, 4.0]) for name in names}
    variants['embeddings'] = variant([1.0, 2.1, 11.0], [2.0, 4.0], update=0.1)
    variants['bound'] = variant([2.0, 4.0, 5.0], [])
    measures = tool.list_measures(variants, {}, {})
    found = {one.name: one for one in measures}
    assert found['store / plain step'].value == pytest.approx(1.1)
    assert found['store / plain step'].loading == pytest.approx((2.1 / 2 + 4.1 / 4) / 2)
    assert found['running teachers / eager lower bound'].value == 0.5
    assert found['running teachers / eager lower bound'].loading is None
    not_measured = [one.name for one in measures if one.verdict == 'not measured']
    assert [name.split(',')[0].split(':')[0] for name in not_measured] == [
        "memory besides the agent's buffer",
        "memory besides the agent's buffer",
        'reading',
    ]


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['nowhere.py'], 'config file "nowhere.py" does not exist'),
        (['--batch-size', '1'], '`--batch-size` must be'),
        (['--num-images', '5', '--num-classes', '6'], '5 images are too few for 6 classes'),
        (['--images', 'nowhere'], 'image folder "nowhere" does not exist'),
    ],
)
def test_bad_input(tool, tmp_path, monkeypatch, flags, words):
    with pytest.raises(InputError, match=words):
        run(tool, monkeypatch, '--folder', str(tmp_path), *flags)
    assert torch.get_num_threads() == 1 and os.listdir(tmp_path) == []
