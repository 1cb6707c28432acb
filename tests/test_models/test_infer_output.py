# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Networks of one size, and of other channels than three."""

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.classifier_output import run_classifier
from mtkdrl_mm.models.infer_output import infer_output, input_channels
from mtkdrl_mm.utils import InputError


def lenet(num_classes=5):
    return dict(
        type='ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=num_classes),
        head=dict(type='ClsHead'),
        data_preprocessor=dict(mean=[10.0], std=[20.0]),
    )


def mixer(size):
    arch = dict(embed_dims=16, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8)
    return dict(
        type='ImageClassifier',
        backbone=dict(type='MlpMixer', arch=arch, img_size=size, patch_size=16),
        neck=dict(type='GlobalAveragePooling', dim=1),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=16),
    )


def grey(cfg):
    cfg['backbone']['in_channels'] = 1
    return dict(cfg, data_preprocessor=dict(mean=[10.0], std=[20.0]))


def test_a_network_of_one_size_is_tried_at_its_own(make_classifier):
    network = make_classifier(mixer(48), seed=1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    output = infer_output(network, 'student')
    assert output.logits.shape == (2, 5) and output.embedding.shape == (2, 16)
    assert not output.logits.requires_grad and network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(InputError) as error:
        infer_output(network, 'student', (32, 32))
    message = str(error.value)
    assert message.startswith(
        'The student (MlpMixer) does not run on images of 32x32 pixels with 3 channels: '
    )
    assert message.endswith(
        'Resize the images in the data pipeline to a size that it was designed for.'
    )


def test_modes_of_parts_are_restored(make_classifier, make_resnet):
    network = make_classifier(make_resnet(4)).train()
    network.backbone.bn1.eval()
    infer_output(network, 'student')
    assert network.backbone.layer1.training and not network.backbone.bn1.training


def test_size_of_the_students_images(make_distiller, make_batch):
    distiller = make_distiller(
        student=dict(mixer(96), input_size=96), feature_loss_weight=0
    ).train()
    assert distiller.input_size == (96, 96)
    distiller(*make_batch(4, size=96), mode='loss')
    with pytest.raises(
        InputError, match=r'`input_size` of the student is \(96, 96\), but .*64, 64'
    ):
        distiller(*make_batch(4, size=64), mode='loss')
    with pytest.raises(InputError, match=r'student \(MlpMixer\) does not run on images of 64x64'):
        make_distiller(student=dict(mixer(96), input_size=64))
    with pytest.raises(InputError, match='`input_size` of the student must be a positive'):
        make_distiller(student=dict(mixer(96), input_size='large'))


def test_images_of_another_size_than_a_network_takes(make_distiller, make_batch, make_resnet):
    distiller = make_distiller(student=mixer(96)).train()
    with pytest.raises(InputError, match=r'student \(MlpMixer\) does not run on images of 64x64'):
        distiller(*make_batch(4, size=64), mode='loss')
    distiller = make_distiller([dict(mixer(96), name='mixer')]).train()
    with pytest.raises(InputError) as error:
        distiller(*make_batch(4, size=64), mode='loss')
    assert 'teacher "mixer" (MlpMixer) does not run on images of 64x64 pixels' in str(error.value)
    assert 'Set its `input_size` to the one that it was designed for.' in str(error.value)
    distiller = make_distiller([dict(mixer(96), name='mixer', input_size=96)]).train()
    distiller(*make_batch(4, size=64), mode='loss')


def test_an_error_at_a_size_that_has_run_is_no_matter_of_size(
    make_classifier, make_resnet, monkeypatch
):
    network = make_classifier(make_resnet(4))
    inputs = torch.randn(2, 3, 32, 32)
    run_classifier(network, inputs)

    def broken(*args):
        raise RuntimeError('lost')

    monkeypatch.setattr(network.backbone, 'forward', broken)
    with pytest.raises(RuntimeError, match=r'^lost$'):
        run_classifier(network, inputs)


def test_layers_of_a_classifier_in_the_backbone(make_classifier):
    network = make_classifier(
        dict(
            type='ImageClassifier',
            backbone=dict(type='AlexNet', num_classes=5),
            head=dict(type='ClsHead'),
        ),
        seed=1,
    )
    inputs = torch.randn(2, 3, 224, 224)
    output = run_classifier(network, inputs)
    torch.testing.assert_close(output.logits, network(inputs))
    torch.testing.assert_close(output.feature_map, network.backbone.features(inputs))
    assert output.feature_map.shape == (2, 256, 6, 6) and output.embedding.shape == (2, 4096)
    torch.testing.assert_close(network.backbone.classifier[-1](output.embedding), output.logits)
    assert not any(module._forward_hooks for module in network.modules())


def test_vgg_as_student_and_teacher(make_distiller, make_batch):
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='AlexNet', num_classes=5),
        head=dict(type='ClsHead'),
    )
    distiller = make_distiller([dict(cfg, name='teacher')], student=cfg).eval()
    assert distiller.teachers.spec.embedding_sizes == (4096,)
    assert distiller.teachers.spec.map_channels == (256,)
    losses = distiller(*make_batch(2, size=224), mode='loss')
    assert losses['loss_feature'] > 0 and torch.isfinite(losses['loss_feature'])


def test_grey_student(make_batch, make_resnet):
    """A student of grey images, with teachers of grey and of colour images."""
    colour = dict(
        make_resnet(4),
        name='colour',
        data_preprocessor=dict(mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], to_rgb=True),
    )
    distiller = MultiTeacherDistiller(
        lenet(), [dict(grey(make_resnet(4)), name='grey'), colour]
    ).eval()
    assert input_channels(distiller.student) == 1
    assert [p.channels for p in [t.preprocessing for t in distiller.teachers]] == [1, 3]
    pixels = torch.randint(256, (4, 1, 32, 32)).float()
    _, samples = make_batch(4)
    batch = distiller.data_preprocessor(dict(inputs=pixels, data_samples=samples))
    torch.testing.assert_close(batch['inputs'], (pixels - 10) / 20)
    losses = distiller(**batch, mode='loss')
    labels = torch.cat([sample.gt_label for sample in samples])
    expected = F.cross_entropy(distiller.student(batch['inputs']), labels)
    torch.testing.assert_close(losses['loss_ce'], expected)
    outputs = distiller.teachers(batch['inputs'])
    first, second = [t.network for t in distiller.teachers]
    torch.testing.assert_close(outputs[0].logits, first((pixels - 10) / 20))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([100.0, 110, 120], [50.0, 60, 70]))
    torch.testing.assert_close(
        outputs[1].logits, second((pixels.expand(-1, 3, -1, -1) - mean) / std)
    )


def test_teacher_of_the_students_grey_statistics(make_resnet):
    # Colour images, whose one mean is that of all channels.
    distiller = MultiTeacherDistiller(lenet(), [dict(make_resnet(4), name='colour')])
    assert distiller.teachers[0].preprocessing.mean == (10.0,) * 3


def test_numbers_for_channels_that_there_are_not(make_resnet):
    bad = dict(grey(make_resnet(4)), data_preprocessor=dict(mean=[1.0] * 3, std=[1.0] * 3))
    with pytest.raises(InputError, match=r'of teacher "grey" has mean=\[1.0, 1.0, 1.0\].*give one'):
        MultiTeacherDistiller(make_resnet(4), [dict(bad, name='grey')])
