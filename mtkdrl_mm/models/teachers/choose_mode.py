# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Choice of the mode in which a teacher runs, measured on a batch."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils.errors import first_line

from ..memory_format import is_channels_last
from .inference_mode import (
    EAGER,
    InferenceMode,
    InferenceSettings,
    autocast_dtype,
    cpu_has_bfloat16,
    has_spatial_layers,
)
from .teacher import Teacher

# Largest allowed deviation of the logits, in standard deviations of the batch's logits: float32,
# float32 whose convolutions round to TF32 on CUDA, and half precision.
TOLERANCE = 1e-3
TF32_TOLERANCE = 1e-2
HALF_TOLERANCE = 0.1
# Embedding and map have more entries, whose largest deviation is larger.
_FEATURE_FACTOR = 5.0
# Half precision that was not set must save more than this part of the time.
_HALF_GAIN = 0.1
# Seconds of a batch below which a teacher stays eager: there is little to gain, and noise would
# decide, so that two runs with one seed would differ.
_MIN_SECONDS = 0.008
# For the same reason, of modes whose times differ by less than this part, the last one is taken.
_MARGIN = 0.05
# Timed rounds of a candidate, and the seconds after which no further one begins.
_ROUNDS, _SECONDS = 5, 2.5


@dataclass
class Choice:
    """The mode that was chosen for a teacher.

    Attributes:
        teacher (Teacher): The candidate, or the teacher itself if eager is best.
        deviation (float): Largest deviation of the logits from eager, in
            standard deviations of the logits.
        eager_seconds (float): Time of a batch in eager mode; 0 if not measured.
        seconds (float): The same in the chosen mode.
        problems (list[str]): Modes that were left out because of an error or a
            deviation, with the reason.
    """

    teacher: Teacher
    deviation: float = 0.0
    eager_seconds: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def deviations(output: NetworkOutput, reference: NetworkOutput) -> dict[str, float]:
    """Largest deviations of a network's outputs from those of a reference.

    Args:
        output (NetworkOutput): The outputs.
        reference (NetworkOutput): The outputs to compare with.

    Returns:
        dict[str, float]: For logits, embedding and map (if there is one), the
        largest absolute difference, divided by the standard deviation of the
        reference's entries; infinite if an entry is NaN.
    """
    result = {}
    for name in ('logits', 'embedding', 'feature_map'):
        expected = getattr(reference, name)
        if expected is None:
            continue
        expected = expected.float()
        difference = (getattr(output, name).float() - expected).abs().max()
        relative = float(difference / expected.std().clamp_min(1e-12))
        result[name] = relative if relative == relative else float('inf')
    return result


def choose_mode(
    teacher: Teacher,
    inputs: Tensor,
    settings: InferenceSettings,
    saved: InferenceMode | None = None,
    timed: bool = True,
) -> Choice:
    """Choose the fastest mode of a teacher whose outputs are those of eager mode.

    Candidates that raise an error or deviate are left out. The others are timed
    in turn with eager mode; without a setting that demands a candidate, eager
    mode is kept unless one is faster, and for teachers that take a few
    milliseconds. Where deterministic algorithms are
    demanded from torch, times have no influence. Beside the teacher there is
    never more than one copy of its network: the chosen one is built again,
    unless it was the last.

    Args:
        teacher (Teacher): The teacher in eager mode, with loaded weights.
        inputs (Tensor): A batch with its preprocessing, shape (B, c, H, W).
        settings (InferenceSettings): What is allowed.
        saved (InferenceMode, optional): The mode of a resumed training, which
            is taken without measurement. Defaults to None.
        timed (bool): False takes what is faster as a rule, without a
            measurement, so that the choice is the same every time: float32,
            folded, and channels_last on CPUs. Defaults to True.

    Returns:
        Choice: The mode, not yet adopted.
    """
    if not timed:
        settings = _by_rule(settings, teacher.network, inputs)
    chains = list(_chains(teacher.network, inputs, settings)) if saved is None else [[saved]]
    chains = [chain for chain in chains if chain not in ([], [EAGER])]
    if not chains:
        return Choice(teacher)
    problems: list[str] = []
    reference = teacher(inputs)
    measured = saved is None and timed
    if measured and not settings.is_fixed and _is_quick(teacher, inputs):
        return Choice(teacher)
    candidates = _Candidates(teacher, inputs)
    trials: list[_Trial] = []
    for chain in chains:
        for mode in chain:
            trial = _try(candidates, mode, reference, measured, problems)
            if trial is not None:
                trials.append(trial)
            elif mode is chain[0]:
                break  # the others of the chain are built on it
        if trials:
            break
    if not trials:
        candidates.free()
        return Choice(teacher, problems=problems)
    if not measured:
        first = trials[0]
        return Choice(candidates.build(first.mode) or teacher, first.deviation, problems=problems)
    extra = settings.dtype == 'auto' and autocast_dtype(inputs.device) is None
    best = _fastest(trials, extra)
    eager_seconds = statistics.median(t for trial in trials for t in trial.eager_seconds)
    times_count = not torch.are_deterministic_algorithms_enabled() and not settings.is_fixed
    if times_count and best.cost(extra) > 1:
        candidates.free()
        return Choice(teacher, 0.0, eager_seconds, eager_seconds, problems)
    chosen = candidates.build(best.mode) or teacher
    return Choice(chosen, best.deviation, eager_seconds, best.ratio * eager_seconds, problems)


class _Candidates:
    """Builds candidates of a teacher, one at a time: several copies would need much memory."""

    def __init__(self, teacher: Teacher, inputs: Tensor) -> None:
        self.teacher, self.inputs = teacher, inputs
        self._current: Teacher | None = None

    def build(self, mode: InferenceMode) -> Teacher | None:
        """Build a candidate, unless it is the last one; that one is freed first."""
        if self._current is None or self._current.mode != mode:
            self.free()
            self._current = self.teacher.candidate(mode, self.inputs)
        return self._current

    def free(self) -> None:
        """Free the last candidate."""
        if self._current is None:
            return
        network, self._current = self._current.network, None
        kept = {tensor.data_ptr() for tensor in _tensors(self.teacher.network)}
        # The tensors by hand: reference cycles keep the modules until garbage is collected, and
        # the compiler's cache for ever.
        for tensor in _tensors(network):
            if tensor.data_ptr() not in kept:
                tensor.data = tensor.new_empty(0)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


@dataclass
class _Trial:
    """A mode whose outputs are those of eager mode.

    Attributes:
        mode (InferenceMode): The mode.
        deviation (float): Largest deviation of the logits, as in :class:`Choice`.
        eager_seconds (list[float]): Time of a batch in eager mode, by round.
        seconds (list[float]): The same in this mode, measured directly after it.
    """

    mode: InferenceMode
    deviation: float
    eager_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Part of the time of eager mode."""
        # Taken within each round, where the load on the machine was the same.
        return statistics.median(t / e for t, e in zip(self.seconds, self.eager_seconds))

    def cost(self, extra: bool) -> float:
        """The ratio, which half precision must make smaller still if it was not set (``extra``)."""
        return self.ratio / (1 - _HALF_GAIN) if extra and self.mode.half else self.ratio


def _fastest(trials: Sequence[_Trial], extra: bool) -> _Trial:
    """The trial that costs least, or the first one where times must have no influence."""
    if torch.are_deterministic_algorithms_enabled():
        return trials[0]
    costs = [trial.cost(extra) for trial in trials]
    return [t for t, cost in zip(trials, costs) if cost <= min(costs) * (1 + _MARGIN)][-1]


def _by_rule(settings: InferenceSettings, network: nn.Module, inputs: Tensor) -> InferenceSettings:
    """Replace 'auto' by what is faster as a rule."""
    changes: dict[str, bool | None] = {}
    if settings.channels_last == 'auto':
        on_cpu = inputs.device.type == 'cpu' and has_spatial_layers(network)
        changes['channels_last'] = True if on_cpu else None
    if settings.dtype == 'auto':
        changes['dtype'] = None
    return replace(settings, **changes)  # type: ignore[arg-type]


def _chains(
    network: nn.Module, inputs: Tensor, settings: InferenceSettings
) -> Iterator[list[InferenceMode]]:
    """Yield lists of candidates; a later list is tried if the first of one before fails."""
    bases = []
    if settings.fold_bn and any(isinstance(m, _BatchNorm) for m in network.modules()):
        if hasattr(network.backbone, 'switch_to_deploy'):
            bases.append(InferenceMode(folded=True, reparameterized=True))
        bases.append(InferenceMode(folded=True))
    bases.append(EAGER)
    # Deterministic runs must not depend on times.
    free = not torch.are_deterministic_algorithms_enabled()
    layouts: list[bool | None] = [None]
    if settings.channels_last != 'auto':
        layouts = [settings.channels_last]  # type: ignore[list-item]
    elif free and inputs.ndim == 4 and has_spatial_layers(network):
        layouts.append(not is_channels_last(inputs))
    dtypes: list[str | None] = [None]
    if settings.dtype != 'auto':
        dtypes = [settings.dtype]
    elif free:
        dtype = autocast_dtype(inputs.device)
        if dtype is None and inputs.device.type == 'cpu' and cpu_has_bfloat16():
            dtype = torch.bfloat16
        if dtype in (torch.bfloat16, torch.float16):
            dtypes.append(str(dtype).removeprefix('torch.'))
    for compiled in (True, False) if settings.compile else (False,):
        for base in bases:
            chain = [
                replace(base, channels_last=layout, dtype=dtype, compiled=compiled)
                for dtype, layout in product(dtypes, layouts)
                # Half precision is added to the faster layout, not tried with both.
                if dtype is dtypes[0] or layout is layouts[-1]
            ]
            yield [mode for mode in chain if mode != EAGER]


def _try(
    candidates: _Candidates,
    mode: InferenceMode,
    reference: NetworkOutput,
    measured: bool,
    problems: list[str],
) -> _Trial | None:
    """Build, compare and time a candidate; None, and a problem, if it is of no use."""
    inputs = candidates.inputs
    try:
        candidate = candidates.build(mode)
        if candidate is None:
            return None
        found = deviations(candidate(inputs), reference)
    except Exception as error:  # whatever a network, a compiler or a device may raise
        problems.append(f'{mode} ({type(error).__name__}: {first_line(error)})')
        return None
    tolerance = _tolerance(mode, inputs.device)
    for name, value in found.items():
        limit = tolerance if name == 'logits' else _FEATURE_FACTOR * tolerance
        if not value <= limit:
            what = name.replace('feature_', '')
            problems.append(
                f'{mode} (largest deviation of the {what}: {value:.2g} standard deviations, limit '
                f'{limit:g})'
            )
            return None
    trial = _Trial(mode, found['logits'])
    if measured:
        trial.eager_seconds, trial.seconds = _interleaved([candidates.teacher, candidate], inputs)
    return trial


def _tolerance(mode: InferenceMode, device: torch.device) -> float:
    """Largest allowed deviation, in standard deviations."""
    if mode.half is not None or autocast_dtype(device) is not None:
        return HALF_TOLERANCE
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return TF32_TOLERANCE if device.type == 'cuda' and tf32 else TOLERANCE


def _is_quick(teacher: Teacher, inputs: Tensor) -> bool:
    """Whether a batch takes so little time that no other mode is looked for."""
    times = []
    for _ in range(3):
        _synchronise(inputs.device)
        start = time.perf_counter()
        teacher(inputs)
        _synchronise(inputs.device)
        times.append(time.perf_counter() - start)
        if times[-1] > 10 * _MIN_SECONDS:
            return False
    return min(times) < _MIN_SECONDS


def _interleaved(teachers: Sequence[Teacher], inputs: Tensor) -> list[list[float]]:
    """Seconds of every teacher in each of some rounds; all have run before."""
    times: list[list[float]] = [[] for _ in teachers]
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        for teacher, record in zip(teachers, times):
            _synchronise(inputs.device)
            start = time.perf_counter()
            teacher(inputs)
            _synchronise(inputs.device)
            record.append(time.perf_counter() - start)
        if time.perf_counter() - begin > _SECONDS:
            break
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
