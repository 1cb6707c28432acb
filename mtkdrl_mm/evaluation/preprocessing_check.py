# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Search for the preprocessing under which a teacher is most accurate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtkdrl_mm.models.teachers.preprocessing import Preprocessing

from .calibration import calibrated_log_likelihood
from .paired_tests import mcnemar, paired_gain

# Mean and std per channel in RGB order, for pixels in [0, 255].
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
NORMALISATIONS: dict[str, Normalisation] = {
    'ImageNet': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    '-1 to 1': ((127.5,) * 3, (127.5,) * 3),
    '0 to 1': ((0.0,) * 3, (255.0,) * 3),
    '0 to 255': ((0.0,) * 3, (1.0,) * 3),
    'ImageNet, std 1': ((123.675, 116.28, 103.53), (1.0,) * 3),
    'CIFAR-10': ((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)),
    'CLIP': ((122.771, 116.746, 104.094), (68.5005, 66.6322, 70.3232)),
}
# An alternative that is significantly worse, at this level, on so many images is dropped.
SCREENING_IMAGES = 64
SCREENING_LEVEL = 0.01
# Alternatives whose log-likelihoods do not differ at this level are equally good.
TIE_LEVEL = 0.01
# An alternative is clearly better at this level, divided by the number of alternatives,
# and with at least this gain in nats per image.
SIGNIFICANCE = 1e-3
SMALLEST_GAIN = 0.02
# It is no better where the accuracy is lower at this level.
LOSS_LEVEL = 0.05
# It is in doubt, and worth more images, at this level and with half of the smallest gain.
DOUBT_LEVEL = 0.05
DOUBTFUL_GAIN = SMALLEST_GAIN / 2

PredictFn = Callable[[Preprocessing], Iterator[Tensor]]


@dataclass(frozen=True)
class Alternative:
    """A teacher's accuracy under another preprocessing than the configured one.

    Both preprocessings are evaluated on the same images.

    Attributes:
        preprocessing (Preprocessing): The alternative.
        changes (tuple[str, ...]): Settings in which it differs.
        accuracy (float): Accuracy with the alternative, from 0 to 1.
        current_accuracy (float): Accuracy with the configured preprocessing.
        gain (float): Gain of the log-likelihood in nats per image; both
            likelihoods are calibrated.
        p_accuracy (float): p-value of McNemar's test for a higher accuracy.
        p_likelihood (float): p-value of the paired t-test on the
            log-likelihoods.
        p_loss (float): p-value of McNemar's test for a lower accuracy.
        trials (int): Number of alternatives that were tried on these images.
        num_images (int): Number of images.
    """

    preprocessing: Preprocessing
    changes: tuple[str, ...]
    accuracy: float
    current_accuracy: float
    gain: float
    p_accuracy: float
    p_likelihood: float
    p_loss: float
    trials: int
    num_images: int

    @property
    def p_value(self) -> float:
        """The smaller p-value of the two tests for an improvement, corrected for two tests."""
        return min(1.0, 2 * min(self.p_accuracy, self.p_likelihood))

    @property
    def clearly_better(self) -> bool:
        """Whether the improvement is significant, corrected for the number of trials."""
        if self.gain < SMALLEST_GAIN or self.p_loss < LOSS_LEVEL:
            return False
        return self.p_value < SIGNIFICANCE / self.trials

    @property
    def in_doubt(self) -> bool:
        """Whether an improvement is likely, but more images are needed to show it."""
        if self.clearly_better or self.gain < DOUBTFUL_GAIN or self.p_loss < LOSS_LEVEL:
            return False
        return self.p_value < DOUBT_LEVEL


def alternatives(
    current: Preprocessing,
    known: Sequence[Preprocessing],
    img_size: tuple[int, int] | None = None,
) -> list[Preprocessing]:
    """List preprocessings that a teacher may have been trained with.

    Args:
        current (Preprocessing): The configured one.
        known (Sequence[Preprocessing]): Other candidates: the student's, those
            of the other teachers, mean and std of the images themselves.
        img_size (tuple[int, int], optional): Height and width that the network
            was designed for, if they are fixed. Defaults to None.

    Returns:
        list[Preprocessing]: The candidates without the configured one, those
        with the fewest changes first.
    """

    def reordered(mean: tuple[float, ...], std: tuple[float, ...], to_rgb: bool) -> Preprocessing:
        return replace(current, mean=mean, std=std, to_rgb=to_rgb)

    colour = current.channels == 3
    found = [
        reordered(current.mean, current.std, not current.to_rgb),
        reordered(current.mean[::-1], current.std[::-1], current.to_rgb),
        reordered(current.mean[::-1], current.std[::-1], not current.to_rgb),
    ]
    found = found if colour else []
    if img_size is not None:
        found.append(replace(current, input_size=img_size))
    named = [*map(_in_rgb, known), *NORMALISATIONS.values()]
    named = [fitted for pair in named if (fitted := _with_channels(pair, current.channels))]
    for to_rgb in (current.to_rgb, not current.to_rgb) if colour else (current.to_rgb,):
        order = slice(None, None, 1 if to_rgb else -1)
        found += [reordered(mean[order], std[order], to_rgb) for mean, std in named]
    unique = [other for other in dict.fromkeys(found) if other != current]
    return sorted(unique, key=lambda other: len(changes(current, other)))


def _with_channels(normalisation: Normalisation, channels: int) -> Normalisation | None:
    """Convert mean and std to a number of channels; None if the channels differ."""
    mean, std = normalisation
    if len(mean) == channels:
        return mean, std
    if len(set(mean)) == len(set(std)) == 1:
        return mean[:1] * channels, std[:1] * channels
    return None


def _in_rgb(known: Preprocessing) -> Normalisation:
    order = slice(None, None, 1 if known.to_rgb else -1)
    return known.mean[order], known.std[order]


def changes(current: Preprocessing, other: Preprocessing) -> tuple[str, ...]:
    """Names of the settings in which two preprocessings differ."""
    names = ('to_rgb', 'mean', 'std', 'input_size')
    return tuple(name for name in names if getattr(current, name) != getattr(other, name))


@torch.no_grad()
def best_alternative(
    predict: PredictFn, current: Preprocessing, others: Sequence[Preprocessing], labels: Tensor
) -> Alternative | None:
    """Find the alternative preprocessing with the highest calibrated log-likelihood.

    Alternatives that are significantly worse than the configured preprocessing
    on the first images are dropped. Of several that are equally good, the one
    with the fewest changes is taken.

    Args:
        predict (Callable): Returns the teacher's logits under a preprocessing,
            batch by batch, for the same images in each call.
        current (Preprocessing): The configured one.
        others (Sequence[Preprocessing]): The alternatives.
        labels (Tensor): Labels of all images, shape (N,).

    Returns:
        Alternative | None: The best alternative; None if all were dropped.
    """
    current_logits = torch.cat(list(predict(current)))
    tried: list[tuple[Preprocessing, Tensor, Tensor]] = []
    for other in others:
        logits = _unless_worse(predict(other), current_logits, labels)
        if logits is not None:
            tried.append((other, logits, calibrated_log_likelihood(logits, labels)))
    if not tried:
        return None
    top = max(tried, key=lambda entry: float(entry[2].mean()))
    equal = [entry for entry in tried if paired_gain(entry[2], top[2]) > TIE_LEVEL]
    best = min(equal, key=lambda entry: (len(changes(current, entry[0])), -float(entry[2].mean())))
    return _compare(
        current=current,
        current_logits=current_logits,
        other=best[0],
        logits=best[1],
        labels=labels,
        trials=len(others),
    )


@torch.no_grad()
def confirm_alternative(
    predict: PredictFn, current: Preprocessing, other: Preprocessing, labels: Tensor
) -> Alternative:
    """Test a selected alternative on images that were not used to select it.

    Args:
        predict (Callable): See :func:`best_alternative`; for other images.
        current (Preprocessing): The configured one.
        other (Preprocessing): The alternative.
        labels (Tensor): Labels of the images, shape (N,).

    Returns:
        Alternative: The comparison, with one trial.
    """
    current_logits, logits = (torch.cat(list(predict(which))) for which in (current, other))
    return _compare(
        current=current,
        current_logits=current_logits,
        other=other,
        logits=logits,
        labels=labels,
        trials=1,
    )


def _compare(
    current: Preprocessing,
    current_logits: Tensor,
    other: Preprocessing,
    logits: Tensor,
    labels: Tensor,
    trials: int,
) -> Alternative:
    both = (current_logits, logits)
    current_correct, correct = (z.argmax(dim=1) == labels for z in both)
    current_likelihood, likelihood = (calibrated_log_likelihood(z, labels) for z in both)
    return Alternative(
        preprocessing=other,
        changes=changes(current, other),
        accuracy=float(correct.double().mean()),
        current_accuracy=float(current_correct.double().mean()),
        gain=float((likelihood - current_likelihood).mean()),
        p_accuracy=mcnemar(current_correct, correct),
        p_likelihood=paired_gain(current_likelihood, likelihood),
        p_loss=mcnemar(correct, current_correct),
        trials=trials,
        num_images=len(labels),
    )


def _unless_worse(
    batches: Iterator[Tensor], current_logits: Tensor, labels: Tensor
) -> Tensor | None:
    """Concatenate all logits; None as soon as they are significantly worse."""
    seen: list[Tensor] = []
    count, screened = 0, False
    for logits in batches:
        seen.append(logits)
        count += len(logits)
        if count >= SCREENING_IMAGES and not screened:
            screened = True
            first = calibrated_log_likelihood(torch.cat(seen), labels[:count])
            current = calibrated_log_likelihood(current_logits[:count], labels[:count])
            if paired_gain(first, current) < SCREENING_LEVEL:
                return None
    return torch.cat(seen)
