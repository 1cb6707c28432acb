# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The pool chooses its teachers' modes, and its outputs stay what they were."""

import logging

import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from torch import nn
from torch.multiprocessing.spawn import start_processes

from mtkdrl_mm.models import InferenceMode, InferenceSettings, Preprocessing, build_pool
from mtkdrl_mm.models.teachers import choose_mode, fold_batch_norm
from mtkdrl_mm.models.teachers.host_copy import HostCopy
from mtkdrl_mm.models.teachers.teacher import Teacher
from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError

FOLD = dict(fold_bn=True, channels_last=True, dtype='float32')


@pytest.fixture(autouse=True)
def _no_teacher_is_quick(monkeypatch):
    monkeypatch.setattr(choose_mode, '_MIN_SECONDS', 0)


@pytest.fixture
def lines(monkeypatch):
    """What is logged, and at which level."""
    records = []

    def record(message, logger=None, level=logging.INFO):
        records.append((level, message))

    monkeypatch.setattr('mtkdrl_mm.models.teachers.teacher_pool.print_log', record)
    return records


@pytest.fixture
def times(monkeypatch):
    """Seconds of a batch by mode, in the place of a measurement."""
    seconds = {}

    def measured(teachers, inputs):
        return [[seconds[str(teacher.mode)]] * 3 for teacher in teachers]

    monkeypatch.setattr(choose_mode, '_interleaved', measured)
    monkeypatch.setattr(choose_mode, 'cpu_has_bfloat16', lambda: False)
    return seconds


@pytest.fixture
def copies(monkeypatch):
    """Modes of all candidates, and those whose networks had not been freed when one was built."""
    networks, held = [], []
    original = Teacher.candidate

    def candidate(self, mode, inputs):
        held.append([mode for mode, one in networks if sum(p.numel() for p in one.parameters())])
        result = original(self, mode, inputs)
        networks.append((str(mode), result.network))
        return result

    monkeypatch.setattr(Teacher, 'candidate', candidate)
    return lambda: ([mode for mode, _ in networks], held)


@pytest.fixture
def never_timed(monkeypatch):
    def fail(*args):
        raise AssertionError('nothing may be timed')

    monkeypatch.setattr(choose_mode, '_interleaved', fail)


@pytest.fixture
def pool_of(make_pool, make_resnet, make_vit):
    """Function that makes a pool of ResNet "a" and, if wanted, transformer "b"."""

    def make(settings=None, mixed=False):
        teachers = [dict(make_resnet(4), name='a')]
        if mixed:
            teachers.append(dict(make_vit(16), name='b'))
        pool = make_pool(teachers)
        pool.inference = InferenceSettings.from_config(settings)
        return pool

    return make


def images(count=8, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def norms(pool):
    return [m for m in pool.modules() if isinstance(m, nn.BatchNorm2d)]


def assert_close(outputs, expected, **tolerance):
    for output, wanted in zip(outputs, expected, strict=True):
        for key in ('logits', 'embedding', 'feature_map'):
            value, reference = getattr(output, key), getattr(wanted, key)
            if reference is None:
                assert value is None
                continue
            assert value.shape == reference.shape and value.dtype == reference.dtype
            assert value.is_contiguous() == reference.is_contiguous() and not value.requires_grad
            torch.testing.assert_close(value, reference, **tolerance)


def test_a_mixed_pool_computes_what_it_computed(pool_of, lines):
    pool, inputs = pool_of(FOLD, mixed=True), images()
    expected = pool(inputs)
    weight = pool[0].network.backbone.layer1[0].conv1.weight
    assert len(norms(pool)) == 20
    pool.prepare(inputs)
    assert not norms(pool)
    assert pool[0].network.backbone.layer1[0].conv1.weight is not weight
    assert_close(pool(inputs), expected, rtol=1e-5, atol=1e-5)
    assert [str(t.mode) for t in pool] == [
        'folded, channels_last, float32',
        'channels_last, float32',
    ]
    ((level, line),) = lines
    assert level == logging.INFO
    assert line.startswith(
        'Teachers: folded, channels_last, float32 (a); channels_last, float32 (b): '
    )
    assert not any(p.requires_grad for p in pool.parameters())
    assert not any(m.training for m in pool.train().modules())


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('channels_last', [True, False])
def test_maps_have_the_memory_format_of_the_batch(pool_of, lines, layout, channels_last):
    pool = pool_of(dict(fold_bn=True, channels_last=channels_last, dtype=None))
    inputs = images(4, size=96).contiguous(memory_format=layout)
    expected = pool(images(4, size=96))
    pool.prepare(inputs)
    (output,) = pool(inputs)
    assert output.feature_map.shape == (4, 32, 3, 3)
    assert output.feature_map.is_contiguous(memory_format=layout)
    torch.testing.assert_close(output.feature_map, expected[0].feature_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('seconds', 'mode', 'ratio'),
    [
        ((1.0, 0.9, 0.9, 0.71), 'folded, channels_last', '0.71'),
        ((1.0, 0.8, 0.9, 0.9), 'folded', '0.80'),
        ((1.0, 1.1, 0.5, 1.2), 'eager', None),
    ],
)
def test_the_fastest_mode_is_chosen_and_logged(pool_of, lines, times, seconds, mode, ratio):
    names = ('eager', 'folded', 'channels_last', 'folded, channels_last')
    times.update(zip(names, seconds))
    pool, inputs = pool_of(), images()
    pool.prepare(inputs)
    assert str(pool[0].mode) == mode
    ((_, line),) = lines
    if ratio is None:
        assert line == 'Teachers: eager.'
        assert len(norms(pool)) == 20
        return
    start, _, deviation = line.rpartition('largest deviation of the logits ')
    assert start == f'Teachers: {mode}: {ratio} of eager, '
    number, _, unit = deviation.partition(' ')
    assert unit == 'standard deviations.'
    assert 0 < float(number) < 1e-5 and len(number) == 4  # "2e-7"


@pytest.mark.parametrize('fastest', ['eager', 'folded', 'folded, channels_last'])
def test_one_copy_at_a_time(pool_of, lines, times, copies, fastest):
    """All copies are referred to here, as by a cycle, and yet their tensors are freed."""
    times.update({'eager': 1.0, 'folded': 1.2, 'folded, channels_last': 1.2, fastest: 0.5})
    pool, inputs = pool_of(), images()
    expected = pool(inputs)
    pool.prepare(inputs)
    built, held = copies()
    again = ['folded'] if fastest == 'folded' else []
    assert built == ['folded', 'folded, channels_last', *again]
    assert held == [[] for _ in built]
    assert_close(pool(inputs), expected, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in pool.parameters()) > 1e4


def test_tensors_that_a_copy_shares_are_not_freed(pool_of, times, monkeypatch):
    """Such a network decides itself what a copy of it is."""
    times.update({'eager': 1.0, 'folded': 1.2, 'folded, channels_last': 1.2})
    pool, inputs = pool_of(), images()
    classifier = pool[0].network.head.fc
    monkeypatch.setattr(nn.Linear, '__deepcopy__', lambda self, memo: self, raising=False)
    expected = pool(inputs)
    pool.prepare(inputs)
    assert pool[0].network.head.fc is classifier and str(pool[0].mode) == 'eager'
    assert torch.equal(pool(inputs)[0].logits, expected[0].logits)


def test_modes_differ_between_teachers(pool_of, lines, times):
    times.update({'eager': 1.0, 'folded': 0.5, 'folded, channels_last': 0.6})
    pool = pool_of(mixed=True)
    pool.prepare(images())
    assert [str(teacher.mode) for teacher in pool] == ['folded', 'eager']
    # The transformer has nothing to fold and one convolution: it was not timed.
    assert lines[0][1].startswith('Teachers: folded (a); eager (b): 0.50 of eager, largest')


@pytest.mark.parametrize(('seconds', 'mode'), [(0.48, 'folded'), (0.44, 'folded, bfloat16')])
def test_half_precision_must_save_a_tenth(pool_of, lines, times, monkeypatch, seconds, mode):
    monkeypatch.setattr(choose_mode, 'cpu_has_bfloat16', lambda: True)
    monkeypatch.setattr(choose_mode, 'has_spatial_layers', lambda network: False)
    times.update({'eager': 1.0, 'folded': 0.5, 'folded, bfloat16': seconds})
    pool, inputs = pool_of(), images()
    expected = pool(inputs)
    pool.prepare(inputs)
    assert str(pool[0].mode) == mode
    if 'bfloat16' in mode:
        assert pool[0].network.backbone.conv1.weight.dtype == torch.bfloat16
        assert_close(pool(inputs), expected, rtol=0.1, atol=0.1)  # and float32
        (output,) = pool(inputs)
        assert not torch.equal(output.logits, expected[0].logits)


def test_a_setting_is_kept_though_it_is_slower(pool_of, lines, times):
    times.update({'eager': 1.0, 'folded': 1.5})
    pool = pool_of(dict(fold_bn=True, channels_last=None))
    pool.prepare(images())
    assert str(pool[0].mode) == 'folded'
    assert lines[0][1].startswith('Teachers: folded: 1.50 of eager, ')


def test_times_do_not_matter_where_determinism_is_demanded(pool_of, lines, times):
    times.update({'eager': 1.0, 'folded': 1.5})
    pool = pool_of()
    torch.use_deterministic_algorithms(True)
    try:
        pool.prepare(images())
    finally:
        torch.use_deterministic_algorithms(False)
    assert str(pool[0].mode) == 'folded'


def test_a_fold_that_deviates_is_refused(pool_of, lines, times, monkeypatch):
    original = fold_batch_norm.fuse_conv_bn_weights

    def broken(*args):
        weight, bias = original(*args)
        return nn.Parameter(weight * 1.01, False), bias

    monkeypatch.setattr(fold_batch_norm, 'fuse_conv_bn_weights', broken)
    pool, inputs = pool_of(dict(fold_bn=True, channels_last=None)), images()
    expected = pool(inputs)
    pool.prepare(inputs)
    assert str(pool[0].mode) == 'eager'
    assert torch.equal(pool(inputs)[0].logits, expected[0].logits)
    (level, warning), (_, line) = lines
    assert level == logging.WARNING
    start, _, rest = warning.partition(': ')
    assert start == 'Teacher "a" cannot run folded (largest deviation of the logits'
    number, _, rest = rest.partition(' ')
    assert 1e-3 < float(number) < 1
    assert rest == 'standard deviations, limit 0.001). It runs eager.'
    assert line == 'Teachers: eager.'


def test_a_mode_that_raises_is_left_out(pool_of, lines, times, monkeypatch):
    def broken(*args):
        raise RuntimeError('no such layer\nand more')

    monkeypatch.setattr(fold_batch_norm, 'fuse_conv_bn_weights', broken)
    times.update({'eager': 1.0, 'channels_last': 0.5})
    pool = pool_of()
    pool.prepare(images())
    assert lines[0] == (
        logging.WARNING,
        'Teacher "a" cannot run folded (RuntimeError: no such layer). It runs channels_last.',
    )


def test_a_compiler_that_fails_is_left_out(pool_of, lines, times, monkeypatch):
    def no_compiler(function):
        def run(*args):
            raise RuntimeError('g++ not found')

        return run

    monkeypatch.setattr(torch, 'compile', no_compiler)
    times.update({'eager': 1.0, 'folded': 0.5})
    pool, inputs = pool_of(dict(channels_last=None, compile=True)), images()
    expected = pool(inputs)
    pool.prepare(inputs)
    assert str(pool[0].mode) == 'folded'
    assert_close(pool(inputs), expected, rtol=1e-5, atol=1e-5)
    assert lines[0][1] == (
        'Teacher "a" cannot run folded, compiled (RuntimeError: g++ not found); nor compiled '
        '(RuntimeError: g++ not found). It runs folded.'
    )


def test_a_compiled_backbone_is_used(pool_of, lines, times, monkeypatch):
    calls = []

    def compile_(function):
        def run(*args):
            calls.append(1)
            return function(*args)

        return run

    monkeypatch.setattr(torch, 'compile', compile_)
    times.update({'eager': 1.0, 'folded, compiled': 0.5})
    pool, inputs = pool_of(dict(channels_last=None, compile=True)), images()
    expected = pool(inputs)
    pool.prepare(inputs)
    calls.clear()
    assert_close(pool(inputs), expected, rtol=1e-5, atol=1e-5)
    assert calls == [1]


def test_branches_are_merged(make_pool, lines, times):
    network = dict(
        type='ImageClassifier',
        backbone=dict(type='RepVGG', arch='A0'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=1280),
        name='r',
    )
    pool, inputs = make_pool([network]), images()
    pool.inference = InferenceSettings(fold_bn=True, channels_last=None)
    times.update({'eager': 1.0, 'reparameterized, folded': 0.4})
    expected = pool(inputs)
    pool.prepare(inputs)
    assert str(pool[0].mode) == 'reparameterized, folded'
    assert pool[0].network.backbone.stem.deploy
    measured = choose_mode.deviations(pool(inputs)[0], expected[0])
    assert 0 < max(measured.values()) < 1e-4


def test_deviations_are_relative():
    reference = NetworkOutput(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0, 5.0]]))
    shifted = NetworkOutput(torch.tensor([[0.1, 2.0]]), torch.tensor([[1.0, 3.0, 4.5]]))
    measured = choose_mode.deviations(shifted, reference)
    assert measured == pytest.approx(dict(logits=0.1 / 2**0.5, embedding=0.25))
    shifted.logits[0, 0] = float('nan')
    assert choose_mode.deviations(shifted, reference)['logits'] == float('inf')


def test_the_modes_of_a_checkpoint_are_taken(pool_of, lines, never_timed):
    pool, inputs = pool_of(mixed=True), images()
    expected = pool(inputs)
    modes = dict(a=InferenceMode(folded=True, channels_last=True), b=InferenceMode())
    pool.restore_inference({name: mode.to_dict() for name, mode in modes.items()})
    assert pool.inference_state()['a']['folded'] is True
    pool.prepare(inputs)
    assert {teacher.name: teacher.mode for teacher in pool} == modes
    assert_close(pool(inputs), expected, rtol=1e-5, atol=1e-5)
    start, _, _ = lines[0][1].rpartition(' logits ')
    assert start == (
        'Teachers: folded, channels_last (a); eager (b), as in the checkpoint: largest deviation '
        'of the'
    )
    other = pool_of(mixed=True)
    other.restore_inference(pool.inference_state())
    other.prepare(inputs)
    assert torch.equal(other(inputs)[0].logits, pool(inputs)[0].logits)


def test_outputs_for_every_training_are_computed_in_a_mode_by_rule(pool_of, never_timed):
    """Times have no influence where batches are filled up."""
    for _ in range(2):
        pool = pool_of(mixed=True)
        pool.batch_size = 8
        pool.prepare(images())
        assert [str(teacher.mode) for teacher in pool] == ['folded, channels_last', 'eager']


def test_incomplete_batches_are_filled_up_before_modes_are_compared(pool_of, never_timed):
    pool = pool_of()
    pool.batch_size = 8
    seen = []
    pool[0].network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = images(3)
    pool.prepare(inputs)
    # The hook is in the candidate too, which looks at two images first to fold.
    assert [len(one) for one in seen] == [8, 2, 8]
    assert torch.equal(seen[0], inputs[[0, 1, 2, 0, 1, 2, 0, 1]])


def test_the_log_says_where_the_modes_come_from(pool_of, lines, never_timed):
    pool = pool_of()
    pool.restore_inference(dict(a=InferenceMode().to_dict()), 'the store')
    pool.prepare(images())
    assert lines == [(logging.INFO, 'Teachers: eager, as in the store.')]


@pytest.mark.parametrize('state', [None, 3, {'a': 'fast'}, {'z': InferenceMode().to_dict()}])
def test_what_a_checkpoint_does_not_hold_is_measured(pool_of, lines, times, state):
    times.update({'eager': 1.0, 'folded': 0.5, 'folded, channels_last': 0.6})
    pool = pool_of()
    assert pool.inference_state() is None
    pool.restore_inference(state)
    pool.prepare(images())
    assert str(pool[0].mode) == 'folded'


def test_the_config_outweighs_the_checkpoint(pool_of, lines, never_timed):
    pool = pool_of('eager')
    pool.restore_inference(dict(a=InferenceMode(folded=True).to_dict()))
    pool.prepare(images())
    assert str(pool[0].mode) == 'eager'
    assert lines == [(logging.INFO, 'Teachers: eager.')]


def test_only_the_first_call_counts_and_draws_nothing(pool_of, lines, times):
    times.update({'eager': 1.0, 'folded': 0.5, 'folded, channels_last': 0.6})
    pool = pool_of()
    state = torch.get_rng_state()
    pool.prepare(images())
    assert torch.equal(torch.get_rng_state(), state)
    network = pool[0].network
    pool.prepare(images())
    assert pool[0].network is network and len(lines) == 1


def test_float16_on_the_cpu(pool_of):
    pool = pool_of(dict(dtype='float16'))
    with pytest.raises(InputError) as caught:
        pool.prepare(images())
    assert str(caught.value) == (
        '`teacher_inference.dtype` is "float16", which is for GPUs: set it to "auto" or "bfloat16" '
        'on the CPU.'
    )


def test_offloading_on_the_cpu_says_that_it_does_nothing(pool_of, lines):
    pool, inputs = (
        pool_of(dict(fold_bn=False, channels_last=None, dtype=None, offload=True)),
        images(),
    )
    expected = pool(inputs)
    pool.prepare(inputs)
    assert lines[-1][1] == (
        'Teachers: `offload` has no effect on the CPU, where there is no device memory to save.'
    )
    assert torch.equal(pool(inputs)[0].logits, expected[0].logits)


@pytest.mark.parametrize('prefetch', [False, True])
def test_copies_of_a_network_come_and_go(pool_of, prefetch):
    """On another device in earnest; the bookkeeping is the same on this one."""
    network, inputs = pool_of()[0].network, images()
    before = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    expected = network(inputs)
    held = HostCopy(network)
    if prefetch:
        held.prefetch(torch.device('cpu'))
    held.load(torch.device('cpu'))
    during = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    assert not set(before.values()) & set(during.values())
    assert torch.equal(network(inputs), expected)
    held.unload()
    after = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    assert after == before
    assert held._device is None


def test_teachers_that_are_offloaded_stay_in_host_memory(pool_of):
    pool = pool_of(dict(offload=True))
    seen = []

    class Device(torch.Tensor):
        def cpu(self):
            seen.append(self)
            return self.as_subclass(torch.Tensor)

    pool._apply(lambda tensor: tensor.detach().as_subclass(Device))
    tensors = [*pool.parameters(), *pool.buffers()]
    assert len(seen) == len(tensors)
    assert not any(isinstance(tensor, Device) for tensor in tensors)


def work(rank, world_size, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size
    )
    MMLogger.get_instance('two', log_level='ERROR')
    pool = build_pool([dict(torch.load(f'{folder}/teacher.pth'), name='a')], Preprocessing())
    # Each process would choose another mode.
    seconds = [{'folded': 0.5}, {'folded, channels_last': 0.5}][rank]
    choose_mode._interleaved = lambda teachers, inputs: [
        [seconds.get(str(teacher.mode), 1.0)] for teacher in teachers
    ]
    choose_mode.cpu_has_bfloat16 = lambda: False
    choose_mode._MIN_SECONDS = 0
    pool.prepare(images())
    torch.save(str(pool[0].mode), f'{folder}/mode_{rank}.pth')


def test_the_main_process_decides(make_resnet, tmp_path):
    torch.save(make_resnet(4), tmp_path / 'teacher.pth')
    start_processes(work, (2, str(tmp_path)), nprocs=2, start_method='spawn')
    assert [torch.load(tmp_path / f'mode_{rank}.pth') for rank in (0, 1)] == ['folded', 'folded']


def test_a_quick_teacher_stays_eager(pool_of, lines, never_timed, monkeypatch):
    """Noise would decide, and there is nothing to gain."""
    monkeypatch.setattr(choose_mode, '_MIN_SECONDS', 10)
    pool = pool_of()
    pool.prepare(images())
    assert lines == [(logging.INFO, 'Teachers: eager.')]


def test_noise_does_not_choose_between_modes(pool_of, times):
    """Of modes within 5 %, the last one is taken."""
    for eager, folded, both in ((1.0, 0.70, 0.72), (1.0, 0.72, 0.70)):
        times.update(
            {'eager': eager, 'folded': folded, 'channels_last': 0.9, 'folded, channels_last': both}
        )
        pool = pool_of()
        pool.prepare(images())
        assert str(pool[0].mode) == 'folded, channels_last'
