# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Conversion of the student's batch to the preprocessing of a teacher."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor

from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.utils import InputError

CONFIGS = {
    'raw': dict(),
    'imagenet': dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    'bgr': dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], to_rgb=False),
    'inception': dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True),
    'one number': dict(mean=[100.0], std=[20.0], to_rgb=False),
    'rgb only': dict(to_rgb=True),
}


def prepared(name, raw):
    return ClsDataPreprocessor(**CONFIGS[name])(dict(inputs=raw))['inputs']


@pytest.mark.parametrize('student', CONFIGS)
@pytest.mark.parametrize('teacher', CONFIGS)
def test_conversion_equals_the_teachers_own_preprocessing(student, teacher):
    raw = torch.randint(256, (2, 3, 8, 8)).float()
    source = Preprocessing.from_config(CONFIGS[student], 'the student')
    target = Preprocessing.from_config(CONFIGS[teacher], 'the teacher')
    converted = target.convert(prepared(student, raw), source)
    torch.testing.assert_close(converted, prepared(teacher, raw), rtol=1e-5, atol=2e-4)


def test_blended_images_are_converted_as_well():
    first, second = torch.randint(256, (2, 1, 3, 8, 8)).float()
    source = Preprocessing.from_config(CONFIGS['imagenet'], 's')
    target = Preprocessing.from_config(CONFIGS['bgr'], 't')
    blend = 0.3 * prepared('imagenet', first) + 0.7 * prepared('imagenet', second)
    expected = 0.3 * prepared('bgr', first) + 0.7 * prepared('bgr', second)
    torch.testing.assert_close(target.convert(blend, source), expected, rtol=0, atol=1e-4)


def test_nothing_is_copied_where_nothing_differs():
    source = Preprocessing.from_config(CONFIGS['imagenet'], 's', input_size=8)
    target = Preprocessing.from_config(CONFIGS['imagenet'], 't', input_size=(8, 8))
    inputs = torch.randn(2, 3, 8, 8)
    assert target.convert(inputs, source) is inputs


def test_the_students_batch_is_not_changed():
    inputs = torch.randn(2, 3, 8, 8)
    before = inputs.clone()
    target = Preprocessing.from_config(CONFIGS['inception'], 't', input_size=4)
    target.convert(inputs, Preprocessing.from_config(CONFIGS['bgr'], 's'))
    assert torch.equal(inputs, before)


@pytest.mark.parametrize(
    ('given', 'size'), [(4, (4, 4)), ((6, 10), (6, 10)), ([6, 10], (6, 10)), (None, (8, 8))]
)
def test_input_size(given, size):
    inputs = torch.randn(2, 3, 8, 8)
    target = Preprocessing.from_config({}, 't', input_size=given)
    converted = target.convert(inputs, Preprocessing())
    assert converted.shape == (2, 3, *size)
    if size != (8, 8):
        expected = F.interpolate(
            inputs, size=size, mode='bicubic', align_corners=False, antialias=True
        )
        torch.testing.assert_close(converted, expected)
    hash(target)  # the pool converts a batch once for all teachers that agree


def test_resizing_keeps_a_constant_image():
    raw = torch.tensor([30.0, 60.0, 90.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    target = Preprocessing.from_config(CONFIGS['imagenet'], 't', input_size=12)
    converted = target.convert(raw, Preprocessing())
    expected = prepared('imagenet', raw)[..., :1, :1].expand(1, 3, 12, 12)
    torch.testing.assert_close(converted, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_precision_of_the_batch_is_kept(dtype):
    target = Preprocessing.from_config(CONFIGS['inception'], 't')
    source = Preprocessing.from_config(CONFIGS['bgr'], 's')
    assert target.convert(torch.zeros(1, 3, 2, 2, dtype=dtype), source).dtype == dtype


@pytest.mark.parametrize(
    ('cfg', 'size', 'message'),
    [
        (dict(mean=[1, 2, 3]), None, r'data_preprocessor of teacher "x" has mean=\[1, 2, 3\] and'),
        (dict(mean=[1, 2, 3], std=[1, 1]), None, 'as many positive ones in `std`'),
        (dict(mean=[1, 2, 3], std=[1, 0, 1]), None, 'as many positive ones in `std`'),
        (dict(mean=[1, 2], std=[1, 1]), None, 'one or three numbers in `mean`'),
        (dict(mean=1, std=1), None, 'has mean=1 and std=1: give one or three numbers'),
        (dict(mean=[1], std=1.0), None, r'has mean=\[1\] and std=1\.0: give one or three numbers'),
        (dict(mean='abc', std='abc'), None, "has mean='abc' and std='abc': give one or three"),
        (dict(mean='123', std='123'), None, "has mean='123' and std='123': give one or three"),
        (dict(mean=[None], std=[None]), None, r'has mean=\[None\] and std=\[None\]: give one or'),
        (dict(mean=[1], std=[float('nan')]), None, r'std=\[nan\]: give one or three numbers'),
        (1, None, '`data_preprocessor` of teacher "x" must be a dict with `mean`, .*, but is 1'),
        ([1], None, r'`data_preprocessor` of teacher "x" must be a dict.*, but is \[1\]\.'),
        (dict(), True, '`input_size` of teacher "x" must be a positive integer.*but is True'),
        (dict(), 0, '`input_size` of teacher "x" must be a positive integer.*but is 0'),
        (dict(), '224', '`input_size` of teacher "x".*is \'224\''),
        (dict(), (1, 2, 3), r'\(height, width\), but is \(1, 2, 3\)'),
    ],
)
def test_bad_preprocessing(cfg, size, message):
    with pytest.raises(InputError, match=message):
        Preprocessing.from_config(cfg, 'teacher "x"', size)


@pytest.mark.parametrize('to_rgb', [True, False])
def test_luminance_of_colour_images(to_rgb):
    """What OpenCV makes of the same pixels."""
    import cv2

    pixels = np.random.RandomState(0).randint(0, 256, (8, 9, 3), dtype=np.uint8)  # BGR
    expected = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)).float()
    raw = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    cfg = dict(mean=[5.0, 6.0, 7.0], std=[2.0, 3.0, 4.0], to_rgb=to_rgb)
    source = Preprocessing.from_config(cfg, 's')
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    inputs = ((raw.flip(1) if to_rgb else raw) - mean) / std
    target = Preprocessing.from_config(dict(mean=[100.0], std=[50.0]), 't', 4, channels=1)
    assert target.convert(inputs, source).shape == (1, 1, 4, 4)
    target = Preprocessing.from_config(dict(mean=[100.0], std=[50.0]), 't', channels=1)
    converted = target.convert(inputs, source)
    torch.testing.assert_close(converted[0, 0] * 50 + 100, expected, atol=0.51, rtol=0)


def test_other_channels_cannot_be_converted():
    four = Preprocessing.from_config({}, 's', channels=4)
    with pytest.raises(InputError, match='images with 4 channels and a teacher with 3: only grey'):
        Preprocessing().convert(torch.zeros(1, 4, 2, 2), four)
    assert four.convert(torch.zeros(1, 4, 2, 2), four).shape == (1, 4, 2, 2)
