# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Conversion of outputs: what is stored, how it is rounded, and what is projected."""

import re

import numpy as np
import pytest
import torch

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.teacher_outputs import (
    BasisFit,
    OutputCodec,
    PackedLayout,
    TeacherOutputsSettings,
    TensorSpec,
    name_basis,
    stored_form,
    stored_tensors,
)
from mtkdrl_mm.utils import InputError

LARGEST = 65504.0  # of float16


def outputs(images=4, classes=5, size=7, channels=6, side=3, dtype=torch.float32):
    feature_map = None if channels is None else torch.randn(images, channels, side, side)
    output = NetworkOutput(torch.randn(images, classes), torch.randn(images, size), feature_map)
    for name in ('logits', 'embedding', 'feature_map'):
        value = getattr(output, name)
        setattr(output, name, None if value is None else value.to(dtype))
    return output


def settings(**kwargs):
    return TeacherOutputsSettings(views=1, **kwargs)


def codec_of(output, basis=None, of_tokens=False, **kwargs):
    """The codec of one teacher, called "a"."""
    specs = stored_tensors(settings(**kwargs), output, of_tokens)
    return OutputCodec(PackedLayout(dict(a=specs)), None if basis is None else dict(a=basis))


@pytest.mark.parametrize(
    ('kwargs', 'channels', 'of_tokens', 'expected'),
    [
        (dict(maps='none'), 6, False, None),
        (dict(maps='full'), None, False, None),
        (dict(maps='full'), 6, False, ('feature_map', (6, 3, 3))),
        (dict(maps='full'), 6, True, ('token_map', (6, 3, 3))),
        (dict(maps='pooled'), 6, False, ('pooled_map', (6, 1, 1))),
        (dict(maps='pooled'), 6, True, ('pooled_token_map', (6, 1, 1))),
        (dict(maps='projected', map_channels=5), 6, True, ('token_map_components', (5, 3, 3))),
        (dict(maps='projected', map_channels=4), 6, False, ('map_components', (4, 3, 3))),
        # Nothing would be saved.
        (dict(maps='projected', map_channels=6), 6, False, ('feature_map', (6, 3, 3))),
        (dict(maps='projected', map_channels=64), 6, True, ('token_map', (6, 3, 3))),
    ],
)
@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_stored_tensors(kwargs, channels, of_tokens, expected, dtype):
    wanted = settings(logits=dtype, **kwargs)
    specs = stored_tensors(wanted, outputs(channels=channels), of_tokens)
    vectors = (TensorSpec('logits', (5,), dtype), TensorSpec('embedding', (7,), dtype))
    maps = () if expected is None else (TensorSpec(*expected, dtype),)
    assert specs == vectors + maps
    # The settings that are read from them yield them again.
    form = stored_form(specs)
    assert stored_tensors(settings(**form), outputs(channels=channels), of_tokens) == specs


@pytest.mark.parametrize(
    ('of_tokens', 'kwargs', 'signed'),
    [
        (False, dict(maps='full'), False),
        (True, dict(maps='full'), True),
        (False, dict(maps='pooled'), False),
        (True, dict(maps='pooled'), True),
        (False, dict(maps='projected', map_channels=2), False),
        (True, dict(maps='projected', map_channels=2), True),
    ],
)
def test_signs_and_channels_of_the_map(of_tokens, kwargs, signed):
    basis = fitted(torch.rand(4, 6, 3, 3), 2)
    codec = codec_of(outputs(), basis, of_tokens, **kwargs)
    assert codec.has_signed_map('a') is signed
    assert codec.map_channels('a') == 6
    without = codec_of(outputs(), maps='none')
    assert (without.has_signed_map('a'), without.map_channels('a')) == (False, None)
    assert (codec.num_classes('a'), codec.embedding_size('a')) == (5, 7)


@pytest.mark.parametrize(
    ('kwargs', 'stored'),
    [
        (dict(embedding_channels=6), TensorSpec('embedding_components', (6,), 'float16')),
        (dict(embedding_channels=7), TensorSpec('embedding', (7,), 'float16')),
        (dict(), TensorSpec('embedding', (7,), 'float16')),
        (dict(embeddings='full', embedding_channels=6), TensorSpec('embedding', (7,), 'float16')),
        (dict(logits='float32', embedding_channels=6), TensorSpec('embedding', (7,), 'float32')),
        (
            dict(logits='float32', embeddings='projected', embedding_channels=6),
            TensorSpec('embedding_components', (6,), 'float32'),
        ),
    ],
)
def test_how_embeddings_are_stored(kwargs, stored):
    wanted = settings(maps='none', **kwargs)
    specs = stored_tensors(wanted, outputs())
    assert specs[1:] == (stored,)
    assert stored_tensors(settings(**stored_form(specs)), outputs()) == specs
    basis = name_basis('embeddings', fitted(torch.randn(9, 7), 6))
    codec = codec_of(outputs(), basis, maps='none', **kwargs)
    assert codec.embedding_size('a') == stored.shape[0]


def test_lossless_rows_lose_nothing():
    output = outputs()
    codec = codec_of(output, logits='float32', maps='full')
    (decoded,) = codec.decode(codec.encode([output]))
    for name in ('logits', 'embedding', 'feature_map'):
        back = getattr(decoded, name)
        assert torch.equal(back, getattr(output, name))
        assert back.is_contiguous()
    assert codec.saturated == 0


def test_float16_is_rounded_to_the_nearest():
    output = outputs(images=64)
    codec = codec_of(output, maps='full')
    (decoded,) = codec.decode(codec.encode([output]))
    for name in ('logits', 'embedding', 'feature_map'):
        exact, back = getattr(output, name), getattr(decoded, name)
        assert back.dtype == torch.float32 and back.is_contiguous()
        np.testing.assert_array_equal(back, exact.numpy().astype(np.float16))
        # Half of the distance of two numbers with 11 binary digits, and not less.
        relative = ((back - exact).abs() / exact.abs().clamp(min=2.0**-14)).max()
        assert 2**-12 < relative <= 2**-11
    # What was decoded is stored without a further change.
    assert torch.equal(codec.encode([decoded]), codec.encode([output]))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_what_float16_cannot_hold_saturates(dtype):
    output = outputs(images=3, dtype=dtype)
    output.logits[0] = torch.tensor([65504.0, 66000.0, -1e30, 1.0, -66000.0])
    codec = codec_of(output)
    stored = codec.to_tensors('a', output)['logits']
    assert stored.dtype == torch.float16
    assert stored[0].tolist() == [LARGEST, LARGEST, -LARGEST, 1.0, -LARGEST]
    # bfloat16 rounds 65504 itself to 65536, which is beyond the range.
    assert codec.saturated == (4 if dtype == torch.bfloat16 else 3)
    codec.to_tensors('a', output)
    assert codec.saturated == (8 if dtype == torch.bfloat16 else 6)


def test_what_is_not_finite_stays_so_for_the_writer_to_refuse():
    output = outputs(images=1)
    output.embedding[0, :3] = torch.tensor([float('nan'), float('inf'), -float('inf')])
    codec = codec_of(output)
    stored = codec.to_tensors('a', output)['embedding'][0]
    assert stored[0].isnan() and stored[1:3].tolist() == [float('inf'), -float('inf')]
    assert codec.saturated == 0


def test_half_precision_of_a_network_is_widened_exactly():
    output = outputs(dtype=torch.bfloat16)
    codec = codec_of(output, logits='float32', maps='full')
    stored = codec.to_tensors('a', output)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert torch.equal(stored['feature_map'], output.feature_map.float())


def test_pooled_maps():
    output = outputs()
    codec = codec_of(output, logits='float32', maps='pooled')
    (decoded,) = codec.decode(codec.encode([output]))
    assert decoded.feature_map.shape == (4, 6, 1, 1)
    expected = output.feature_map.double().mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(decoded.feature_map.double(), expected, rtol=1e-6, atol=1e-7)


def maps_in_a_plane(images, channels=8, side=3, rank=2, seed=0):
    """Maps whose vectors at all positions lie in an affine space of small dimension."""
    draw = torch.Generator().manual_seed(seed)
    axes, _ = torch.linalg.qr(torch.randn(channels, rank, generator=draw))
    weights = torch.randn(images, rank, side, side, generator=draw)
    weights[:, 0] *= 3  # so that the first component is the first axis
    shift = 5 * torch.randn(channels, generator=draw)
    return torch.einsum('cr,brhw->bchw', axes, weights) + shift[:, None, None], axes


def fitted(features, channels, batch=5):
    fit = BasisFit()
    for first in range(0, len(features), batch):
        fit.update(features[first : first + batch])
    return fit.basis(channels)


def test_the_basis_is_that_of_a_singular_value_decomposition():
    scale = torch.tensor([1.0, 5, 2, 9, 3, 7]).view(-1, 1, 1)
    # The squares of the means are a million times the smallest variance.
    maps = torch.randn(40, 6, 3, 3) * scale + 1000
    basis = fitted(maps, 4)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 6).double().numpy()
    mean = rows.mean(axis=0)
    _, values, axes = np.linalg.svd(rows - mean, full_matrices=False)
    np.testing.assert_allclose(basis['mean'], mean, rtol=1e-5)
    np.testing.assert_allclose(np.abs((basis['components'] * axes[:4]).sum(1)), 1, atol=1e-5)
    explained = (values[:4] ** 2).sum() / (values**2).sum()
    np.testing.assert_allclose(basis['explained'], explained, rtol=1e-5)
    assert {array.dtype for array in basis.values()} == {np.dtype(np.float32)}
    # An eigenvector has no sign of its own: its largest entry is positive.
    largest = np.abs(basis['components']).argmax(axis=1)
    assert (basis['components'][range(4), largest] > 0).all()


def test_the_basis_does_not_depend_on_the_batches():
    maps, axes = maps_in_a_plane(24)
    one, many = fitted(maps, 2, batch=24), fitted(maps, 2, batch=5)
    np.testing.assert_allclose(one['components'], many['components'], atol=1e-4)
    assert abs(float(torch.from_numpy(one['components'][0]) @ axes[:, 0])) > 0.99
    assert one['explained'] == pytest.approx(1.0)


def stored_and_read(maps, basis, of_tokens=True):
    """What is stored of maps, and the maps that are read."""
    output = outputs(images=len(maps), channels=None)
    output.feature_map = maps
    kinds = ('map_components', 'token_map_components')
    shape = (len(basis['components']), *maps.shape[2:])
    specs = (
        *stored_tensors(settings(logits='float32'), outputs(channels=None)),
        TensorSpec(kinds[of_tokens], shape, 'float32'),
    )
    codec = OutputCodec(PackedLayout(dict(a=specs)), dict(a=basis))
    stored = codec.to_tensors('a', output)[kinds[of_tokens]]
    (decoded,) = codec.decode(codec.encode([output]))
    return stored, decoded.feature_map


@pytest.mark.parametrize('kept', [2, 3, 5])
def test_maps_that_the_components_span_are_read_back(kept):
    maps, _ = maps_in_a_plane(12)
    stored, read = stored_and_read(maps, fitted(maps, kept))
    assert stored.shape == (12, kept, 3, 3)
    torch.testing.assert_close(read, maps, rtol=1e-4, atol=1e-4)


def test_what_is_read_lacks_the_variance_that_the_components_leave_out():
    maps = torch.randn(200, 6, 3, 3) * torch.tensor([3.0, 2, 1, 1, 1, 1]).view(-1, 1, 1)
    basis = fitted(maps, 2)
    _, read = stored_and_read(maps, basis)
    mean = torch.from_numpy(basis['mean'])[:, None, None]
    lost = (read - maps).double().square().sum() / (maps - mean).double().square().sum()
    assert float(lost) == pytest.approx(1 - float(basis['explained']), rel=1e-4)
    assert float(lost) == pytest.approx(4 / 17, rel=0.1)


def test_closed_form_of_a_projection():
    basis = dict(
        components=np.array([[0, 1, 0, 0], [0, 0, 0, 1]], np.float32),
        mean=np.array([1, 2, 3, 4], np.float32),
    )
    maps = torch.arange(8.0).view(1, 4, 1, 2)
    stored, read = stored_and_read(maps, basis)
    # Channels 1 and 3 less their means; of the others, the means are read.
    torch.testing.assert_close(stored, torch.tensor([[0.0, 1], [2, 3]]).view(1, 2, 1, 2))
    expected = torch.tensor([[1.0, 1], [2, 3], [3, 3], [6, 7]]).view(1, 4, 1, 2)
    torch.testing.assert_close(read, expected)


@pytest.mark.parametrize('of_tokens', [False, True])
def test_outputs_of_a_relu_are_not_read_below_zero(of_tokens):
    maps = torch.randn(60, 6, 3, 3).clamp(min=0)
    basis = fitted(maps, 2)
    _, read = stored_and_read(maps, basis, of_tokens)
    _, signed = stored_and_read(maps, basis)
    assert (signed < 0).any()
    assert torch.equal(read, signed if of_tokens else signed.clamp(min=0))
    error = (read - maps).square().mean()
    if not of_tokens:
        assert error < (signed - maps).square().mean()


def test_maps_with_negative_entries_are_read_whole():
    """Also from stores of version 0.1, which took all maps but tokens for outputs of a ReLU."""
    maps = torch.nn.functional.hardswish(torch.randn(200, 6, 3, 3)) - 0.5
    basis = fitted(maps, 5)
    assert (basis['mean'] < 0).any()
    _, signed = stored_and_read(maps, basis)
    _, earlier = stored_and_read(maps, basis, of_tokens=False)
    assert torch.equal(signed, earlier) and (signed < 0).any()
    form = dict(maps='projected', map_channels=5)
    assert codec_of(outputs(channels=6), name_basis('maps', basis), **form).has_signed_map('a')
    lost = (signed - maps).square().mean() / maps.var()
    assert lost < 1.2 * (1 - float(basis['explained']))


def project(maps, basis, of_tokens=True):
    return stored_and_read(maps, basis, of_tokens)[1]


def test_the_projection_of_an_image_does_not_depend_on_its_batch():
    maps = torch.randn(33, 24, 7, 7)
    basis = fitted(maps, 5)
    together = project(maps, basis)
    for images in ([0], [32], [3, 30, 7], range(20, 33)):
        assert torch.equal(project(maps[list(images)], basis), together[list(images)])


def test_the_projection_is_not_rounded_by_mixed_precision():
    maps, _ = maps_in_a_plane(4)
    basis = fitted(maps, 2)
    expected = project(maps, basis)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(project(maps, basis), expected)


def stored_embeddings(embedding, basis):
    """What is stored of embeddings, and read."""
    output = outputs(images=len(embedding), channels=None)
    output.embedding = embedding
    kwargs = dict(logits='float32', embeddings='projected')
    codec = codec_of(
        output,
        name_basis('embeddings', basis),
        embedding_channels=len(basis['components']),
        **kwargs,
    )
    stored = codec.to_tensors('a', output)['embedding_components']
    (decoded,) = codec.decode(codec.encode([output]))
    assert torch.equal(decoded.embedding, stored)
    return stored


def test_closed_form_of_a_projected_embedding():
    basis = dict(
        components=np.array([[0, 1, 0, 0], [0, 0, 0, 1]], np.float32),
        mean=np.array([1, 2, 3, 4], np.float32),
    )
    stored = stored_embeddings(torch.tensor([[9.0, 4, 9, 10], [1, 2, 3, 4]]), basis)
    expected = torch.tensor([[2.0, 6], [0, 0]]) * (2 / 4) ** 0.5
    torch.testing.assert_close(stored, expected)


@pytest.mark.parametrize('kept', [2, 5])
def test_a_linear_connector_loses_nothing_by_the_components(kept):
    """The loss to them, and its gradient to the student, are those to the embeddings."""
    student = torch.randn(30, 4, requires_grad=True)
    embedding = torch.randn(30, 12) * torch.logspace(1, -1, 12)
    basis = fitted(embedding, kept)
    stored = stored_embeddings(embedding, basis)
    components, mean = (torch.from_numpy(basis[key]) for key in ('components', 'mean'))
    small, bias = torch.randn(kept, 4), torch.randn(kept)
    scale = (kept / 12) ** 0.5
    # The connector to all entries whose image lies in the components.
    whole = student @ (components.T @ small).T / scale + components.T @ bias / scale + mean
    to_all = (whole - embedding).square().mean(dim=1)
    to_components = (student @ small.T + bias - stored).square().mean(dim=1)
    left_out = embedding - mean - (embedding - mean) @ components.T @ components
    torch.testing.assert_close(to_all, to_components + left_out.square().mean(dim=1))
    gradients = [torch.autograd.grad(loss.sum(), student)[0] for loss in (to_all, to_components)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_components_of_an_embedding_do_not_depend_on_its_batch():
    embedding = torch.randn(33, 96)
    basis = fitted(embedding, 5)
    together = stored_embeddings(embedding, basis)
    for images in ([0], [32], [3, 30, 7], range(20, 33)):
        assert torch.equal(
            stored_embeddings(embedding[list(images)], basis), together[list(images)]
        )


def test_embeddings_and_maps_have_bases_of_their_own():
    output = outputs(images=6)
    bases = dict(embeddings=fitted(torch.randn(20, 7), 3), maps=fitted(torch.randn(20, 6, 3, 3), 2))
    named = {**name_basis('maps', bases['maps']), **name_basis('embeddings', bases['embeddings'])}
    codec = codec_of(
        output,
        named,
        logits='float32',
        embeddings='projected',
        embedding_channels=3,
        map_channels=2,
    )
    (decoded,) = codec.decode(codec.encode([output]))
    expected = stored_embeddings(output.embedding, bases['embeddings'])
    assert torch.equal(decoded.embedding, expected)
    assert torch.equal(decoded.feature_map, project(output.feature_map, bases['maps'], False))


def test_several_teachers_keep_their_order():
    first, second = outputs(size=3, channels=None), outputs(size=9)
    specs = dict(
        b=stored_tensors(settings(), first), a=stored_tensors(settings(maps='full'), second)
    )
    codec = OutputCodec(PackedLayout(specs))
    assert codec.names == ('b', 'a')
    decoded = codec.decode(codec.encode([first, second]))
    assert [output.embedding.shape[1] for output in decoded] == [3, 9]
    assert decoded[0].feature_map is None
    for output, exact in zip(decoded, (first, second)):
        assert torch.equal(output.logits, exact.logits.half().float())


def test_images_of_another_size():
    codec = codec_of(outputs(), maps='full')
    with pytest.raises(InputError) as error:
        codec.encode([outputs(side=4)])
    assert str(error.value) == (
        '"feature_map" of teacher "a" has the shape (6, 4, 4), but (6, 3, 3) is stored: the images '
        'have another size than those that were stored.'
    )


def test_tensors_of_a_later_version():
    layout = PackedLayout(dict(a=[TensorSpec('attention', (3,), 'float16')]))
    with pytest.raises(InputError, match=re.escape('hold "attention", which this version of mtk')):
        OutputCodec(layout)


def test_components_without_their_basis():
    layout = PackedLayout(dict(a=[TensorSpec('map_components', (3, 2, 2), 'float16')]))
    with pytest.raises(InputError, match='"map_components" of teacher "a" have no basis in its'):
        OutputCodec(layout)


def test_the_map_that_is_read_does_not_depend_on_its_batch():
    """Another order of the images, or an incomplete last batch."""
    basis = fitted(torch.randn(40, 32, 2, 2), 4)
    specs = (
        *stored_tensors(settings(), outputs(channels=None)),
        TensorSpec('map_components', (4, 2, 2), 'float16'),
    )
    codec = OutputCodec(PackedLayout(dict(a=specs)), dict(a=basis))
    output = outputs(images=33, channels=None)
    output.feature_map = torch.randn(33, 32, 2, 2)
    packed = codec.encode([output])
    together = codec.decode(packed)[0].feature_map
    assert together.shape == (33, 32, 2, 2)
    for images in ([0], [32], [3, 30, 7], list(range(20, 33))):
        assert torch.equal(codec.decode(packed[images])[0].feature_map, together[images])
