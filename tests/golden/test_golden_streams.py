"""OODD, AdaND and ANTS against what their official code gave on the same streams."""
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.evaluation.metrics import auroc, fpr95
from synood.methods.adand import AdaptiveDetector, TwoWayClassifier, harmonic_accuracy
from synood.methods.ants import (NegativeSpaces, activated_score, activation_threshold, candidate_threshold,
                                 grouped_probability, newest_first)
from synood.methods.oodd import (LowScoreQueue, clearest_views, interleaved_order, nearest_similarity, offset_unit,
                                 queue_scores)
from synood.methods.tanl import activated_probability

FOLDER = Path(__file__).parent/'vlm'
OODD, ADAND, ANTS, ANTS2 = (np.load(FOLDER/f'{name}.npz', allow_pickle=False)
                            for name in ('oodd_a', 'adand_a', 'ants_a', 'ants2_a'))
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


# ---- OODD -----------------------------------------------------------------------------------

def in_order_met(scores, order, n_id):
    "ID and OOD scores of a stream, each in the order in which they were met."
    return scores[order < n_id], scores[order >= n_id]


@pytest.mark.parametrize('key', [k.removesuffix('_queue_scores_sorted') for k in OODD.files if 'queue_scores' in k])
def test_oodd_on_clip(key):
    case, setting = key.split('__')
    size, batch = (int(part[1:]) for part in setting.split('_'))
    def both(kind): return np.concatenate([OODD[f'{case}__id_{kind}'], OODD[f'{case}__out_{kind}']])
    order = OODD[f'{case}__order']
    base = -both('score') if case == 'mcm' else both('score')  # MCM's code keeps its scores with a minus
    queue = LowScoreQueue(size)
    scores = queue_scores(both('feat')[order], base[order], queue, batch)
    known, unknown = in_order_met(scores, order, len(OODD[f'{case}__id_feat']))
    np.testing.assert_allclose(known, OODD[f'{key}_id'], **CLOSE)
    np.testing.assert_allclose(unknown, OODD[f'{key}_ood'], **CLOSE)
    np.testing.assert_array_equal(queue.scores.numpy(), OODD[f'{key}_queue_scores_sorted'])


@pytest.mark.parametrize('case', sorted({k.split('__')[0] for k in OODD.files if k.startswith('knn')}))
def test_oodd_on_a_classifier(case):
    def get(key): return OODD[f'{case}__{key}']
    views = get('train_views')
    kept, confidence = clearest_views(views, views @ get('W').T + get('b'))
    np.testing.assert_allclose(offset_unit(kept), get('train_selected'), atol=1e-6)
    order = interleaved_order(get('train_labels'), confidence)
    np.testing.assert_array_equal(order, get('order'))
    bank = offset_unit(kept)[order][:int(float(get('param_alpha'))*len(order))]
    k = int(get('param_K1'))
    fixed = None
    if f'{case}__aux_raw' in OODD:
        aux = offset_unit(get('aux_raw'))
        fixed = torch.tensor(aux[:5])  # the release never drops the first five
    queue = LowScoreQueue(int(get('param_queue')), fixed)
    if fixed is not None: queue.add(torch.tensor(aux), torch.tensor(nearest_similarity(bank, aux, k)))
    images = offset_unit(np.concatenate([get('id_test_raw'), get('ood_test_raw')]))[get('stream')]
    scores = queue_scores(images, nearest_similarity(bank, images, k), queue, 512, int(get('param_K2')))
    known, unknown = in_order_met(scores, get('stream'), len(get('id_test_raw')))
    np.testing.assert_allclose(known, get('id_score'), **CLOSE)
    np.testing.assert_allclose(unknown, get('ood_score'), **CLOSE)


# ---- AdaND ----------------------------------------------------------------------------------

@pytest.mark.filterwarnings('ignore:AUROC .* is below 0.5')
@pytest.mark.parametrize('case', sorted({k.split('__')[0] for k in ADAND.files}))
def test_adand(case):
    def get(key): return ADAND[f'{case}__{key}']
    batch = int(get('param_batch'))
    classifier = TwoWayClassifier(torch.tensor(get('W0')), torch.tensor(get('b0')), float(get('param_lr')))
    detector = AdaptiveDetector(classifier, int(get('param_start')), int(get('param_queue')),
                                int(get('param_ttda_queue')), one_by_one=batch == 1)
    raw, is_noise = torch.tensor(get('img_raw')), torch.tensor(get('target') == -1000)
    logits = 100*raw/raw.norm(dim=1, keepdim=True) @ torch.tensor(get('text')).T
    parts = [(x, part.softmax(1).amax(1), noise)
             for x, part, noise in zip(raw.split(batch), logits.split(batch), is_noise.split(batch))]
    scores, unseen = (torch.cat(column).numpy() for column in zip(*(detector.score_batch(*part) for part in parts)))
    np.testing.assert_allclose(scores, get('conf'), **CLOSE)
    np.testing.assert_array_equal(unseen, get('unseen'))
    np.testing.assert_allclose(detector.thresholds, get('thresholds'), atol=1e-7)
    assert len(detector.thresholds) == len(parts) + get('late').sum()
    np.testing.assert_allclose(detector.losses, get('loss'), **CLOSE)
    np.testing.assert_allclose(classifier.weight.detach(), get('W_final'), **CLOSE)
    np.testing.assert_allclose(classifier.bias.detach(), get('b_final'), **CLOSE)
    real, classes = ~is_noise.numpy(), logits.argmax(1).numpy()
    truth = np.where(get('target') < len(get('text')), get('target'), -1)[real]
    known = truth >= 0
    kept, found, both = harmonic_accuracy(classes[real], unseen[real], truth)
    sides = scores[real][known], scores[real][~known]
    measures = [kept, found, both, auroc(*sides)]
    np.testing.assert_allclose(100*np.array(measures), get('result')[:4], atol=.01)
    np.testing.assert_allclose(100*fpr95(*sides, rule='closest'), get('result')[5], atol=.01)


# ---- ANTS -----------------------------------------------------------------------------------

def tensors(*keys):
    return (torch.tensor(ANTS2[key]) for key in keys)


@pytest.mark.parametrize('key', [k for k in ANTS2.files if k.startswith(('grouped', 'swn'))])
def test_ants_grouped_scores(key):
    seed = None if key.endswith('noperm') else 0
    scores = grouped_probability(*tensors('img', 'text', 'far'), int(key.split('_')[1]), seed=seed)
    np.testing.assert_allclose(scores, ANTS2[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('key', [k for k in ANTS2.files if k.startswith('act') and not k.endswith('counts')])
def test_ants_activated_scores(key):
    _, count, step = key.split('_')
    plain = torch.tensor(ANTS2['ref'])
    theta = activation_threshold(ANTS2['ref'])
    np.testing.assert_allclose(theta, ANTS2['theta'], atol=1e-7)
    scores = activated_score(*tensors('img', 'text', 'far'), plain, theta, int(count), int(step))
    np.testing.assert_allclose(scores, ANTS2[key], rtol=1e-4, atol=1e-6)
    chosen, low, high = ANTS2[f'{key}_counts']
    assert chosen == min(int(count), len(ANTS2['far']))
    assert (low, high) == ((plain < theta - .5*theta).sum(), (plain > theta + .5*(1 - theta)).sum())


@pytest.mark.parametrize('key', [k for k in ANTS2.files if k.startswith('cum')])
def test_ants_cumulative_scores(key):
    images, text, far = tensors('img', 'text', 'far')
    scores = activated_probability(100*images @ text.T, 100*images @ far.T, int(key.split('_')[1]))
    np.testing.assert_allclose(scores, ANTS2[key], rtol=1e-4, atol=1e-6)


def test_ants_candidates_and_queue():
    np.testing.assert_allclose(candidate_threshold(ANTS2['ens_conf']), (ANTS2['ens_threshold'], ANTS2['ens_upper']),
                               atol=1e-7)
    new, held = tensors('queue_new', 'queue_old')
    np.testing.assert_array_equal(newest_first(new, held, int(ANTS2['queue_max'])), ANTS2['queue_out'])


@pytest.mark.parametrize('theirs,way', [('ada', 'both'), ('far_only', 'far'), ('near_only', 'near')])
def test_ants_stream(theirs, way):
    images, text, negatives, captions, names = (torch.tensor(ANTS[key]) for key in (
        'img', 'txt_pos', 'txt_neg', 'caption_feats', 'sim_feats'))
    spaces = NegativeSpaces(text, lambda rows, classes: captions[list(rows)], lambda c: names[c], rounds=20,
                            whole=1000, balanced=1000, activated=0)
    static = grouped_probability(images, text, negatives, 100)
    np.testing.assert_allclose(static, ANTS[f'{theirs}__neglabel_conf_all'], **CLOSE)
    classes = (images @ text.T).argmax(1).numpy()
    scores, seen = [], []
    for rows in torch.arange(len(images)).split(int(ANTS['batch_size'])):
        spaces.take(rows.numpy(), static[rows].numpy(), classes[rows])
        scores.append(spaces.score(images[rows], static[rows], way))
        seen.append((spaces.threshold, len(spaces.far), sum(map(len, spaces.near.values()))))
        if way == 'both': assert spaces.weight == pytest.approx(ANTS['ada__weight'][len(seen) - 1], abs=6e-5)
    np.testing.assert_allclose(torch.cat(scores), ANTS[f'{theirs}__conf'], **CLOSE)
    thresholds, n_far, n_near = zip(*seen)
    np.testing.assert_allclose(thresholds, ANTS[f'{theirs}__threshold'], **CLOSE)
    np.testing.assert_array_equal(n_far, ANTS[f'{theirs}__n_far'])
    np.testing.assert_array_equal(n_near, ANTS[f'{theirs}__n_near'])
