"""GL-MCM and LoCoOp against LoCoOp's code; its scores are restated there, its losses were run."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from synood.methods.locoop import (GLMCM, LoCoOp, background_patches, background_entropy, gl_mcm, locoop_loss,
                                   patch_cosines)
from synood.scores.head import mcm

GOLDEN = dict(np.load(Path(__file__).parent/'baselines'/'clip_trained_a.npz', allow_pickle=False))
IMAGES, PATCHES, TEXT, LABELS = (torch.from_numpy(GOLDEN[key]) for key in ('img', 'loc', 'txt', 'label'))
TOP = int(GOLDEN['topk'])
LOGITS, LOCAL = 100*IMAGES @ TEXT.T, 100*PATCHES @ TEXT.T


def close(ours, key, rtol=1e-5): np.testing.assert_allclose(np.asarray(ours), GOLDEN[key], rtol=rtol)


def test_entropy_of_the_background():
    close(background_entropy(LOCAL, LABELS, TOP), 'locoop_entropy')
    close(-background_entropy(LOCAL, LABELS, TOP), 'locoop_loss_en')


def test_loss():
    close(locoop_loss(LOGITS, LOCAL, LABELS, 0., TOP), 'locoop_ce')
    close(locoop_loss(LOGITS, LOCAL, LABELS, .25, TOP), 'locoop_total_lambda0p25')


@pytest.mark.parametrize('top', [1, TOP, 10])
def test_background_is_what_topk_leaves(top):
    released = ~(LOCAL.topk(top, dim=2)[1] == LABELS[:, None, None]).any(2)
    assert released.any() and not released.all()
    assert torch.equal(background_patches(LOCAL, LABELS, top), released)
    assert torch.equal(background_patches(LOCAL/100, LABELS, top), released)  # the temperature does not matter


def test_no_background_is_no_entropy():
    assert background_entropy(LOCAL, LABELS, 20) == 0
    close(locoop_loss(LOGITS, LOCAL, LABELS, .25, 20), 'locoop_ce')


def test_scores():
    cosines = (IMAGES @ TEXT.T).numpy()
    close(mcm(cosines), 'mcm_score_T1')
    close(gl_mcm(cosines, PATCHES @ TEXT.T), 'glmcm_score_T1')


@pytest.mark.parametrize('method', [GLMCM, LoCoOp])
def test_methods_on_features_of_any_length(method):
    fitted = method()
    fitted.text = TEXT.numpy()
    half = (7*PATCHES).half().numpy()
    features = {('clip', 'image'): 3*IMAGES.numpy(), ('clip', 'patch'): half}
    close(fitted.score(features), 'glmcm_score_T1', 3e-5)  # float16 is a part in 2,000
    np.testing.assert_allclose(patch_cosines(torch.from_numpy(half), 2*TEXT), PATCHES @ TEXT.T, atol=5e-4)


def test_the_loss_moves_the_text_towards_flat_backgrounds():
    text = TEXT.clone().requires_grad_()

    def logits(t): return 100*IMAGES @ F.normalize(t, dim=1).T
    def entropy(t): return background_entropy(100*patch_cosines(PATCHES, t), LABELS, TOP)
    def cross_entropy(t): return F.cross_entropy(logits(t), LABELS)
    def loss(t): return locoop_loss(logits(t), 100*patch_cosines(PATCHES, t), LABELS, .25, TOP)

    whole, classes, flatness = (torch.autograd.grad(part(text), text)[0] for part in (loss, cross_entropy, entropy))
    torch.testing.assert_close(whole, classes - .25*flatness)
    assert entropy(TEXT + 1e-4*flatness) > entropy(TEXT)
