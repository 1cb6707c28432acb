# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the teachers' features know of held-out images."""

import math

import pytest
import torch
import torch.nn.functional as F

from mtkdrl_mm.rl import EmbeddingProbes, probe_log_probs
from mtkdrl_mm.structures import NetworkOutput, StepTerms


def features(labels, size, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, size, generator=generator)
    return centres[labels] + noise * torch.randn(len(labels), size, generator=generator)


def terms_of(labels, *embeddings, logits=None):
    says = torch.zeros(len(labels), 5) if logits is None else logits
    teachers = [NetworkOutput(says, embedding) for embedding in embeddings]
    return StepTerms(teachers[0], teachers, labels)


LABELS = torch.arange(100) % 5


def test_probabilities_are_those_of_calibrated_probes_of_all_steps():
    embeddings = [features(LABELS, size, 2.0, size) for size in (4, 9)]
    probes = EmbeddingProbes((4, 9), 5)
    for part in (slice(64), slice(64, 100)):
        probes.observe(terms_of(LABELS[part], *(one[part] for one in embeddings)))
    probabilities = probes.label_probabilities()
    for ours, embedding in zip(probabilities.T, embeddings):
        expected = probe_log_probs(embedding, LABELS, 5)[torch.arange(100), LABELS].exp()
        torch.testing.assert_close(ours, expected)
    probes.clear()
    probes.observe(terms_of(LABELS[:50], *(one[:50] for one in embeddings)))
    assert probes.label_probabilities().shape == (50, 2)


def test_what_the_teachers_classifier_says_does_not_count():
    """The same features, with logits that are right or wrong of every image."""
    embedding = features(LABELS, 8, 1.5, 0)
    results = []
    for answers in (LABELS, (LABELS + 1) % 5):
        probes = EmbeddingProbes((8,), 5)
        probes.observe(terms_of(LABELS, embedding, logits=9.0 * F.one_hot(answers, 5)))
        results.append(probes.label_probabilities())
    assert torch.equal(*results) and float(results[0].mean()) > 0.4


def test_better_features_make_labels_likelier():
    probes = EmbeddingProbes((16, 16, 16), 5)
    probes.observe(terms_of(LABELS, *(features(LABELS, 16, noise, 0) for noise in (0.5, 2.5, 50))))
    good, middling, useless = probes.label_probabilities().log().mean(dim=0).tolist()
    assert good > middling + 0.5 and middling > useless + 0.3
    assert useless == pytest.approx(math.log(0.2), abs=0.1)  # as likely as any class


def test_a_blended_label_stands_for_its_largest_class():
    embedding = features(LABELS, 8, 1.5, 0)
    hard, blended = EmbeddingProbes((8,), 5), EmbeddingProbes((8,), 5)
    hard.observe(terms_of(LABELS, embedding))
    soft = 0.7 * F.one_hot(LABELS, 5) + 0.3 * F.one_hot((LABELS + 2) % 5, 5)
    blended.observe(terms_of(soft, embedding))
    assert torch.equal(hard.label_probabilities(), blended.label_probabilities())


def test_embeddings_that_are_no_numbers_are_counted():
    probes = EmbeddingProbes((3, 4), 5)
    assert probes.count_non_finite().tolist() == [0, 0]
    bad = features(LABELS, 4, 1.0, 0)
    bad[3, 1], bad[3, 2], bad[50, 0] = float('nan'), float('inf'), -float('inf')
    probes.observe(terms_of(LABELS[:20], features(LABELS, 3, 1.0, 0)[:20], bad[:20]))
    assert probes.count_non_finite().tolist() == [0, 1]
    probes.observe(terms_of(LABELS, features(LABELS, 3, 1.0, 0), bad))
    assert probes.count_non_finite().tolist() == [0, 3]
