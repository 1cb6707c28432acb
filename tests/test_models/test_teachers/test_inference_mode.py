# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Settings and modes of the teachers' inference."""

import io

import pytest
import torch

from mtkdrl_mm.models import InferenceMode, InferenceSettings
from mtkdrl_mm.models.teachers import inference_mode
from mtkdrl_mm.utils import InputError

FOLDED = InferenceMode(folded=True, channels_last=True)


def test_settings_of_a_config():
    settings = InferenceSettings.from_config
    assert settings(None) == settings('auto') == settings({}) == InferenceSettings()
    assert settings('eager') == InferenceSettings(False, None, None, False, False)
    assert settings(dict(fold_bn=True, offload='prefetch')) == InferenceSettings(
        fold_bn=True, offload='prefetch'
    )


@pytest.mark.parametrize(
    ('cfg', 'sentence'),
    [
        ('fast', '`teacher_inference` must be "auto", "eager" or a dict, but is \'fast\'.'),
        (
            dict(fold_norm=True),
            '`teacher_inference` takes no "fold_norm". Did you mean "fold_bn"? Known: '
            '"channels_last", "compile", "dtype", "fold_bn", "offload".',
        ),
        (
            dict(dtype='half'),
            "`teacher_inference.dtype` must be one of 'auto', 'float32', 'bfloat16', 'float16', "
            "None, but is 'half'.",
        ),
        (
            dict(fold_bn=1),
            "`teacher_inference.fold_bn` must be one of 'auto', True, False, but is 1.",
        ),
        (
            dict(compile='auto'),
            "`teacher_inference.compile` must be one of True, False, but is 'auto'.",
        ),
    ],
)
def test_unusable_settings(cfg, sentence):
    with pytest.raises(InputError) as caught:
        InferenceSettings.from_config(cfg)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ('settings', 'mode', 'allowed'),
    [
        ({}, FOLDED, True),
        ({}, InferenceMode(compiled=True), False),
        (dict(fold_bn=False), FOLDED, False),
        (dict(fold_bn=True), InferenceMode(channels_last=True), True),  # nothing to fold
        (dict(channels_last=False), FOLDED, False),
        (dict(channels_last=True, dtype=None), FOLDED, True),
        (dict(dtype='bfloat16'), FOLDED, False),
        ('eager', InferenceMode(), True),
        ('eager', FOLDED, False),
    ],
)
def test_modes_that_settings_allow(settings, mode, allowed):
    assert InferenceSettings.from_config(settings).allow(mode) == allowed


def test_modes_in_words():
    assert str(InferenceMode()) == 'eager'
    assert str(FOLDED) == 'folded, channels_last'
    everything = InferenceMode(True, True, False, 'bfloat16', True)
    assert str(everything) == 'reparameterized, folded, contiguous, bfloat16, compiled'


@pytest.mark.parametrize(
    'change', [dict(folded=1), dict(dtype='int8'), dict(other=True), dict(channels_last='yes')]
)
def test_modes_of_checkpoints(change):
    state = FOLDED.to_dict()
    assert InferenceMode.from_dict(state) == FOLDED
    assert InferenceMode.from_dict({**state, **change}) is None
    assert InferenceMode.from_dict(None) is None
    assert InferenceMode.from_dict({'folded': True}) is None


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        ('avx2 avx512f avx512_bf16 fma', True),
        ('avx512f amx_tile amx_bf16', True),
        ('avx512f avx512bw avx512vl avx512dq', False),  # would be emulated
        ('', False),
    ],
)
def test_bfloat16_of_the_cpu(monkeypatch, flags, expected):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    text = f'processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n'
    monkeypatch.setattr(inference_mode, 'open', lambda path: io.StringIO(text), raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: True)
    assert inference_mode.cpu_has_bfloat16() == expected
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    assert not inference_mode.cpu_has_bfloat16()
