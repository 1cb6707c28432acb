# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trainings from stored outputs are those with running teachers, bit by bit."""

from functools import cache
from pathlib import Path

import pytest
import torch
from test_teacher_outputs.stores import contents

from .stored import (
    BLENDED,
    BY_ITERATIONS,
    LOSSLESS,
    LOSSLESS_FLAGS,
    Distillery,
    assert_same_training,
    difference,
)

pytestmark = pytest.mark.slow
LIVE = dict(views=2)


class Cases:
    """Configs with their lossless store and their training with running teachers."""

    def __init__(self, folder: Path) -> None:
        self.distillery = Distillery(folder)
        self.config = cache(self._config)
        self.store = cache(self._store)
        self.live = cache(self._live)

    def _config(self, kind: str) -> str:
        if kind == 'mixed':
            return self.distillery.mixed_pool()
        extra = dict(plain='', blended=BLENDED, iterations=BY_ITERATIONS)
        return self.distillery.config(kind, extra[kind])

    def _store(self, kind: str, *flags: str) -> str:
        name = '_'.join(['store', kind, *flags])
        return self.distillery.fill(self.config(kind), name, *(flags or LOSSLESS_FLAGS))

    def _live(self, kind: str) -> dict:
        return self.distillery.distil(self.config(kind), f'live_{kind}', LIVE)


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
    return Cases(tmp_path_factory.mktemp('cases'))


@pytest.mark.parametrize('kind', ['plain', 'blended', 'mixed', 'iterations'])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_lossless_store_changes_no_bit(cases, kind, workers):
    root = cases.store(kind)
    live = cases.live(kind)
    with cases.distillery.without_teachers():
        read = cases.distillery.distil(
            cases.config(kind),
            f'read_{kind}_{workers}',
            root,
            train_dataloader__num_workers=workers,
        )
    assert_same_training(live, read)


@pytest.mark.parametrize('kind', ['blended', 'iterations'])
def test_resumed_in_the_middle_of_an_epoch(cases, kind):
    """From iteration 10, which is in the second pass, and not at a batch's end of it."""
    every = (
        {}
        if kind == 'iterations'
        else dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=10)
    )
    config, train = cases.config(kind), cases.distillery.distil
    for name, outputs in (('stored', cases.store(kind)), ('live', LIVE)):
        train(config, f'cut_{kind}_{name}', outputs, **every)
        resumed = train(
            config,
            f'resumed_{kind}_{name}',
            outputs,
            resume=True,
            load_from=str(cases.distillery.folder / f'cut_{kind}_{name}' / 'iter_10.pth'),
        )
        assert_same_training(cases.live(kind), resumed)


def test_two_processes(cases):
    """Of 16 images each, one of which both of them see."""
    config, d = cases.config('blended'), cases.distillery

    def train(name: str, outputs: str, port: int) -> dict:
        command = ['bash', 'tools/dist_train.sh', config, '2', '--work-dir', str(d.folder / name)]
        options = [f'model.teacher_outputs{outputs}', 'train_cfg.max_epochs=3']
        options.append('default_hooks.agent.update_interval=5')
        done = d.run(*command, '--cfg-options', *options, env=dict(PORT=str(port)))
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(d.folder / name / 'epoch_3.pth')

    live = train('live_2', '.views=2', 29651)
    root = str(d.folder / 'store_2')
    command = ['bash', 'tools/dist_store_teacher_outputs.sh', config, root, '2', '--views', '2']
    done = d.run(*command, *LOSSLESS_FLAGS, env=dict(PORT='29652'))
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(root) == contents(cases.store('blended'))
    with d.without_teachers():
        assert_same_training(live, train('read_2', f'={root}', 29653))


@pytest.mark.parametrize('maps', ['projected', 'pooled', 'none'])
def test_compressed(cases, maps):
    """The first two epochs of a training that fills the store run the teachers."""
    kind = 'mixed'
    config, train = cases.config(kind), cases.distillery.distil
    flags = ['--maps', maps, '--embedding-channels', '9']
    flags += ['--map-channels', '7'] * (maps == 'projected')
    root = cases.store(kind, *flags)
    filled = str(cases.distillery.folder / f'filled_{maps}')
    settings = dict(
        root=filled, views=2, write=True, embedding_channels=9, maps=maps, map_channels=7
    )
    # Without maps there are connectors of another kind, which have no normalisation.
    options = dict(model__connector=None) if maps == 'none' else {}
    filling = train(config, f'filling_{maps}', settings, **options)
    assert contents(filled) == contents(root)
    read = train(config, f'read_{maps}', root, **options)
    assert_same_training(filling, read)
    # What was lost has an effect, so that the equality says something.
    live = train(config, f'live_{maps}', LIVE, **options)['state_dict']
    assert difference(read['state_dict'], live) is not None


WRAPPERS = dict(
    repeat="dict(type='RepeatDataset', times=2, dataset=_dataset)",
    balanced="dict(type='ClassBalancedDataset', oversample_thr=0.25, dataset=_dataset)",
    concat="""dict(type='ConcatDataset', datasets=[_dataset, dict(_dataset, data_prefix='val',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])])""",
    fold="dict(type='KFoldDataset', fold=1, num_splits=3, seed=4, dataset=_dataset)",
)


@pytest.mark.parametrize(
    ('wrapper', 'images'), [('repeat', 62), ('balanced', 38), ('concat', 47), ('fold', 21)]
)
def test_wrapped_data_sets(cases, wrapper, images):
    train = cases.distillery.distil
    extra = f"\ntrain_dataloader['dataset'] = {WRAPPERS[wrapper]}"
    config = cases.distillery.config(wrapper, extra=extra)
    root = str(cases.distillery.folder / f'filled_{wrapper}')
    outputs = dict(
        filling=dict(LOSSLESS, root=root, views=2, write=True),
        live=LIVE,
        read=root,
    )
    interval = dict(default_hooks__agent__update_interval=7)
    filling, live, read = (
        train(config, f'{name}_{wrapper}', value, **interval) for name, value in outputs.items()
    )
    assert read['meta']['progress']['num_images'] == images
    assert_same_training(live, filling)
    assert_same_training(live, read)
