# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A transformer learns from two transformers and a CNN, on real photographs."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from sklearn.datasets import load_sample_images

from mtkdrl_mm.models import MultiTeacherDistiller

pytest.importorskip('timm')
pytestmark = pytest.mark.slow

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
INCEPTION = dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0] * 3, to_rgb=False)
SIZE = 64


def transformer(model, size):
    options = {'model.backbone.img_size': size, 'model.head.num_classes': 2}
    return dict(cfg_path=f'mmpretrain::deit/{model}_4xb256_in1k.py', cfg_options=options)


TEACHERS = [  # name, entry, preprocessing and resolution
    (
        'cait',
        dict(
            type='ImageClassifier',
            backbone=dict(type='mtkdrl_mm.TimmFeatures', model_name='cait_xxs24_224', img_size=96),
            head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=192),
            data_preprocessor=INCEPTION,
        ),
        INCEPTION,
        96,
    ),
    ('deit', dict(transformer('deit-small', 80), input_size=80), IMAGENET, 80),
    (
        'resnet',
        dict(
            cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py',
            cfg_options={'model.head.num_classes': 7},
            class_map=[5, 2],
            data_preprocessor=CAFFE,
            input_size=(48, 72),
        ),
        CAFFE,
        (48, 72),
    ),
]


def photographs(count):
    """Crops of a temple (class 0) and of a flower (class 1), uint8 BGR."""
    generator = torch.Generator().manual_seed(0)
    whole = [torch.from_numpy(image.copy()).flip(-1) for image in load_sample_images().images]
    crops, labels = [], []
    for index in range(count):
        image = whole[index % 2].permute(2, 0, 1)
        top, left = (
            int(torch.randint(side - 160, (1,), generator=generator)) for side in image.shape[1:]
        )
        crop = image[:, top : top + 160, left : left + 160].float()[None]
        resized = F.interpolate(crop, size=SIZE, mode='bicubic', antialias=True)
        crops.append(resized[0].round().clamp(0, 255).byte())
        labels.append(index % 2)
    return torch.stack(crops), torch.tensor(labels)


@pytest.fixture(scope='module')
def distiller():
    torch.manual_seed(0)
    teachers = [dict(entry, name=name) for name, entry, _, _ in TEACHERS]
    distiller = MultiTeacherDistiller(
        student=transformer('deit-tiny', SIZE),
        teachers=teachers,
        weighting='MTKDRL',
        data_preprocessor=dict(IMAGENET, num_classes=2),
        feature_loss_weight=1.0,
    )
    distiller.weighting.attach_trainer()
    with torch.no_grad():
        for network in [t.network for t in distiller.teachers]:
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1 and 'pos_embed' not in name:
                    parameter.normal_(std=1.4 / parameter[0].numel() ** 0.5)
                if 'gamma' in name:  # CaiT starts with layers that do next to nothing
                    parameter.fill_(0.3)
        # Logits of the size that trained networks have.
        images, _ = photographs(6)
        outputs = distiller.teachers(ClsDataPreprocessor(**IMAGENET)(dict(inputs=images))['inputs'])
        for network, output in zip([t.network for t in distiller.teachers], outputs):
            last = network.head.fc if hasattr(network.head, 'fc') else network.head.layers.head
            last.weight.mul_(3 / output.logits.std(dim=0).mean())
    return distiller


def test_every_teacher_returns_what_it_returns_alone(distiller):
    images, _ = photographs(6)
    prepared = ClsDataPreprocessor(**IMAGENET)(dict(inputs=images))['inputs']
    outputs = distiller.teachers(prepared)
    raw = images.float()
    for m, (name, _, preprocessing, size) in enumerate(TEACHERS):
        size = (size, size) if isinstance(size, int) else size
        resized = F.interpolate(raw, size=size, mode='bicubic', antialias=True)
        alone = ClsDataPreprocessor(**preprocessing)(dict(inputs=resized))['inputs']
        with torch.no_grad():
            expected = distiller.teachers[m].network(alone)
        if name == 'resnet':
            expected = expected[:, [5, 2]]
        torch.testing.assert_close(outputs[m].logits, expected, rtol=0, atol=1e-4)
        # of the usual size, and different from image to image
        assert 0.1 < expected.std(dim=0).mean() < 10, name
    assert distiller.teachers.spec.embedding_sizes == (192, 384, 2048)


def test_student_learns_with_deits_mixup_and_cutmix(distiller):
    images, labels = photographs(8)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    parameters = [p for p in distiller.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.AdamW(parameters, lr=1e-3))
    assert distiller.data_preprocessor.batch_augments is not None
    distiller.train()

    def losses():
        batch = distiller.data_preprocessor(dict(inputs=images, data_samples=samples), False)
        with torch.no_grad():
            return distiller.loss(batch['inputs'], batch['data_samples'])

    before = losses()
    for _ in range(8):
        distiller.train_step(dict(inputs=images, data_samples=samples), wrapper)
    after = losses()
    # Three random teachers contradict each other, so that the logits' term has
    # little room.
    assert after['loss_ce'] < before['loss_ce']
    assert after['loss_feature'] < before['loss_feature']
    assert sum(after.values()) < sum(before.values())
