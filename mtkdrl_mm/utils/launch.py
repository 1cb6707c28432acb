# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the command-line tools have in common."""

import argparse
import inspect
import json
import logging
import os
import os.path as osp
import re
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from urllib.error import URLError

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.registry import DATASETS, RUNNERS
from mmengine.runner import Runner

from .checkpoint import allow_mmengine_checkpoints
from .data_settings import evaluators, follow_data, loader_datasets
from .errors import InputError
from .processes import describe_group_error, prepare_processes

# setuptools' own notice, four lines for every package that mmengine looks up.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')


class OptionsAction(DictAction):
    """mmengine's ``--cfg-options``, with one sentence where a value cannot be read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        """Parse the key=value pairs."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except (RecursionError, ValueError, AssertionError):
            parser.error(
                f'argument --cfg-options: {" ".join(values)!r} cannot be read. Give key=value '
                'pairs, with numbers, words, or lists and tuples of them as values; what needs a '
                'dict(...) goes into a config file.'
            )
        # mmengine takes all blanks out, also those of "traffic light".
        options = getattr(namespace, self.dest)
        for pair in values:
            key, _, value = pair.partition('=')
            if key.endswith('metainfo.classes') and ' ' in value.strip():
                names = value.strip().strip('()[]').split(',')
                options[key] = [name.strip(' \'"') for name in names if name.strip()]


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share in OpenMMLab projects.

    Args:
        parser (argparse.ArgumentParser): Extended in place.
    """
    parser.add_argument('--work-dir', help='the dir to save logs and models')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='override settings of the config by key=value pairs, for example '
        'model.num_classes=10 or key="[a,b]" or key=a,b; nested lists and tuples need quotation '
        'marks and no white space',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='whether to disable the pin_memory option in dataloaders',
    )
    # torch.distributed.launch passes it; torchrun sets the variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config file and merge the common flags into it.

    Args:
        args (argparse.Namespace): With ``config`` and the common flags.

    Returns:
        Config: With ``work_dir``, ``launcher`` and the loaders' defaults set.

    Raises:
        InputError: If the file does not exist.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        raise InputError(f'The config file "{args.config}" does not exist.')
    try:
        cfg = Config.fromfile(args.config)
    except (FileNotFoundError, SyntaxError, KeyError) as error:
        raise InputError(f'The config file "{args.config}" cannot be read: {error}') from error
    if args.cfg_options is not None:
        before = deepcopy(cfg)
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f'--cfg-options: {error}') from error
        follow_data(cfg, before, args.cfg_options)
    cfg.launcher = args.launcher
    # Precedence: command line, config file, name of the config file.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        # With the method's folder: configs of all methods have the same names.
        path = osp.splitext(osp.abspath(args.config))[0]
        folder, name = osp.split(path)
        cfg.work_dir = osp.join('./work_dirs', osp.basename(folder), name)
    _set_dataloader_defaults(cfg, args.no_pin_memory)
    prepare_processes(cfg)
    return cfg


def _set_dataloader_defaults(cfg: Config, no_pin_memory: bool) -> None:
    pin_memory = torch.cuda.is_available() and not no_pin_memory
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        loader.setdefault('pin_memory', pin_memory)
        if no_pin_memory:
            loader['pin_memory'] = False
        if loader.get('num_workers', 0) > 0:
            loader.setdefault('persistent_workers', True)
        else:
            loader.pop('persistent_workers', None)


def check_data(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Look for the data before anything is built.

    Args:
        cfg (Config): The merged config.
        loaders (tuple[str, ...]): Names of the loaders that will be used.

    Raises:
        InputError: If a data folder or annotation file does not exist.
    """
    for key, dataset in loader_datasets(cfg, loaders):
        _check_dataset(key, dataset, cfg.get('default_scope'))
        _adopt_classes(key, dataset)
    for name in loaders:
        for key, evaluator in evaluators(cfg, name.removesuffix('_dataloader')):
            path = evaluator.get('ann_file')
            if isinstance(path, str) and '://' not in path and not osp.isfile(path):
                raise InputError(f'The annotation file "{path}" ({key}.ann_file) does not exist.')
    _limit_topk(cfg)


def _check_dataset(key: str, dataset: dict[str, Any], scope: str | None) -> None:
    root = dataset.get('data_root')
    if not root or '://' in root:
        return
    if not osp.isdir(root):
        if _downloads_itself(dataset, scope):
            return
        raise InputError(
            f'The data folder "{root}" ({key}.data_root) does not exist. Put the data there, or '
            f'point to it: --cfg-options {key}.data_root=FOLDER'
        )
    split = dataset.get('split')
    prefix = dataset.get('data_prefix')
    annotated = dataset.get('ann_file') or osp.isfile(osp.join(root, 'meta', f'{split}.txt'))
    by_folder = str(dataset.get('type')).endswith(('ImageNet', 'CustomDataset'))
    if by_folder and not annotated:
        folder = osp.join(root, prefix if isinstance(prefix, str) and prefix else split or '')
        if not osp.isdir(folder):
            raise InputError(
                f'The data folder "{folder}" ({key}) does not exist. "{root}" should hold a '
                f'folder per split with a folder per class in it, and holds '
                f'{sorted(os.listdir(root))[:8]}.'
            )
    for name, folder in prefix.items() if isinstance(prefix, dict) else ():
        path = osp.join(root, folder) if isinstance(folder, str) else root
        if not osp.isdir(path):
            raise InputError(
                f'The data folder "{path}" ({key}.data_prefix.{name}) does not exist. "{root}" '
                f'holds {sorted(os.listdir(root))[:8]}.'
            )
    if isinstance(dataset.get('ann_file'), str) and dataset['ann_file']:
        path = osp.join(root, dataset['ann_file'])
        if not osp.exists(path) and not osp.exists(dataset['ann_file']):
            raise InputError(f'The annotation file "{path}" ({key}.ann_file) does not exist.')
        if str(dataset.get('type')).endswith('CocoDataset'):
            _check_coco(key, path if osp.exists(path) else dataset['ann_file'])


def _downloads_itself(dataset: dict[str, Any], scope: str | None) -> bool:
    """Whether a data set fetches what is missing, as mmpretrain's CIFAR100 does."""
    cls = dataset.get('type')
    if isinstance(cls, str):
        cls = DATASETS.get(f'{scope}.{cls}' if scope and '.' not in cls else cls)
    flag = inspect.signature(cls).parameters.get('download') if cls else None
    return flag is not None and bool(dataset.get('download', flag.default))


def _check_coco(key: str, path: str) -> None:
    """Look whether a file is COCO's JSON.

    mmdet reads it again: files so large that this would take seconds are believed.
    """
    if osp.getsize(path) > 64 * 2**20:
        return
    problem = None
    try:
        with open(path) as file:
            content = json.load(file)
    except ValueError as error:
        problem = str(error)
    else:
        parts = ('images', 'annotations', 'categories')
        if not isinstance(content, dict):
            problem = f'it holds a {type(content).__name__}, not an object'
        elif missing := [part for part in parts if not isinstance(content.get(part), list)]:
            problem = f'it has no list of {", ".join(missing)}, only {sorted(content)[:8]}'
    if problem:
        raise InputError(
            f'The annotation file "{path}" ({key}.ann_file) is no COCO JSON: {problem}. It must '
            'be an object with the lists `images`, `annotations` and `categories`.'
        )


def _adopt_classes(key: str, dataset: dict[str, Any]) -> None:
    """Take the class folders as classes where there are not ImageNet's 1,000.

    mmpretrain's ImageNet data set insists on its own classes; a folder of
    photographs in the same layout is to work as it is.
    """
    if not str(dataset.get('type')).endswith('ImageNet') or dataset.get('metainfo'):
        return
    root, split = dataset.get('data_root') or '', dataset.get('split') or ''
    folder = osp.join(root, dataset.get('data_prefix') or split)
    if dataset.get('ann_file') or osp.isfile(osp.join(root, 'meta', f'{split}.txt')):
        return
    if '://' in folder or not osp.isdir(folder):
        return
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if len(classes) not in (0, 1000):
        dataset['metainfo'] = ConfigDict(classes=tuple(classes))
        print_log(f'{key}: the {len(classes)} folders in {folder} are the classes.', 'current')


def _limit_topk(cfg: Config) -> None:
    """Leave out top-k accuracies that data of so few classes does not have."""
    num_classes = cfg.model.get('num_classes') if isinstance(cfg.get('model'), dict) else None
    for name in ('val_evaluator', 'test_evaluator'):
        evaluator = cfg.get(name)
        if not isinstance(evaluator, dict) or not num_classes or 'topk' not in evaluator:
            continue
        topk = evaluator['topk']
        topk = tuple(topk) if isinstance(topk, (list, tuple)) else (topk,)
        kept = tuple(k for k in topk if k <= num_classes) or (1,)
        if kept != topk:
            print_log(
                f'{name}.topk={topk} asks for more than the {num_classes} classes: using {kept}.',
                'current',
                logging.WARNING,
            )
            evaluator['topk'] = kept


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config asks for.

    Args:
        cfg (Config): The merged config.

    Returns:
        Runner: mmengine's runner, or the config's ``runner_type``.
    """
    allow_mmengine_checkpoints()
    cfg = deepcopy(cfg)
    cfg.setdefault('runner_type', 'mtkdrl_mm.ResumableRunner')
    return RUNNERS.build(cfg)


# Errors of the OpenMMLab packages that are the user's to mend, with what to do.
_KNOWN_ERRORS = (
    (KeyError, r'is not in the .* registry', ''),
    (
        AssertionError,
        r"number of subfolders .* doesn't match",
        'Name the classes of your data (--cfg-options '
        'train_dataloader.dataset.metainfo.classes=a,b,c, the same for val_dataloader), and set '
        '`model.num_classes` to their number.',
    ),
    (RuntimeError, r'Found 0 files in subfolders', ''),
    (
        ValueError,
        r'new classes .* is not a subset of classes',
        'This type of data set has its own classes. For others in the same layout set `type` of '
        'the data sets to "BaseSegDataset", with `img_suffix` and `seg_map_suffix`.',
    ),
)


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; say what is wrong in one sentence where the user can mend it.

    Args:
        main (Callable): The tool.
    """
    try:
        main()
    except InputError as error:
        _exit(str(error))
    except URLError as error:
        _exit(
            f'A download failed: {error.reason}. Its address is above. Fetch the archive elsewhere '
            'and unpack it in the `data_root` of the data sets. (mmpretrain also downloads where '
            "a file's checksum is not the published one.)"
        )
    except (KeyError, AssertionError, RuntimeError, TimeoutError, ValueError) as error:
        lost = describe_group_error(error)
        if lost is not None:
            _exit(lost)
        message = str(error.args[0]) if error.args else ''
        for kind, pattern, advice in _KNOWN_ERRORS:
            if isinstance(error, kind) and re.search(pattern, message):
                _exit(f'{message} {advice}'.strip())
        raise


def _exit(message: str) -> None:
    rank, world_size = get_dist_info()
    where = f' (process {rank} of {world_size})' if world_size > 1 else ''
    sys.stdout.flush()
    sys.exit(f'\nError{where}: {message}')
