# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the command-line tools have in common."""

import argparse
from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.launch import add_common_arguments, check_data, load_config, run_tool

CONFIG = """
default_scope = '{scope}'
model = dict(num_classes=3)
train_dataloader = dict(num_workers=2, persistent_workers=True, batch_size=4)
val_dataloader = dict(num_workers=0, persistent_workers=True, batch_size=4)
test_dataloader = None
"""


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.fixture
def load(tmp_path):
    """Function that writes a config, and loads it with command-line arguments."""

    def run(*arguments, text=CONFIG, scope='mmpretrain'):
        file = tmp_path / 'my_method' / 'my_config.py'
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.format(scope=scope))
        parser = argparse.ArgumentParser()
        parser.add_argument('config')
        add_common_arguments(parser)
        return load_config(parser.parse_args([str(file), *arguments]))

    return run


def test_dataloader_defaults(load):
    cfg = load()
    assert cfg.train_dataloader.persistent_workers is True
    # torch refuses persistent workers where there are none
    assert 'persistent_workers' not in cfg.val_dataloader
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.pin_memory is False  # there is no GPU
        assert loader.collate_fn.type == 'default_collate'
    assert cfg.test_dataloader is None


def test_dataloader_defaults_with_a_gpu(load, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert load().train_dataloader.pin_memory is True
    assert load('--no-pin-memory').train_dataloader.pin_memory is False
    text = CONFIG.replace('batch_size', 'pin_memory=True, batch_size')
    assert load('--no-pin-memory', text=text).val_dataloader.pin_memory is False


def test_persistent_workers_are_the_default_and_can_be_refused(load):
    text = CONFIG.replace('persistent_workers=True, ', '')
    assert load(text=text).train_dataloader.persistent_workers is True
    text = CONFIG.replace('persistent_workers=True', 'persistent_workers=False')
    assert load(text=text).train_dataloader.persistent_workers is False


def test_collate_function_is_set_for_mmpretrain_only(load):
    assert 'collate_fn' not in load(scope='mmdet').train_dataloader
    text = CONFIG.replace('batch_size=4', 'collate_fn=dict(type="pseudo_collate")')
    assert load(text=text).train_dataloader.collate_fn.type == 'pseudo_collate'


@pytest.mark.parametrize(
    ('arguments', 'line', 'expected'),
    [
        ((), '', './work_dirs/my_method/my_config'),
        ((), 'work_dir = "from/config"', 'from/config'),
        (('--work-dir', 'from/flag'), 'work_dir = "from/config"', 'from/flag'),
    ],
)
def test_work_dir(load, arguments, line, expected):
    assert load(*arguments, text=CONFIG + line).work_dir == expected


def test_options_override_the_config(load):
    cfg = load('--cfg-options', 'model.num_classes=10', 'train_dataloader.batch_size=64')
    assert (cfg.model.num_classes, cfg.train_dataloader.batch_size) == (10, 64)


@pytest.mark.parametrize('option', ['model.num_classes.x=1', 'default_scope.a=1'])
def test_options_that_do_not_fit(load, option):
    with pytest.raises(InputError, match='--cfg-options: '):
        load('--cfg-options', option)


def test_config_that_cannot_be_read(load):
    with pytest.raises(InputError, match=r'my_config\.py" cannot be read'):
        load(text="_base_ = './no_such_base.py'")
    with pytest.raises(InputError, match=r'my_config\.py" cannot be read'):
        load(text='model = dict(')
    args = argparse.Namespace(config='no/such.py', local_rank=0)
    with pytest.raises(InputError, match=r'config file "no/such\.py" does not exist'):
        load_config(args)


def data_config(root, num_classes=3, kind='ImageNet', **dataset):
    dataset = dict(type=kind, data_root=str(root), **{'split': 'train', **dataset})
    return Config(
        dict(
            model=dict(num_classes=num_classes),
            train_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type='Accuracy', topk=(1, 5)),
        )
    )


@pytest.fixture
def folders(tmp_path):
    """A folder per split with a folder per class in it."""
    for name in ('dog', 'cat', 'emu'):
        (tmp_path / 'train' / name).mkdir(parents=True)
    (tmp_path / 'train' / 'notes.txt').write_text('no class')
    return tmp_path


def test_class_folders_become_the_classes(folders):
    cfg = data_config(folders)
    check_data(cfg, ('train_dataloader',))
    assert cfg.train_dataloader.dataset.metainfo.classes == ('cat', 'dog', 'emu')


def test_classes_that_are_given_stay(folders):
    cfg = data_config(folders, metainfo=dict(classes=('a', 'b', 'c')))
    check_data(cfg, ('train_dataloader',))
    assert cfg.train_dataloader.dataset.metainfo.classes == ('a', 'b', 'c')


@pytest.mark.parametrize('wrapped', [dict(type='RepeatDataset', times=2), 'concatenated'])
def test_wrapped_data_sets_are_looked_into(folders, wrapped):
    cfg = data_config(folders)
    inner = cfg.train_dataloader.dataset
    if wrapped == 'concatenated':
        cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    else:
        cfg.train_dataloader.dataset = dict(**wrapped, dataset=inner)
    check_data(cfg, ('train_dataloader',))
    outer = cfg.train_dataloader.dataset
    found = outer.datasets[0] if wrapped == 'concatenated' else outer.dataset
    assert found.metainfo.classes == ('cat', 'dog', 'emu')


def test_classes_of_imagenet_itself_and_of_annotated_data_are_left_alone(folders, tmp_path):
    for index in range(1000):
        (tmp_path / 'full' / 'train' / f'n{index:08d}').mkdir(parents=True)
    (folders / 'list.txt').write_text('cat/1.jpg 0\n')
    for cfg in (
        data_config(tmp_path / 'full'),
        data_config(folders, ann_file='list.txt'),
        data_config(folders, kind='CIFAR10'),
    ):
        check_data(cfg, ('train_dataloader',))
        assert 'metainfo' not in cfg.train_dataloader.dataset


@pytest.mark.parametrize(
    ('num_classes', 'topk', 'expected'),
    [
        (3, (1, 5), (1,)),
        (5, (1, 5), (1, 5)),
        (10, [1, 5], [1, 5]),
        (2, 5, (1,)),
        (3, 1, 1),
        (None, (1, 5), (1, 5)),
    ],
)
def test_topk_is_limited_to_the_classes(folders, num_classes, topk, expected):
    cfg = data_config(folders, num_classes)
    cfg.val_evaluator.topk = topk
    check_data(cfg, ('train_dataloader',))
    assert cfg.val_evaluator.topk == expected


def test_missing_data(folders):
    with pytest.raises(InputError) as error:
        check_data(data_config(folders / 'nowhere'), ('train_dataloader',))
    message = str(error.value)
    assert f'The data folder "{folders}/nowhere" (train_dataloader.dataset.data_root)' in message
    assert '--cfg-options train_dataloader.dataset.data_root=FOLDER' in message
    with pytest.raises(InputError) as error:
        check_data(data_config(folders, split='val'), ('train_dataloader',))
    assert f'"{folders}/val" (train_dataloader.dataset) does not exist' in str(error.value)
    assert "holds ['train']" in str(error.value)
    with pytest.raises(InputError) as error:
        check_data(data_config(folders, ann_file='meta/train.txt'), ('train_dataloader',))
    assert f'annotation file "{folders}/meta/train.txt"' in str(error.value)


@pytest.mark.parametrize(
    'options, found', [({}, True), (dict(download=True), True), (dict(download=False), False)]
)
def test_data_that_downloads_itself_may_be_missing(tmp_path, options, found):
    dataset = dict(type='CIFAR100', data_root=str(tmp_path / 'none'), **options)
    cfg = Config(
        dict(default_scope='mmpretrain', model=dict(), train_dataloader=dict(dataset=dataset))
    )
    if found:
        check_data(cfg, ('train_dataloader',))
    else:
        with pytest.raises(InputError, match=r'none" .* does not exist'):
            check_data(cfg, ('train_dataloader',))


def test_a_failed_download_is_one_sentence():
    def tool():
        raise URLError('no route')

    with pytest.raises(SystemExit) as stop:
        run_tool(tool)
    assert str(stop.value).startswith('\nError: A download failed: no route.')


def test_data_that_is_not_used_or_not_local_is_not_looked_for(folders):
    check_data(data_config(folders / 'nowhere'), ('val_dataloader',))
    check_data(data_config('s3://bucket/imagenet'), ('train_dataloader',))


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (InputError('Teacher "x": no file.'), 'Error: Teacher "x": no file.'),
        (
            KeyError('ResNett is not in the mmpretrain::model registry. Please check'),
            'Error: ResNett is not in the mmpretrain::model registry. Please check',
        ),
        (
            AssertionError("The number of subfolders (3) doesn't match the number of"),
            'Name the classes of your data (--cfg-options train_dataloader.dataset.metainfo',
        ),
    ],
)
def test_tools_say_in_a_sentence_what_the_user_can_mend(error, message):
    with pytest.raises(SystemExit) as exit_info:
        run_tool(raises(error))
    assert message in exit_info.value.code


@pytest.mark.parametrize('error', [KeyError('x'), RuntimeError('out of memory'), TypeError('x')])
def test_tools_do_not_hide_other_errors(error):
    with pytest.raises(type(error)):
        run_tool(raises(error))


@pytest.mark.parametrize('option', ["model.losses=[dict(type='A', weight=1)]", 'no_equals_sign'])
def test_options_that_cannot_be_read(load, capsys, option):
    with pytest.raises(SystemExit) as stop:
        load('--cfg-options', option)
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert option[:10] in message and 'cannot be read. Give key=value pairs' in message


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ("('traffic light', 'car')", ['traffic light', 'car']),
        ('traffic light,car', ['traffic light', 'car']),
        ('["traffic light"]', ['traffic light']),
        ("('cat','dog')", ('cat', 'dog')),
        ('cat,dog', ['cat', 'dog']),
    ],
)
def test_classes_keep_their_blanks(value, expected):
    """mmengine alone makes "trafficlight" of "traffic light"."""
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    options = parser.parse_args(['--cfg-options', 'a=1', f'metainfo.classes={value}']).cfg_options
    assert options == {'a': 1, 'metainfo.classes': expected}
