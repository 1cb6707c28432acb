# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Command-line flags that the tools share."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

# Replaces blanks inside a value while mmengine, which removes all blanks, parses it.
_BLANK = '\0'


class OptionsAction(DictAction):
    """mmengine's ``--cfg-options``, which keeps blanks in paths and names.

    Blanks around values and list entries are removed. A value that cannot be
    parsed ends the tool with one sentence.
    """

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
                f'argument --cfg-options: {" ".join(values)!r} cannot be parsed. Use key=value '
                'pairs with numbers, words, or lists and tuples of them as values; a dict(...) '
                'must be in a config file.'
            )

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Parse a value as mmengine does, but keep blanks inside words."""
        # mmengine also calls this for every entry of a list.
        val = re.sub(r'(?<=[^\s,(\[]) +(?=[^\s,)\]])', lambda m: _BLANK * len(m[0]), val.strip())
        return _restore_blanks(DictAction._parse_iterable(val))


def _restore_blanks(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_restore_blanks(part) for part in value)
    return value.replace(_BLANK, ' ') if isinstance(value, str) else value


def add_common_arguments(
    parser: argparse.ArgumentParser, launchers: Sequence[str] = ('none', 'pytorch', 'slurm', 'mpi')
) -> None:
    """Add the flags that training and testing share in OpenMMLab projects.

    Args:
        parser (argparse.ArgumentParser): The parser; changed in place.
        launchers (Sequence[str]): Values of ``--launcher``. Defaults to those
            of OpenMMLab's tools.
    """
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='override settings of the config by key=value pairs, for example '
        'model.num_classes=10 or key="[a,b]" or key=a,b; a value with blanks, brackets or '
        'parentheses needs quotation marks',
    )
    parser.add_argument(
        '--launcher',
        choices=launchers,
        default='none',
        help='job launcher',
    )
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='disable the pin_memory option in dataloaders',
    )
    # torch.distributed.launch passes it; torchrun sets the variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
