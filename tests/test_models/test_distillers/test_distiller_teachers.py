# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Teachers are asked, and otherwise left alone and left out."""

from copy import deepcopy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import load_checkpoint

from mtkdrl_mm.models import MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.utils import InputError


@pytest.fixture
def loads(monkeypatch):
    """Counts the calls of load_weights, which then do nothing."""
    calls = []
    monkeypatch.setattr(TeacherPool, 'load_weights', lambda self: calls.append(self))
    return calls


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key], after[key]), key


def train_steps(distiller, batch, steps=3):
    parameters = [p for p in distiller.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(parameters, lr=1e-3, weight_decay=0.1))
    for _ in range(steps):
        losses = distiller.train()(*batch, mode='loss')
        wrapper.update_params(sum(losses.values()))


def test_no_teacher_in_the_checkpoint(make_distiller):
    distiller = make_distiller(weighting='MTKDRL')
    prefixes = {key.split('.')[0] for key in distiller.state_dict()}
    assert prefixes == {'student', 'connectors', 'weighting'}
    size = sum(value.numel() for value in distiller.student.state_dict().values())
    names = [key for key in distiller.state_dict() if key.startswith('student.')]
    assert sum(distiller.state_dict()[key].numel() for key in names) == size


def test_no_teacher_among_parameters_buffers_and_modules(make_distiller):
    distiller = make_distiller(weighting='MTKDRL')
    teachers = distiller.teachers
    own = {id(t) for t in [*distiller.parameters(), *distiller.buffers(), *distiller.modules()]}
    theirs = [*teachers.parameters(), *teachers.buffers(), *teachers.modules()]
    assert theirs and not own & {id(t) for t in theirs}
    assert not any(p.requires_grad for p in teachers.parameters())


def test_teachers_stay_in_eval_mode_and_do_not_move(make_distiller, make_batch):
    distiller = make_distiller(weighting='MTKDRL')
    before, student = snapshot(distiller.teachers), snapshot(distiller.student)
    for switch in (distiller.train, distiller.eval, distiller.train, distiller.teachers.train):
        switch()
        assert not any(module.training for module in distiller.teachers.modules())
    train_steps(distiller, make_batch(4))
    assert distiller.student.training
    assert not any(module.training for module in distiller.teachers.modules())
    assert_same(before, snapshot(distiller.teachers))
    for key, value in snapshot(distiller.student).items():
        if 'running_' in key or key.endswith('weight'):
            assert not torch.equal(value, student[key]), key


def test_teacher_answers_do_not_depend_on_the_rest_of_the_batch(make_distiller, make_batch):
    distiller = make_distiller().train()
    inputs, _ = make_batch(4)
    whole = distiller.teachers(inputs)
    alone = distiller.teachers(inputs[:1])
    for a, b in zip(alone, whole):
        torch.testing.assert_close(a.logits, b.logits[:1])
        assert not b.logits.requires_grad and not b.logits.is_inference()


def test_init_weights_leaves_the_teachers_alone(make_distiller, loads):
    distiller = make_distiller(weighting='MTKDRL')
    before, student = snapshot(distiller.teachers), snapshot(distiller.student)
    distiller.init_weights()
    assert loads == [distiller.teachers]
    assert_same(before, snapshot(distiller.teachers))
    assert not torch.equal(
        distiller.student.backbone.conv1.weight, student['backbone.conv1.weight']
    )


def test_pretrained_weights_named_in_a_teachers_config_are_not_loaded(
    make_distiller, make_resnet, loads
):
    teacher = dict(make_resnet(4), name='a')
    teacher['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='/no/such/file.pth')
    make_distiller([teacher]).init_weights()
    assert len(loads) == 1


def test_teachers_are_loaded_from_their_files(make_distiller, make_resnet, make_batch, tmp_path):
    original = make_distiller()
    teachers = []
    for width, name, network in zip((4, 6), 'ab', [t.network for t in original.teachers]):
        torch.save(network.state_dict(), tmp_path / f'{name}.pth')
        teachers.append(
            dict(make_resnet(width), name=name, checkpoint=str(tmp_path / f'{name}.pth'))
        )
    distiller = MultiTeacherDistiller(make_resnet(4), teachers)
    inputs, _ = make_batch(4)
    expected = [output.logits for output in original.teachers(inputs)]
    actual = [output.logits for output in distiller.teachers(inputs)]
    assert not torch.allclose(actual[0], expected[0])
    distiller.init_weights()
    actual = [output.logits for output in distiller.teachers(inputs)]
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def test_teacher_without_a_checkpoint_cannot_train(make_distiller):
    with pytest.raises(InputError, match='Teacher "a" has no `checkpoint`'):
        make_distiller().init_weights()


def test_student_alone_takes_a_full_checkpoint_silently(
    make_distiller, make_batch, tmp_path, recwarn, capfd
):
    trained = make_distiller(weighting='MTKDRL')
    train_steps(trained, make_batch(4))
    file = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(meta={}, state_dict=trained.state_dict()), file)
    alone = make_distiller(None, weighting='MTKDRL')
    assert not alone.has_teachers
    assert {key.split('.')[0] for key in alone.state_dict()} == {'student'}
    capfd.readouterr()
    load_checkpoint(alone, file, map_location='cpu')  # as mmengine's runner does
    printed = ''.join(capfd.readouterr())
    assert 'key' not in printed and 'size' not in printed, printed
    assert not recwarn.list
    inputs, _ = make_batch(4)
    assert torch.equal(alone.eval()(inputs), trained.eval()(inputs))
    # torch's own strict loading agrees
    result = make_distiller(None).load_state_dict(trained.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys


def test_student_alone_still_misses_what_is_missing(make_distiller):
    state = make_distiller().state_dict()
    del state['student.head.fc.bias']
    with pytest.raises(RuntimeError, match=r'student\.head\.fc\.bias'):
        make_distiller(None).load_state_dict(state)
    # with teachers, everything has to be there
    distiller = make_distiller()
    state = {k: v for k, v in distiller.state_dict().items() if not k.startswith('connectors')}
    with pytest.raises(RuntimeError, match=r'connectors\.a'):
        distiller.load_state_dict(state)


def test_student_alone_needs_no_teacher_and_cannot_be_trained(make_distiller, make_batch, loads):
    distiller = make_distiller(None)
    distiller.init_weights()
    assert not loads
    assert distiller.eval()(make_batch(4)[0]).shape == (4, 5)
    with pytest.raises(InputError, match='without teachers and cannot be trained'):
        distiller(*make_batch(4), mode='loss')


def test_copy_shares_the_teachers_and_nothing_else(make_distiller, make_batch, record_steps):
    distiller = make_distiller(weighting='MTKDRL').eval()
    steps = record_steps(distiller)
    copy = deepcopy(distiller)
    assert copy.teachers is distiller.teachers
    assert not copy._step_hooks
    assert_same(snapshot(distiller), snapshot(copy))
    assert not {id(p) for p in distiller.parameters()} & {id(p) for p in copy.parameters()}
    expected = distiller(*make_batch(4), mode='loss')
    for name, value in copy(*make_batch(4), mode='loss').items():
        assert torch.equal(value, expected[name])
    assert len(steps) == 1
    before = snapshot(copy)
    train_steps(distiller, make_batch(4), steps=1)
    assert_same(before, snapshot(copy))


def test_initialisation_of_the_student_does_not_depend_on_the_pool(make_resnet, make_vit, loads):
    pools = [
        None,
        [dict(make_resnet(6), name='a')],
        [dict(make_vit(16), name='a'), dict(make_resnet(8), name='b')],
    ]
    states = []
    for pool in pools:
        torch.manual_seed(3)
        distiller = MultiTeacherDistiller(make_resnet(4), pool, weighting='MTKDRL')
        built = snapshot(distiller.student)
        torch.manual_seed(4)
        distiller.init_weights()
        states.append((built, snapshot(distiller.student)))
    for built, initialised in states[1:]:
        assert_same(states[0][0], built)
        assert_same(states[0][1], initialised)


def test_teachers_follow_to_another_precision(make_distiller):
    distiller = make_distiller()
    distiller.double()
    for network in (distiller.student, distiller.teachers):
        assert {p.dtype for p in network.parameters()} == {torch.float64}
        assert {b.dtype for b in network.buffers() if b.is_floating_point()} == {torch.float64}


def test_channels_last_changes_the_layout_and_not_the_loss(
    make_distiller, make_resnet, make_batch, loads
):
    student = make_resnet(8)
    plain = make_distiller(student=student, channels_last=False).eval()
    other = make_distiller(student=student, channels_last=True).eval()
    other.init_weights()
    other.load_state_dict(plain.state_dict())
    for network in (other.student, other.teachers[0].network):
        weight = network.backbone.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
    expected = plain(*make_batch(4), mode='loss')
    for name, value in other(*make_batch(4), mode='loss').items():
        torch.testing.assert_close(value, expected[name])


def test_teachers_are_folded_after_they_were_loaded(
    make_distiller, make_resnet, make_batch, tmp_path
):
    source = make_distiller()
    teachers = []
    for width, name, teacher in zip((4, 6), 'ab', source.teachers):
        path = str(tmp_path / f'{name}.pth')
        torch.save(teacher.network.state_dict(), path)
        teachers.append(dict(make_resnet(width), name=name, checkpoint=path))
    settings = dict(fold_bn=True, channels_last=True, dtype='float32')
    distiller = MultiTeacherDistiller(make_resnet(4), teachers, teacher_inference=settings)
    distiller.init_weights()
    keys = set(distiller.state_dict())
    inputs, samples = make_batch(4)
    expected = source.teachers(inputs)
    assert torch.equal(distiller.teachers(inputs)[0].logits, expected[0].logits)
    distiller.eval()(inputs, samples, mode='loss')
    assert {str(teacher.mode) for teacher in distiller.teachers} == {'eager'}  # no training yet
    distiller.train()(inputs, samples, mode='loss')
    assert {str(t.mode) for t in distiller.teachers} == {'folded, channels_last, float32'}
    for _ in range(2):
        for output, wanted in zip(distiller.teachers(inputs), expected):
            torch.testing.assert_close(output.logits, wanted.logits, rtol=1e-5, atol=1e-5)
        distiller.init_weights()  # a second training with the same model
    assert set(distiller.state_dict()) == keys
    assert deepcopy(distiller).teachers is distiller.teachers


def test_settings_of_a_given_pool(make_distiller, make_resnet):
    pool = make_distiller().teachers
    assert pool.inference.fold_bn is False  # "eager", see make_distiller
    assert MultiTeacherDistiller(make_resnet(4), pool).teachers.inference.fold_bn is False
    MultiTeacherDistiller(make_resnet(4), pool, teacher_inference='auto')
    assert pool.inference.fold_bn == 'auto'
