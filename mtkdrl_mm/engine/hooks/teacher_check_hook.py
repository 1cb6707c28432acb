# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Check of data, hooks and teachers before training."""

from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset

from mtkdrl_mm.evaluation import PredictionCounts
from mtkdrl_mm.evaluation.teacher_report import minimum_accuracy
from mtkdrl_mm.models import MultiTeacherDistiller, StoredTeacherPool, TeacherPool
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
    and logs each teacher's accuracy on validation images, spread evenly over
    the data set, which often has one class after the other. Images
    with the wrong normalisation raise no error, but ruin the accuracy: the hook
    warns of teachers below a minimum, and of those that are clearly better with
    their classes in another order, where there are at least two images per class.
    It saves nothing.

    Args:
        num_batches (int): Number of batches of every process, of the validation
            loader's size; 0 disables the measurement. Defaults to 4.
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
        self.num_batches = int(check_number('num_batches', num_batches))
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
            self._measure(runner, distiller, live)

    @torch.no_grad()
    def _measure(self, runner: Runner, distiller: MultiTeacherDistiller, pool: TeacherPool) -> None:
        num_classes = pool.spec.num_classes
        device = next(distiller.student.parameters()).device
        predictions = {name: PredictionCounts(num_classes, device) for name in pool.names}
        seen = 0
        for batch in spread_batches(runner.val_dataloader, self.num_batches):
            batch = distiller.data_preprocessor(batch, False)
            samples = batch['data_samples']
            labels = hard_labels(samples)
            images = torch.arange(seen, seen + len(labels))
            seen += len(labels)
            for counts, output in zip(predictions.values(), pool(batch['inputs'], samples)):
                counts.add(labels, output.logits.argmax(dim=1), images)
        for counts in predictions.values():
            counts.all_reduce()
        width = max(map(len, pool.names))
        total = next(iter(predictions.values())).num_images
        lines = [f"Teachers' accuracy on {total} validation images:"]
        lines += [
            f'  {name:<{width}}  {100 * counts.accuracy:5.1f} %'
            for name, counts in predictions.items()
        ]
        runner.logger.info('\n'.join(lines))
        minimum = self.min_accuracy
        if minimum is None:
            minimum = minimum_accuracy(num_classes)
        for name, counts in predictions.items():
            warning = counts.warning(name, minimum)
            if warning:
                runner.logger.warning(warning)


def spread_batches(dataloader: DataLoader, num_batches: int) -> DataLoader:
    """Batches of images that are spread evenly over the data set of a loader.

    Data sets often have one class after the other, so that their first batches are
    of few classes.

    Args:
        dataloader (DataLoader): The loader, which is not changed.
        num_batches (int): Number of batches of every process; fewer if the data set
            has fewer images.

    Returns:
        DataLoader: A loader of these images; every process has others.
    """
    rank, world_size = get_dist_info()
    size = dataloader.batch_size
    if size is None:  # with a batch sampler of its own
        size = int(getattr(dataloader.batch_sampler, 'batch_size', 1))
    total = len(dataloader.dataset)  # type: ignore[arg-type]
    count = min(num_batches * size * world_size, total)
    indices = torch.linspace(0, total - 1, count, dtype=torch.float64).long().tolist()
    return DataLoader(
        Subset(dataloader.dataset, indices[rank::world_size]),
        batch_size=size,
        num_workers=dataloader.num_workers,
        collate_fn=dataloader.collate_fn,
        worker_init_fn=dataloader.worker_init_fn,
        multiprocessing_context=dataloader.multiprocessing_context,
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
