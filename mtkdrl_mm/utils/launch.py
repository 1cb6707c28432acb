# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Common steps of the command-line tools."""

import argparse
import os
import os.path as osp
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any
from urllib.error import URLError

from mmengine.config import Config
from mmengine.dist import get_dist_info
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mtkdrl_mm.openmmlab import command_for_operators

from .adapt_config import (
    adapt_classes,
    add_checks,
    leave_out_damaged_images,
    set_dataloader_defaults,
)
from .cli import add_common_arguments
from .config_components import fill_default_types
from .config_errors import (
    check_checkpoint_hooks,
    check_settings,
    config_error,
    refused_settings,
)
from .config_keys import (
    check_option_keys,
    refuse_unread_data_settings,
    warn_of_unread_keys,
)
from .data_checks import check_files
from .data_settings import follow_data
from .errors import InputError, check_config_file, config_failure, similar_files
from .files import MEDIUM_ERRORS, PLACE_ERRORS, check_output_folder, describe_medium_error
from .hook_configs import hook_configs
from .processes import (
    describe_group_error,
    in_process_group,
    leave_process_group,
    prepare_processes,
)
from .torch_load import allow_mmengine_checkpoints

__all__ = [
    'add_common_arguments',
    'build_runner',
    'check_data',
    'load_config',
    'merge_options',
    'read_config_file',
    'run_tool',
]

# setuptools' notice: four lines for every package that mmengine looks up.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
# mmcv-lite's, of operators that distillation does not use.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')


def read_config_file(path: str) -> Config:
    """Read a config file, and warn of keys in it that look misspelt.

    Args:
        path (str): Path of the file.

    Raises:
        InputError: If it does not exist or cannot be read, or sets what would change
            nothing, see :func:`~mtkdrl_mm.utils.config_keys.refuse_unread_data_settings`.
    """
    check_config_file(path)
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        if error.filename is None:
            raise InputError(f'The config file "{path}" cannot be read: {error}') from error
        missing = str(error.filename)
        raise InputError(
            f'The config file "{path}" cannot be read: "{missing}", which it names, does not '
            f'exist.{similar_files(missing)}'
        ) from error
    except ImportError as error:
        cause: BaseException = error  # mmengine's own words follow it
        while cause.__context__ is not None:
            cause = cause.__context__
        raise InputError(
            f'The config file "{path}" cannot be read: {cause}. Modules of `custom_imports` must '
            'be installed or found from PYTHONPATH: for those in this folder, put `PYTHONPATH=.` '
            'before the command.'
        ) from error
    except InputError:
        raise
    except Exception as error:  # whatever its code raises
        raise InputError(
            f'The config file "{path}" cannot be read: {config_failure(error)}.'
        ) from error
    warn_of_unread_keys(cfg)
    refuse_unread_data_settings(cfg)
    return cfg


def merge_options(cfg: Config, options: dict[str, Any] | None) -> None:
    """Merge settings of the command line into a config, and what follows from them.

    Args:
        cfg (Config): The config; changed in place.
        options (dict, optional): The settings of ``--cfg-options``, with dotted keys.

    Raises:
        InputError: If one does not fit the config, see also
            :func:`~mtkdrl_mm.utils.config_keys.check_option_keys` and
            :func:`~mtkdrl_mm.utils.data_settings.follow_data`.
    """
    if not options:
        return
    check_option_keys(cfg, options)
    fill_default_types(cfg, options)
    before = deepcopy(cfg)
    try:
        cfg.merge_from_dict(options)
    except _MERGE_ERRORS:
        for key, value in options.items():
            _try_option(before, key, value)
        raise InputError(
            f'--cfg-options: two of these options do not fit together: {", ".join(options)}.'
        ) from None
    follow_data(cfg, before, options)


# What mmengine raises where an option is below a number, or the index of a list is too large.
_MERGE_ERRORS = (KeyError, TypeError, IndexError, AttributeError)


def _try_option(cfg: Config, key: str, value: Any) -> None:
    """Refuse an option that does not fit a config."""
    try:
        deepcopy(cfg).merge_from_dict({key: value})
    except _MERGE_ERRORS as error:
        reason = str(error.args[0]).partition(' [')[0]  # without the contents of a list
        raise InputError(f'--cfg-options: {key} does not fit the config: {reason}.') from error


def load_config(args: argparse.Namespace) -> Config:
    """Read the config file and merge the common flags into it.

    Args:
        args (argparse.Namespace): With ``config`` and the common flags.

    Returns:
        Config: With ``work_dir``, ``launcher`` and the loaders' defaults set.

    Raises:
        InputError: If the file does not exist, or a setting is out of range.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config_file(args.config)
    merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    # Precedence: command line, config file, name of the config file.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        # With the method's folder, since configs of all methods have the same names, and with
        # the `variant` that an environment variable chose (a student, a backbone).
        folder, name = osp.split(osp.splitext(osp.abspath(args.config))[0])
        variant = [cfg.variant] if cfg.get('variant') else []
        cfg.work_dir = osp.join('./work_dirs', osp.basename(folder), name, *variant)
    set_dataloader_defaults(cfg, args.no_pin_memory)
    check_settings(cfg)
    prepare_processes(cfg)
    return cfg


def check_data(
    cfg: Config, loaders: tuple[str, ...], trained_classes: Sequence[str] | None = None
) -> None:
    """Check that the data exists, and adapt the config to it, before anything is built.

    Args:
        cfg (Config): The merged config; changed in place, see
            :func:`~mtkdrl_mm.utils.adapt_config.adapt_classes`.
        loaders (tuple[str, ...]): Names of the loaders that are used.
        trained_classes (Sequence[str], optional): Class names of the
            checkpoint to test. Defaults to None.

    Raises:
        InputError: If a data folder or annotation file does not exist, or a
            split has other classes than the training data.
    """
    if (
        'train_dataloader' in loaders
        and 'held_out_dataloader' not in loaders
        and _uses_held_out(cfg)
    ):
        loaders += ('held_out_dataloader',)
    check_files(cfg, loaders)
    adapt_classes(cfg, loaders, trained_classes)
    leave_out_damaged_images(cfg)
    add_checks(cfg)


def _uses_held_out(cfg: Config) -> bool:
    """Whether a hook trains an agent on the images of ``held_out_dataloader``."""
    return any(hook.get('experience') == 'held_out' for hook in hook_configs(cfg))


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config.

    Args:
        cfg (Config): The merged config.

    Returns:
        Runner: mmengine's runner, or the config's ``runner_type``, by default
        :class:`mtkdrl_mm.engine.runner.ResumableRunner`.

    Raises:
        InputError: If the config has no model, or the work dir cannot be written to.
    """
    from mtkdrl_mm.models.load_weights import use_complete_pretrained

    allow_mmengine_checkpoints()
    use_complete_pretrained()
    cfg = deepcopy(cfg)
    cfg.setdefault('runner_type', 'mtkdrl_mm.ResumableRunner')
    check_output_folder('work_dir', cfg.work_dir)
    if cfg.get('model') is None:
        where = f' "{cfg.filename}"' if cfg.filename else ''
        raise InputError(f'The config{where} has no `model`: is it meant to be a `_base_` file?')
    runner = RUNNERS.build(cfg)
    check_checkpoint_hooks(runner)
    return runner


# Errors of the OpenMMLab packages and torch that the user can correct, with the remedy.
_KNOWN_ERRORS = (
    (
        AssertionError,
        r"number of subfolders .* doesn't match",
        'Name all class folders in `metainfo.classes` of the data set, or none.',
    ),
    (RuntimeError, r'Found 0 files in subfolders', ''),
    (
        ValueError,
        r'new classes .* is not a subset of classes',
        'This type of data set has its own classes. For others in the same layout set `type` of '
        'the data sets to "BaseSegDataset", with `img_suffix` and `seg_map_suffix`.',
    ),
    (
        ValueError,
        r'Expected more than 1 value per channel when training',
        'BatchNorm cannot be trained on a batch of one image: set train_dataloader.batch_size to '
        '2 or more per process.',
    ),
    # mmengine's words for a package of a visualisation or file backend, with the command.
    (ImportError, r'^Please (run|install) ', ''),
)


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; print errors that the user can correct as one sentence.

    Args:
        main (Callable): The tool's main function.
    """
    code: int | str | None = None
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        sentence = _describe(error)
        if sentence is not None:
            rank, world_size = get_dist_info()
            where = f' (process {rank} of {world_size})' if world_size > 1 else ''
            code = f'\nError{where}: {sentence}'
        elif in_process_group():
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
        else:
            raise
    if isinstance(code, str) and in_process_group():
        # Before the group is left: that may have to wait for others.
        print(code, file=sys.stderr, flush=True)
        code = 1
    # The error is gone by now, and with it its traceback, which refers to the model.
    leave_process_group()
    if code is not None:
        sys.stdout.flush()
        sys.exit(code)


def _describe(error: Exception) -> str | None:
    """The sentence for an error that the user can correct; None for any other."""
    if isinstance(error, InputError):
        # torch puts the traceback of a data worker before its message.
        return re.split(r'(?:^|\n)(?:[\w.]+\.)?InputError: ', str(error))[-1].strip()
    if isinstance(error, URLError):
        return (
            f'A download failed: {error.reason}. Its address is above. Fetch the archive elsewhere '
            'and unpack it in the `data_root` of the data sets. (mmpretrain also downloads where '
            "a file's checksum is not the published one.)"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in ('mmcv.ops', 'mmcv._ext'):
        return (
            'mmcv is installed without its compiled operators, which detection and segmentation '
            f'need. Install it with them: {command_for_operators()}'
        )
    if isinstance(error, OSError):
        if lost := describe_group_error(error):
            return lost
        path = error.filename2 or error.filename  # of two, the target
        if error.errno in MEDIUM_ERRORS and path is not None:
            return f'{describe_medium_error(error, str(path))}.'
        if error.errno in PLACE_ERRORS and path is not None:
            return f'"{path}" {PLACE_ERRORS[error.errno]}. Give another path, or remove it.'
        return None
    if isinstance(
        error, (KeyError, TypeError, AssertionError, RuntimeError, ValueError, ImportError)
    ):
        if sentence := describe_group_error(error) or config_error(error):
            return sentence
        message = str(error.args[0]) if error.args else ''
        for kind, pattern, advice in _KNOWN_ERRORS:
            if isinstance(error, kind) and re.search(pattern, message):
                return f'{message} {advice}'.strip()
        return refused_settings(error)
    return None
