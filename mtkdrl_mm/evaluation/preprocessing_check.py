# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Whether a teacher would do better with images prepared in another way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtkdrl_mm.models.teachers.preprocessing import Preprocessing

from .calibration import calibrated_log_likelihood
from .paired_tests import mcnemar, paired_gain

# Per channel in RGB order, for pixels in [0, 255].
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    'ImageNet': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    '-1 to 1': ((127.5,) * 3, (127.5,) * 3),
    '0 to 1': ((0.0,) * 3, (255.0,) * 3),
    '0 to 255': ((0.0,) * 3, (1.0,) * 3),
    'ImageNet, std 1': ((123.675, 116.28, 103.53), (1.0,) * 3),
    'CIFAR-10': ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
    'CLIP': ((122.771, 116.746, 104.094), (68.5005, 66.6322, 70.3232)),
}
# Images on which an alternative has to be at least as good to be tried on all.
SCREENING_IMAGES = 64
SIGNIFICANCE = 1e-3
SMALLEST_GAIN = 0.02

Answers = Callable[[Preprocessing], Iterator[Tensor]]


@dataclass(frozen=True)
class Alternative:
    """Another preprocessing, compared with a teacher's own on the same images.

    Attributes:
        preprocessing (Preprocessing): The other.
        changes (tuple[str, ...]): Settings in which it differs.
        accuracy (float): Share of right answers, with the other.
        own_accuracy (float): With the teacher's own.
        gain (float): What the log-likelihood gains, in nats per image; both
            are calibrated.
        p_accuracy (float): Of McNemar's test.
        p_likelihood (float): Of the paired t-test on the log-likelihoods.
        trials (int): Alternatives that were tried.
    """

    preprocessing: Preprocessing
    changes: tuple[str, ...]
    accuracy: float
    own_accuracy: float
    gain: float
    p_accuracy: float
    p_likelihood: float
    trials: int

    @property
    def clearly_better(self) -> bool:
        """Whether it is better by more than chance, however many were tried."""
        level = SIGNIFICANCE / self.trials
        if self.gain < SMALLEST_GAIN or self.accuracy < self.own_accuracy:
            return False
        return min(self.p_accuracy, self.p_likelihood) < level


def alternatives(
    own: Preprocessing,
    known: Sequence[Preprocessing],
    img_size: tuple[int, int] | None = None,
) -> list[Preprocessing]:
    """Preprocessings that a teacher may have been trained with instead of its own.

    Args:
        own (Preprocessing): The teacher's.
        known (Sequence[Preprocessing]): Others around: the student's, the other
            teachers', mean and std of the images themselves.
        img_size (tuple[int, int], optional): Height and width that the network
            was made for, where it was made for one. Defaults to None.

    Returns:
        list[Preprocessing]: Without its own; those with the fewest changes
        first.
    """

    def reordered(mean: tuple[float, ...], std: tuple[float, ...], to_rgb: bool) -> Preprocessing:
        return replace(own, mean=mean, std=std, to_rgb=to_rgb)

    found = [
        reordered(own.mean, own.std, not own.to_rgb),
        reordered(own.mean[::-1], own.std[::-1], own.to_rgb),
        reordered(own.mean[::-1], own.std[::-1], not own.to_rgb),
    ]
    if img_size is not None:
        found.append(replace(own, input_size=img_size))
    named = [*map(_in_rgb, known), *NORMALISATIONS.values()]
    for to_rgb in (own.to_rgb, not own.to_rgb):
        order = slice(None, None, 1 if to_rgb else -1)
        found += [reordered(mean[order], std[order], to_rgb) for mean, std in named]
    unique = [other for other in dict.fromkeys(found) if other != own]
    return sorted(unique, key=lambda other: len(changes(own, other)))


def _in_rgb(known: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    order = slice(None, None, 1 if known.to_rgb else -1)
    return known.mean[order], known.std[order]


def changes(own: Preprocessing, other: Preprocessing) -> tuple[str, ...]:
    """Names of the settings in which two preprocessings differ."""
    names = ('to_rgb', 'mean', 'std', 'input_size')
    return tuple(name for name in names if getattr(own, name) != getattr(other, name))


@torch.no_grad()
def best_alternative(
    answers: Answers, own: Preprocessing, others: Sequence[Preprocessing], labels: Tensor
) -> Alternative | None:
    """Find the preprocessing that a teacher does best with.

    Args:
        answers (Callable): Gives a teacher's logits with some preprocessing,
            batch by batch, always of the same images.
        own (Preprocessing): The teacher's.
        others (Sequence[Preprocessing]): What to try.
        labels (Tensor): Of all images, shape (N,).

    Returns:
        Alternative | None: The best of those that do no worse on the first
        images than its own; of equally good ones, that with the fewest
        changes. None if there is none.
    """
    own_logits = torch.cat(list(answers(own)))
    own_right = own_logits.argmax(dim=1) == labels
    own_likelihood = calibrated_log_likelihood(own_logits, labels)
    tried: list[tuple[Preprocessing, Tensor, Tensor]] = []
    for other in others:
        logits = _unless_worse(answers(other), own_logits, labels)
        if logits is not None:
            right = logits.argmax(dim=1) == labels
            tried.append((other, right, calibrated_log_likelihood(logits, labels)))
    if not tried:
        return None
    top = max(tried, key=lambda entry: float(entry[2].mean()))
    equal = [entry for entry in tried if paired_gain(entry[2], top[2]) > 0.01]
    best = min(equal, key=lambda entry: (len(changes(own, entry[0])), -float(entry[2].mean())))
    preprocessing, right, likelihood = best
    return Alternative(
        preprocessing=preprocessing,
        changes=changes(own, preprocessing),
        accuracy=float(right.double().mean()),
        own_accuracy=float(own_right.double().mean()),
        gain=float((likelihood - own_likelihood).mean()),
        p_accuracy=mcnemar(own_right, right),
        p_likelihood=paired_gain(own_likelihood, likelihood),
        trials=len(others),
    )


def _unless_worse(batches: Iterator[Tensor], own_logits: Tensor, labels: Tensor) -> Tensor | None:
    """All logits, or None as soon as enough images say that they are no better."""
    seen: list[Tensor] = []
    count, screened = 0, False
    for logits in batches:
        seen.append(logits)
        count += len(logits)
        if count >= SCREENING_IMAGES and not screened:
            screened = True
            first = calibrated_log_likelihood(torch.cat(seen), labels[:count])
            own = calibrated_log_likelihood(own_logits[:count], labels[:count])
            if first.mean() < own.mean():
                return None
    return torch.cat(seen)
