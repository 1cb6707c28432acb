# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Teachers that compare images with texts."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mtkdrl_mm.models import build_pool
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.models.teachers.zero_shot import ZeroShot
from mtkdrl_mm.utils import InputError

SIZE, CLASSES = 6, 5


@pytest.fixture
def texts():
    return torch.randn(CLASSES, SIZE)


@pytest.fixture
def save(tmp_path):
    """Function that writes a tensor to a file of some kind."""

    def write(tensor, kind='.pt'):
        path = tmp_path / f'texts{kind}'
        if kind == '.npy':
            np.save(path, tensor.numpy())
        elif kind == '.safetensors':
            save_file(dict(text=tensor), str(path))
        else:
            torch.save(tensor, path)
        return str(path)

    return write


def clip_like(config, path, **kwargs):
    """An image tower whose last layer projects to SIZE numbers."""
    return dict(config, name='clip', zero_shot=dict(text_embeddings=path, **kwargs))


def load(pool):
    pool[0].zero_shot.load()
    return pool


@pytest.mark.parametrize('kind', ['.pt', '.pth', '.npy', '.safetensors'])
def test_logits_are_scaled_cosines(make_pool, make_vit, texts, save, kind):
    teacher = clip_like(make_vit(16, num_classes=SIZE), save(texts, kind), logit_scale=20.0)
    pool = load(make_pool([teacher], num_classes=CLASSES))
    assert pool.spec.num_classes == CLASSES and pool.spec.embedding_sizes == (SIZE,)
    inputs = torch.randn(4, 3, 32, 32)
    (output,) = pool(inputs)
    image = pool[0].network(inputs)
    assert torch.equal(output.embedding, image)
    for i in range(4):
        for c in range(CLASSES):
            cosine = torch.cosine_similarity(image[i], texts[c], dim=0)
            torch.testing.assert_close(output.logits[i, c], 20 * cosine)


def test_classes_that_are_alike_differ_in_half_precision(texts, save):
    """bfloat16 has steps of 0.125 at 25 and 0.5 at 100."""
    head = ZeroShot(save(torch.stack([texts[0], texts[0] + 1e-3])))
    head.expect(2, SIZE)
    head.load()
    image = texts[1:3]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = head(image)
    assert torch.equal(logits, head(image)) and (logits[:, 0] != logits[:, 1]).all()
    assert head(image.bfloat16()).dtype == torch.float32


def test_scale_defaults_to_clips(make_pool, make_vit, texts, save):
    pool = load(make_pool([clip_like(make_vit(16, num_classes=SIZE), save(texts))], None, CLASSES))
    logits = pool(torch.randn(2, 3, 32, 32))[0].logits
    assert 1 < logits.abs().max() <= 100


def test_file_is_read_with_the_checkpoint_only(make_pool, make_vit, make_classifier, texts, save):
    network = make_classifier(make_vit(16, num_classes=SIZE), seed=1)
    path = save(texts)
    teacher = clip_like(make_vit(16, num_classes=SIZE), path)
    build_pool([dict(teacher, zero_shot=dict(text_embeddings='none'))], Preprocessing(), CLASSES)
    checkpoint = path.replace('texts', 'weights')
    torch.save(network.state_dict(), checkpoint)
    pool = build_pool([dict(teacher, checkpoint=checkpoint)], Preprocessing(), CLASSES)
    pool.load_weights()
    directions = texts / texts.norm(dim=1, keepdim=True)
    torch.testing.assert_close(pool[0].zero_shot.text, directions)


def test_class_map_picks_rows_of_the_file(make_pool, make_vit, make_resnet, texts, save):
    path = save(texts)
    vit = make_vit(16, num_classes=SIZE)
    whole = load(make_pool([clip_like(vit, path)], num_classes=CLASSES))
    picked = make_pool([dict(clip_like(vit, path), class_map=[3, 0])])
    picked[0].zero_shot.load(picked[0].class_map.indices)
    inputs = torch.randn(2, 3, 32, 32)
    expected = whole(inputs)[0].logits[:, [3, 0]]
    torch.testing.assert_close(picked(inputs)[0].logits, expected)
    beyond = make_pool([dict(clip_like(vit, path), class_map=[3, 9])])
    with pytest.raises(InputError, match='have 5 rows, but its `class_map` contains row 9'):
        beyond[0].zero_shot.load(beyond[0].class_map.indices)


def test_classes_are_those_of_the_other_teachers(make_pool, make_vit, make_resnet, texts, save):
    teachers = [clip_like(make_vit(16, num_classes=SIZE), save(texts)), make_resnet(4)]
    pool = load(make_pool(teachers))
    assert pool.spec.num_classes == 5
    with pytest.raises(InputError, match='number of classes is not known'):
        make_pool(teachers[:1])


@pytest.mark.parametrize(
    ('tensor', 'message'),
    [
        (torch.ones(4, SIZE), 'have 4 rows, but there are 5 classes'),
        (torch.ones(CLASSES, 8), r'have the shape \(5, 8\), but \(classes, 6\) is needed'),
        (torch.ones(CLASSES), r'have the shape \(5,\)'),
        (
            torch.eye(CLASSES, SIZE) * torch.tensor([1, 1, 0, 1, 1])[:, None],
            'be normalised in row 2, which is zero',
        ),
        (torch.full((CLASSES, SIZE), float('nan')), 'be normalised in row 0, which is zero, NaN'),
        (dict(a=torch.ones(1), b=torch.ones(1)), 'holds a dict of 2 entries, not one tensor'),
    ],
)
def test_bad_files(make_pool, make_vit, save, tensor, message):
    pool = make_pool([clip_like(make_vit(16, num_classes=SIZE), save(tensor))], None, CLASSES)
    with pytest.raises(InputError, match=message) as error:
        load(pool)
    assert 'teacher "clip"' in str(error.value) and 'texts.pt' in str(error.value)


@pytest.mark.parametrize(
    ('zero_shot', 'message'),
    [
        (dict(text_embeddings='x', scale=3), 'takes no "scale".*logit_scale'),
        (dict(logit_scale=3), 'must be a dict with `text_embeddings`'),
        ('x.pt', 'must be a dict with `text_embeddings`'),
        (dict(text_embeddings=3), '`zero_shot.text_embeddings` of teacher "t" must be the path'),
        (dict(text_embeddings='x', logit_scale=0), 'logit_scale of teacher "t"` must be greater'),
    ],
)
def test_bad_config(make_pool, make_vit, zero_shot, message):
    with pytest.raises(InputError, match=message):
        make_pool([dict(make_vit(16), name='t', zero_shot=zero_shot)], num_classes=5)


def test_missing_file(make_pool, make_vit):
    pool = make_pool([clip_like(make_vit(16, num_classes=SIZE), '/no/such.npy')], None, CLASSES)
    with pytest.raises(InputError, match=r'"/no/such\.npy" does not exist'):
        load(pool)
