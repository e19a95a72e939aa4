"""KR-NFT's learner, losses, gradients and scores against what its own code gave."""
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.models.clip import normalize_rows
from synood.data.images import few_shot_indices
from synood.methods.krnft import (NFTAdapter, choose_crops, group_odds, id_crop_loss, kd_loss,
                          krnft_losses, adapted_cosines, ood_crop_loss, train_adapter)
from synood.scores.negatives import OPENOOD_PROMPTS, openood_mining, row_quantiles
from synood.scores.head import negative_groups, neglabel

FOLDER = Path(__file__).parent/'seeds'


def golden(name):
    return dict(np.load(FOLDER/f'krnft_{name}_a.npz', allow_pickle=False))


def learner(arrays, prefix, kind='binary', **rows):
    "A learner with the parameters of a golden file, by their published names."
    state = {key.removeprefix(prefix): torch.tensor(value) for key, value in arrays.items() if key.startswith(prefix)}
    model = NFTAdapter(512, len(state['scaling_meta_net.linear1.bias']), kind, **rows)
    model.load_state_dict({key: value for key, value in state.items() if key != 'out'})
    return model


def text_of(arrays):
    return torch.tensor(arrays['base']).split([int(arrays['n_cls']), len(arrays['base']) - int(arrays['n_cls'])])


def test_forward():
    arrays = golden('forward')
    text, image = text_of(arrays), torch.tensor(arrays['im'])
    model = learner(arrays, 'p.')
    np.testing.assert_allclose(model(*text, image)[0].detach(), arrays['out32'], atol=1e-6)
    cosines = adapted_cosines(model, *text, image, image[None])
    np.testing.assert_allclose(float(arrays['ret_scale'])*cosines[0].detach(), arrays['logits'], atol=1e-4)
    fresh = NFTAdapter(512, 4)(*text, image)[0].detach().numpy()
    assert np.abs(fresh - arrays['base']).max() == arrays['init_maxdev'] == 0


@pytest.mark.parametrize('kind', ['csc', 'uni', 'constant'])
def test_variants(kind):
    arrays = golden('variants')
    text, image = text_of(arrays), torch.tensor(arrays['im'])
    rows = dict(classes=len(text[0]), negatives=len(text[1])) if kind == 'csc' else {}
    model = learner(arrays, f'{kind}.', kind, **rows)
    np.testing.assert_allclose(model(*text, image)[0].detach(), arrays[f'{kind}.out'], atol=1e-6)


@pytest.fixture(params=[p.name for p in sorted(FOLDER.glob('krnft_loss_*.npz'))])
def case(request):
    return dict(np.load(FOLDER/request.param, allow_pickle=False))


def test_losses_and_their_gradients(case):
    classes, groups = int(case['n_cls']), int(case['n_group'])
    columns = torch.tensor(negative_groups(int(case['ood_num']), groups))
    assert (columns.ravel().numpy() == case['perm']).all()
    rows = torch.tensor(case['pf'], requires_grad=True)
    teacher = torch.tensor(case['te'])
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
    arrays = golden('grouping')
    x = torch.tensor(arrays['x'])  # (N, C + M)
    classes, groups = int(arrays['n_cls']), int(arrays['n_group'])
    columns = torch.tensor(negative_groups(x.shape[1] - classes, groups))  # (G, M/G)
    names = x[:, None, :classes].expand(-1, groups, -1)  # (N, G, C)
    negatives = x[:, classes:][:, columns]  # (N, G, M/G)
    mine = torch.cat([names, negatives], 2)
    np.testing.assert_array_equal(mine, arrays['permuted'])
    in_order = torch.arange(columns.numel()).reshape(groups, -1)
    mass = group_odds(x, classes, in_order)[1].sigmoid()
    np.testing.assert_allclose(mass, arrays['plain_softmax'][..., :classes].sum(2), atol=1e-6)


@pytest.mark.parametrize('name', ['grads', 'grads2'])
def test_gradients_through_the_learner(name):
    arrays = golden(name)
    model, text = learner(arrays, 'p.'), text_of(arrays)
    columns = torch.tensor(negative_groups(len(text[1]), int(arrays.get('n_group', 5))))
    tensors = {key: torch.tensor(arrays[key]) for key in ('fi', 'fo', 'im')}
    losses = krnft_losses(model, *text, tensors['im'], tensors['fi'], tensors['fo'],
                          torch.tensor(arrays['y']).ravel(), columns)
    losses = dict(lin=losses['lin'], lout=losses['lout'], lkg=losses['lkd'],
                  total=losses['lin'] + .3*losses['lout'] + 10*losses['lkd'])
    checked = 0
    for loss, value in losses.items():
        if loss in arrays: np.testing.assert_allclose(value.item(), arrays[loss], rtol=1e-4, atol=1e-4)
        wanted = {key: arrays[f'g_{loss}.{key}'] for key, _ in model.named_parameters() if f'g_{loss}.{key}' in arrays}
        if not wanted: continue
        gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
        for (key, parameter), gradient in zip(model.named_parameters(), gradients):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            np.testing.assert_allclose(gradient, wanted[key], rtol=1e-4, atol=1e-4*max(1, np.abs(wanted[key]).max()))
            checked += 1
    assert checked


@pytest.mark.parametrize('key', [k for k in golden('score') if k.startswith('conf_g')])
def test_scores(key):
    arrays = golden('score')
    groups, order = key.removeprefix('conf_g').split('_')
    classes = int(arrays['n_cls'])
    seed = 0 if order == 'perm' else None
    scores = neglabel(arrays['imf'], arrays['tf'][:classes], arrays['tf'][classes:], .01, int(groups), seed)
    np.testing.assert_allclose(scores, arrays[key], atol=1e-5)
    assert ((arrays['imf'] @ arrays['tf'][:classes].T).argmax(1) == arrays['pred']).all()


@pytest.mark.parametrize('key', ['shot4_seed0', 'shot4_seed1', 'shot8_seed0', 'shot8_seed1'])
def test_few_shots(key):
    shots, seed = (int(part[4:]) for part in key.split('_'))
    arrays = golden('fewshot')
    np.testing.assert_array_equal(few_shot_indices(arrays['labels'], shots, seed, repeat=True), arrays[key])


def test_choice_of_crops():
    arrays = {key: torch.tensor(value) for key, value in golden('select').items() if key != 'prompt'}
    views = choose_crops(arrays['crops'], arrays['text'], arrays['y'], int(arrays['n_selection']))
    for mine, theirs in ((views.id_crops, 'feat_in'), (views.ood_crops, 'feat_out'), (views.condition, 'top1')):
        np.testing.assert_allclose(mine, arrays[theirs], atol=1e-6)
    assert (arrays['targets_in'] == views.labels[:, None]).all()


def test_three_steps_of_training():
    arrays = golden('train')
    model, text = learner(arrays, 'p0.'), text_of(arrays)
    crops = torch.tensor(arrays['crops'])
    ys = torch.tensor(arrays['ys']).ravel()
    views = choose_crops(crops, torch.tensor(arrays['text_rank']), ys, int(arrays['n_selection']))
    columns = torch.tensor(negative_groups(len(text[1]), int(arrays['n_group'])))
    losses = train_adapter(model, *text, views, torch.arange(3), columns, float(arrays['lr'])).losses
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach(), arrays[f'f32.{name}'], atol=1e-5)
    logged = [[float(part.split(':')[1]) for part in str(line).split('\t')[3:6]] for line in arrays['f32.log']]
    np.testing.assert_allclose(losses, logged, atol=1e-5)


def test_text_features():
    arrays = golden('textfeat')
    classes, nouns = int(arrays['n_cls']), int(arrays['n_noun'])
    raw = arrays['raw'].astype(np.float32)
    np.testing.assert_allclose(normalize_rows(raw), arrays['out'], atol=2e-3)
    # positives, adjectives, nouns; CLIP's tokenizers lower the case
    prompts = [str(prompt).lower() for prompt in arrays['prompts']]
    adjectives = slice(classes, len(prompts) - nouns)
    noun_template, adjective_template = OPENOOD_PROMPTS[0], OPENOOD_PROMPTS[1]
    for template, part in ((adjective_template, prompts[adjectives]),
                           (noun_template, prompts[:classes] + prompts[-nouns:])):
        before, after = template.lower().split('{}')
        assert all(prompt.startswith(before) and prompt.endswith(after) for prompt in part)


def test_choice_of_negatives():
    arrays = golden('negsel')
    cosines = torch.tensor(np.concatenate([arrays['cos_adj'], arrays['cos_noun']]))
    pos = ['adj']*len(arrays['cos_adj']) + ['noun']*len(arrays['cos_noun'])
    kept, rest = openood_mining(row_quantiles(cosines, interpolate=False), pos, int(arrays['total']))
    first = len(arrays['cos_adj'])
    np.testing.assert_array_equal(kept, [*arrays['sel_adj'], *(first + arrays['sel_noun'])])
    np.testing.assert_array_equal(rest, [*arrays['unsel_adj'], *(first + arrays['unsel_noun'])])
