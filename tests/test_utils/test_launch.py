# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Common steps of the command-line tools."""

import argparse
import os
import sys
import weakref
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config
from mmengine.visualization import TensorboardVisBackend

from mtkdrl_mm.openmmlab import command_for_operators
from mtkdrl_mm.utils import InputError, config_keys
from mtkdrl_mm.utils.launch import add_common_arguments, build_runner, load_config, run_tool

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
        ((), 'variant = "resnet56"', './work_dirs/my_method/my_config/resnet56'),
        ((), 'variant = None', './work_dirs/my_method/my_config'),
        ((), 'work_dir = "from/config"; variant = "resnet56"', 'from/config'),
        (('--work-dir', 'from/flag'), 'variant = "resnet56"', 'from/flag'),
    ],
)
def test_work_dir(load, arguments, line, expected):
    assert load(*arguments, text=CONFIG + line).work_dir == expected


def test_options_override_the_config(load):
    cfg = load('--cfg-options', 'model.num_classes=10', 'train_dataloader.batch_size=64')
    assert (cfg.model.num_classes, cfg.train_dataloader.batch_size) == (10, 64)


@pytest.mark.parametrize(
    'option', ['model.num_classes.x=1', 'default_scope.a=1', 'default_scope.a.b=1', 'folds.2=1']
)
def test_options_that_do_not_fit(load, option):
    key = option.partition('=')[0]
    with pytest.raises(
        InputError, match=rf'^--cfg-options: {key} does not fit the config: .*[^\]]\.$'
    ):
        load('--cfg-options', 'model.num_classes=4', option, text=CONFIG + 'folds = [1, 2]')


def test_options_that_do_not_fit_together(load):
    with pytest.raises(InputError) as error:
        load('--cfg-options', 'model.a=1', 'model.a.b=2')
    assert str(error.value) == (
        '--cfg-options: two of these options do not fit together: model.a, model.a.b.'
    )


@pytest.fixture
def warnings(monkeypatch):
    """The warnings about keys of files."""
    found = []
    monkeypatch.setattr(config_keys, '_warn_once', found.append)
    return found


@pytest.mark.parametrize(
    ('option', 'meant'),
    [
        ('modle.num_classes', '"model.num_classes"'),
        ('num_class', None),
        ('num_classes', '"model.num_classes"'),
        ('optim_wraper.type', '"optim_wrapper.type"'),  # the runner's, not the config's
        ('batch_size', '"train_dataloader.batch_size" or "val_dataloader.batch_size"'),
    ],
)
def test_a_new_key_that_nothing_reads(load, option, meant):
    sentence = (
        f'--cfg-options: nothing reads a top-level key "{option.split(".")[0]}" of "{option}".'
    )
    advice = 'If it is of your own code, define it in the config file.'
    hint = f'Did you mean {meant}? ' if meant else ''
    with pytest.raises(InputError) as error:
        load('--cfg-options', f'{option}=3')
    assert str(error.value) == f'{sentence} {hint}{advice}'


@pytest.mark.parametrize(
    'option', ['find_unused_parameters=True', 'load_from=a.pth', 'own=2', 'resume=True', 'own.b=1']
)
def test_new_keys_of_the_runner_and_keys_of_the_file_are_fine(load, warnings, option):
    text = CONFIG + ('own = dict(a=1)' if 'own' in option else '')
    key, _, value = option.partition('=')
    found = load('--cfg-options', option, text=text)
    for part in key.split('.'):
        found = found[part]
    assert str(found) == value and warnings == []


def test_config_that_cannot_be_read(load):
    message = (
        r'my_config\.py" cannot be read: ".*/my_confg\.py", which it names, does not exist\. Did'
    )
    with pytest.raises(InputError, match=message):
        load(text="_base_ = './my_confg.py'")
    with pytest.raises(InputError, match=r'my_config\.py" cannot be read'):
        load(text='model = dict(')
    message = r"cannot be read: No module named 'my_kd'\. Modules of `custom_imports` must be"
    with pytest.raises(InputError, match=message):
        load(text="custom_imports = dict(imports=['my_kd'], allow_failed_imports=False)")
    args = argparse.Namespace(config='no/such.py', local_rank=0)
    with pytest.raises(InputError, match=r'config file "no/such\.py" does not exist'):
        load_config(args)


@pytest.mark.parametrize(
    ('text', 'reason', 'where'),
    [
        ('a = 1\nb = 1 / 0', 'ZeroDivisionError: division by zero', 'my_config.py, line 2'),
        ("_base_ = './base.py'", 'AssertionError', 'base.py, line 3'),
        # In a library: the line of the config that called it.
        ("b = 1\nc = int('q')", 'ValueError: invalid literal for int() .*', 'my_config.py, line 2'),
        ('d = dict()\nd["no"]', "KeyError: 'no'", 'my_config.py, line 2'),
        ('b = 1\nc = (', r"'\(' was never closed", 'my_config.py, line 2'),
        ("custom_imports = dict(imports=['base'])", 'AssertionError', 'base.py, line 3'),
    ],
)
def test_a_config_whose_code_fails_is_named_with_the_line(
    load, tmp_path, monkeypatch, text, reason, where
):
    (tmp_path / 'my_method').mkdir()
    (tmp_path / 'my_method' / 'base.py').write_text('a = 1\n\nassert a == 2')
    monkeypatch.syspath_prepend(str(tmp_path / 'my_method'))
    reason = reason.replace('()', r'\(\)')
    match = rf'my_config\.py" cannot be read: {reason} \(.*/{where}\)\.$'
    with pytest.raises(InputError, match=match):
        load(text=text)


def test_a_failed_download_is_one_sentence():
    def tool():
        raise URLError('no route')

    with pytest.raises(SystemExit) as stop:
        run_tool(tool)
    assert str(stop.value).startswith('\nError: A download failed: no route.')


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
            'Error: ResNett is not in the mmpretrain::model registry. Please check its spelling.',
        ),
        (
            AssertionError("The number of subfolders (3) doesn't match the number of"),
            'Name all class folders in `metainfo.classes` of the data set, or none.',
        ),
        (
            ValueError('Expected more than 1 value per channel when training, got input'),
            'set train_dataloader.batch_size to 2 or more per process.',
        ),
    ],
)
def test_tools_say_in_a_sentence_what_the_user_can_mend(error, message):
    with pytest.raises(SystemExit) as exit_info:
        run_tool(raises(error))
    assert message in exit_info.value.code


def test_a_path_where_something_else_is_is_one_sentence(tmp_path):
    folder, file = tmp_path / 'folder', tmp_path / 'file'
    folder.mkdir()
    file.touch()
    for work, path, words in (
        (lambda: os.makedirs(file, exist_ok=True), file, 'exists already'),
        (lambda: os.makedirs(file / 'a'), file / 'a', 'is a file or lies in one, where a'),
        (lambda: open(folder, 'w'), folder, 'is a folder, where a file is needed'),
        (lambda: os.replace(file, folder), folder, 'is a folder, where a file is needed'),
    ):
        with pytest.raises(SystemExit) as stop:
            run_tool(work)
        assert str(stop.value).startswith(f'\nError: "{path}" {words}')


def test_the_work_dir_is_checked_before_anything_is_built(load, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=r'^work_dir: ".*/file" cannot be a folder'):
        build_runner(load('--work-dir', str(tmp_path / 'file')))


def test_a_config_without_a_model_is_named(tmp_path):
    path = tmp_path / 'base.py'
    path.write_text('x = 1')
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    with pytest.raises(InputError, match=r'^The config ".*/base.py" has no `model`'):
        build_runner(cfg)


def test_a_backend_whose_package_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    backend = TensorboardVisBackend(str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: backend.experiment)
    assert str(stop.value).startswith(
        '\nError: Please run "pip install future tensorboard" to install the dependencies'
    )


@pytest.mark.parametrize('name', ['mmcv.ops', 'mmcv._ext'])  # of mmcv-lite; of a build without
def test_mmcv_without_operators_is_named_with_the_remedy(name):
    missing = ModuleNotFoundError(f"No module named '{name}'", name=name)
    with pytest.raises(SystemExit) as stop:
        run_tool(raises(missing))
    assert str(stop.value) == (
        '\nError: mmcv is installed without its compiled operators, which detection and '
        f'segmentation need. Install it with them: {command_for_operators()}'
    )
    with pytest.raises(ModuleNotFoundError):
        run_tool(raises(ModuleNotFoundError("No module named 'other'", name='other')))


@pytest.fixture
def group(monkeypatch):
    """A process group of one of two processes, as far as run_tool sees; returns its model's end."""
    alive = []
    state = SimpleNamespace(model=None, alive=alive)
    monkeypatch.setattr('mtkdrl_mm.utils.launch.in_process_group', lambda: True)
    monkeypatch.setattr('mtkdrl_mm.utils.processes.in_process_group', lambda: True)
    monkeypatch.setattr('mtkdrl_mm.utils.launch.get_dist_info', lambda: (1, 2))
    monkeypatch.setattr(
        torch.distributed, 'destroy_process_group', lambda: alive.append(state.model() is not None)
    )
    return state


@pytest.mark.parametrize(
    ('end', 'code', 'printed'),
    [
        (None, None, ''),
        (SystemExit(143), 143, ''),
        (SystemExit('a word'), 1, 'a word\n'),
        (InputError('No file "x".'), 1, '\nError (process 1 of 2): No file "x".\n'),
        (KeyError('a fault of ours'), 1, "KeyError: 'a fault of ours'\n"),
    ],
)
def test_the_model_is_gone_when_the_group_is_left(group, capsys, end, code, printed):
    """Wrapped models refer to the group; else torch 2.14 aborts with another exit code."""

    def main():
        model = torch.nn.Linear(1, 1)
        model.itself = [model]  # a cycle
        group.model = weakref.ref(model)
        if end is not None:
            raise type(end)(*end.args)  # a new one: the traceback of `end` would hold the model

    try:
        run_tool(main)
        stopped = None
    except SystemExit as stop:
        stopped = stop.code
    assert group.alive == [False]
    assert stopped == code
    error = capsys.readouterr().err
    assert error.endswith(printed)
    assert ('Traceback' in error) == isinstance(end, KeyError)


@pytest.mark.parametrize('error', [KeyError('x'), RuntimeError('out of memory'), TypeError('x')])
def test_tools_do_not_hide_other_errors(error):
    with pytest.raises(type(error)):
        run_tool(raises(error))
