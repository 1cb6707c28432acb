# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The model card of an exported student: what it is, what it learned from, how it is used."""

import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlparse

from mtkdrl_mm.utils.markdown import markdown_table
from mtkdrl_mm.utils.optional_packages import import_optional

# By format, and whether it is a backbone alone.
_LOAD = {
    ('mmpretrain', False): """from huggingface_hub import hf_hub_download
from mmpretrain import get_model

config = hf_hub_download('{repo}', 'config.py')
weights = hf_hub_download('{repo}', '{file}')
model = get_model(config, pretrained=weights)""",
    ('torchvision', False): """import torchvision
from huggingface_hub import hf_hub_download
{read}

network = torchvision.models.{network}(num_classes={num_classes})
network.load_state_dict(load(hf_hub_download('{repo}', '{file}')))""",
    ('torchvision', True): """import torch
import torchvision
from huggingface_hub import hf_hub_download
{read}

network = torchvision.models.{network}()
network.fc = torch.nn.Identity()
network.load_state_dict(load(hf_hub_download('{repo}', '{file}')))""",
    ('mmpretrain', True): """# in a config of mmpretrain, mmdet or mmseg
backbone = dict(
    ...,
    init_cfg=dict(type='Pretrained', checkpoint='hf://{repo}', prefix='backbone.'),
)""",
}
_READ = {
    'pytorch_model.bin': 'from torch import load',
    'model.safetensors': 'from safetensors.torch import load_file as load',
}


@dataclass
class CardFacts:
    """What the card of a student says.

    Attributes:
        repo (str): The repository, ``ORG/REPO``.
        file (str): Name of the file of weights.
        student (str): Its backbone, for example ``ResNet18``; for torchvision,
            the network's name in ``torchvision.models``.
        num_parameters (int): Number of its parameters and buffers.
        method (str | None): The weighting; None for a network without teachers.
        teachers (list[tuple[str, str]]): Name of every teacher, and where its
            weights are.
        data (str): Name of the training data.
        classes (Sequence[str]): Names of the classes.
        accuracy (dict[str, float]): Validation results in percent.
        epoch (int | None): Number of epochs.
        license (str | None): The licence, as the hub abbreviates it.
        format (str): 'mmpretrain' or 'torchvision'.
        backbone_only (bool): Whether neck and head were left out.
        num_classes (int | None): Number of outputs; needed for torchvision.
    """

    repo: str
    file: str
    student: str
    num_parameters: int
    method: str | None
    teachers: list[tuple[str, str]]
    data: str
    classes: Sequence[str] = ()
    accuracy: dict[str, float] = field(default_factory=dict)
    epoch: int | None = None
    license: str | None = None
    format: str = 'mmpretrain'
    backbone_only: bool = False
    num_classes: int | None = None


def model_card(facts: CardFacts) -> str:
    """Write a model card.

    Args:
        facts (CardFacts): What it says.

    Returns:
        str: Markdown with the hub's metadata at its head.
    """
    distilled = facts.method is not None
    count = len(facts.teachers)
    how = (
        f'distilled from {count} teacher{"s" if count != 1 else ""} by {facts.method}'
        if distilled
        else 'trained without teachers'
    )
    rows = [
        ['method', facts.method or 'none'],
        ['student', f'{facts.student}, {facts.num_parameters / 1e6:.2f} M parameters'],
        ['data', facts.data + (f', {len(facts.classes)} classes' if facts.classes else '')],
        ['epochs', 'unknown' if facts.epoch is None else str(facts.epoch)],
        *([name, f'{value:.2f} %'] for name, value in facts.accuracy.items()),
    ]
    parts = [
        f'---\n{_metadata(facts)}\n---',
        f'# {facts.repo.split("/")[1]}',
        f'A {facts.student}, {how}. It was trained and exported with mtkdrl_mm, and runs with '
        f'{facts.format}; no teacher is needed.',
        markdown_table(['', ''], rows),
    ]
    if not facts.accuracy:
        parts.append('No accuracy was logged for this checkpoint.')
    if distilled:
        parts += [
            '## Teachers',
            markdown_table(['teacher', 'weights'], [list(row) for row in facts.teachers]),
        ]
    parts += [
        '## Use',
        f'```python\n{_usage(facts)}\n```',
        '## Licence',
        f'{_licence(facts)}\n',
    ]
    return '\n\n'.join(parts)


def shown_location(location: str | None) -> str:
    """Where weights are, without what concerns nobody else.

    Args:
        location (str, optional): A path, URL or address.

    Returns:
        str: An address as it is, a URL without its query, of a local path only
        the file's name.

    Example:
        >>> from mtkdrl_mm.weights.model_card import shown_location
        >>> shown_location('/home/me/r50.pth'), shown_location('timm://resnet50')
        ('r50.pth', 'timm://resnet50')
        >>> shown_location('https://user:secret@example.org/a.pth?token=1')
        'https://example.org/a.pth'
    """
    if not location:
        return 'unknown'
    if '://' not in location:
        return osp.basename(location)
    parts = urlparse(location)
    if parts.scheme in ('http', 'https'):
        return f'{parts.scheme}://{parts.hostname or ""}{parts.path}'
    return location


def data_name(dataset: Any) -> str:
    """The name of a data set in a config.

    Args:
        dataset (dict): Its config, possibly inside wrappers.

    Returns:
        str: The type of the data set, with the last folder of its path for
        types that read any folder.
    """
    while isinstance(dataset, dict) and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    if not isinstance(dataset, dict) or not dataset.get('type'):
        return 'unknown'
    kind = str(dataset['type']).rsplit('.', 1)[-1]
    folder = osp.basename(str(dataset.get('data_root') or '').rstrip('/'))
    return f'{folder} ({kind})' if folder else kind


def student_name(model: dict[str, Any]) -> str:
    """A network's name for readers, from its config: ``ResNet18``."""
    backbone = model.get('backbone') or {}
    named = model.get('model_name') or backbone.get('model_name')
    if named:
        return str(named).rsplit('/', 1)[-1]
    kind = str(backbone.get('type') or model.get('type')).rsplit('.', 1)[-1]
    return f'{kind}{backbone.get("depth") or backbone.get("arch") or ""}'


def _metadata(facts: CardFacts) -> str:
    hub = import_optional('huggingface_hub', 'A model card')
    results = [
        hub.EvalResult(
            task_type='image-classification',
            dataset_type=facts.data.split(' ')[0].lower(),
            dataset_name=facts.data,
            metric_type='accuracy',
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in facts.accuracy.items()
    ]
    data = hub.ModelCardData(
        license=facts.license,
        library_name=facts.format,
        pipeline_tag='image-classification',
        tags=['mtkdrl_mm', *(['knowledge-distillation'] if facts.method else [])],
        model_name=facts.repo.split('/')[1],
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _usage(facts: CardFacts) -> str:
    head = ''
    if facts.format == 'mmpretrain' and facts.backbone_only:
        head = '# mtkdrl_mm lets mmengine read hf:// and safetensors\n'
        head += "custom_imports = dict(imports=['mtkdrl_mm'])\n"
    elif facts.format == 'mmpretrain' and facts.file.endswith('.safetensors'):
        head = 'import mtkdrl_mm  # lets mmpretrain read safetensors\n'
    return head + _LOAD[facts.format, facts.backbone_only].format(
        repo=facts.repo,
        file=facts.file,
        network=facts.student,
        num_classes=facts.num_classes,
        read=_READ[facts.file],
    )


def _licence(facts: CardFacts) -> str:
    stated = (
        f'These weights are under the licence `{facts.license}`.'
        if facts.license
        else 'No licence was stated for these weights.'
    )
    if facts.method is None:
        return f'{stated} That of the training data may limit their use too.'
    return (
        f'{stated} The student learned from the outputs of the teachers above: the licences of '
        'their weights, and that of the training data, may limit its use too.'
    )
