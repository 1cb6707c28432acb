# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Report on a pool of teachers: tables, and warnings with what to change."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from .agreement import Agreement, agreement
from .calibration import expected_calibration_error, fitted_temperature, log_likelihood
from .class_order import ClassOrder, class_order
from .preprocessing_check import Alternative

# Share of the way from chance to 100 % that every trained teacher reaches.
MINIMUM_SKILL = 0.1
# A class map of more entries is not printed in a warning.
LONGEST_LISTED_MAP = 20


def minimum_accuracy(num_classes: int) -> float:
    """Accuracy in percent below which a teacher is taken for untrained.

    It is a tenth of the way from chance to 100 %: 10.1 for 1,000 classes, 19
    for 10 classes.

    Args:
        num_classes (int): C.

    Returns:
        float: The accuracy in percent.
    """
    chance = 100 / num_classes
    return chance + MINIMUM_SKILL * (100 - chance)


@dataclass
class TeacherResult:
    """Measurements of one teacher.

    Attributes:
        name (str): The teacher's name.
        accuracy (float): Top-1 accuracy, from 0 to 1.
        accuracy_error (float): Standard error of the accuracy.
        confidence (float): Mean probability of the predicted class.
        calibration_error (float): Expected calibration error, 15 bins.
        log_likelihood (float): Mean log-likelihood of the labels, in nats.
        temperature (float): Temperature at which that is highest, for
            ``teacher_temperatures`` of :class:`KLDivergence`.
        order (ClassOrder): Its best class order.
        alternative (Alternative, optional): Its best alternative preprocessing.
        cost (dict): Fields of :class:`ForwardCost`; empty if not measured.
    """

    name: str
    accuracy: float
    accuracy_error: float
    confidence: float
    calibration_error: float
    log_likelihood: float
    temperature: float
    order: ClassOrder
    alternative: Alternative | None = None
    cost: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_logits(cls, name: str, logits: Tensor, labels: Tensor) -> 'TeacherResult':
        """Compute what follows from logits and labels.

        Args:
            name (str): The teacher's name.
            logits (Tensor): Shape (N, C).
            labels (Tensor): Shape (N,).
        """
        accuracy = float((logits.argmax(dim=1) == labels).double().mean())
        return cls(
            name=name,
            accuracy=accuracy,
            accuracy_error=math.sqrt(accuracy * (1 - accuracy) / len(labels)),
            confidence=float(logits.double().softmax(dim=1).max(dim=1).values.mean()),
            calibration_error=expected_calibration_error(logits, labels),
            log_likelihood=float(log_likelihood(logits, labels).mean()),
            temperature=fitted_temperature(logits, labels),
            order=class_order(logits, labels),
        )


@dataclass
class TeacherReport:
    """Measurements of a pool of M teachers.

    Attributes:
        num_images (int): Number of validation images.
        num_classes (int): C.
        teachers (list[TeacherResult]): One entry per teacher.
        agreements (dict[tuple[int, int], Agreement]): The pairs (a, b) of
            teacher indices with a < b.
        preprocessing_images (int): Number of images on which alternative
            preprocessings were tried; 0 if none were.
    """

    num_images: int
    num_classes: int
    teachers: list[TeacherResult]
    agreements: dict[tuple[int, int], Agreement]
    preprocessing_images: int = 0

    @classmethod
    def from_logits(
        cls, names: Sequence[str], logits: Sequence[Tensor], labels: Tensor
    ) -> 'TeacherReport':
        """Compute what follows from logits and labels: no costs, no other preprocessings.

        Args:
            names (Sequence[str]): The M teachers.
            logits (Sequence[Tensor]): M tensors of shape (N, C).
            labels (Tensor): Shape (N,).
        """
        return cls(
            num_images=len(labels),
            num_classes=logits[0].shape[1],
            teachers=[TeacherResult.from_logits(n, z, labels) for n, z in zip(names, logits)],
            agreements={
                (a, b): agreement(logits[a], logits[b], labels)
                for a, b in itertools.combinations(range(len(logits)), 2)
            },
        )

    def warnings(self) -> list[str]:
        """Problems that should be solved before training, one sentence each."""
        found = []
        excluded = 'No other order of the classes'
        if self.preprocessing_images:
            excluded = 'Neither another preprocessing nor another order of the classes'
        for index, teacher in enumerate(self.teachers):
            explained = self._explanations(index, teacher)
            found += explained
            minimum = minimum_accuracy(self.num_classes)
            if not explained and 100 * teacher.accuracy < minimum:
                found.append(
                    f'Teacher "{teacher.name}" has an accuracy of only '
                    f'{100 * teacher.accuracy:.1f} %, below {minimum:.1f} %. {excluded} explains '
                    'it. Check that its `checkpoint` was trained on these classes.'
                )
        for (a, b), pair in self.agreements.items():
            if pair.near_duplicate:
                names = f'"{self.teachers[a].name}" and "{self.teachers[b].name}"'
                found.append(
                    f'Teachers {names} are near-duplicates: they predict the same class on '
                    f'{100 * pair.observed:.1f} % of the images ({100 * pair.expected:.1f} % are '
                    'expected from their accuracies), and the correlation of their logits is '
                    f'{pair.correlation:.4f}. Remove one of them to save its time.'
                )
        return found

    def _explanations(self, index: int, teacher: TeacherResult) -> list[str]:
        """Reasons why a teacher is less accurate than it could be."""
        order, best = teacher.order, teacher.alternative
        if order.clearly_better:
            short = self.num_classes <= LONGEST_LISTED_MAP
            listed = '[...] (see --out FILE.json of check_teachers.py)'
            if short:
                listed = str(order.class_map)
            return [
                order.finding(teacher.name, f'class_map={listed}')
                + f' Set model.teachers.{index}.class_map.'
            ]
        if best is None or not best.clearly_better:
            return []
        tried = f'{best.trials} settings tried'
        if best.trials == 1:
            tried = 'not used to select the setting'
        count = f'{best.num_images} images, {tried}'
        return [
            f'Teacher "{teacher.name}" seems to get the wrong preprocessing: with other `'
            + '`, `'.join(best.changes)
            + f'` its accuracy on the same images is {100 * best.accuracy:.1f} % instead of '
            f'{100 * best.current_accuracy:.1f} %, and its log-likelihood is higher by '
            f'{best.gain:.2f} nats (p = {best.p_value:.0e}, {count}). Set {_settings(index, best)}.'
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The measurements as one flat dict per teacher, in percent and milliseconds."""
        rows = []
        for teacher in self.teachers:
            row: dict[str, Any] = dict(
                teacher=teacher.name,
                accuracy=100 * teacher.accuracy,
                accuracy_error=100 * teacher.accuracy_error,
                calibration_error=100 * teacher.calibration_error,
                confidence=100 * teacher.confidence,
                log_likelihood=teacher.log_likelihood,
                temperature=teacher.temperature,
            )
            if teacher.cost:
                cost = teacher.cost
                row.update(
                    parameters_m=cost['parameters'] / 1e6,
                    ms_per_image=1000 * cost['seconds'],
                    share_of_step=100 * cost['share'],
                    weights_mib=cost['weights_mib'],
                    peak_mib=cost['peak_mib'],
                )
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain data, for JSON."""
        names = [teacher.name for teacher in self.teachers]
        return dict(
            num_images=self.num_images,
            preprocessing_images=self.preprocessing_images,
            teachers=[
                {
                    **asdict(teacher),
                    'alternative_clearly_better': bool(
                        teacher.alternative and teacher.alternative.clearly_better
                    ),
                }
                for teacher in self.teachers
            ],
            agreements=[
                dict(teachers=[names[a], names[b]], near_duplicate=pair.near_duplicate)
                | asdict(pair)
                for (a, b), pair in self.agreements.items()
            ],
            warnings=self.warnings(),
        )

    def to_markdown(self) -> str:
        """The report as Markdown: tables and warnings."""
        parts = [f'Measured on {self.num_images} validation images.', self._main_table()]
        if self.agreements:
            parts += [
                'Agreement of the predicted classes in percent; in brackets kappa (0: as expected '
                'from the accuracies, 1: always) and the correlation of the logits:',
                self._agreement_table(),
            ]
        if self.preprocessing_images:
            parts += [
                f'The best alternative preprocessing, on {self.preprocessing_images} images:',
                self._preprocessing_table(),
            ]
        warnings = self.warnings()
        if warnings:
            parts.append('\n'.join(f'- **Warning.** {warning}' for warning in warnings))
        else:
            parts.append('No warnings.')
        return '\n\n'.join(parts) + '\n'

    def _main_table(self) -> str:
        labels = dict(
            calibration_error='ECE %',
            confidence='confidence %',
            log_likelihood='log-likelihood',
            temperature='temperature',
            parameters_m='parameters M',
            ms_per_image='ms / image',
            share_of_step='share of a step %',
            weights_mib='weights MiB',
            peak_mib='peak MiB on top',
        )
        digits = dict(calibration_error=1, confidence=1, share_of_step=1, weights_mib=1, peak_mib=1)
        rows = self.rows()
        keys = [key for key in labels if key in rows[0]]
        lines = [['teacher', 'accuracy %', *(labels[key] for key in keys)]]
        for row in rows:
            accuracy = f'{row["accuracy"]:.1f} ± {row["accuracy_error"]:.1f}'
            numbers = [f'{row[key]:.{digits.get(key, 2)}f}' for key in keys]
            lines.append([row['teacher'], accuracy, *numbers])
        return _table(lines)

    def _agreement_table(self) -> str:
        names = [teacher.name for teacher in self.teachers]
        lines = [['', *names[1:]]]
        for a, name in enumerate(names[:-1]):
            cells = []
            for b in range(1, len(names)):
                pair = self.agreements.get((a, b))
                cells.append(
                    f'{100 * pair.observed:.1f} ({pair.kappa:.2f}, {pair.correlation:.2f})'
                    if pair
                    else ''
                )
            lines.append([name, *cells])
        return _table(lines)

    def _preprocessing_table(self) -> str:
        lines = [['teacher', 'changes', 'images', 'accuracy %', 'now %', 'gain in nats', 'p']]
        for teacher in self.teachers:
            best = teacher.alternative
            if best is None:
                lines.append([teacher.name, 'all are worse', '', '', '', '', ''])
                continue
            lines.append(
                [
                    teacher.name,
                    ', '.join(best.changes),
                    str(best.num_images),
                    f'{100 * best.accuracy:.1f}',
                    f'{100 * best.current_accuracy:.1f}',
                    f'{best.gain:+.3f}',
                    f'{best.p_value:.0e}',
                ]
            )
        return _table(lines)


def _settings(index: int, best: Alternative) -> str:
    """The config keys and values of an alternative."""
    other = best.preprocessing
    prefix = f'model.teachers.{index}'
    parts = []
    if set(best.changes) & {'mean', 'std', 'to_rgb'}:
        mean, std = ([round(value, 3) for value in values] for values in (other.mean, other.std))
        parts.append(
            f'{prefix}.data_preprocessor=dict(mean={mean}, std={std}, to_rgb={other.to_rgb})'
        )
    if 'input_size' in best.changes:
        parts.append(f'{prefix}.input_size={other.input_size}')
    return ' and '.join(parts)


def _table(lines: list[list[str]]) -> str:
    """Format a Markdown table; the first line is its header."""
    head, *body = lines
    rule = ['---'] + ['---:'] * (len(head) - 1)
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in (head, rule, *body))
