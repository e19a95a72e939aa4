"""CMA's loss, schedule, training steps and scores, and both systems' metrics, against what their own code gave."""
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.methods.cma import cma_loss, contrastive_step
from synood.core.training import warmup_cosine_rate
from synood.evaluation.metrics import aupr, auroc, fpr95, id_accuracy
from synood.scores.head import mcm, neglabel

FOLDER = Path(__file__).parent/'seeds'


def golden(name):
    return dict(np.load(FOLDER/f'{name}_a.npz', allow_pickle=False))


class Towers(torch.nn.Module):
    "The toy of the golden files: an image is X @ Wi, a text a row of E."
    def __init__(self, Wi, E, logit_scale):
        super().__init__()
        self.Wi, self.E = (torch.nn.Parameter(torch.tensor(x)) for x in (Wi, E))
        self.logit_scale = torch.nn.Parameter(torch.tensor(float(logit_scale)))

    def encode_image(self, X):
        return X @ self.Wi

    def encode_text(self, labels):
        return self.E[labels]


def assert_close(mine, theirs, terms):
    "Equal to 1e-6 of the terms that the released code adds up, which for alignment 1 cancel and leave their rounding."
    np.testing.assert_allclose(mine, theirs, atol=1e-6*max(1, np.abs(terms).max()))


@pytest.mark.parametrize('alignment', ['0', '0.001', '1'])
def test_loss_and_gradients(alignment):
    arrays = golden('cma_loss')
    leaves = [torch.tensor(arrays[key], requires_grad=True) for key in ('img', 'txt', 'logit_scale')]
    loss = cma_loss(leaves[0], leaves[1], leaves[2].exp(), float(alignment))
    np.testing.assert_allclose(loss.item(), arrays[f'lam{alignment}.loss'], rtol=1e-6)
    for gradient, key in zip(torch.autograd.grad(loss, leaves), ('g_img', 'g_txt', 'g_logit_scale')):
        assert_close(gradient, arrays[f'lam{alignment}.{key}'], arrays[f'lam0.{key}'])


@pytest.mark.parametrize('chunk', [8, 3])
@pytest.mark.parametrize('alignment', ['0', '0.001', '1'])
def test_gradients_of_the_parameters(alignment, chunk):
    arrays = golden('cma_loss')
    towers = Towers(arrays['Wi'], arrays['E'], arrays['logit_scale'])
    present, rows = torch.tensor(arrays['y']).unique(return_inverse=True)
    contrastive_step(towers, torch.tensor(arrays['X']), present, rows, float(alignment), chunk)
    for name, parameter in towers.named_parameters():
        assert_close(parameter.grad, arrays[f'lam{alignment}.g_{name}'], arrays[f'lam0.g_{name}'])


@pytest.mark.parametrize('chunk', [8, 3])
def test_four_steps_of_training(chunk):
    arrays = golden('cma_train')
    towers = Towers(arrays['Wi0'], arrays['E0'], arrays['logit_scale0'])
    optimiser = torch.optim.AdamW(towers.parameters(), lr=0., weight_decay=float(arrays['weight_decay']))
    total, warmup = int(arrays['first_cycle_steps']), int(arrays['warmup'])
    for step in range(4):
        rate = warmup_cosine_rate(step, total, warmup, float(arrays['lr']))
        np.testing.assert_allclose(rate, arrays['lrs'][step], rtol=1e-12)
        for group in optimiser.param_groups: group['lr'] = rate
        present, rows = torch.tensor(arrays[f'y{step}']).unique(return_inverse=True)
        loss = contrastive_step(towers, torch.tensor(arrays[f'X{step}']), present, rows, float(arrays['lam']), chunk)
        np.testing.assert_allclose(loss, arrays['losses'][step], rtol=1e-6)
        optimiser.step()
    for name, parameter in towers.named_parameters():
        np.testing.assert_allclose(parameter.detach(), arrays[f'p.{name}'], atol=1e-6)


def test_schedule():
    arrays = golden('cma_sched')
    settings = int(arrays['first_cycle_steps']), int(arrays['warmup']), float(arrays['max_lr'])
    rates = [warmup_cosine_rate(step, *settings) for step in range(len(arrays['lr_at_step']))]
    np.testing.assert_allclose(rates, arrays['lr_at_step'], rtol=1e-12, atol=1e-20)


@pytest.mark.parametrize('kind', ['id', 'ood'])
def test_scores(kind):
    arrays = golden('cma_score')
    images = arrays[f'img_{kind}']
    mass = neglabel(images, arrays['text_id'], arrays['text_neg'], .01, groups=1)
    # both in float32, at temperature .01
    np.testing.assert_allclose(mass, arrays[f'neglabel_{kind}'].ravel(), atol=2e-6)
    np.testing.assert_allclose(mcm(images @ arrays['text_id'].T), arrays[f'mcm_{kind}'].ravel(), atol=1e-6)


def test_both_conventions_of_the_metrics():
    arrays = golden('metrics')
    scores = arrays['conf_id'], arrays['conf_ood']
    theirs = {side: dict(zip(map(str, arrays[f'{side}_names']), arrays[side])) for side in ('openood', 'cma')}
    ours = {'auroc': auroc(*scores),
            'aupr_in': aupr(*scores, rule='trapezoid'),
            'aupr_out': aupr(*scores, 'ood', 'trapezoid')}
    openood = {**ours, 'fpr': fpr95(*scores, positive='ood'), 'acc': id_accuracy(arrays['pred'], arrays['label'])}
    cma = {**ours, 'fpr_at_95_tpr': fpr95(*scores, rule='interpolated')}
    for side, mine in (('openood', openood), ('cma', cma)):
        for name, value in mine.items(): assert abs(value - theirs[side][name]) < 1e-9, (side, name)
