# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of hooks that observe the distiller's training steps."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.engine import SwitchRecipeHook
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.unwrap_model import unwrap_model


class StepHook(Hook, metaclass=ABCMeta):
    """Hook whose :meth:`observe` is called in every training step of the distiller.

    Subclasses that override :meth:`before_train` call it.
    """

    _handle: RemovableHandle | None = None

    def before_train(self, runner: Runner) -> None:
        """Register :meth:`observe` with the distiller.

        Raises:
            InputError: If the model is no distiller.
        """
        distiller = unwrap_distiller(runner, type(self).__name__)
        self._handle = distiller.register_step_hook(self.observe)

    @abstractmethod
    def observe(self, terms: StepTerms, weights: TeacherWeights) -> None:
        """Read a training step, within the distiller's forward pass.

        Args:
            terms (StepTerms): The step's terms.
            weights (TeacherWeights): The step's weights.
        """

    def release(self) -> None:
        """Stop observing, however the training ended."""
        if self._handle is not None:
            self._handle.remove()

    @staticmethod
    def log(runner: Runner, names: Sequence[str], values: Tensor | None) -> None:
        """Add numbers of a training step to mmengine's message hub.

        ``LoggerHook`` prints their means over its window, as it does for losses.
        All numbers reach the host in one copy.

        Args:
            runner (Runner): The runner.
            names (Sequence[str]): Names of the numbers, without 'train/'.
            values (Tensor, optional): The numbers, shape (len(names),). None
                logs nothing.
        """
        if values is not None:
            for name, value in zip(names, values.tolist(), strict=True):
                runner.message_hub.update_scalar(f'train/{name}', value)


def last_good_state(runner: Runner) -> str:
    """Sentence that says where a training that ends here can go on from."""
    # mmengine's runner knows only the path that is about to be written.
    last = getattr(runner, 'last_saved', runner.message_hub.runtime_info.get('last_ckpt'))
    return f'The last good state is in {last}.' if last else 'No checkpoint had been saved yet.'


def unwrap_distiller(runner: Runner, hook: str) -> MultiTeacherDistiller:
    """Return the runner's model, which must be a distiller.

    Args:
        runner (Runner): The runner.
        hook (str): Name of the calling hook, for the message.

    Returns:
        MultiTeacherDistiller: The model, without wrappers such as DDP.

    Raises:
        InputError: If the model is no distiller.
    """
    model = unwrap_model(runner.model)
    if not isinstance(model, MultiTeacherDistiller):
        raise InputError(
            f'{hook} works with a MultiTeacherDistiller, but the model is a '
            f'{type(model).__name__}. Remove the hook from `default_hooks`.'
        )
    return model


def planned_switches(runner: Runner) -> Iterator[tuple[int, str]]:
    """What mmpretrain's ``SwitchRecipeHook`` is going to change in the course of a training.

    Args:
        runner (Runner): The runner.

    Yields:
        tuple[int, str]: An epoch, and 'batch_augments', 'train_pipeline' or 'loss'.
    """
    for hook in runner.hooks:
        if isinstance(hook, SwitchRecipeHook):
            for epoch, recipe in hook.schedule.items():
                yield from ((epoch, key) for key in recipe)
