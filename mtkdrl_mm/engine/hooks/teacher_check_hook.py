# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of data, hooks and teachers before training."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkdrl_mm.evaluation.teacher_report import minimum_accuracy
from mtkdrl_mm.models import MultiTeacherDistiller, StoredTeacherPool
from mtkdrl_mm.models.labels import hard_labels
from mtkdrl_mm.models.losses.norm_direction import NormDirection
from mtkdrl_mm.models.teachers.class_map import check_class_names
from mtkdrl_mm.registry import HOOKS
from mtkdrl_mm.utils import InputError, check_number
from mtkdrl_mm.utils.class_names import dataset_classes, shorten

from .step_hook import planned_switches, unwrap_distiller


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Checks classes and hooks before training, and logs each teacher's accuracy.

    When it acts: once before training. It compares the number of classes of
    the data with the student's, makes sure that the weighting's hook exists,
    and logs each teacher's accuracy on the first validation batches. Images
    with the wrong normalisation raise no error, but ruin the accuracy: the hook
    warns of teachers below a minimum. It saves nothing.

    Args:
        num_batches (int): Number of validation batches; 0 disables the
            measurement. Defaults to 4.
        min_accuracy (float, optional): Accuracy in percent below which the hook
            warns. Defaults to None: a tenth of the way from chance to 100 %,
            which is 10.1 for 1,000 classes and 19 for 10 classes.

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> from mmengine.registry import HOOKS
        >>> hook = HOOKS.build(dict(type='mtkdrl_mm.TeacherCheckHook', num_batches=2))
        >>> hook.num_batches
        2
    """

    # After the hooks that train a weighting have attached themselves to it.
    priority = 'BELOW_NORMAL'

    def __init__(self, num_batches: int = 4, min_accuracy: float | None = None) -> None:
        self.num_batches = check_number('num_batches', num_batches)
        self.min_accuracy = min_accuracy
        if min_accuracy is not None:
            check_number('min_accuracy', min_accuracy, maximum=100)

    def before_train(self, runner: Runner) -> None:
        """Compare the classes, look for the weighting's hook and measure the teachers.

        Raises:
            InputError: If the data has other classes than the student, a class
                map or a teacher's checkpoint names them in another order, the
                weighting lacks its hook, the loss is to be switched, or class
                centres are those of other teachers.
        """
        distiller = unwrap_distiller(runner, 'TeacherCheckHook')
        distiller.weighting.check_trainer()
        for epoch, key in planned_switches(runner):
            if key == 'loss':
                raise InputError(
                    f'SwitchRecipeHook switches the loss in epoch {epoch}, which a distillation '
                    "cannot do: the student's is that of its head. Take it out of the `schedule`."
                )
        check_data_classes(runner.train_dataloader.dataset, distiller, 'training')
        classes = dataset_classes(runner.train_dataloader.dataset)
        pool = distiller.teachers
        live = pool.live if isinstance(pool, StoredTeacherPool) else pool
        if classes is not None and live is not None:
            live.check_classes(classes)
        for config in distiller.teacher_configs:
            if classes is not None and isinstance(config.class_map, str):
                check_class_names(config.class_map, config.role, classes)
        for loss in distiller.modules():
            if isinstance(loss, NormDirection):
                records = distiller.teacher_records
                loss.check_teachers({record.name: record.weights_sha256 for record in records})
        if runner.val_loop is None:
            runner.logger.info(
                "There is no validation data, so the teachers' accuracy is not measured."
            )
            return
        check_data_classes(runner.val_dataloader.dataset, distiller, 'validation')
        if live is None:
            return  # no networks, and their accuracy was measured when they were stored
        if self.num_batches > 0:
            self._measure(runner, distiller)

    @torch.no_grad()
    def _measure(self, runner: Runner, distiller: MultiTeacherDistiller) -> None:
        pool = distiller.teachers
        device = next(distiller.student.parameters()).device
        # For every teacher the number of correct predictions, then the number of images.
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
        *correct, total = counts.tolist()
        minimum = self.min_accuracy
        if minimum is None:
            minimum = minimum_accuracy(pool.spec.num_classes)
        width = max(map(len, pool.names))
        lines = [f"Teachers' accuracy on {int(total)} validation images:"]
        lines += [
            f'  {name:<{width}}  {100 * count / total:5.1f} %'
            for name, count in zip(pool.names, correct)
        ]
        runner.logger.info('\n'.join(lines))
        for name, count in zip(pool.names, correct):
            accuracy = 100 * count / total
            if accuracy < minimum:
                runner.logger.warning(
                    f'Teacher "{name}" has an accuracy of only {accuracy:.1f} %, below the '
                    f'minimum of {minimum:.1f} %. Check its checkpoint, and whether its mean, std, '
                    'to_rgb and input_size are those of its training; '
                    'tools/analysis_tools/check_teachers.py tries alternatives.'
                )


def check_data_classes(dataset: Any, distiller: MultiTeacherDistiller, which: str) -> None:
    """Raise an error if a data set has another number of classes than the student.

    Args:
        dataset (Dataset): A data set with mmengine's ``metainfo``.
        distiller (MultiTeacherDistiller): The model.
        which (str): "training", "validation" or "held-out", for the message.

    Raises:
        InputError: If they differ.
    """
    classes = dataset_classes(dataset)
    expected = distiller.teachers.spec.num_classes
    if classes is not None and len(classes) != expected:
        raise InputError(
            f'The {which} data has {len(classes)} classes, but student and teachers have '
            f'{expected}. The data has {shorten(classes)}. If that is correct, set '
            f'`model.num_classes={len(classes)}` and use teachers of these classes, or teachers '
            'with a `class_map`; if not, correct the class folders, or `metainfo.classes` of the '
            'data sets.'
        )
