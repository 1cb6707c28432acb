# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Export the student of a training checkpoint as a plain mmpretrain checkpoint.

The file contains the student only, and its name ends in a hash of its contents, as
in OpenMMLab's model zoos (OUT-HASH.pth). The student's mmpretrain config is
written beside it (OUT.py). Any mmpretrain program can use the two:

    python tools/model_converters/export_student.py work_dirs/mtkdrl/r18_imagenet/epoch_100.pth \\
        student.pth
    python -c "from mmpretrain import ImageClassificationInferencer as I; \\
        print(I('student.py', 'student-0123abcd.pth')('photo.jpg'))"

With ``--push-to-hub ORG/REPO``, both are uploaded to the Hugging Face hub as well, with a
model card. The next export to the same repository is another commit.
"""

import argparse
import glob
import hashlib
import io
import json
import os.path as osp
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import safetensors.torch
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mtkdrl_mm.engine.resume_checks import teacher_name
from mtkdrl_mm.models.build_classifier import build_classifier, read_network_config
from mtkdrl_mm.models.build_preprocessor import take_preprocessor
from mtkdrl_mm.models.distilled_backbone import backbone_weights
from mtkdrl_mm.models.num_classes import set_num_classes
from mtkdrl_mm.models.timm_classifier import teacher_checkpoint
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import class_names
from mtkdrl_mm.utils.data_checks import dataset_class
from mtkdrl_mm.utils.data_settings import loader_datasets
from mtkdrl_mm.utils.errors import first_line, summarise
from mtkdrl_mm.utils.files import atomic_write, check_output_file
from mtkdrl_mm.utils.json_files import read_json_lines
from mtkdrl_mm.utils.launch import read_config_file, run_tool
from mtkdrl_mm.utils.literal_config import check_types, parse_literal_config, plain_config
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.hub_upload import HubUpload
from mtkdrl_mm.weights.model_card import (
    CardFacts,
    data_name,
    model_card,
    shown_location,
    student_name,
)
from mtkdrl_mm.weights.state_dict import extract_state_dict
from mtkdrl_mm.weights.torchvision_resnet import to_torchvision

# Keys of an mmpretrain config, beside the model, that testing needs.
CONFIG_KEYS = ('test_dataloader', 'test_evaluator', 'test_cfg')
# Names of the weights on the hub, by the suffix of the exported file.
HUB_FILES = {'.pth': 'pytorch_model.bin', '.safetensors': 'model.safetensors'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', help='training checkpoint of a distillation or of a baseline')
    parser.add_argument('out', help='file to write, .pth or .safetensors; a hash is added')
    parser.add_argument(
        '--config',
        help='config file of the training, if the student needs your own modules: it is executed, '
        'unlike the config in the checkpoint, which is read as data',
    )
    parser.add_argument('--backbone-only', action='store_true', help='leave neck and head out')
    parser.add_argument(
        '--format',
        choices=['mmpretrain', 'torchvision'],
        default='mmpretrain',
        help="names of the weights: mmpretrain's, with its config, or torchvision's, for ResNets",
    )
    parser.add_argument(
        '--push-to-hub',
        metavar='ORG/REPO',
        help='upload the student with a model card to this repository of the Hugging Face hub, '
        'which is made if it does not exist; the token is that of `hf auth login` or HF_TOKEN',
    )
    parser.add_argument('--private', action='store_true', help='make a new repository private')
    parser.add_argument(
        '--license', help="for the model card: the hub's abbreviation, such as apache-2.0"
    )
    return parser.parse_args()


def read_config(contents: dict[str, Any], path: str) -> dict[str, Any]:
    """Read the config in a training checkpoint as data, without running it.

    Raises:
        InputError: If the checkpoint has no config, or it is no plain data.
    """
    text = (contents.get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise InputError(
            f'"{path}" holds no config, so it is no training checkpoint of mmengine. Only those '
            'can be exported; or pass the config of the training: --config CONFIG.'
        )
    return parse_literal_config(text, f'"{path}"')


def is_distillation(model: dict[str, Any]) -> bool:
    return str(model.get('type')).endswith('MultiTeacherDistiller')


def given_preprocessor(cfg: dict[str, Any]) -> dict[str, Any] | None:
    """The preprocessing that mmengine's runner gives the model of a config."""
    return cfg['model'].get('data_preprocessor', cfg.get('data_preprocessor'))


def trusted_student(cfg: Config) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Network and preprocessing of the student, from a config file of the user."""
    model, of_file = cfg.model, None
    if is_distillation(model):
        model, of_file = read_network_config(model.student, 'student')
    student = plain_config(model)
    preprocessor = take_preprocessor(given_preprocessor(cfg), student, of_file)
    if is_distillation(cfg.model) and cfg.model.get('num_classes') is not None:
        set_num_classes(student, cfg.model.num_classes)
    return student, plain_config(preprocessor)


def found_student(
    cfg: dict[str, Any], contents: dict[str, Any], path: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Network and preprocessing of the student, from the checkpoint alone.

    A config inside a file must not cause this program to read, run or install
    anything. Therefore only networks that read no files are built.

    Raises:
        InputError: If the checkpoint does not define the student.
    """
    model = cfg.get('model')
    if not isinstance(model, dict):
        raise InputError(f'The config in "{path}" has no `model`.')
    given = given_preprocessor(cfg)
    if is_distillation(model):
        saved = (contents.get('meta') or {}).get('student_cfg')
        student = model.get('student')
        if isinstance(saved, dict) and isinstance(saved.get('model'), dict):
            # What the distiller was built with.
            model, given = saved['model'], saved.get('data_preprocessor')
        elif isinstance(student, dict) and 'type' in student:
            num_classes, model = model.get('num_classes'), deepcopy(student)
            if num_classes is not None:
                set_num_classes(model, num_classes)
        else:
            raise InputError(
                f'"{path}" contains only the path of its student\'s config. Pass the config of '
                'the training: --config CONFIG.'
            )
    model = without_pretrained(model)
    preprocessor = take_preprocessor(given, model, None)
    check_types([model, preprocessor], f'"{path}"', network=True)
    check_types({key: cfg.get(key) for key in CONFIG_KEYS}, f'"{path}"')
    return model, preprocessor


def without_pretrained(node: Any) -> Any:
    """Remove the files of the initialisation from a network's config."""
    if isinstance(node, dict):
        kept = {
            key: without_pretrained(value) for key, value in node.items() if key != 'pretrained'
        }
        init = kept.get('init_cfg')
        entries = init if isinstance(init, list) else [init]
        others = [e for e in entries if not (isinstance(e, dict) and 'checkpoint' in e)]
        if 'init_cfg' in kept and len(others) < len(entries):
            del kept['init_cfg']
            if others:
                kept['init_cfg'] = others
        return kept
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(value) for value in node)
    return node


def student_config(
    cfg: dict[str, Any], model: dict[str, Any], preprocessor: dict[str, Any] | None
) -> Config:
    """Make a plain mmpretrain config of the student.

    Args:
        cfg (dict): Config of a distillation, or of a plain classifier.
        model (dict): The student's network.
        preprocessor (dict, optional): Its preprocessing, whatever ``cfg`` says.

    Returns:
        Config: The model, its preprocessing, and the keys that testing needs.
    """
    plain = Config(dict(default_scope='mmpretrain', model=without_pretrained(model)))
    for key in CONFIG_KEYS:
        if cfg.get(key) is not None:
            plain[key] = cfg[key]
    if preprocessor:
        plain['data_preprocessor'] = preprocessor
    return plain


def name_classes(plain: Config, classes: Sequence[str]) -> None:
    """Set the classes of the training where mmpretrain takes others for testing.

    This package's tools do so in every run, and mmpretrain's do not.

    Args:
        plain (Config): The student's config; changed in place.
        classes (Sequence[str]): The classes of the training data; empty if they
            are not known.
    """
    if not classes:
        return
    for key in ('data_preprocessor', 'test_evaluator'):
        set_num_classes(plain.get(key), len(classes))
    for _, dataset in loader_datasets(plain, ('test_dataloader',)):
        own = class_names(getattr(dataset_class(dataset, 'mmpretrain'), 'METAINFO', None))
        if own != list(classes):
            dataset['metainfo'] = {'classes': tuple(classes), **(dataset.get('metainfo') or {})}


def validated_step(cfg: dict[str, Any], contents: dict[str, Any]) -> int | None:
    """The number under which a validation of the checkpoint's weights is logged.

    Args:
        cfg (dict): The training's config.
        contents (dict): The checkpoint.

    Returns:
        int | None: Its epoch, or its iteration if the log counts these; None in
        the middle of an epoch, and where that cannot be known.
    """
    meta = contents.get('meta') or {}
    epoch, iteration = meta.get('epoch'), meta.get('iter')
    logger = (cfg.get('default_hooks') or {}).get('logger') or {}
    if not logger.get('log_metric_by_epoch', True):
        return iteration
    if not epoch:  # also trainings by iterations, all of whose validations are of epoch 0
        return None
    if meta.get('progress'):
        return epoch if meta['progress']['images_done'] == 0 else None
    # Of mmengine's own runner: all epochs have as many iterations.
    limits = (contents.get('message_hub') or {}).get('runtime_info') or {}
    if iteration is None or not limits.get('max_iters'):
        return None
    return epoch if iteration * limits['max_epochs'] == epoch * limits['max_iters'] else None


def find_accuracy(cfg: dict[str, Any], contents: dict[str, Any], path: str) -> dict[str, float]:
    """Find the validation results of the checkpoint's weights in the logs beside it.

    Args:
        cfg (dict): The training's config.
        contents (dict): The checkpoint.
        path (str): Path of the checkpoint.

    Returns:
        dict[str, float]: For example ``{'accuracy/top1': 72.8}``; empty if
        unknown.
    """
    step = validated_step(cfg, contents)
    folder = glob.escape(osp.dirname(osp.abspath(path)))
    results: dict[str, float] = {}
    if step is None:
        return results
    for log in sorted(glob.glob(osp.join(folder, '*', 'vis_data', 'scalars.json'))):
        for record in read_json_lines(log):
            if record.get('step') == step and 'loss' not in record:
                results = {k: v for k, v in record.items() if k.startswith('accuracy/')} or results
    return results


def describe(
    cfg: dict[str, Any], text: str, contents: dict[str, Any], path: str, plain: Config
) -> dict[str, Any]:
    """Metadata of the exported file.

    Args:
        cfg (dict): Config of the training.
        text (str): Its text.
        contents (dict): The training checkpoint.
        path (str): Its path.
        plain (Config): The student's config.
    """
    model, meta = cfg['model'], contents.get('meta') or {}
    distilled = is_distillation(model)
    weighting = model.get('weighting', 'AVER') if distilled else None
    classes = class_names(meta.get('dataset_meta')) or []
    return dict(
        classes=classes,
        dataset_meta=dict(classes=classes),  # the key that mmpretrain reads
        method=weighting if isinstance(weighting, str) or weighting is None else weighting['type'],
        teachers=[teacher_name(teacher) for teacher in (model.get('teachers') or [])],
        accuracy=find_accuracy(cfg, contents, path),
        epoch=meta.get('epoch'),
        # As in a training checkpoint: what a backbone in mmdet or mmseg is compared with.
        student_cfg=plain_config(
            dict(model=plain.model, data_preprocessor=plain.get('data_preprocessor'))
        ),
        # Not under `config`, which mmengine runs.
        training_config=text,
    )


def save(
    weights: dict[str, Tensor], meta: dict[str, Any], args: argparse.Namespace
) -> tuple[str, int]:
    """Write the weights; return the path and its size in bytes."""
    stem, suffix = osp.splitext(args.out)
    if suffix == '.safetensors':
        # A single entry: the order of several entries, and so the hash, would vary between runs.
        tensors = {key: value.contiguous() for key, value in weights.items()}
        contents = safetensors.torch.save(tensors, metadata=dict(meta=json.dumps(meta)))
    else:
        buffer = io.BytesIO()
        plain = weights if args.format == 'torchvision' else dict(meta=meta, state_dict=weights)
        torch.save(plain, buffer)
        contents = buffer.getvalue()
    path = f'{stem}-{hashlib.sha256(contents).hexdigest()[:8]}{suffix}'
    with atomic_write(path, 'wb') as file:
        file.write(contents)
    return path, len(contents)


def build(model: dict[str, Any], path: str) -> nn.Module:
    """Build the student.

    Raises:
        InputError: If its config is invalid.
    """
    try:
        return build_classifier(model, None, None, 'student')
    except InputError:
        raise
    except Exception as error:  # networks raise errors of any type for wrong arguments
        raise InputError(
            f'The student that "{path}" describes cannot be built: {first_line(error)}.'
        ) from error


def card_facts(
    cfg: dict[str, Any],
    student: str,
    weights: dict[str, Tensor],
    meta: dict[str, Any],
    file: str,
    args: argparse.Namespace,
) -> CardFacts:
    """What the model card of the student says; ``student`` is its name."""
    teachers = cfg['model'].get('teachers') or [] if is_distillation(cfg['model']) else []
    return CardFacts(
        repo=args.push_to_hub,
        file=file,
        student=student,
        num_parameters=sum(value.numel() for value in weights.values()),
        method=meta['method'],
        teachers=[
            (teacher_name(teacher), shown_location(teacher_checkpoint(teacher)))
            for teacher in teachers
        ],
        data=data_name((cfg.get('train_dataloader') or {}).get('dataset')),
        classes=meta['classes'],
        accuracy=meta['accuracy'],
        epoch=meta['epoch'],
        license=args.license,
        format=args.format,
        backbone_only=args.backbone_only,
        num_classes=len(weights['fc.bias']) if 'fc.bias' in weights else None,
    )


def push(upload: HubUpload, path: str, config: str | None, facts: CardFacts) -> str:
    """Upload weights, config and model card; return the URL of the commit."""
    files: dict[str, str | bytes] = {facts.file: path, 'README.md': model_card(facts).encode()}
    if config is not None:
        files['config.py'] = config
    # Otherwise another program could take the weights of an earlier export.
    delete = {*HUB_FILES.values(), 'config.py'}
    return upload.push(files, delete, f'Export {osp.basename(path)}')


def main() -> None:
    args = parse_args()
    stem, suffix = osp.splitext(args.out)
    if suffix not in HUB_FILES:
        raise InputError(f'"{args.out}" must end in .pth or .safetensors.')
    check_output_file('OUT', args.out)
    if args.push_to_hub is None and (args.private or args.license):
        raise InputError('--private and --license are for --push-to-hub ORG/REPO.')
    upload = None if args.push_to_hub is None else HubUpload(args.push_to_hub, args.private)
    contents = read_checkpoint(args.checkpoint, 'training checkpoint')
    init_default_scope('mmpretrain')
    if args.config is None:
        cfg = read_config(contents, args.checkpoint)
        text = contents['meta']['cfg']
        plain = student_config(cfg, *found_student(cfg, contents, args.checkpoint))
    else:
        trusted = read_config_file(args.config)
        cfg, text = plain_config(trusted), trusted.pretty_text
        plain = student_config(cfg, *trusted_student(trusted))
    name_classes(plain, class_names((contents.get('meta') or {}).get('dataset_meta')) or [])
    weights = extract_state_dict(contents, args.checkpoint, 'training checkpoint')
    weights = {k: v for k, v in weights.items() if not k.startswith('data_preprocessor.')}
    student = build(plain.model, args.config or args.checkpoint)
    expected = student.state_dict()
    if weights.keys() != expected.keys():
        raise InputError(
            f'"{args.checkpoint}" does not hold the student of its config. Missing: '
            f'{summarise(sorted(expected.keys() - weights.keys()))}; unknown: '
            f'{summarise(sorted(weights.keys() - expected.keys()))}.'
        )
    other = [key for key, value in expected.items() if weights[key].shape != value.shape]
    if other:
        raise InputError(
            f'"{args.checkpoint}" does not hold the student of its config: {summarise(other)} have '
            'other shapes.'
        )
    student.load_state_dict(weights)
    name = student_name(plain.model)
    if args.backbone_only:
        weights = {f'backbone.{key}': value for key, value in backbone_weights(weights).items()}
    if args.format == 'torchvision':
        name, weights = to_torchvision(student, weights, args.checkpoint)
    meta = describe(cfg, text, contents, args.checkpoint, plain)
    path, size = save(weights, meta, args)
    print(f'{len(weights)} tensors, {size / 2**20:.1f} MiB: {path}')
    config = None
    if args.format == 'torchvision':
        print(f'network of torchvision: {name}')
    elif not args.backbone_only:
        config = f'{stem}.py'
        with atomic_write(config, encoding='utf-8') as file:
            file.write(plain.pretty_text)
        print(f'mmpretrain config: {config}')
    if upload is not None:
        facts = card_facts(cfg, name, weights, meta, HUB_FILES[suffix], args)
        print(f'pushed to the hub: {push(upload, path, config, facts)}')
    print(f'method {meta["method"]}, teachers {meta["teachers"]}, accuracy {meta["accuracy"]}')


if __name__ == '__main__':
    run_tool(main)
