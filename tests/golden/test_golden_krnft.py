"""KR-NFT's learner, losses, gradients and scores against what its own code gave."""
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.models.features import unit
from synood.data.images import few_shot
from synood.methods.krnft import (NFTLearner, choose_views, group_odds, id_crop_loss, kd_loss,
                          krnft_losses, learned_cosines, ood_crop_loss, train_learner)
from synood.scores.negatives import OPENOOD_PROMPTS, openood_mining, row_quantiles
from synood.scores.method import group_columns, neglabel

FOLDER = Path(__file__).parent/'seeds'


def golden(name):
    return dict(np.load(FOLDER/f'krnft_{name}_a.npz', allow_pickle=False))


def learner(found, prefix, kind='binary', **rows):
    "A learner with the parameters of a golden file, by their published names."
    state = {key.removeprefix(prefix): torch.tensor(value) for key, value in found.items() if key.startswith(prefix)}
    made = NFTLearner(512, len(state['scaling_meta_net.linear1.bias']), kind, **rows)
    made.load_state_dict({key: value for key, value in state.items() if key != 'out'})
    return made


def text_of(found):
    return torch.tensor(found['base']).split([int(found['n_cls']), len(found['base']) - int(found['n_cls'])])


def test_forward():
    found = golden('forward')
    text, image = text_of(found), torch.tensor(found['im'])
    made = learner(found, 'p.')
    np.testing.assert_allclose(made(*text, image)[0].detach(), found['out32'], atol=1e-6)
    cosines = learned_cosines(made, *text, image, image[None])
    np.testing.assert_allclose(float(found['ret_scale'])*cosines[0].detach(), found['logits'], atol=1e-4)
    fresh = NFTLearner(512, 4)(*text, image)[0].detach().numpy()
    assert np.abs(fresh - found['base']).max() == found['init_maxdev'] == 0


@pytest.mark.parametrize('kind', ['csc', 'uni', 'constant'])
def test_variants(kind):
    found = golden('variants')
    text, image = text_of(found), torch.tensor(found['im'])
    rows = dict(classes=len(text[0]), negatives=len(text[1])) if kind == 'csc' else {}
    made = learner(found, f'{kind}.', kind, **rows)
    np.testing.assert_allclose(made(*text, image)[0].detach(), found[f'{kind}.out'], atol=1e-6)


@pytest.fixture(params=[p.name for p in sorted(FOLDER.glob('krnft_loss_*.npz'))])
def case(request):
    return dict(np.load(FOLDER/request.param, allow_pickle=False))


def test_losses_and_their_gradients(case):
    classes, groups = int(case['n_cls']), int(case['n_group'])
    columns = torch.tensor(group_columns(int(case['ood_num']), groups))
    assert (columns.ravel().numpy() == case['perm']).all()
    rows, teacher = torch.tensor(case['pf'], requires_grad=True), torch.tensor(case['te'])
    of_id, of_ood = (float(case['logit_scale'])*torch.tensor(case[key]) @ rows.T for key in ('fi', 'fo'))
    losses = {'lin': id_crop_loss(of_id, torch.tensor(case['targets_in']), classes, columns),
              'lout': ood_crop_loss(of_ood, classes, columns),
              'lkg': kd_loss(torch.cosine_similarity(rows, teacher, dim=1))}
    losses['total'] = losses['lin'] + .3*losses['lout'] + 10*losses['lkg']
    for name, loss in losses.items():
        np.testing.assert_allclose(loss.item(), case[name], rtol=1e-5, atol=1e-5)
        gradient, = torch.autograd.grad(loss, rows, retain_graph=True)
        np.testing.assert_allclose(gradient, case[f'g_{name}'], rtol=1e-4, atol=1e-5)


def test_grouping():
    found = golden('grouping')
    x, classes, groups = torch.tensor(found['x']), int(found['n_cls']), int(found['n_group'])
    columns = torch.tensor(group_columns(x.shape[1] - classes, groups))
    mine = torch.cat([x[:, None, :classes].expand(-1, groups, -1), x[:, classes:][:, columns]], 2)
    np.testing.assert_array_equal(mine, found['permuted'])
    in_order = torch.arange(columns.numel()).reshape(groups, -1)
    mass = group_odds(x, classes, in_order)[1].sigmoid()
    np.testing.assert_allclose(mass, found['plain_softmax'][..., :classes].sum(2), atol=1e-6)


@pytest.mark.parametrize('name', ['grads', 'grads2'])
def test_gradients_through_the_learner(name):
    found = golden(name)
    made, text = learner(found, 'p.'), text_of(found)
    columns = torch.tensor(group_columns(len(text[1]), int(found.get('n_group', 5))))
    tensors = {key: torch.tensor(found[key]) for key in ('fi', 'fo', 'im')}
    losses = krnft_losses(made, *text, tensors['im'], tensors['fi'], tensors['fo'],
                          torch.tensor(found['y']).ravel(), columns)
    losses = dict(lin=losses['lin'], lout=losses['lout'], lkg=losses['lkd'],
                  total=losses['lin'] + .3*losses['lout'] + 10*losses['lkd'])
    checked = 0
    for loss, value in losses.items():
        if loss in found: np.testing.assert_allclose(value.item(), found[loss], rtol=1e-4, atol=1e-4)
        wanted = {key: found[f'g_{loss}.{key}'] for key, _ in made.named_parameters() if f'g_{loss}.{key}' in found}
        if not wanted: continue
        gradients = torch.autograd.grad(value, list(made.parameters()), retain_graph=True, allow_unused=True)
        for (key, parameter), gradient in zip(made.named_parameters(), gradients):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            np.testing.assert_allclose(gradient, wanted[key], rtol=1e-4, atol=1e-4*max(1, np.abs(wanted[key]).max()))
            checked += 1
    assert checked


@pytest.mark.parametrize('key', [k for k in golden('score') if k.startswith('conf_g')])
def test_scores(key):
    found = golden('score')
    groups, order = key.removeprefix('conf_g').split('_')
    classes = int(found['n_cls'])
    got = neglabel(found['imf'], found['tf'][:classes], found['tf'][classes:], .01, int(groups), 0 if order == 'perm' else None)
    np.testing.assert_allclose(got, found[key], atol=1e-5)
    assert ((found['imf'] @ found['tf'][:classes].T).argmax(1) == found['pred']).all()


@pytest.mark.parametrize('key', ['shot4_seed0', 'shot4_seed1', 'shot8_seed0', 'shot8_seed1'])
def test_few_shots(key):
    shots, seed = (int(part[4:]) for part in key.split('_'))
    found = golden('fewshot')
    np.testing.assert_array_equal(few_shot(found['labels'], shots, seed, repeat=True), found[key])


def test_choice_of_crops():
    found = {key: torch.tensor(value) for key, value in golden('select').items() if key != 'prompt'}
    views = choose_views(found['crops'], found['text'], found['y'], int(found['n_selection']))
    for mine, theirs in ((views.id_crops, 'feat_in'), (views.ood_crops, 'feat_out'), (views.condition, 'top1')):
        np.testing.assert_allclose(mine, found[theirs], atol=1e-6)
    assert (found['targets_in'] == views.labels[:, None]).all()


def test_three_steps_of_training():
    found = golden('train')
    made, text = learner(found, 'p0.'), text_of(found)
    crops, ys = torch.tensor(found['crops']), torch.tensor(found['ys']).ravel()
    views = choose_views(crops, torch.tensor(found['text_rank']), ys, int(found['n_selection']))
    columns = torch.tensor(group_columns(len(text[1]), int(found['n_group'])))
    losses = train_learner(made, *text, views, torch.arange(3), columns, float(found['lr']))
    for name, parameter in made.named_parameters():
        np.testing.assert_allclose(parameter.detach(), found[f'f32.{name}'], atol=1e-5)
    logged = [[float(part.split(':')[1]) for part in str(line).split('\t')[3:6]] for line in found['f32.log']]
    np.testing.assert_allclose(losses, logged, atol=1e-5)


def test_text_features():
    found = golden('textfeat')
    classes, nouns = int(found['n_cls']), int(found['n_noun'])
    raw = found['raw'].astype(np.float32)
    np.testing.assert_allclose(unit(raw), found['out'], atol=2e-3)
    # positives, adjectives, nouns; CLIP's tokenizers lower the case
    prompts = [str(prompt).lower() for prompt in found['prompts']]
    adjectives = slice(classes, len(prompts) - nouns)
    for template, part in ((OPENOOD_PROMPTS[1], prompts[adjectives]), (OPENOOD_PROMPTS[0], prompts[:classes] + prompts[-nouns:])):
        before, after = template.lower().split('{}')
        assert all(prompt.startswith(before) and prompt.endswith(after) for prompt in part)


def test_choice_of_negatives():
    found = golden('negsel')
    cosines = torch.tensor(np.concatenate([found['cos_adj'], found['cos_noun']]))
    pos = ['adj']*len(found['cos_adj']) + ['noun']*len(found['cos_noun'])
    kept, rest = openood_mining(row_quantiles(cosines, interpolate=False), pos, int(found['total']))
    first = len(found['cos_adj'])
    np.testing.assert_array_equal(kept, [*found['sel_adj'], *(first + found['sel_noun'])])
    np.testing.assert_array_equal(rest, [*found['unsel_adj'], *(first + found['unsel_noun'])])
