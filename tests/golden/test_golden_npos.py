"""The sampling and the loss of NPOS against its public code, and where that code does not do what the paper says."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from synood.methods.npos import boundary_rows, kth_neighbour_distances, logit_norm, farthest_candidates

BASELINE = np.load(Path(__file__).parent/'baselines'/'clip_trained_a.npz', allow_pickle=False)
GOLDEN = {key: torch.from_numpy(value) for key, value in BASELINE.items() if value.dtype.kind in 'fi'}
QUEUE, NOISE, CHOSEN = (GOLDEN[f'npos_{key}'] for key in ('queue', 'noise', 'chosen_boundary'))
K, SELECT, SIGMA, KEEP = 10, 8, .1, 2


def test_boundary():
    edge = boundary_rows(QUEUE, K, SELECT)
    np.testing.assert_array_equal(edge, GOLDEN['npos_boundary_idx'])
    np.testing.assert_allclose(kth_neighbour_distances(QUEUE, QUEUE, K)[edge], GOLDEN['npos_boundary_kdist_sq'],
                               rtol=1e-5)
    assert set(CHOSEN.tolist()) <= set(edge.tolist())


def test_the_feature_itself_counts_as_a_neighbour():
    np.testing.assert_allclose(kth_neighbour_distances(QUEUE, QUEUE, 1), 0, atol=1e-6)
    assert (kth_neighbour_distances(QUEUE, QUEUE, K + 1) > kth_neighbour_distances(QUEUE, QUEUE, K)).all()


def test_outliers_are_kept_for_every_point():
    kept = farthest_candidates(QUEUE[CHOSEN], NOISE, QUEUE, K, SIGMA, KEEP)
    assert kept.shape == (3, KEEP, 32)
    np.testing.assert_allclose(kept.flatten(0, 1), GOLDEN['npos_outliers_blockwise'], rtol=1e-5, atol=1e-5)


def mixed(points):
    "The public selection: distances that lie one point after the other are read as if one candidate after the other."
    candidates = (points[:, None] + SIGMA*NOISE).flatten(0, 1)
    best = kth_neighbour_distances(candidates, QUEUE, K).view(len(NOISE), -1).topk(KEEP, dim=0).indices.squeeze()
    return candidates[torch.cat([column*len(NOISE) + best[:, column] for column in range(best.shape[1])])]


def test_the_public_code_mixes_the_points():
    theirs, ours = GOLDEN['npos_outliers'], GOLDEN['npos_outliers_blockwise']
    np.testing.assert_allclose(mixed(QUEUE[CHOSEN]), theirs, rtol=1e-5, atol=1e-5)
    assert (theirs - ours).abs().amax(1).min() > .1  # not one of the six is the same
    far = [kth_neighbour_distances(x, QUEUE, K).view(3, KEEP).mean(1) for x in (theirs, ours)]
    assert (far[0] < far[1]).all()  # and what it keeps stands nearer


def test_the_public_code_needs_two_points():
    with pytest.raises(IndexError): mixed(QUEUE[CHOSEN[:1]])
    assert farthest_candidates(QUEUE[CHOSEN[:1]], NOISE, QUEUE, K, SIGMA, KEEP).shape == (1, KEEP, 32)


def test_logit_norm():
    cosines, labels = GOLDEN['img'] @ GOLDEN['txt'].T, GOLDEN['label']
    np.testing.assert_allclose(logit_norm(cosines, labels), GOLDEN['npos_logitnorm_T8'], rtol=1e-6)
    np.testing.assert_allclose(logit_norm(100*cosines, labels), GOLDEN['npos_logitnorm_T8'], rtol=1e-6)
    # the release divides by the norm of the whole batch: then an image's loss depends on the others
    whole = F.cross_entropy(cosines/cosines.norm()/8, labels)
    assert abs(whole - GOLDEN['npos_logitnorm_T8']) > .01
    one_by_one = torch.stack([logit_norm(cosines[i:i + 1], labels[i:i + 1]) for i in range(len(labels))])
    np.testing.assert_allclose(one_by_one.mean(), GOLDEN['npos_logitnorm_T8'], rtol=1e-6)
