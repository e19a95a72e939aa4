"""Post-hoc scores against two public libraries, OpenOOD and pytorch-ood, and where one of them is wrong."""
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from synood.penultimate import ash, dice_weight, gradnorm, knn, react, rmds, vim
from synood.visual import MSP, Energy

GOLDEN = dict(np.load(Path(__file__).parent/'golden'/'baselines'/'posthoc_a.npz', allow_pickle=False))
W, B, TRAIN, TEST, LOGITS = (GOLDEN[key] for key in ('w', 'b', 'train_feat', 'test_feat', 'test_logits'))
OF_LOGITS = {('classifier', 'logits'): LOGITS}


def energy(features, weight=W):
    return logsumexp(features.astype(np.float64) @ weight.T.astype(np.float64) + B, axis=1)


def close(scores, key):
    np.testing.assert_allclose(scores, GOLDEN[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('library', ['openood', 'pytorch_ood'])
def test_logits(library):
    close(MSP().score(OF_LOGITS), f'msp__{library}')
    close(Energy().score(OF_LOGITS), f'energy__{library}')
    close(Energy(temperature=2.).score(OF_LOGITS), f'energy_T2__{library}')


def test_gradnorm():
    close(gradnorm(TEST, LOGITS), 'gradnorm__openood')
    np.testing.assert_allclose(gradnorm(TEST, LOGITS), GOLDEN['gradnorm__closed_form'], rtol=1e-6)


@pytest.mark.parametrize('library', ['openood', 'pytorch_ood'])
@pytest.mark.parametrize('percentile', [70, 90])
def test_dice(library, percentile):
    weight = dice_weight(W, TRAIN.mean(0), percentile)
    close(energy(TEST, weight), f'dice_p{percentile}__{library}')


@pytest.mark.parametrize('library', ['openood', 'pytorch_ood'])
def test_react(library):
    threshold = np.percentile(GOLDEN['val_feat'], 90)
    np.testing.assert_allclose(threshold, GOLDEN['react_p90_thresh'], rtol=1e-6)
    close(energy(react(TEST, threshold)), f'react_p90__{library}')
    close(energy(react(TEST, 1.)), 'react_thr1__pytorch_ood')


@pytest.mark.parametrize('key', [k for k in GOLDEN if k.startswith('ash_')])
def test_ash(key):
    _, kind, rest = key.split('_', 2)
    close(energy(ash(TEST, int(rest[1:3]), kind)), key)


@pytest.mark.parametrize('library', ['openood', 'pytorch_ood'])
def test_vim(library):
    scores, theirs = vim(TRAIN, W, B, TEST, int(GOLDEN['vim_dim'])), GOLDEN[f'vim__{library}']
    np.testing.assert_allclose(scores, theirs, rtol=1e-4, atol=1e-5*np.abs(theirs).max())  # a difference of two numbers in float32


@pytest.mark.parametrize('k', [1, 5, 20])
def test_knn(k):
    close(knn(TRAIN, TEST, k), f'knn_K{k}__openood')
    if k == 1:  # pytorch-ood does not normalise, nor square
        assert np.abs(knn(TRAIN, TEST, 1) - GOLDEN['knn_k1_unnorm__pytorch_ood']).min() > 1


def test_rmds():
    scores = rmds(TRAIN, GOLDEN['train_label'], TEST)
    close(scores, 'rmds__openood')
    # pytorch-ood forgets to divide the background's scatter: what is left is close to plain Mahalanobis
    wrong, plain = GOLDEN['rmds__pytorch_ood'], GOLDEN['mds__openood']
    assert np.abs(scores - wrong).min() > 1 and np.abs(wrong - plain).max() < .05*np.abs(plain).max()


def test_what_a_score_may_not_depend_on():
    order = np.random.default_rng(0).permutation(len(TEST))
    methods = {'gradnorm': lambda x: gradnorm(x, x @ W.T + B), 'react': lambda x: energy(react(x, 1.)), 'ash': lambda x: energy(ash(x, 65, 's')),
               'knn': lambda x: knn(TRAIN, x, 5, block=7), 'rmds': lambda x: rmds(TRAIN, GOLDEN['train_label'], x), 'vim': lambda x: vim(TRAIN, W, B, x, 16)}
    for name, score in methods.items():
        whole = score(TEST)
        np.testing.assert_allclose(score(TEST[order]), whole[order], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(np.concatenate([score(part) for part in np.array_split(TEST, 5)]), whole, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(score(TEST.astype(np.float64)), whole, rtol=1e-5, err_msg=name)
