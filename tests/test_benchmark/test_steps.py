# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The training steps that are timed: each does all that its training does, and nothing else."""

import mmap
import os
import sys

import pytest
import torch
from mmengine.config import Config

from mtkdrl_mm.benchmark import (
    StepSettings,
    distillation,
    fill_store,
    lower_bound,
    memory,
    peak_memory,
    plain_training,
    print_memory,
    random_batch,
    steps,
    time_rounds,
    use_images,
    use_random_teachers,
    with_equal_weights,
    with_store,
    write_images,
)
from mtkdrl_mm.models import TeacherPool
from mtkdrl_mm.teacher_outputs import StoreReader
from mtkdrl_mm.utils import InputError

SETTINGS = StepSettings('cpu', input_size=32, batch_size=4, num_classes=5)
HOOKS = dict(
    agent=dict(type='mtkdrl_mm.AgentHook'),
    teacher_check=dict(type='mtkdrl_mm.TeacherCheckHook'),
    teacher_weights=dict(type='mtkdrl_mm.TeacherWeightHook'),
    finite_loss=dict(type='mtkdrl_mm.FiniteLossHook'),
)


@pytest.fixture
def cfg(make_resnet):
    loader = dict(
        num_workers=0,
        dataset=dict(
            type='ImageNet',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='RandomResizedCrop', scale=224),
                dict(type='PackInputs'),
            ],
        ),
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
            train_dataloader=loader,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            default_hooks=HOOKS,
            model=dict(
                type='mtkdrl_mm.MultiTeacherDistiller',
                student=make_resnet(),
                teachers=[dict(make_resnet(8), name=name) for name in 'ab'],
                weighting=dict(type='MTKDRL'),
                teacher_inference='eager',
            ),
        )
    )
    use_random_teachers(cfg)
    return cfg


@pytest.fixture
def on_random(cfg):
    cfg.pop('train_dataloader')
    return cfg


@pytest.fixture
def on_images(cfg, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    write_images(str(folder), 10, num_classes=5, side=40)
    use_images(cfg, str(folder), SETTINGS.batch_size, SETTINGS.input_size)
    return cfg


def parameters_that_move(module, action):
    """Names of the parameters that an action changes."""
    before = {name: value.clone() for name, value in module.named_parameters()}
    action()
    return {n for n, value in module.named_parameters() if not torch.equal(value, before[n])}


def test_a_distillation_trains_all_but_the_agent_and_its_update_the_agent(on_random):
    model, variant = distillation(on_random, SETTINGS)
    moved = parameters_that_move(model, variant.run)
    assert {name.split('.')[0] for name in moved} == {'student', 'connectors'}
    assert model.weighting.warming_up is False
    assert len(variant.buffer) == SETTINGS.batch_size
    moved = parameters_that_move(model, variant.update)
    assert {name.split('.')[0] for name in moved} == {'weighting'}
    assert len(variant.buffer) == 0 and variant.kept == 1


def test_an_epoch_beyond_the_buffer_makes_updates_cheaper(on_random):
    on_random.default_hooks.agent.buffer_budget = 1.0
    settings = StepSettings('cpu', 32, 4, 5, epoch_images=10**6)
    _, variant = distillation(on_random, settings)
    assert variant.kept == variant.buffer.capacity / 10**6 < 0.01


def test_plain_training_is_the_students(on_random, monkeypatch):
    """The same step as one of torch alone."""
    models, original = [], steps.ResumableRunner

    def build(model, default_hooks, **rest):
        models.append((model, default_hooks))
        return original(model=model, default_hooks=default_hooks, **rest)

    monkeypatch.setattr(steps, 'ResumableRunner', build)
    variant = plain_training(on_random, SETTINGS)
    (model, hooks), batch = models[0], random_batch(SETTINGS)
    assert not {'agent', 'teacher_weights', 'finite_loss', 'teacher_check'} & set(hooks)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in distillation(on_random, SETTINGS)[0].student.parameters()
    )
    inputs = model.data_preprocessor(batch, training=True)['inputs']
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    weight = model.head.fc.weight
    (gradient,) = torch.autograd.grad(loss, weight)
    expected = (weight - 0.01 * gradient).detach()
    variant.run()
    torch.testing.assert_close(weight.detach(), expected)
    assert variant.update is None and variant.buffer is None


def test_the_lower_bound_trains_the_student_and_runs_the_teachers(on_random, monkeypatch):
    model, _ = distillation(on_random, SETTINGS)
    runs = []
    for teacher in model.teachers:
        teacher.register_forward_hook(lambda *_: runs.append(1))
    built, original = [], steps.build_distiller
    monkeypatch.setattr(
        steps, 'build_distiller', lambda *args: built.append(original(*args)) or built[0]
    )
    variant = lower_bound(on_random, SETTINGS, model.teachers)
    moved = parameters_that_move(built[0], variant.run)
    assert {name.split('.')[0] for name in moved} == {'student'}
    assert len(runs) == 2


def test_equal_weights_need_no_agent_and_share_the_teachers(on_random):
    model, _ = distillation(on_random, SETTINGS)
    other, variant = distillation(with_equal_weights(on_random), SETTINGS, model.teachers)
    assert other.teachers is model.teachers
    assert type(other.weighting).__name__ == 'AVER' and variant.update is None
    seen = []
    other.register_step_hook(lambda terms, weights: seen.append(weights.logit))
    variant.run()
    assert torch.equal(seen[0], torch.full((4, 2), 0.5))
    # The config that it was made from has its agent still.
    assert on_random.model.weighting.type == 'MTKDRL' and 'agent' in on_random.default_hooks


def test_a_store_is_filled_and_trained_from(on_images, tmp_path):
    root = str(tmp_path / 'store')
    nbytes = fill_store(
        on_images, SETTINGS, root, views=1, maps='projected', map_channels=3, logits='float32'
    )
    reader = StoreReader(root, ['a', 'b'])
    assert reader.num_samples == 10 and reader.missing(0) == []
    # 5 logits, 64 numbers of the embedding and a map of 3 channels and one position, twice.
    assert nbytes == 2 * 4 * (5 + 64 + 3)
    model, variant = distillation(with_store(on_images, root), SETTINGS)
    assert not isinstance(model.teachers, TeacherPool) and model.teachers.live is None
    seen = []
    model.register_step_hook(lambda terms, weights: seen.append(terms.teachers))
    for _ in range(3):
        variant.run()
    # In the turns of a benchmark, pixels are compared as often as later in a training.
    assert variant.feed.loader.dataset.annotator.first_checks == 0
    carried = [sample.teacher_outputs for sample in variant.batches[2]['data_samples']]
    rows = reader.read_rows([one.sample for one in carried], 0)
    for name, output in zip('ab', seen[2]):
        assert torch.equal(output.logits, torch.from_numpy(rows[name]['logits']))
        assert output.feature_map.shape == (4, 64, 1, 1)  # of the teacher


def test_batches_in_memory_come_from_the_images(on_images):
    _, variant = distillation(on_images, SETTINGS)
    assert [batch['inputs'].shape for batch in variant.batches] == [(4, 3, 32, 32)] * 4
    with variant.feed as feed:
        again = [next(feed) for _ in range(4)]
    for one, other in zip(variant.batches, again):
        assert torch.equal(one['inputs'], other['inputs'])
    plain = plain_training(on_images, SETTINGS)
    assert torch.equal(plain.batches[3]['inputs'], again[3]['inputs'])


def test_configs_without_teachers_are_refused(cfg):
    cfg.model.pop('teachers')
    with pytest.raises(InputError, match='no `teachers`: give that of a distillation'):
        use_random_teachers(cfg)


def test_peak_memory(on_random):
    _, variant = distillation(on_random, SETTINGS)
    time_rounds(dict(a=variant), rounds=1, device='cpu')
    found = peak_memory(variant, 'cpu')
    # Rows of two teachers: 64 + 5 + 3 halves and a reward each; of 4 steps.
    assert found.buffer_mib == 16 * 2 * (2 * (64 + 5 + 3) + 4) / 2**20
    assert found.besides_buffer == found.process_mib - found.buffer_mib
    assert found.device_mib is None
    # Tests before this one may have had a higher peak than what is resident now.
    status = dict(line.split(':') for line in open('/proc/self/status'))
    free = found.process_mib - int(status['VmRSS'].split()[0]) / 1024
    # Pages of its own, where an allocation might get some that are resident already.
    used = mmap.mmap(-1, int(free + 64) * 2**20)
    torch.frombuffer(used, dtype=torch.uint8).fill_(1)
    assert peak_memory(variant, 'cpu').process_mib > found.process_mib + 32


def test_memory_of_every_variant_is_measured_in_a_process_of_its_own(monkeypatch, tmp_path):
    tool = tmp_path / 'tool.py'
    tool.write_text(
        'import json, os, sys\n'
        'print("a line of a log")\n'
        'print(json.dumps(dict(process_mib=os.getpid(), buffer_mib=len(sys.argv))))\n'
        'sys.exit(3 * (sys.argv[3] == "bad"))\n'
    )
    monkeypatch.setattr(sys, 'argv', [str(tool), 'config.py'])
    found = memory.measure_memory(['one', 'two'], ['--folder', 'here'])
    assert found['one'].process_mib != found['two'].process_mib != os.getpid()
    # tool.py config.py --memory-of NAME --folder here
    assert found['two'].buffer_mib == 6
    with pytest.raises(SystemExit) as stop:
        memory.measure_memory(['bad'])
    assert stop.value.code == 3


def test_the_median_of_several_processes_counts(monkeypatch, tmp_path):
    """Of the memory besides the buffer: 7, 1, 9 and 3."""
    tool, runs = tmp_path / 'tool.py', tmp_path / 'runs'
    tool.write_text(
        'import json\n'
        f'with open({str(runs)!r}, "a+") as file:\n'
        '    file.write("x")\n'
        '    number = file.tell() - 1\n'
        'process, buffer = [(17, 10), (1, 0), (10, 1), (103, 100)][number]\n'
        'print(json.dumps(dict(process_mib=process, buffer_mib=buffer)))\n'
    )
    monkeypatch.setattr(sys, 'argv', [str(tool)])
    assert memory.measure_memory(['one'], runs=3) == dict(one=memory.PeakMemory(17, None, 10))
    runs.unlink()
    assert memory.measure_memory(['one'], runs=4) == dict(one=memory.PeakMemory(103, None, 100))


def test_printed_memory_is_what_is_read(monkeypatch, tmp_path, capsys):
    one = memory.PeakMemory(100.5, 20.25, 3.0)
    print_memory(one)
    tool = tmp_path / 'tool.py'
    tool.write_text(f'print({capsys.readouterr().out.strip()!r})')
    monkeypatch.setattr(sys, 'argv', [str(tool)])
    assert memory.measure_memory(['one']) == dict(one=one)
    assert one.besides_buffer == 20.25  # on a device, the buffer is elsewhere
