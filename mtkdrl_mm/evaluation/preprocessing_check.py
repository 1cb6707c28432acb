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
# Images after which an alternative is left that is worse, and not by chance.
SCREENING_IMAGES = 64
SCREENING_LEVEL = 0.01
SIGNIFICANCE = 1e-3
SMALLEST_GAIN = 0.02
# An accuracy that is lower by chance alone is no loss.
LOSS_LEVEL = 0.05
DOUBT_LEVEL = 0.05

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
        p_loss (float): Of McNemar's test that the accuracy is lower.
        trials (int): Alternatives that were tried on these images.
        images (int): How many there were.
    """

    preprocessing: Preprocessing
    changes: tuple[str, ...]
    accuracy: float
    own_accuracy: float
    gain: float
    p_accuracy: float
    p_likelihood: float
    p_loss: float
    trials: int
    images: int

    @property
    def clearly_better(self) -> bool:
        """Whether it is better by more than chance, however many were tried."""
        level = SIGNIFICANCE / self.trials
        if self.gain < SMALLEST_GAIN or self.p_loss < LOSS_LEVEL:
            return False
        return min(self.p_accuracy, self.p_likelihood) < level

    @property
    def in_doubt(self) -> bool:
        """Whether more images may show that it is better."""
        if self.clearly_better or self.gain < SMALLEST_GAIN / 2 or self.p_loss < LOSS_LEVEL:
            return False
        return min(self.p_accuracy, self.p_likelihood) < DOUBT_LEVEL


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

    colour = own.channels == 3
    found = [
        reordered(own.mean, own.std, not own.to_rgb),
        reordered(own.mean[::-1], own.std[::-1], own.to_rgb),
        reordered(own.mean[::-1], own.std[::-1], not own.to_rgb),
    ]
    found = found if colour else []
    if img_size is not None:
        found.append(replace(own, input_size=img_size))
    named = [*map(_in_rgb, known), *NORMALISATIONS.values()]
    named = [fitted for pair in named if (fitted := _with_channels(pair, own.channels))]
    for to_rgb in (own.to_rgb, not own.to_rgb) if colour else (own.to_rgb,):
        order = slice(None, None, 1 if to_rgb else -1)
        found += [reordered(mean[order], std[order], to_rgb) for mean, std in named]
    unique = [other for other in dict.fromkeys(found) if other != own]
    return sorted(unique, key=lambda other: len(changes(own, other)))


def _with_channels(
    normalisation: tuple[tuple[float, ...], tuple[float, ...]], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std for so many channels; None if those of other channels do not tell."""
    mean, std = normalisation
    if len(mean) == channels:
        return mean, std
    if len(set(mean)) == len(set(std)) == 1:
        return mean[:1] * channels, std[:1] * channels
    return None


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
        Alternative | None: The best of those that are not clearly worse on the
        first images than its own; of equally good ones, that with the fewest
        changes. None if there is none.
    """
    own_logits = torch.cat(list(answers(own)))
    tried: list[tuple[Preprocessing, Tensor, Tensor]] = []
    for other in others:
        logits = _unless_worse(answers(other), own_logits, labels)
        if logits is not None:
            tried.append((other, logits, calibrated_log_likelihood(logits, labels)))
    if not tried:
        return None
    top = max(tried, key=lambda entry: float(entry[2].mean()))
    equal = [entry for entry in tried if paired_gain(entry[2], top[2]) > 0.01]
    best = min(equal, key=lambda entry: (len(changes(own, entry[0])), -float(entry[2].mean())))
    return _compare(own, own_logits, best[0], best[1], labels, len(others))


@torch.no_grad()
def confirm_alternative(
    answers: Answers, own: Preprocessing, other: Preprocessing, labels: Tensor
) -> Alternative:
    """Compare one preprocessing with a teacher's own, on images it was not chosen by.

    Args:
        answers (Callable): As of :func:`best_alternative`, for other images.
        own (Preprocessing): The teacher's.
        other (Preprocessing): Whose gain is in doubt.
        labels (Tensor): Of the images, shape (N,).

    Returns:
        Alternative: With one trial.
    """
    own_logits, logits = (torch.cat(list(answers(which))) for which in (own, other))
    return _compare(own, own_logits, other, logits, labels, trials=1)


def _compare(
    own: Preprocessing,
    own_logits: Tensor,
    other: Preprocessing,
    logits: Tensor,
    labels: Tensor,
    trials: int,
) -> Alternative:
    own_right, right = (z.argmax(dim=1) == labels for z in (own_logits, logits))
    own_likelihood, likelihood = (
        calibrated_log_likelihood(z, labels) for z in (own_logits, logits)
    )
    return Alternative(
        preprocessing=other,
        changes=changes(own, other),
        accuracy=float(right.double().mean()),
        own_accuracy=float(own_right.double().mean()),
        gain=float((likelihood - own_likelihood).mean()),
        p_accuracy=mcnemar(own_right, right),
        p_likelihood=paired_gain(own_likelihood, likelihood),
        p_loss=mcnemar(right, own_right),
        trials=trials,
        images=len(labels),
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
            if paired_gain(first, own) < SCREENING_LEVEL:
                return None
    return torch.cat(seen)
