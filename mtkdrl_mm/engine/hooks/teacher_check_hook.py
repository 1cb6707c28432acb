# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Looks at the teachers before anyone pays for training."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkdrl_mm.evaluation.teacher_report import accuracy_floor
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.labels import hard_labels
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.class_names import shorten

from ..unwrap_distiller import unwrap_distiller


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Checks data and hooks, and measures each teacher's accuracy.

    When it acts: once before training. It compares the number of classes of
    the data with the student's, makes sure that the weighting's hook is there,
    and prints each teacher's accuracy on the first validation batches. A
    teacher that is fed wrongly normalised images gives garbage and no error;
    below the floor there is a warning. It saves nothing.

    Args:
        num_batches (int): Validation batches to look at; 0 switches the
            measurement off. Defaults to 4.
        floor (float, optional): Accuracy in percent below which to warn.
            Defaults to None: a tenth of the way from guessing to perfection,
            10.1 for 1,000 classes and 19 for 10.
    """

    priority = 'NORMAL'

    def __init__(self, num_batches: int = 4, floor: float | None = None) -> None:
        self.num_batches = check_number('num_batches', num_batches)
        self.floor = floor
        if floor is not None:
            check_number('floor', floor, maximum=100)

    def before_train(self, runner: Runner) -> None:
        """Check.

        Raises:
            InputError: If the data has other classes than the student, or the
                weighting lacks its hook.
        """
        distiller = unwrap_distiller(runner, 'TeacherCheckHook')
        required = distiller.weighting.required_hook
        # The hook itself may come after this one, and not be attached yet.
        if required not in [type(hook).__name__ for hook in runner.hooks]:
            distiller.weighting.check_trainer()
        check_data_classes(runner.train_dataloader.dataset, distiller, 'training')
        if runner.val_loop is None:
            runner.logger.info(
                "There is no validation data, so the teachers' accuracy is not measured."
            )
            return
        check_data_classes(runner.val_dataloader.dataset, distiller, 'validation')
        if self.num_batches > 0:
            self._measure(runner, distiller)

    @torch.no_grad()
    def _measure(self, runner: Runner, distiller: MultiTeacherDistiller) -> None:
        pool = distiller.teachers
        device = next(distiller.student.parameters()).device
        # Per teacher the number of right answers, then the number of images.
        counts = torch.zeros(len(pool) + 1, device=device)
        for index, batch in enumerate(runner.val_dataloader):
            if index >= self.num_batches:
                break
            batch = distiller.data_preprocessor(batch, False)
            samples = batch['data_samples']
            labels = hard_labels(samples).to(device)
            for m, output in enumerate(pool(batch['inputs'], samples)):
                counts[m] += (output.logits.argmax(dim=1) == labels).sum()
            counts[-1] += len(labels)
        all_reduce(counts)
        *right, total = counts.tolist()
        floor = self.floor if self.floor is not None else accuracy_floor(pool.spec.num_classes)
        width = max(map(len, pool.names))
        lines = [f"Teachers' accuracy on {int(total)} validation images:"]
        lines += [
            f'  {name:<{width}}  {100 * count / total:5.1f} %'
            for name, count in zip(pool.names, right)
        ]
        runner.logger.info('\n'.join(lines))
        for name, count in zip(pool.names, right):
            accuracy = 100 * count / total
            if accuracy < floor:
                runner.logger.warning(
                    f'Teacher "{name}" has an accuracy of only {accuracy:.1f} %, below the floor '
                    f'of {floor:.1f} %. Is its checkpoint right, and are its mean, std, to_rgb '
                    'and input_size those it was trained with? '
                    'tools/analysis_tools/check_teachers.py tries others.'
                )


def check_data_classes(dataset: Any, distiller: MultiTeacherDistiller, which: str) -> None:
    """Compare the number of classes of a data set with the student's.

    Args:
        dataset (Dataset): With mmengine's ``metainfo``.
        distiller (MultiTeacherDistiller): The model.
        which (str): "training" or "validation", for the message.

    Raises:
        InputError: If they differ.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    expected = distiller.teachers.spec.num_classes
    if classes is not None and len(classes) != expected:
        raise InputError(
            f'The {which} data has {len(classes)} classes, but student and teachers have '
            f'{expected}. The data has {shorten(classes)}. If that is right, set '
            f'`model.num_classes={len(classes)}` and give teachers of these classes, or teachers '
            'with a `class_map`; if not, correct the class folders, or `metainfo.classes` of the '
            'data sets.'
        )
