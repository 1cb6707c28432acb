# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Export the student of a training checkpoint as a plain mmpretrain checkpoint.

The file holds the student alone, and is named after its contents as OpenMMLab
publishes its files (OUT-HASH.pth). Next to it goes the student's own mmpretrain
config (OUT.py), so that any mmpretrain program can use the two:

    python tools/model_converters/export_student.py work_dirs/mtkdrl/r18_imagenet/epoch_100.pth \\
        student.pth
    python -c "from mmpretrain import ImageClassificationInferencer as I; \\
        print(I('student.py', 'student-0123abcd.pth')('photo.jpg'))"
"""

import argparse
import glob
import hashlib
import json
import os
import os.path as osp
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from safetensors.torch import save_file
from torch import Tensor

from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.distilled_backbone import backbone_weights
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.checkpoint import extract_state_dict, read_checkpoint, summarise
from mtkdrl_mm.utils.launch import run_tool

# What an mmpretrain config needs beside the model to be of use elsewhere.
CONFIG_KEYS = (
    'data_preprocessor',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', help='training checkpoint of a distillation or of a baseline')
    parser.add_argument('out', help='file to write, .pth or .safetensors; a hash is added')
    parser.add_argument('--backbone-only', action='store_true', help='leave neck and head out')
    parser.add_argument(
        '--format',
        choices=['mmpretrain', 'torchvision'],
        default='mmpretrain',
        help="names of the weights: mmpretrain's, or those of torchvision's ResNet",
    )
    return parser.parse_args()


def read_config(contents: dict[str, Any], path: str) -> Config:
    """The config that a training checkpoint was made with.

    Raises:
        InputError: If the checkpoint holds none.
    """
    text = (contents.get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise InputError(
            f'"{path}" holds no config, so it is no training checkpoint of mmengine. Only those '
            'can be exported.'
        )
    # mmengine reads `custom_imports` when it reads a config.
    return Config.fromstring(text, file_format='.py')


def student_config(cfg: Config) -> Config:
    """A plain mmpretrain config of the student.

    Args:
        cfg (Config): Of a distillation, or of a plain classifier.

    Returns:
        Config: With the model and what testing needs.
    """
    model, preprocessor = cfg.model, None
    if str(model.get('type')).endswith('MultiTeacherDistiller'):
        num_classes = model.get('num_classes')
        model, preprocessor = read_network_config(cfg.model.student, 'student')
        if num_classes is not None:
            model.head.num_classes = num_classes
    plain = Config(dict(default_scope='mmpretrain', model=model.to_dict()))
    for key in CONFIG_KEYS:
        if cfg.get(key) is not None:
            plain[key] = cfg[key]
    if cfg.get('data_preprocessor') is None and preprocessor is not None:
        plain['data_preprocessor'] = preprocessor
    return plain


def find_accuracy(contents: dict[str, Any], path: str) -> dict[str, float]:
    """Validation results of the checkpoint's epoch, from it or from the logs beside it.

    Args:
        contents (dict): The checkpoint.
        path (str): Where it is.

    Returns:
        dict[str, float]: Such as ``{'accuracy/top1': 72.8}``; empty if unknown.
    """
    epoch = (contents.get('meta') or {}).get('epoch')
    pattern = osp.join(osp.dirname(osp.abspath(path)), '*', 'vis_data', 'scalars.json')
    results: dict[str, float] = {}
    for log in sorted(glob.glob(pattern)):
        with open(log) as file:
            records = [json.loads(line) for line in file]
        for record in records:
            if record.get('step') == epoch and 'loss' not in record:
                results = {k: v for k, v in record.items() if k.startswith('accuracy/')} or results
    return results


def describe(cfg: Config, contents: dict[str, Any], path: str) -> dict[str, Any]:
    """What a user of the exported file may want to know."""
    model, meta = cfg.model, contents['meta']
    distilled = str(model.get('type')).endswith('MultiTeacherDistiller')
    weighting = model.get('weighting', 'AVER') if distilled else None
    classes = list((meta.get('dataset_meta') or {}).get('classes') or ())
    return dict(
        classes=classes,
        dataset_meta=dict(classes=classes),  # where mmpretrain looks for them
        method=weighting if isinstance(weighting, str) or weighting is None else weighting['type'],
        teachers=[
            teacher.get('name') or osp.splitext(osp.basename(teacher.get('cfg_path', '')))[0]
            for teacher in (model.get('teachers') or [])
        ],
        accuracy=find_accuracy(contents, path),
        epoch=meta.get('epoch'),
        config=cfg.pretty_text,
    )


def to_torchvision(weights: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """Rename the weights of an mmpretrain ResNet to torchvision's names.

    Raises:
        InputError: If they are not those of a ResNet with torchvision's layout.
    """
    renamed = {}
    for key, value in weights.items():
        new = key.removeprefix('backbone.').replace('head.fc.', 'fc.')
        renamed[new] = value
    strange = [k for k in renamed if not k.startswith(('conv1.', 'bn1.', 'layer', 'fc.'))]
    stem = renamed.get('conv1.weight')
    if stem is not None and stem.shape != (64, 3, 7, 7):
        strange.append(f'a first convolution of the shape {tuple(stem.shape)}')
    if strange or stem is None:
        raise InputError(
            "--format torchvision is for ResNets with torchvision's stem, but "
            f'"{path}" holds {summarise(strange or list(renamed))}.'
        )
    return renamed


def save(
    weights: dict[str, Tensor], meta: dict[str, Any], args: argparse.Namespace
) -> tuple[str, int]:
    """Write the weights; returns the final path and its size in bytes."""
    stem, suffix = osp.splitext(args.out)
    os.makedirs(osp.dirname(osp.abspath(args.out)), exist_ok=True)
    part = args.out + '.part'
    if suffix == '.safetensors':
        # One entry: the order of several would change from run to run, and the hash with it.
        tensors = {key: value.contiguous() for key, value in weights.items()}
        save_file(tensors, part, metadata=dict(meta=json.dumps(meta)))
    elif args.format == 'torchvision':
        torch.save(weights, part)
    else:
        torch.save(dict(meta=meta, state_dict=weights), part)
    with open(part, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:8]
    path = f'{stem}-{digest}{suffix}'
    os.replace(part, path)
    return path, osp.getsize(path)


def main() -> None:
    args = parse_args()
    stem, suffix = osp.splitext(args.out)
    if suffix not in ('.pth', '.safetensors'):
        raise InputError(f'"{args.out}" must end in .pth or .safetensors.')
    contents = read_checkpoint(args.checkpoint, 'training checkpoint')
    cfg = read_config(contents, args.checkpoint)
    init_default_scope('mmpretrain')
    plain = student_config(cfg)
    weights = extract_state_dict(contents, args.checkpoint, 'training checkpoint')
    weights = {k: v for k, v in weights.items() if not k.startswith('data_preprocessor.')}
    own = build_classifier(plain.model, None, None, 'student').state_dict()
    if weights.keys() != own.keys():
        raise InputError(
            f'"{args.checkpoint}" does not hold the student of its own config. Missing: '
            f'{summarise(sorted(own.keys() - weights.keys()))}; unknown: '
            f'{summarise(sorted(weights.keys() - own.keys()))}.'
        )
    if args.backbone_only:
        weights = {f'backbone.{key}': value for key, value in backbone_weights(weights).items()}
    if args.format == 'torchvision':
        weights = to_torchvision(weights, args.checkpoint)
    meta = describe(cfg, contents, args.checkpoint)
    path, size = save(weights, meta, args)
    print(f'{len(weights)} tensors, {size / 2**20:.1f} MiB: {path}')
    if not args.backbone_only:
        plain.dump(f'{stem}.py')
        print(f'mmpretrain config: {stem}.py')
    print(f'method {meta["method"]}, teachers {meta["teachers"]}, accuracy {meta["accuracy"]}')


if __name__ == '__main__':
    run_tool(main)
