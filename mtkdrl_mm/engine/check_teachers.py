# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Evaluation of a teacher pool on validation images, before training."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtkdrl_mm.evaluation import alternatives, best_alternative, confirm_alternative
from mtkdrl_mm.evaluation.teacher_report import TeacherReport, TeacherResult
from mtkdrl_mm.models import MultiTeacherDistiller
from mtkdrl_mm.models.infer_output import designed_size
from mtkdrl_mm.models.labels import hard_labels
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.utils import InputError

from .forward_cost import forward_costs

Batch = dict[str, Any]


@torch.no_grad()
def check_teachers(
    distiller: MultiTeacherDistiller,
    batches: Sequence[Batch],
    preprocessing_images: int = 1000,
    cost_repeats: int = 5,
    further_batches: Iterable[Batch] = (),
) -> TeacherReport:
    """Measure accuracy, calibration, agreement, preprocessing and cost of a pool.

    Args:
        distiller (MultiTeacherDistiller): The distiller, with loaded teachers.
        batches (Sequence[dict]): Batches of a data loader, with hard labels and
            in random order.
        preprocessing_images (int): Number of images on which alternative
            preprocessings are tried, rounded up to whole batches; 0 tries none.
            Defaults to 1000.
        cost_repeats (int): Timed rounds; 0 measures no cost. Defaults to 5.
        further_batches (Iterable[dict]): Batches that are read only if a
            teacher's preprocessing is in doubt. Defaults to ().

    Returns:
        TeacherReport: The report.

    Raises:
        InputError: If there are no images, or their labels are not the
            student's classes.
    """
    pool = distiller.live_teachers
    labels = _labels(batches, pool.spec.num_classes)
    per_batch: list[list[Tensor]] = [[] for _ in pool.names]
    for inputs in _inputs(distiller, batches):
        for record, output in zip(per_batch, pool(inputs)):
            record.append(output.logits.float().cpu())
    logits = [torch.cat(record) for record in per_batch]
    report = TeacherReport.from_logits(pool.names, logits, labels)
    results = report.teachers
    if preprocessing_images > 0:
        sizes = itertools.accumulate(len(batch['data_samples']) for batch in batches)
        count = 1 + sum(size < preprocessing_images for size in sizes)
        _check_preprocessing(distiller, batches[:count], further_batches, results)
        report.preprocessing_images = sum(len(batch['data_samples']) for batch in batches[:count])
    if cost_repeats > 0:
        inputs = next(_inputs(distiller, batches))
        with torch.enable_grad():
            costs = forward_costs(
                distiller, inputs, labels[: len(inputs)].to(inputs.device), cost_repeats
            )
        for result, cost in zip(results, costs):
            result.cost = asdict(cost)
    return report


def _labels(batches: Sequence[Batch], num_classes: int) -> Tensor:
    samples = [sample for batch in batches for sample in batch['data_samples']]
    if not samples:
        raise InputError('There are no validation images to check the teachers on.')
    joined = hard_labels(samples).cpu()
    if int(joined.max()) >= num_classes:
        raise InputError(
            f'The validation data has the label {int(joined.max())}, but the teachers have '
            f'{num_classes} classes. Set `model.num_classes`, or a `class_map` for teachers of '
            'other classes.'
        )
    return joined


def _inputs(distiller: MultiTeacherDistiller, batches: Sequence[Batch]) -> Iterator[Tensor]:
    """Yield the batches as normalised for the student."""
    for batch in batches:
        yield distiller.data_preprocessor(dict(batch), False)['inputs']


def _check_preprocessing(
    distiller: MultiTeacherDistiller,
    batches: Sequence[Batch],
    further_batches: Iterable[Batch],
    results: list[TeacherResult],
) -> None:
    """Set ``alternative`` of every result; confirm doubtful ones on further batches."""
    pool = distiller.live_teachers

    def predict(index: int, batches: Sequence[Batch], which: Preprocessing) -> Iterator[Tensor]:
        for inputs in _inputs(distiller, batches):
            converted = which.convert(inputs, pool.student_preprocessing)
            yield pool[index](converted).logits.float().cpu()

    labels = _labels(batches, pool.spec.num_classes)
    statistics = _pixel_statistics(_inputs(distiller, batches), pool.student_preprocessing)
    known = [pool.student_preprocessing, *(t.preprocessing for t in pool), statistics]
    for m, teacher in enumerate(pool):
        others = alternatives(teacher.preprocessing, known, designed_size(teacher.network.backbone))
        results[m].alternative = best_alternative(
            partial(predict, m, batches), teacher.preprocessing, others, labels
        )
    found = [result.alternative for result in results]
    doubts = {m: other for m, other in enumerate(found) if other is not None and other.in_doubt}
    more = list(further_batches) if doubts else []
    if not more:
        return
    labels = _labels(more, pool.spec.num_classes)
    for m, other in doubts.items():
        results[m].alternative = confirm_alternative(
            partial(predict, m, more), pool[m].preprocessing, other.preprocessing, labels
        )


def _pixel_statistics(inputs: Iterator[Tensor], student: Preprocessing) -> Preprocessing:
    """Mean and std of the images' pixels, as a preprocessing."""
    width = student.channels
    raw = replace(student, mean=(0.0,) * width, std=(1.0,) * width)
    count, total, squares = 0, torch.zeros(width).double(), torch.zeros(width).double()
    for images in inputs:
        pixels = raw.convert(images, student).double().transpose(0, 1).flatten(1)
        count += pixels.shape[1]
        total += pixels.sum(dim=1).cpu()
        squares += pixels.square().sum(dim=1).cpu()
    mean = total.div(count)
    std = (squares.div(count) - mean.square()).clamp(min=1.0).sqrt()
    rounded = [tuple(round(float(v), 1) for v in values) for values in (mean, std)]
    return replace(raw, mean=rounded[0], std=rounded[1])
