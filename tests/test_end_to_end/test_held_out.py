# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""An agent that learns from held-out images, with running and with stored teachers."""

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mtkdrl_mm.evaluation.held_out_outputs import read_held_out
from mtkdrl_mm.rl import AgentTrainer
from mtkdrl_mm.teacher_outputs import StoreReader, held_out_root, list_teachers
from mtkdrl_mm.utils import InputError

from .stored import BLENDED, LOSSLESS_FLAGS, Distillery, difference

pytestmark = pytest.mark.slow

HELD_OUT = """
held_out_dataloader = dict(
    batch_size=5, num_workers=0, collate_fn=dict(type='default_collate'),
    dataset=dict(train_dataloader['dataset'], data_prefix='val'))
default_hooks['agent'].update(experience='held_out', update_interval=3)
model['weighting'].update(feature_weights='probes')
"""
EXTRA_LOSS = "model['extra_losses'] = [dict(type='DIST', loss_weight=5.0)]"
LIVE = dict(views=2)
KEYS = ('components', 'mean', 'explained')
BASES = {*KEYS, *(f'embedding_{key}' for key in KEYS)}


@pytest.fixture(scope='module')
def distillery(tmp_path_factory):
    return Distillery(tmp_path_factory.mktemp('held_out'))


def assert_same(first, second):
    """Student, connectors, agent and optimisers, bit by bit; no buffer is left over."""
    assert first['agent_hook']['algorithm']['updates'] == 7
    assert all(buffer['seen'] == 0 for buffer in first['agent_hook']['buffers'])
    probed = first['state_dict']['weighting.probed_weights']
    assert probed.sum() == pytest.approx(1) and probed.std() > 0.01
    for key in ('state_dict', 'agent_hook', 'optimizer'):
        assert difference(first[key], second[key], key) is None


def test_stored_outputs_of_held_out_images(distillery):
    d = distillery
    config = d.config('held_out', extra=HELD_OUT)
    root = d.fill(config, 'store', *LOSSLESS_FLAGS)
    live = d.distil(config, 'live', LIVE)
    with d.without_teachers():
        assert_same(live, d.distil(config, 'read', root))
        # Interrupted after the second epoch.
        d.distil(config, 'resumed', root, epochs=2)
        assert_same(live, d.distil(config, 'resumed', root, resume=True))
    # Another experience is another agent.
    plain = d.distil(d.config('plain'), 'plain', LIVE)
    assert difference(live['state_dict'], plain['state_dict']) is not None
    # A training that fills a store sees the same views.
    filling = dict(root=str(d.folder / 'filled'), views=2, write=True)
    filling.update(logits='float32', maps='full')
    assert_same(live, d.distil(config, 'filling', filling))


def test_components_mean_the_same_in_both_stores(distillery):
    d = distillery
    config = d.config('projected', extra=HELD_OUT)
    flags = ['--maps', 'projected', '--map-channels', '7', '--embedding-channels', '9']
    root = d.fill(config, 'projected', *flags)
    whole, held_out = (
        StoreReader(folder, list_teachers(root)) for folder in (root, held_out_root(root))
    )
    assert whole.num_samples == 31 and held_out.num_samples == 16
    for name, basis in whole.read_bases().items():
        other = held_out.read_bases()[name]
        assert basis.keys() == other.keys() == BASES
        assert all(np.array_equal(basis[key], other[key]) for key in basis)
    with d.without_teachers():
        trained = d.distil(config, 'read_projected', root)
    # A training that fills a store gives its agent the components, too.
    filling = dict(root=str(d.folder / 'filled_projected'), views=2, write=True)
    filling.update(maps='projected', map_channels=7, embedding_channels=9)
    assert_same(trained, d.distil(config, 'filling_projected', filling))


def test_held_out_images_of_another_size_while_a_store_is_filled(distillery):
    """They are refused before the first step, and not at the first update of the agent."""
    d = distillery
    larger = """
held_out_dataloader['dataset']['pipeline'] = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=48), dict(type='PackInputs')]
"""
    config = d.config('larger', extra=HELD_OUT + larger)
    filling = dict(root=str(d.folder / 'filled_larger'), views=2, write=True, maps='full')
    with pytest.raises(InputError, match=r'^held_out_dataloader: "feature_map" of teacher'):
        d.distil(config, 'larger', filling)
    assert not list((d.folder / 'larger').glob('*.pth'))
    filling.update(root=str(d.folder / 'filled_pooled'), maps='pooled')
    assert d.distil(config, 'pooled', filling)['agent_hook']['algorithm']['updates'] == 7


def test_mixup_leaves_held_out_images_alone(distillery, monkeypatch):
    """With and without stored outputs: their labels are one class each."""
    d = distillery
    plain = d.config('unblended', extra=HELD_OUT)
    config = d.config('blended', extra=HELD_OUT + BLENDED)
    roots = [d.fill(c, f'store_{i}', *LOSSLESS_FLAGS) for i, c in enumerate((plain, config))]
    expected, logits = (
        read_held_out(Config.fromfile(c), root).logits for c, root in zip((plain, config), roots)
    )
    np.testing.assert_array_equal(logits, expected)
    seen = []
    observe = AgentTrainer.observe

    def spy(self, terms, *args):
        seen.append(terms.labels)
        return observe(self, terms, *args)

    monkeypatch.setattr(AgentTrainer, 'observe', spy)
    for name, outputs in (('no_store', None), ('live', LIVE), ('read', roots[1])):
        seen.clear()
        d.distil(config, f'blended_{name}', outputs, epochs=1)
        found = torch.cat(seen)
        assert found.ndim == 1 or found.amax(dim=1).min() == 1, name
        assert len(found) == 32, name


def test_what_weighing_could_gain(distillery):
    d = distillery
    path = d.config('ceilings', extra=HELD_OUT)
    root = d.fill(path, 'ceilings', '--maps', 'none')
    names, logits, embeddings, labels = read_held_out(Config.fromfile(path), root)
    reader = StoreReader(held_out_root(root), names)
    assert logits.shape == (2, 16, len(names), 4) and labels.shape == (16,)
    for view in range(2):
        for m, name in enumerate(names):
            rows = reader.read_rows(range(16), view)[name]
            assert np.array_equal(logits[view, :, m], rows['logits'].astype(np.float32))
            assert np.array_equal(embeddings[m][view], rows['embedding'].astype(np.float32))
    # The same files in wrappers, which have no get_gt_labels.
    wrapped = Config.fromfile(path)
    for kind in ('ConcatDataset', 'RepeatDataset'):
        inner = wrapped.held_out_dataloader.dataset
        inside = dict(datasets=[inner]) if kind == 'ConcatDataset' else dict(dataset=inner, times=1)
        wrapped.held_out_dataloader.dataset = dict(type=kind, **inside)
    again = read_held_out(wrapped, root)
    assert torch.equal(again.labels, labels) and torch.equal(again.logits, logits)
    done = d.tool('tools/analysis_tools/weighing_ceilings.py', path, root, '--passes', '2')
    assert done.returncode == 0, done.stderr[-3000:]
    assert '16 held-out images in 2 views, 5 folds.' in done.stdout
    for name in (*names, 'equal weights', 'static weights', 'weights per image'):
        rows = [line for line in done.stdout.splitlines() if line.startswith(f'| {name} ')]
        assert len(rows) == 2 and rows[0] != rows[1]  # of logits, and of features
    with pytest.raises(InputError, match='The config has no `held_out_dataloader`: give labelled'):
        read_held_out(Config.fromfile(d.config('plain')), root)
    with pytest.raises(InputError, match=r'nowhere" holds no outputs of the held-out images\. Run'):
        read_held_out(Config.fromfile(path), str(d.folder / 'nowhere'))
    # compare_methods.py makes stores in the folder that it is given.
    parent = d.folder / 'stores'
    parent.mkdir()
    (parent / '0a1b2c3d').symlink_to(root)
    message = r'stores" is no store, but a folder of stores.* one of them: .*/stores/0a1b2c3d\.$'
    with pytest.raises(InputError, match=message):
        read_held_out(Config.fromfile(path), str(parent))
    # Other images, as many of them, are not those that were stored.
    other = Config.fromfile(path)
    other.held_out_dataloader.dataset.update(data_prefix='train', indices=len(labels))
    with pytest.raises(InputError, match=r'with another data set \(files, labels or order\)'):
        read_held_out(other, root)


def table_of(printed):
    return {
        cells[0]: cells[1:]
        for line in printed.splitlines()
        if len(cells := [cell.strip() for cell in line.strip('|').split('|')]) == 4
    }


def test_how_useful_the_teachers_are(distillery):
    d = distillery
    path = d.config('useful', extra=HELD_OUT + EXTRA_LOSS)
    root = d.fill(path, 'useful')
    d.distil(path, 'useful', root)
    checkpoint = str(d.folder / 'useful' / 'epoch_1.pth')
    tool = ['tools/analysis_tools/teacher_usefulness.py', path, checkpoint]
    flags = ['--steps', '2', '--repeats', '2', '--images', '8', '--out', str(d.folder / 'u.csv')]
    flags += ['--cfg-options', f'model.teacher_outputs={root}']
    done = d.tool(*tool, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'on 8 validation images by 2 steps, in thousandths of a nat; 2 repeats' in done.stdout
    rows = table_of(done.stdout)
    names = list_teachers(root)
    assert list(rows)[2:] == [*names, 'equal weights', "the training's weights"]
    # The weights of the teachers in the training sum to 1, up to rounding.
    assert abs(sum(float(rows[name][2]) for name in names) - 1) <= 0.005 * len(names) + 1e-9
    lines = (d.folder / 'u.csv').read_text().splitlines()
    assert len(lines) == 1 + len(names) + 2 and lines[0].startswith('checkpoint,followed,0,1,')
    # It trains as the training does, with its extra losses.
    without = table_of(d.tool(*tool, *flags, 'model.extra_losses.0.loss_weight=0').stdout)
    assert list(without) == list(rows)
    assert all(without[name][0] != rows[name][0] for name in names)
    flags[1] = '1000'
    done = d.tool(*tool, *flags)
    assert 'Error: --steps is 1000, but an epoch has ' in done.stderr


def test_a_store_without_held_out_images(distillery):
    d = distillery
    root = d.fill(d.config('whole'), 'whole')
    config = d.config('lacking', extra=HELD_OUT)
    with pytest.raises(InputError, match='holds no outputs for the `held_out` images of AgentHoo'):
        d.distil(config, 'lacking', root)
    # The tool adds what is missing.
    d.fill(config, 'whole')
    assert d.distil(config, 'whole', root)['agent_hook']['algorithm']['updates'] == 7
