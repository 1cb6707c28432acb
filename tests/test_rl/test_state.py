# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What the agent sees."""

import pytest
import torch

from mtkdrl_mm.rl import StateLayout, TeacherState


def test_original_code(peers, peers_terms):
    for m, (state, size) in enumerate(zip(TeacherState()(peers_terms), (12, 16, 10, 14))):
        # Theirs: cosine, KL, cross entropy, embedding, logits.
        cosine, kl, ce, embedding, logits = peers[f'state_cos_kl_ce_emb_logit_{m}'].split(
            [1, 1, 1, size, 10], dim=1
        )
        expected = torch.cat([embedding, logits, ce, cosine, kl], dim=1)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)


def test_switches_choose_the_parts(make_terms):
    terms = make_terms()
    whole = TeacherState()(terms)
    performance = TeacherState(gap=False)(terms)
    gap = TeacherState(performance=False)(terms)
    for m in range(3):
        assert torch.equal(torch.cat([performance[m], gap[m]], dim=1), whole[m])
        assert torch.equal(
            gap[m], torch.stack([terms.feature_cosine[:, m], terms.logit_loss[:, m]], 1).detach()
        )
        assert not whole[m].requires_grad


@pytest.mark.parametrize('performance', [True, False])
@pytest.mark.parametrize('gap', [True, False])
def test_sizes_are_those_of_the_states(make_terms, performance, gap):
    if not performance and not gap:
        with pytest.raises(ValueError, match='`performance` and `gap`'):
            TeacherState(performance, gap)
        return
    state = TeacherState(performance, gap)
    sizes = state.layout([3, 4, 5], 5).sizes
    assert [s.shape[1] for s in state(make_terms())] == sizes
    if performance and gap:
        assert sizes == [3 + 5 + 3, 4 + 5 + 3, 5 + 5 + 3]


def test_float32_of_half_precision_outputs(make_terms):
    assert {s.dtype for s in TeacherState()(make_terms(dtype=torch.bfloat16))} == {torch.float32}


@pytest.mark.parametrize('performance', [True, False])
@pytest.mark.parametrize('gap', [True, False])
def test_layout_names_what_is_in_the_states(make_terms, performance, gap):
    if not (performance or gap):
        return
    terms = make_terms()
    states = TeacherState(performance, gap)(terms)
    layout = TeacherState(performance, gap).layout([3, 4, 5], 5)
    parts = dict(cosine=terms.feature_cosine, gap=terms.logit_loss) if gap else {}
    if performance:
        parts['cross_entropy'] = terms.teacher_ce
    for part, expected in parts.items():
        assert torch.equal(layout.scalar(part, states), expected)
    for m, state in enumerate(states):
        slices = layout.slices(m)
        covered = [i for part in slices.values() for i in range(part.start, part.stop)]
        assert covered == list(range(state.shape[1]))
        embedding, logits, rest = layout.split(m, state)
        assert torch.equal(torch.cat([embedding, logits, rest], dim=1), state)
        if performance:
            assert torch.equal(embedding, terms.teachers[m].embedding)
            assert torch.equal(logits, terms.teacher_logits[:, m])


def test_shortened_layout():
    layout = StateLayout((3, 9), 6, gap=False).shortened(4)
    assert layout == StateLayout((3, 4), 4, gap=False)
    assert layout.sizes == [3 + 4 + 1, 4 + 4 + 1]


@pytest.mark.parametrize('gap', [True, False])
def test_a_state_that_shows_no_label_and_no_embedding(make_terms, gap):
    terms = make_terms()
    state = TeacherState(gap=gap, embedding=False, cross_entropy=False)
    layout = state.layout([3, 4, 5], 5)
    assert layout.sizes == [5 + 2 * gap] * 3 and not layout.has_embeddings
    for m, one in enumerate(state(terms)):
        assert torch.equal(one[:, layout.slices(m)['logits']], terms.teacher_logits[:, m])
        assert layout.slices(m)['cross_entropy'] == slice(5, 5)
        if gap:
            assert torch.equal(one[:, 5], terms.feature_cosine[:, m])
    embeddings = TeacherState(gap=gap, cross_entropy=False)
    assert embeddings.layout([3, 4, 5], 5).sizes == [3 + 5 + 2 * gap, 9 + 2 * gap, 10 + 2 * gap]
    for m, one in enumerate(embeddings(terms)):
        assert torch.equal(one[:, : 3 + m], terms.teachers[m].embedding)


def test_labels_do_not_enter_a_state_without_cross_entropy_and_gap(make_terms):
    state = TeacherState(gap=False, cross_entropy=False)
    states = [state(make_terms(labels=torch.full((6,), label))) for label in (0, 3)]
    assert all(torch.equal(one, other) for one, other in zip(*states))
