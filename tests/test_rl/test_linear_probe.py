# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Linear probes on embeddings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.evaluation import fitted_temperature, log_likelihood
from mtkdrl_mm.rl import linear_probe, probe_log_probs, probe_scores


def embeddings_of(labels, size, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(int(labels.max()) + 1, size, generator=generator)
    return centres[labels] + noise * torch.randn(len(labels), size, generator=generator)


@pytest.mark.parametrize('penalty', [1e-3, 1.0])
def test_scores_are_those_of_a_probe_that_has_not_seen_the_image(monkeypatch, penalty):
    """As from a fit to the others alone, for each of them, by numpy."""
    monkeypatch.setattr(linear_probe, '_PENALTIES', (penalty,))
    labels = torch.tensor([0, 1, 2, 1] * 6)
    embeddings = embeddings_of(labels, 5, noise=2.0)
    scores = probe_scores(embeddings, labels, num_classes=4)
    inputs = embeddings.double().numpy()
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    targets = F.one_hot(labels, 4).double().numpy()
    for image in range(24):
        others = np.arange(24) != image
        x = np.column_stack([inputs[others], np.ones(23)])
        ridge = np.diag([24 * penalty] * 5 + [0.0])  # the intercept is not shrunk
        fit = np.linalg.solve(x.T @ x + ridge, x.T @ targets[others])
        expected = np.append(inputs[image], 1) @ fit
        np.testing.assert_allclose(scores[image], expected, atol=1e-5)


def test_embeddings_that_know_nothing_are_no_better_than_chance():
    """A probe that is judged on what it was fitted to would find the labels in them."""
    labels = torch.arange(120) % 4
    noise = torch.randn(120, 60, generator=torch.Generator().manual_seed(0))
    scores = probe_scores(noise, labels, num_classes=4)
    right = (scores.argmax(dim=1) == labels).double().mean()
    assert right < 0.4
    assert float(log_likelihood(scores, labels).mean()) < -np.log(4) + 0.02
    knows = probe_scores(embeddings_of(labels, 60, noise=1.0), labels, num_classes=4)
    assert (knows.argmax(dim=1) == labels).all()


def test_log_probs_have_the_temperature_that_fits_best(monkeypatch):
    labels = torch.arange(120) % 3
    embeddings = embeddings_of(labels, 6, noise=3.0)
    scores = probe_scores(embeddings, labels, 3)
    temperature = fitted_temperature(scores, labels)
    assert temperature < 0.7  # scores are from 0 to 1, and these probes know something
    log_probs = probe_log_probs(embeddings, labels, 3)
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(120))
    expected = (scores / temperature).log_softmax(dim=1)
    torch.testing.assert_close(log_probs, expected, atol=2e-3, rtol=0)
    monkeypatch.setattr(linear_probe, '_CHUNK', 50)
    torch.testing.assert_close(probe_log_probs(embeddings, labels, 3), log_probs)


@pytest.mark.parametrize(
    ('images', 'size', 'classes'),
    [(1, 3, 2), (2, 3, 2), (20, 60, 4), (3, 2, 7), (12, 0, 3)],
)
def test_few_images_and_many_entries(images, size, classes):
    labels = torch.arange(images) % classes
    embeddings = torch.randn(images, size, generator=torch.Generator().manual_seed(1))
    log_probs = probe_log_probs(embeddings, labels, classes)
    assert log_probs.shape == (images, classes) and log_probs.isfinite().all()


def test_equal_eigenvalues_may_have_any_vectors(monkeypatch):
    """Machines may disagree about them."""
    labels = torch.arange(90) % 3
    embeddings = torch.eye(3)[labels] + 1e-9 * embeddings_of(labels, 3, noise=1.0)
    scores = probe_scores(embeddings, labels, 3)
    eigh = torch.linalg.eigh

    def other_vectors(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * torch.tensor([1.0, -1.0, -1.0], dtype=vectors.dtype)

    monkeypatch.setattr(torch.linalg, 'eigh', other_vectors)
    torch.testing.assert_close(probe_scores(embeddings, labels, 3), scores)


def test_the_penalty_of_the_least_error_is_taken(monkeypatch):
    labels = torch.arange(80) % 4
    for noise in (0.1, 6.0):
        embeddings = embeddings_of(labels, 40, noise)
        chosen = probe_scores(embeddings, labels, 4)
        errors = {}
        for penalty in linear_probe._PENALTIES:
            with monkeypatch.context() as patch:
                patch.setattr(linear_probe, '_PENALTIES', (penalty,))
                scores = probe_scores(embeddings, labels, 4)
            errors[penalty] = float((scores - F.one_hot(labels, 4)).square().sum())
        error = float((chosen - F.one_hot(labels, 4)).square().sum())
        assert error == pytest.approx(min(errors.values()))
        assert max(errors.values()) > 1.1 * error


def test_neither_units_nor_order_nor_names_nor_parts_matter(monkeypatch):
    labels = torch.arange(90) % 3
    embeddings = embeddings_of(labels, 6, noise=1.5)
    scores = probe_scores(embeddings, labels, 3)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(probe_scores(embeddings[order], labels[order], 3), scores[order])
    units = torch.tensor([1e-3, 1.0, 5.0, 1e4, -2.0, 0.5])
    torch.testing.assert_close(probe_scores(embeddings.double() * units + 7, labels, 3), scores)
    names = torch.tensor([2, 0, 1])
    torch.testing.assert_close(probe_scores(embeddings, names[labels], 3)[:, names], scores)
    constant = torch.cat([embeddings, torch.full((90, 2), 3.0)], dim=1)
    torch.testing.assert_close(probe_scores(constant, labels, 3), scores)
    monkeypatch.setattr(linear_probe, '_CHUNK', 7)
    torch.testing.assert_close(probe_scores(embeddings, labels, 3), scores)
