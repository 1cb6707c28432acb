# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Top-level keys of a config that nothing reads, in its files and on the command line."""

import pytest
from mmengine.config import Config

from mtkdrl_mm.utils import InputError, config_keys
from mtkdrl_mm.utils.config_keys import (
    check_option_keys,
    find_variables,
    refuse_unread_data_settings,
    warn_of_unread_keys,
    without_variables,
)

METHOD = """
weighting = dict(type='MTKDRL', agent=dict(type='JointAgent'))
weighting_hooks = dict(agent=dict(type='mtkdrl_mm.AgentHook', reward=dict(type='A')))
"""
DATA = """
dataset_type = 'ImageNet'
epochs = 3
unused = [1, 2]
_load = [dict(type='LoadImageFromFile')]
train_dataloader = dict(batch_size=4, dataset=dict(type=dataset_type, pipeline=_load))
val_dataloader = dict(batch_size=8, dataset=dict(type=dataset_type, pipeline=_load))
train_cfg = dict(max_epochs=epochs)
"""
MAIN = """
_base_ = ['./method.py', './data.py']
pool = [dict(name='a', checkpoint='a.pth'), dict(name='b', checkpoint='b.pth')]
model = dict(
    type='mtkdrl_mm.MultiTeacherDistiller',
    student=dict(cfg_path='student.py'),
    teachers=pool[:1],
    weighting=_base_.weighting,
)
default_hooks = {{_base_.weighting_hooks}}
"""


@pytest.fixture
def read(tmp_path):
    """Function that reads the config with further lines, in a file of its own."""

    def run(lines='', name='own'):
        for base, text in (('method', METHOD), ('data', DATA), ('main', MAIN)):
            (tmp_path / f'{base}.py').write_text(text)
        path = tmp_path / f'{name}.py'
        path.write_text(f"_base_ = './main.py'\n{lines}")
        return Config.fromfile(path)

    return run


@pytest.fixture
def warnings_of(monkeypatch):
    """Function that returns the warnings about a config."""
    found = []
    monkeypatch.setattr(config_keys, '_warn_once', found.append)

    def run(cfg):
        found.clear()
        warn_of_unread_keys(cfg)
        return list(found)

    return run


@pytest.mark.parametrize(
    ('option', 'advice'),
    [
        ('weighting.type', 'set model.weighting.type'),
        ('weighting', 'set model.weighting'),
        ('weighting.agent.hidden_size', 'set model.weighting.agent.hidden_size'),
        ('weighting_hooks.agent.warmup_epochs', 'set default_hooks.agent.warmup_epochs'),
        # The model has a part of the list only.
        ('pool.0.checkpoint', 'set model.teachers.0.checkpoint'),
        ('pool.1.checkpoint', 'change it in the config file'),
        (
            'dataset_type',
            'set train_dataloader.dataset.type and val_dataloader.dataset.type',
        ),
        (
            '_load.0.to_float32',
            'set train_dataloader.dataset.pipeline.0.to_float32 and '
            'val_dataloader.dataset.pipeline.0.to_float32',
        ),
        # Others may have the same number by chance.
        ('epochs', 'change it in the config file'),
    ],
)
def test_options_for_a_variable_that_the_file_has_used(read, option, advice):
    with pytest.raises(InputError) as error:
        check_option_keys(read(), [option])
    assert str(error.value) == (
        f'"{option.partition(".")[0]}" is a variable that the config file has already used, so '
        f'that --cfg-options {option}=... would change nothing: {advice}.'
    )


@pytest.mark.parametrize(
    ('option', 'meant'),
    [
        ('feature_loss_weight', 'model.feature_loss_weight'),  # of the distiller
        ('temperature', 'model.logit_loss.temperature'),  # of its default loss
        ('update_interval', 'default_hooks.agent.update_interval'),
        ('checkpoint', 'model.teachers.0.checkpoint'),
    ],
)
def test_options_at_the_top_that_belong_to_a_component(read, option, meant):
    with pytest.raises(InputError) as error:
        check_option_keys(read(), [option])
    assert f'"{option}" of "{option}". Did you mean "{meant}"' in str(error.value)


def test_options_that_something_may_read(read):
    options = ['unused.0', 'work_dir', 'data_root', 'metainfo.classes', 'auto_scale_lr.enable']
    options += ['model.weighting.type', 'train_cfg.max_epochs', 'skip_damaged_images']
    check_option_keys(read(), options)
    check_option_keys(Config(dict(own=1)), ['own'])


def test_what_the_files_use(read):
    found = find_variables(read('unused = 3\nepochs = 4\n_base_.train_cfg.max_epochs = epochs'))
    assert {'weighting', 'weighting_hooks', 'dataset_type', '_load', 'pool'} <= found.used
    assert 'unused' in found.unread and 'unused' not in found.used
    assert not {'weighting', 'weighting_hooks', 'pool', 'epochs'} & found.unread.keys()
    assert find_variables(Config(dict(a=1))) == config_keys.Variables()


def test_settings_are_all_but_used_variables(read):
    cfg = read()
    assert cfg.to_dict().keys() - without_variables(cfg).keys() == {
        *('weighting', 'weighting_hooks', 'dataset_type', 'epochs', '_load', 'pool')
    }


@pytest.mark.parametrize(
    ('line', 'meant'),
    [
        ("modle = dict(student=dict(cfg_path='other.py'))", '"model"'),
        ('held_out_dataloder = dict(batch_size=4)', '"held_out_dataloader"'),
        ('feature_loss_weight = 0', '"model.feature_loss_weight"'),
        # Its base has read a variable of this name, before it is set again.
        ("weighting = dict(type='AVER')", '"model.weighting"'),
        ('unread = 3', None),
        ('_modle = dict()', None),
        ('num_classes = 7\nmodel = dict(num_classes=num_classes)', None),
        ("test_pipeline = [dict(type='PackInputs')]", None),
        ('modle = dict(\n    num_classes=3)\nmodel = {{fileBasename}}', '"model"'),
    ],
)
def test_keys_of_files_that_look_misspelt(read, warnings_of, line, meant, tmp_path):
    line = line.replace('{{fileBasename}}', "dict(name='{{fileBasename}}')")
    name = line.partition(' ')[0]
    expected = f'"{name}" in {tmp_path / "own.py"} is read by nothing. Did you mean {meant}?'
    assert warnings_of(read(line)) == ([expected] if meant else [])


def test_a_file_that_cannot_be_parsed_reads_all_that_it_names(tmp_path, warnings_of):
    (tmp_path / 'base.py').write_text('modle = dict(a=1)\nmodels = 3')
    own = tmp_path / 'own.yml'
    own.write_text("_base_: ./base.py\nmodel: '{{_base_.modle}}'\n")
    assert [text.split()[0] for text in warnings_of(Config.fromfile(own))] == ['"models"']


def test_configs_that_mmengine_has_written(read, warnings_of, tmp_path):
    """They have the variables, and no more the expressions that read them."""
    cfg = read('feature_weight = 3\nmodel = dict(feature_loss_weight=feature_weight)')
    cfg.merge_from_dict({'model.weighting.type': 'AVER', 'model.weighting.agent': None})
    cfg.dump(tmp_path / 'written.py')
    written = Config.fromfile(tmp_path / 'written.py')
    assert warnings_of(written) == []
    with pytest.raises(InputError, match=r'set model\.teachers\.0\.checkpoint\.$'):
        check_option_keys(written, ['pool.0.checkpoint'])
    with pytest.raises(InputError, match=r'Did you mean "model\.weighting\.type"'):
        check_option_keys(written, ['weighting.type'])


@pytest.mark.parametrize(
    ('lines', 'refused'),
    [
        ("data_root = 'data/pets'", 'data_root'),
        (
            "data_root = 'a'\ntrain_dataloader = dict(dataset=dict(data_root='a2'))",
            'data_root',
        ),
        ("data_root = 'data/pets'\ntrain_dataloader = dict(dataset=dict(data_root=data_root))", ''),
        # Not through the variable, but the same.
        (
            "data_root = 'pets/'\ntrain_dataloader = dict(dataset=dict(data_root='pets'))",
            '',
        ),
        ("data_root = 'data'\nval_dataloader = dict(dataset=dict(ann_file='data/val.txt'))", ''),
        ("metainfo = dict(classes=('cat', 'dog'))", 'metainfo'),
        (
            "metainfo = dict(classes=('cat', 'dog'))\n"
            'val_dataloader = dict(dataset=dict(metainfo=metainfo))',
            '',
        ),
        # Refused where data sets are read, and not by a TypeError.
        (
            'metainfo = dict(classes=2)\nval_dataloader = dict(dataset=dict(metainfo=metainfo))',
            '',
        ),
        ('metainfo = dict(palette=[(0, 0, 0)])', ''),
    ],
)
def test_data_settings_of_a_file_that_no_data_set_has(read, lines, refused, tmp_path):
    """On the command line they set those of all data sets; there they would change nothing."""
    cfg = read(lines)
    if not refused:
        refuse_unread_data_settings(cfg)
        return
    with pytest.raises(InputError) as error:
        refuse_unread_data_settings(cfg)
    assert f'`{refused}` in "{tmp_path / "own.py"}" would change nothing' in str(error.value)
    assert f'dict(dataset=dict({refused}={refused}))' in str(error.value)
    # Bases may have variables that nothing uses.
    (tmp_path / 'further.py').write_text("_base_ = './own.py'\n")
    refuse_unread_data_settings(Config.fromfile(tmp_path / 'further.py'))
