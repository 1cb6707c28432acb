# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A file's weights in a network: every tensor of the network, or one sentence.

The one place that decides how the names in a file belong to a network's. Teachers, students,
backbones, plain networks that are tested or trained further, and ``Pretrained`` use it.
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
from mtkdrl_mm.utils.checkpoint import (
    AVERAGED_PREFIX,
    FoundWeights,
    find_weights,
    read_checkpoint,
    summarise,
)
from mtkdrl_mm.utils.unwrap_model import unwrap_model

Weights = dict[str, Tensor]

# What torch.compile, FSDP and activation checkpointing put into names, wherever they were used.
_WRAPPERS = re.compile(r'(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


@dataclass
class Fit:
    """A file's weights under a network's names.

    Attributes:
        weights (dict[str, Tensor]): What is for the network; not all of it need
            fit.
        covered (int): How many of the network's tensors are named in it.
        left_out (list[str]): Names in the file of what is for other networks.
        kind (str): 'averaged' or 'raw' where the names have both side by side,
            else ''.
    """

    weights: Weights
    covered: int
    left_out: list[str] = field(default_factory=list)
    kind: str = ''


@dataclass
class Loaded:
    """What was loaded.

    Attributes:
        role (str): Whose weights they are.
        location (str): Where they come from.
        count (int): Number of tensors that were loaded.
        total (int): Number of tensors of the network.
        kind (str): 'averaged' or 'raw' where the file has both, else ''.
        left_out (list[str]): Names in the file of what is for other networks.
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
    own: Mapping[str, Tensor],
    children: Iterable[str] = (),
    location: str = 'the file',
    role: str = 'network',
    which: str | None = None,
) -> Fit:
    """Give a file's weights a network's names.

    Which prefix the file's names have too much or too little (``module.``,
    ``_orig_mod.``, ``student.``, ``model.``, ``net.``, ``backbone.``, or any
    other) is found by what fits: that one is taken under which most of the
    network's names are found.

    Args:
        weights (Mapping[str, Tensor]): The file's.
        own (Mapping[str, Tensor]): The network's ``state_dict``.
        children (Iterable[str]): Names of the network's parts, besides those
            in ``own``. What else is below them in the file belongs to another
            architecture and is kept; what is beside them is left out.
        location (str): Where the file is, for messages.
        role (str): Whose weights they are, for messages.
        which (str, optional): 'ema' or 'raw', where a file has both side by
            side. Defaults to the averaged ones.

    Returns:
        Fit: The weights under the network's names.

    Raises:
        InputError: If the file has the network several times.
    """
    metadata = getattr(weights, '_metadata', None) or {}
    weights = {_WRAPPERS.sub('', key): value for key, value in weights.items()}
    missing_prefixes = _prefixes(_common_prefix(own))
    found: Counter[tuple[str, str]] = Counter()
    for key in weights:
        for strip in _prefixes(key):
            for add in missing_prefixes:
                if add + key[len(strip) :] in own:
                    found[strip, add] += 1
    strip, add, kind = _choose(found, weights, own, location, role, which)
    renamed = {
        add + key[len(strip) :]: value for key, value in weights.items() if key.startswith(strip)
    }
    parts = {*children, *(key.split('.', 1)[0] for key in own)} - {'data_preprocessor'}
    kept = OrderedDict(
        (k, v) for k, v in renamed.items() if k in own or k.split('.', 1)[0] in parts
    )
    # The versions of the modules, by which they know files of before.
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
    own: Mapping[str, Tensor],
    location: str,
    role: str,
    which: str | None,
) -> tuple[str, str, str]:
    """The prefix to take off, the one to put before, and of what kind the weights are."""
    if not found:
        return '', '', ''
    most = max(found.values())
    best = sorted((p for p, n in found.items() if n == most), key=lambda p: (len(p[0] + p[1]), p))
    if len(best) > 1:
        fitting = {p: _same_shapes(weights, own, *p) for p in best}
        best = [p for p in best if fitting[p] == max(fitting.values())]
    averaged = [p for p in best if AVERAGED_PREFIX.search(p[0])]
    raw = [p for p in best if p not in averaged]
    best = (raw or best) if which == 'raw' else (averaged or best)
    kind = '' if not (averaged and raw) else 'raw' if which == 'raw' else 'averaged'
    # In a checkpoint of a distillation the student is what was trained.
    best = [p for p in best if p[0].endswith('student.')] or best
    if len({strip for strip, _ in best}) > 1 and most > 0:
        names = ' and '.join(f'"{strip}"' for strip, _ in best[:3])
        raise InputError(
            f'{_sentence(role)}: "{location}" holds such a network {len(best)} times, with names '
            f'that begin with {names}. Save the one that you mean in a file of its own.'
        )
    return (*best[0], kind)


def _same_shapes(weights: Weights, own: Mapping[str, Tensor], strip: str, add: str) -> int:
    return sum(
        weights[key].shape == own[add + key[len(strip) :]].shape
        for key in weights
        if key.startswith(strip) and add + key[len(strip) :] in own
    )


def _prefixes(key: str) -> list[str]:
    """All beginnings of a name that end with a dot, and the empty one."""
    return ['', *(key[: match.end()] for match in re.finditer(r'\.', key))]


def _common_prefix(keys: Iterable[str]) -> str:
    """The longest beginning, ending with a dot, of all names."""
    keys = list(keys)
    if not keys:
        return ''
    low, high = min(keys), max(keys)
    length = next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), len(low))
    return low[: low.rfind('.', 0, length) + 1]


def _parts(keys: list[str]) -> list[str]:
    """The first parts of names, each once: what the names are of."""
    return list(dict.fromkeys(key.split('.', 1)[0] for key in keys))


def _sentence(role: str) -> str:
    return role[:1].upper() + role[1:]


def fit_network(
    network: nn.Module,
    weights: Weights,
    location: str = 'the file',
    role: str = 'network',
    which: str | None = None,
) -> Fit:
    """Give a file's weights a network's names; torchvision's and timm's are known too.

    Args:
        network (nn.Module): The network.
        weights (dict[str, Tensor]): The file's.
        location (str): Where the file is, for messages.
        role (str): Whose weights they are, for messages.
        which (str, optional): See :func:`fit_state_dict`.

    Returns:
        Fit: The weights under the network's names.
    """
    from .teachers.checkpoint_keys import adapt_keys

    own = network.state_dict()
    children = [name for name, _ in network.named_children()]
    best = fit_state_dict(weights, own, children, location, role, which)
    if not isinstance(network, BaseClassifier) or best.covered == len(own):
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
        fit = fit_state_dict(adapted, own, children, location, role, which)
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
    """Load every tensor of a network from a checkpoint, whichever tool wrote it.

    Args:
        network (nn.Module): The network. Of a distiller the student is the
            target; model wrappers are looked through.
        contents (dict): What :func:`~mtkdrl_mm.utils.checkpoint.read_checkpoint`
            or mmengine's ``CheckpointLoader`` returned.
        location (str): Where it came from, for messages.
        role (str): Whose weights they are, for messages and the log.
        which (str, optional): 'ema' or 'raw', where a file has both. Defaults
            to the averaged ones.

    Returns:
        str: A line for the log: ``student: loaded 122/122 tensors of FILE``.

    Raises:
        InputError: If a tensor of the network is not in the file, or the file is
            that of another architecture.
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
    advice: str = 'Give the config that the checkpoint was trained with.',
    which: str | None = None,
    strict: bool = True,
) -> Loaded:
    """Load weights that were found in a checkpoint.

    Args:
        network (nn.Module): The network.
        found (FoundWeights): The weights.
        location (str): Where they came from, for messages.
        role (str): Whose weights they are, for messages and the log.
        advice (str): What to do where the architecture is another.
        which (str, optional): See :func:`fit_state_dict`.
        strict (bool): Whether all must fit; else at least one tensor must.
            Defaults to True.

    Returns:
        Loaded: What was loaded.

    Raises:
        InputError: If the weights do not fit.
    """
    fit = fit_network(network, found.weights, location, role, which)
    own = network.state_dict()
    start = f'{_sentence(role)}: "{location}"'
    if not strict:
        fit.weights = {k: v for k, v in fit.weights.items() if k in own and own[k].shape == v.shape}
        if own and not fit.weights:
            raise InputError(f'{start} has no tensor that fits. {_names(own, found.weights)}')
    else:
        _check_classes(network, fit.weights, location, role)
    try:
        # The loading hooks of some backbones rename or resize weights, so the
        # result is judged after them.
        outcome = network.load_state_dict(fit.weights, strict=False)
    except RuntimeError as error:
        shapes = [line.strip() for line in str(error).split('\n')[1:] if line.strip()]
        raise InputError(
            f'{start} is of another architecture, the shapes differ: {summarise(shapes, 2)}'
        ) from error
    # Files of before PyTorch 0.4.1 do not count batches; nothing depends on it.
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
    # Counters of batches that a file lacks are made up by BatchNorm itself.
    count = min(len(own) - len(absent), len(fit.weights))
    kind = found.kind or fit.kind
    return Loaded(role, location, count, len(own), kind, fit.left_out)


def _check_classes(network: nn.Module, weights: Weights, location: str, role: str) -> None:
    from .teachers.checkpoint_keys import classifier_key

    if not isinstance(network, BaseClassifier):
        return
    key = classifier_key(network)
    if key is None or key not in weights:
        return
    expected, found = network.state_dict()[key].shape[0], weights[key].shape[0]
    if expected == found:
        return
    start = f'{_sentence(role)}: "{location}" has {found} classes, but the config says {expected}. '
    if role.startswith('teacher'):
        raise InputError(
            start + 'Teachers, student and data must have the same classes; where the teacher '
            "knows more, give its config the file's number, and the teacher a `class_map`."
        )
    raise InputError(
        start + 'Set the number of classes to that of the file; or, to start from its backbone '
        'alone with a new head, leave `load_from` out and give the backbone '
        f"`init_cfg=dict(type='mtkdrl_mm.DistilledBackbone', checkpoint='{location}')`."
    )


def _names(own: Mapping[str, Tensor], weights: Weights) -> str:
    return (
        f'Its names are like {summarise(list(weights), 2)}; the network has '
        f'{summarise(list(own), 2)}.'
    )


def _list_keys(label: str, keys: list[str]) -> str:
    return f'{label}: {summarise(keys)}. ' if keys else ''


def _hint(network: nn.Module, weights: Weights, missing: list[str], advice: str) -> str:
    """What to do; where the file is a backbone's, to give it to the backbone."""
    backbone = getattr(network, 'backbone', None)
    if isinstance(backbone, nn.Module) and any(not k.startswith('backbone.') for k in missing):
        own = backbone.state_dict()
        try:
            complete = fit_state_dict(weights, own).covered == len(own) > 0
        except InputError:
            complete = False
        if complete:
            return (
                'It has the whole backbone, but no head: give it to the backbone, as `init_cfg='
                "dict(type='mtkdrl_mm.DistilledBackbone', checkpoint=FILE)`."
            )
    return advice


class CompletePretrained(PretrainedInit):
    """mmengine's ``Pretrained``, which loads all of a module's tensors, or says what is missing.

    mmengine's own only warns where names do not fit, and trains on from random
    weights. The tools of this package put this one in its place
    (:func:`use_complete_pretrained`), so that every ``init_cfg`` of every
    config is meant.

    Args:
        checkpoint (str): Path, URL, or a name that mmengine knows.
        prefix (str, optional): Where the module is in the file, as
            ``backbone.``. Found by what fits where no name begins with it.
            Defaults to None.
        map_location (str): Kept for mmengine's sake: files are read on the CPU.
        strict (bool): Whether every tensor of the module must be in the file;
            with False at least one. Defaults to True.
        weights (str, optional): 'ema' or 'raw', where a file has both. Defaults
            to the averaged ones.

    Raises:
        InputError: When the module is initialised and the file does not fit.
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
            'Give a file of this architecture; or, where the rest may stay as it is initialised, '
            'add `strict=False` to this `init_cfg`.',
            self.weights,
            self.strict,
        )
        print_log(str(loaded), 'current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def use_complete_pretrained() -> None:
    """Let every ``init_cfg=dict(type='Pretrained', ...)`` load completely or stop."""
    WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True, module=CompletePretrained)
