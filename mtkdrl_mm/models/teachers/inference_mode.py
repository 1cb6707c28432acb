# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""How a frozen network is run: settings of a config, and the mode that was chosen."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from mtkdrl_mm.utils import InputError, near_matches

DTYPES = ('float32', 'bfloat16', 'float16')


@dataclass(frozen=True)
class InferenceMode:
    """The mode in which one teacher runs. The default is eager: as it was loaded.

    Attributes:
        folded (bool): Whether BatchNorm is folded into the layers before it.
        reparameterized (bool): Whether parallel branches are merged into one
            convolution (RepVGG, MobileOne), as the network's own
            ``switch_to_deploy`` does.
        channels_last (bool, optional): The memory format; None is that of the
            student's batch.
        dtype (str, optional): The precision; None is that of the training,
            float32 or that of its automatic mixed precision.
        compiled (bool): Whether ``torch.compile`` compiles the backbone.
    """

    folded: bool = False
    reparameterized: bool = False
    channels_last: bool | None = None
    dtype: str | None = None
    compiled: bool = False

    def __str__(self) -> str:
        """For the log: "folded, channels_last"."""
        layout = {True: 'channels_last', False: 'contiguous', None: ''}[self.channels_last]
        parts = [
            'reparameterized' if self.reparameterized else '',
            'folded' if self.folded else '',
            layout,
            self.dtype or '',
            'compiled' if self.compiled else '',
        ]
        return ', '.join(filter(None, parts)) or 'eager'

    @property
    def half(self) -> torch.dtype | None:
        """The half precision; None for any other."""
        return getattr(torch, self.dtype) if self.dtype in DTYPES[1:] else None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Any) -> 'InferenceMode | None':
        """Read what a checkpoint holds; None if it is no mode of this version."""
        names = {field.name for field in fields(cls)}
        if not isinstance(state, dict) or set(state) != names:
            return None
        flags = [state[name] for name in ('folded', 'reparameterized', 'compiled')]
        if not all(isinstance(flag, bool) for flag in flags):
            return None
        if state['channels_last'] not in (None, True, False) or (
            state['dtype'] not in (None, *DTYPES)
        ):
            return None
        return cls(**state)


EAGER = InferenceMode()


@dataclass(frozen=True)
class InferenceSettings:
    """The config ``teacher_inference``: what may be done to run the teachers faster.

    'auto' is measured before the first step: what is not faster is left out.

    Attributes:
        fold_bn (bool | str): Whether to fold BatchNorm into the layers before
            it, and merge parallel branches. Defaults to 'auto'.
        channels_last (bool | str, optional): Whether the teachers run in
            channels_last memory format; None follows the student's batch.
            Defaults to 'auto'.
        dtype (str, optional): 'float32', 'bfloat16' or 'float16'; None follows
            the training. 'auto' follows it too, and besides tries bfloat16 on
            CPUs that compute in it. Defaults to 'auto'.
        compile (bool): Whether to compile the backbones by ``torch.compile``.
            Defaults to False.
        offload (bool | str): True keeps the teachers in host memory, and only
            the one that runs on the device. 'prefetch' copies the next one
            meanwhile, so that two are on the device. Defaults to False.
    """

    fold_bn: bool | str = 'auto'
    channels_last: bool | str | None = 'auto'
    dtype: str | None = 'auto'
    compile: bool = False
    offload: bool | str = False

    @classmethod
    def from_config(cls, cfg: Any) -> 'InferenceSettings':
        """Build from a config.

        Args:
            cfg (dict | str | None): The attributes, or 'auto' or 'eager'. None
                is 'auto'.

        Raises:
            InputError: If a key or value is unknown.
        """
        if cfg is None or cfg == 'auto':
            return cls()
        if cfg == 'eager':
            return cls(fold_bn=False, channels_last=None, dtype=None)
        if not isinstance(cfg, dict):
            raise InputError(
                f'`teacher_inference` must be "auto", "eager" or a dict, but is {cfg!r}.'
            )
        allowed: dict[str, tuple] = dict(
            fold_bn=('auto', True, False),
            channels_last=('auto', True, False, None),
            dtype=('auto', *DTYPES, None),
            compile=(True, False),
            offload=(False, True, 'prefetch'),
        )
        for key, value in cfg.items():
            if key not in allowed:
                raise InputError(
                    f'`teacher_inference` takes no "{key}". {near_matches(key, allowed)}'
                )
            if not any(
                value is one or (isinstance(one, str) and value == one) for one in allowed[key]
            ):
                listed = ', '.join(map(repr, allowed[key]))
                raise InputError(
                    f'`teacher_inference.{key}` must be one of {listed}, but is {value!r}.'
                )
        return cls(**cfg)

    @property
    def is_fixed(self) -> bool:
        """Whether a setting was chosen that is kept even where it is slower."""
        return bool(
            self.fold_bn is True
            or self.channels_last in (True, False)
            or self.dtype in DTYPES
            or self.compile
        )

    def allow(self, mode: InferenceMode) -> bool:
        """Whether a mode agrees with these settings."""
        return (
            (not mode.folded or self.fold_bn is not False)
            and self.channels_last in ('auto', mode.channels_last)
            and self.dtype in ('auto', mode.dtype)
            and (self.compile or not mode.compiled)
        )


def has_spatial_layers(network: nn.Module) -> bool:
    """Whether the memory format matters: transformers have one convolution, for patches."""
    return sum(isinstance(m, (nn.Conv2d, nn.Conv3d)) for m in network.modules()) > 1


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The precision of the automatic mixed precision in force; None without it."""
    if device.type == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    if device.type == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return None


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 (AVX512-BF16 or AMX), and does not emulate it."""
    if not torch.backends.mkldnn.is_available():
        return False
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):  # torch >= 2.6
        supported = getattr(torch.cpu, name, None)
        if supported is not None and supported():
            return True
    try:
        with open('/proc/cpuinfo') as file:
            flags = next((line for line in file if line.startswith('flags')), '').split()
    except OSError:
        return False
    return 'avx512_bf16' in flags or 'amx_bf16' in flags
