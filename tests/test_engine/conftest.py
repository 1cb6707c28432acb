# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A training on some photographs whose teachers have files, as their stored outputs need them."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from mtkdrl_mm.datasets import SeededIndex
from mtkdrl_mm.engine import output_writer, seeded_views, teacher_outputs, write_through
from mtkdrl_mm.engine.build_dataloader import build_dataloader, seeded_dataloader
from mtkdrl_mm.engine.output_writer import writing_session
from mtkdrl_mm.engine.teacher_outputs import connect_teacher_outputs
from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings

NUM_IMAGES = 22
LOSSLESS = dict(logits='float32', maps='full')
AUGMENT = (
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5),
)


@pytest.fixture
def photos(tmp_path):
    """A folder with images of five classes."""
    draw = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        folder = tmp_path / 'photos' / f'class_{number % 5}'
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{number:02d}.png')
    return tmp_path / 'photos'


@pytest.fixture
def make_teachers(tmp_path, make_resnet, make_vit, make_classifier):
    """Function that returns the configs of teachers with weights in files.

    "b" is a transformer, which has no map; all others are ResNets.
    """

    def make(names='ab'):
        teachers = []
        for name in names:
            network = make_vit(16) if name == 'b' else make_resnet(4)
            path = tmp_path / f'{name}.pth'
            if not path.exists():
                # Several processes of a test write it.
                part = tmp_path / f'{name}.{os.getpid()}.part'
                torch.save(make_classifier(network, seed=ord(name)).state_dict(), part)
                part.rename(path)
            teachers.append(dict(network, name=name, checkpoint=str(path)))
        return teachers

    return make


@pytest.fixture
def make_training(photos, make_teachers, make_resnet, monkeypatch):
    """Function that returns a distiller and the loader of its training data.

    Parts have 4 samples: there are 6, and the last one has 2.
    """
    monkeypatch.setattr(output_writer, '_MIN_PART_SIZE', 4)

    def make(
        outputs=None,
        names='ab',
        batch_size=4,
        workers=0,
        augment=AUGMENT,
        mixup=False,
        inference='eager',
        **loader,
    ):
        student = make_resnet(4)
        if mixup:
            student['train_cfg'] = dict(augments=dict(type='Mixup', alpha=1.0))
        torch.manual_seed(0)
        model = MultiTeacherDistiller(
            student=student,
            teachers=make_teachers(names),
            teacher_outputs=outputs,
            teacher_inference=inference,
            data_preprocessor=dict(mean=[127.0] * 3, std=[60.0] * 3, num_classes=5),
        )
        model.init_weights()
        pipeline = [dict(type='LoadImageFromFile'), *augment, dict(type='PackInputs')]
        dataset = dict(type='CustomDataset', data_root=str(photos), pipeline=pipeline)
        config = dict(
            dataset=dataset,
            batch_size=batch_size,
            num_workers=workers,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            **loader,
        )
        return model, build_dataloader(seeded_dataloader(config), seed=0)

    return make


@pytest.fixture
def run_epoch():
    """Function that runs the pool on the batches of an epoch.

    It returns the outputs of all teachers, and what the samples carried, by the
    path of the image.
    """

    def run(model, loader, epoch=0):
        loader.batch_sampler.set_position(7, epoch)
        outputs, carried = {}, {}
        for batch in loader:
            data = model.data_preprocessor(batch, True)
            samples = data['data_samples']
            found = model.teachers(model.format_inputs(data['inputs']), samples)
            for row, sample in enumerate(samples):
                carried[sample.img_path] = sample.get('teacher_outputs')
                outputs[sample.img_path] = [
                    tensor[row]
                    for output in found
                    for tensor in (output.logits, output.embedding, output.feature_map)
                    if tensor is not None
                ]
        return outputs, carried

    return run


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / 'store')


@pytest.fixture
def lines(monkeypatch):
    """What is logged, and at which level."""
    records = []

    def record(message, logger=None, level=logging.INFO):
        records.append((level, message))

    for module in (seeded_views, teacher_outputs, write_through):
        monkeypatch.setattr(module, 'print_log', record)
    return records


@pytest.fixture
def fill(make_training, store):
    """Function that fills a store of two views, as the tool does."""

    def run(root=store, views=2, only=None, seed=None, form=LOSSLESS, **kwargs):
        settings = TeacherOutputsSettings(root=root, views=views, seed=seed, **form)
        writing_session(*make_training(**kwargs), settings).write_missing(views=only)
        return root

    return run


@pytest.fixture
def connect(make_training):
    """Function that builds a training and connects it."""

    def build(outputs, **kwargs):
        model, loader = make_training(outputs, **kwargs)
        return model, loader, connect_teacher_outputs(model, loader)

    return build


@pytest.fixture
def runs(monkeypatch):
    """Numbers of images on which the teachers were run."""
    counts = []
    original = TeacherPool.forward

    def forward(self, inputs, *args, **kwargs):
        counts.append(len(inputs))
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(TeacherPool, 'forward', forward)
    return counts


def assert_equal(first, second):
    """The same outputs for the same images, bit by bit."""
    assert first.keys() == second.keys() and len(first) == 22
    for path, tensors in first.items():
        assert len(tensors) == len(second[path])
        assert all(torch.equal(a, b) for a, b in zip(tensors, second[path])), path


@pytest.fixture
def session(make_training, store):
    """Function that prepares the writing of a store of two views."""

    def make(root=store, teachers=None, views=2, logits='float32', maps='none', **kwargs):
        keys = ('embeddings', 'embedding_channels', 'map_channels', 'seed')
        given = {key: kwargs.pop(key) for key in keys if key in kwargs}
        settings = TeacherOutputsSettings(root=root, views=views, logits=logits, maps=maps, **given)
        model, loader = make_training(**kwargs)
        return writing_session(model, loader, settings, teachers)

    return make


def expected_rows(runner, sample, view):
    """Pixels, and what the teachers say of one image alone."""
    data = runner.dataset[SeededIndex(sample, runner.seed, view)]
    batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    inputs = runner.model.data_preprocessor(batch, True)['inputs']
    return data['inputs'], dict(zip(runner.pool.names, runner.pool(inputs)))
