# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Loading of weights: every tensor of a network is loaded, or an error is raised.

This module matches the names in a file with those of a network. It is used for teachers,
students, backbones, plain networks that are tested or trained further, and ``Pretrained``.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import capitalized, summarise
from mtkdrl_mm.utils.unwrap_model import unwrap_model
from mtkdrl_mm.weights.checkpoint import read_checkpoint
from mtkdrl_mm.weights.state_dict import AVERAGED_PREFIX, FoundWeights, find_weights

Weights = dict[str, Tensor]

# Parts of names that torch.compile, FSDP and activation checkpointing insert.
_WRAPPERS = re.compile(r'(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


@dataclass
class Fit:
    """Weights of a file, renamed to the names of a network.

    Attributes:
        weights (dict[str, Tensor]): The weights of the network, which may
            contain unexpected tensors.
        covered (int): Number of the network's tensors that are among them.
        left_out (list[str]): Names in the file of weights of other networks.
        kind (str): 'averaged' or 'raw' if the file has both under different
            prefixes, else ''.
    """

    weights: Weights
    covered: int
    left_out: list[str] = field(default_factory=list)
    kind: str = ''


@dataclass
class Loaded:
    """Result of loading weights, for the log.

    Attributes:
        role (str): Name of the network.
        location (str): Path or URL of the file.
        count (int): Number of loaded tensors.
        total (int): Number of tensors of the network.
        kind (str): 'averaged' or 'raw' if the file has both, else ''.
        left_out (list[str]): Names in the file of weights of other networks.
    """

    role: str
    location: str
    count: int
    total: int
    kind: str = ''
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        line = f'{self.role}: loaded {self.count}/{self.total} tensors of {self.location}'
        if self.kind:
            other = 'raw' if self.kind == 'averaged' else 'averaged'
            line += f' (the {self.kind} weights; the file has the {other} ones too)'
        if self.left_out:
            line += f' (left out: {summarise(_parts(self.left_out))})'
        return line


def fit_state_dict(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    children: Iterable[str] = (),
    location: str = 'the file',
    role: str = 'network',
    which: str | None = None,
) -> Fit:
    """Rename a file's weights to the names of a network.

    The prefix to remove or to add (``module.``, ``_orig_mod.``, ``student.``,
    ``model.``, ``net.``, ``backbone.``, or any other) is the one under which
    most of the network's names are found.

    Args:
        weights (Mapping[str, Tensor]): The file's weights.
        expected (Mapping[str, Tensor]): The network's ``state_dict``.
        children (Iterable[str]): Names of the network's children, besides those
            in ``expected``. Unexpected tensors below a child indicate another
            architecture and are kept; tensors beside the children are left
            out. Defaults to ().
        location (str): Path or URL of the file, for messages.
        role (str): Name of the network, for messages.
        which (str, optional): 'ema' or 'raw', if the file has both under
            different prefixes. Defaults to None: the averaged ones.

    Returns:
        Fit: The weights under the network's names.

    Raises:
        InputError: If the file contains the network several times.
    """
    metadata = getattr(weights, '_metadata', None) or {}
    weights = {_WRAPPERS.sub('', key): value for key, value in weights.items()}
    missing_prefixes = _prefixes(_common_prefix(expected))
    found: Counter[tuple[str, str]] = Counter()
    for key in weights:
        for strip in _prefixes(key):
            for add in missing_prefixes:
                if add + key[len(strip) :] in expected:
                    found[strip, add] += 1
    strip, add, kind = _choose(found, weights, expected, location, role, which)
    renamed = {
        add + key[len(strip) :]: value for key, value in weights.items() if key.startswith(strip)
    }
    parts = {*children, *(key.split('.', 1)[0] for key in expected)} - {'data_preprocessor'}
    kept = OrderedDict(
        (k, v) for k, v in renamed.items() if k in expected or k.split('.', 1)[0] in parts
    )
    # The versions of the modules, by which they convert older files.
    kept._metadata = {  # type: ignore[attr-defined]
        (add + name[len(strip) :]).removesuffix('.'): value
        for name, value in (
            (_WRAPPERS.sub('', f'{n}.' if n else ''), v) for n, v in metadata.items()
        )
        if name.startswith(strip)
    }
    left_out = [key for key in renamed if key not in kept]
    left_out += [key for key in weights if not key.startswith(strip)]
    return Fit(kept, found[strip, add], left_out, kind)


def _choose(
    found: Counter[tuple[str, str]],
    weights: Weights,
    expected: Mapping[str, Tensor],
    location: str,
    role: str,
    which: str | None,
) -> tuple[str, str, str]:
    """Choose the prefix to remove and the prefix to add; return them and ``Fit.kind``."""
    if not found:
        return '', '', ''
    most = max(found.values())
    best = sorted((p for p, n in found.items() if n == most), key=lambda p: (len(p[0] + p[1]), p))
    if len(best) > 1:
        fitting = {p: _same_shapes(weights, expected, *p) for p in best}
        best = [p for p in best if fitting[p] == max(fitting.values())]
    averaged = [p for p in best if AVERAGED_PREFIX.search(p[0])]
    raw = [p for p in best if p not in averaged]
    best = (raw or best) if which == 'raw' else (averaged or best)
    kind = '' if not (averaged and raw) else 'raw' if which == 'raw' else 'averaged'
    # A checkpoint of a distillation contains the student.
    best = [p for p in best if p[0].endswith('student.')] or best
    # To put "layers." in the place of "backbone.layers." is to remove "backbone.".
    removed = list(dict.fromkeys(strip.removesuffix(add) for strip, add in best))
    if len(removed) > 1 and most > 0:
        names = ' and '.join(f'"{prefix}"' for prefix in removed[:3])
        raise InputError(
            f'{capitalized(role)}: "{location}" contains this network {len(removed)} times, with '
            f'names that begin with {names}. Save the right one in a separate file.'
        )
    return (*best[0], kind)


def _same_shapes(weights: Weights, expected: Mapping[str, Tensor], strip: str, add: str) -> int:
    return sum(
        weights[key].shape == expected[add + key[len(strip) :]].shape
        for key in weights
        if key.startswith(strip) and add + key[len(strip) :] in expected
    )


def _prefixes(key: str) -> list[str]:
    """All prefixes of a name that end with a dot, and the empty one."""
    return ['', *(key[: match.end()] for match in re.finditer(r'\.', key))]


def _common_prefix(keys: Iterable[str]) -> str:
    """The longest common prefix of all names that ends with a dot."""
    keys = list(keys)
    if not keys:
        return ''
    low, high = min(keys), max(keys)
    length = next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), len(low))
    return low[: low.rfind('.', 0, length) + 1]


def _parts(keys: list[str]) -> list[str]:
    """The first parts of names, without repetitions."""
    return list(dict.fromkeys(key.split('.', 1)[0] for key in keys))


def fit_network(
    network: nn.Module,
    weights: Weights,
    location: str = 'the file',
    role: str = 'network',
    which: str | None = None,
) -> Fit:
    """Rename a file's weights to the names of a network, also from torchvision and timm.

    Args:
        network (nn.Module): The network.
        weights (dict[str, Tensor]): The file's weights.
        location (str): Path or URL of the file, for messages.
        role (str): Name of the network, for messages.
        which (str, optional): See :func:`fit_state_dict`.

    Returns:
        Fit: The weights under the network's names.
    """
    from .teachers.checkpoint_keys import adapt_keys

    expected = network.state_dict()
    children = [name for name, _ in network.named_children()]
    best = fit_state_dict(weights, expected, children, location, role, which)
    if not isinstance(network, BaseClassifier) or best.covered == len(expected):
        return best
    clean = {_WRAPPERS.sub('', key): value for key, value in weights.items()}
    shares = Counter(prefix for key in clean for prefix in _prefixes(key))
    for prefix, count in shares.most_common():
        if 2 * count < len(clean):
            break
        part = {k[len(prefix) :]: v for k, v in clean.items() if k.startswith(prefix)}
        adapted = adapt_keys(network, part)
        if adapted.keys() == part.keys():
            continue
        fit = fit_state_dict(adapted, expected, children, location, role, which)
        if fit.covered > best.covered:
            fit.left_out += [key for key in clean if not key.startswith(prefix)]
            best = fit
    return best


def load_network_weights(
    network: nn.Module,
    contents: dict[str, Any],
    location: str,
    role: str,
    which: str | None = None,
) -> str:
    """Load every tensor of a network from a checkpoint of any tool.

    Args:
        network (nn.Module): The network, with or without wrappers. Of a
            distiller the student is loaded.
        contents (dict): Result of
            :func:`~mtkdrl_mm.weights.checkpoint.read_checkpoint` or of mmengine's
            ``CheckpointLoader``.
        location (str): Path or URL of the file, for messages.
        role (str): Name of the network, for messages and the log.
        which (str, optional): 'ema' or 'raw', if the file has both. Defaults to
            None: the averaged ones.

    Returns:
        str: A line for the log: ``student: loaded 122/122 tensors of FILE``.

    Raises:
        InputError: If a tensor of the network is not in the file, or the file is
            of another architecture.
    """
    network = unwrap_model(network)
    network = getattr(network, 'student', network)
    found = find_weights(contents, location, role, which)
    return str(load_found_weights(network, found, location, role, which=which))


def load_found_weights(
    network: nn.Module,
    found: FoundWeights,
    location: str,
    role: str,
    advice: str = 'Use the config that the checkpoint was trained with.',
    which: str | None = None,
    strict: bool = True,
) -> Loaded:
    """Load the weights of a checkpoint into a network.

    Args:
        network (nn.Module): The network.
        found (FoundWeights): The weights.
        location (str): Path or URL of the file, for messages.
        role (str): Name of the network, for messages and the log.
        advice (str): What to do if the file is of another architecture.
        which (str, optional): See :func:`fit_state_dict`.
        strict (bool): Whether all tensors must match; else at least one tensor
            must. Defaults to True.

    Returns:
        Loaded: What was loaded, for the log.

    Raises:
        InputError: If the weights do not match the network.
    """
    fit = fit_network(network, found.weights, location, role, which)
    expected = network.state_dict()
    start = f'{capitalized(role)}: "{location}"'
    if not strict:
        fit.weights = {
            k: v for k, v in fit.weights.items() if k in expected and expected[k].shape == v.shape
        }
        if expected and not fit.weights:
            raise InputError(f'{start} has no tensor that fits. {_names(expected, found.weights)}')
    else:
        _check_classes(network, fit.weights, location, role)
    try:
        # The loading hooks of some backbones rename or resize weights. The result is therefore
        # checked after them.
        outcome = network.load_state_dict(fit.weights, strict=False)
    except RuntimeError as error:
        shapes = [line.strip() for line in str(error).split('\n')[1:] if line.strip()]
        raise InputError(
            f'{start} is of another architecture, the shapes differ: {summarise(shapes, 2)}'
        ) from error
    # Files from before PyTorch 0.4.1 have no count of batches, which nothing depends on.
    absent = list(outcome.missing_keys)
    missing = [key for key in absent if not key.endswith('num_batches_tracked')]
    unexpected = [key for key in outcome.unexpected_keys if not key.startswith('data_preproc')]
    if strict and (missing or unexpected):
        raise InputError(
            f'{start} is of another architecture than its config. '
            + _list_keys('Not in the file', missing)
            + _list_keys('Only in the file', unexpected)
            + _hint(network, found.weights, missing, advice)
        )
    # BatchNorm adds counts of batches that are not in the file.
    count = min(len(expected) - len(absent), len(fit.weights))
    kind = found.kind or fit.kind
    return Loaded(role, location, count, len(expected), kind, fit.left_out)


def _check_classes(network: nn.Module, weights: Weights, location: str, role: str) -> None:
    from .teachers.checkpoint_keys import classifier_key

    if not isinstance(network, BaseClassifier):
        return
    key = classifier_key(network)
    if key is None or key not in weights:
        return
    configured, found = network.state_dict()[key].shape[0], weights[key].shape[0]
    if configured == found:
        return
    start = (
        f'{capitalized(role)}: "{location}" has {found} classes, but the config has {configured}. '
    )
    if role.startswith('teacher'):
        raise InputError(
            start + 'Teachers, student and data must have the same classes. If the teacher has '
            'others, it needs a `class_map`, and its network the number of the file: '
            f'`cfg_options={{"model.head.num_classes": {found}}}` beside a `cfg_path`, '
            f'`num_classes={found}` beside a `model_name`.'
        )
    raise InputError(
        start + 'Set the number of classes to that of the file; or, to start from its backbone '
        'with a new head, omit `load_from` and set for the backbone '
        f"`init_cfg=dict(type='mtkdrl_mm.DistilledBackbone', checkpoint='{location}')`."
    )


def _names(expected: Mapping[str, Tensor], weights: Weights) -> str:
    return (
        f'It has the names {summarise(list(weights), 2)}; the network has '
        f'{summarise(list(expected), 2)}.'
    )


def _list_keys(label: str, keys: list[str]) -> str:
    return f'{label}: {summarise(keys)}. ' if keys else ''


def _hint(network: nn.Module, weights: Weights, missing: list[str], advice: str) -> str:
    """The advice; another one if the file contains the backbone only."""
    backbone = getattr(network, 'backbone', None)
    if isinstance(backbone, nn.Module) and any(not k.startswith('backbone.') for k in missing):
        expected = backbone.state_dict()
        try:
            complete = fit_state_dict(weights, expected).covered == len(expected) > 0
        except InputError:
            complete = False
        if complete:
            return (
                'It has the whole backbone, but no head: load it into the backbone, by `init_cfg='
                "dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=FILE)`."
            )
    return advice


class CompletePretrained(PretrainedInit):
    """mmengine's ``Pretrained``, but an error if not all tensors of a module are loaded.

    mmengine only warns if names do not match, and training starts from random
    weights. The tools of this package replace mmengine's class
    (:func:`use_complete_pretrained`), for every ``init_cfg`` of every config.

    Args:
        checkpoint (str): Path, URL, or a name of mmengine's model zoos.
        prefix (str, optional): Prefix of the module in the file, such as
            ``backbone.``. If no name begins with it, the prefix is found by
            matching. Defaults to None.
        map_location (str): Not used: files are read on the CPU.
        strict (bool): Whether every tensor of the module must be in the file;
            with False at least one. Defaults to True.
        weights (str, optional): 'ema' or 'raw', if the file has both. Defaults
            to None: the averaged ones.

    Raises:
        InputError: When the module is initialised, if the file does not match.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = 'cpu',
        strict: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.strict = strict
        self.weights = weights

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module.

        Args:
            module (nn.Module): The module.
        """
        role = type(module).__name__
        contents = read_checkpoint(self.checkpoint, role)
        found = find_weights(contents, self.checkpoint, role, self.weights)
        below = {k: v for k, v in found.weights.items() if k.startswith(self.prefix or '')}
        found.weights = below or found.weights
        loaded = load_found_weights(
            module,
            found,
            self.checkpoint,
            role,
            'Use a file of this architecture; or, if the other tensors may keep their '
            'initialisation, add `strict=False` to this `init_cfg`.',
            self.weights,
            self.strict,
        )
        print_log(str(loaded), 'current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def use_complete_pretrained() -> None:
    """Replace mmengine's ``Pretrained`` by :class:`CompletePretrained` in its registry."""
    WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True, module=CompletePretrained)
