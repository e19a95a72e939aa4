"""Scores of features that no network should give: every method answers with finite numbers, or refuses in one line."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from synood.models.clip import load_clip
from synood.methods.krnft import new_adapter
from synood.methods.clipn import NoTextEncoder
from synood.methods.npos import NPOSModel
from synood.methods.coop import ConditionalContext, context_from_words
from synood.core.scales import get_scale
from synood.scores.method import Synthetic, TrainData, methods
from synood.scores.head import mcm, neglabel
from synood.methods.logits import energy_score, gen, msp

WIDTH, SMOKE = 96, get_scale('smoke')
ROLES = 'finetuned', 'resnet', 'augmix', 'vit', 'swin'
# without those that run a network on images, texts, or one that was trained, and keep no arrays
RUN_NETWORKS = {'ODIN', 'ZOC', 'ANTS', 'InterNeg', 'TINS', 'NegRefine', 'NegRefine (WordNet)'}
METHODS = [name for name in methods() if name not in RUN_NETWORKS]
FROM_DIRECTIONS = {name for name, method in methods().items() if method.needs[0][0] == 'clip'} | {'KNN', 'OODD (KNN)'}
TUNED = {'SynOOD', 'CMA + SynOOD'}  # the projection's layer norm squares what it sees, in float32


def training(tmp_path, classes, negatives, alike):
    "A small training set of classes x 6 images; `alike`: the same image again and again."
    rng = np.random.default_rng(0)

    def rows(n): return rng.standard_normal((n, WIDTH)).astype(np.float32) + 1
    labels = np.repeat(np.arange(classes), 6)
    if alike: images = np.repeat(rows(1), len(labels), 0)  # (6 C, D)
    else: images = rows(len(labels)) + labels[:, None].astype(np.float32)/2
    weight = rng.standard_normal((classes, WIDTH)).astype(np.float32)/WIDTH
    bias = rng.standard_normal(classes).astype(np.float32)
    text = rows(classes)
    words = rows(negatives)
    features = {('clip', 'image'): images}
    for role in ROLES: features |= seen_by(role, np.abs(images), (weight, bias))
    scale = SMOKE.replace(n_groups=min(2, negatives), adaneg=dict(n_groups=min(2, negatives)),
                          tanl=dict(n_activated=3), knn=dict(k=1), oodd_knn=dict(k=1), vim=dict(dim=5),
                          krnft=dict(n_groups=1))

    def stage(name, **change):
        if name == 'krnft':
            save_file(new_adapter(scale, 0, text, words).state_dict(), tmp_path/'learner.safetensors')
        elif name == 'vos':
            head = {'head.weight': torch.from_numpy(weight), 'head.bias': torch.from_numpy(bias)}
            save_file(head | {'energy_weight': torch.ones(classes)}, tmp_path/'vos.safetensors')
        else: save_file(learned_by(name, classes), tmp_path/f'{name}.safetensors')
        return tmp_path

    def synthetic(kind):
        sources = np.arange(len(labels)) % negatives if kind == 'text' else None
        return Synthetic(images[::-1].copy(), images, labels, sources)
    return TrainData(features, labels, text, words, 100., rest=rows(4), names=('cat', 'cup', 'cow')[:classes],
                 clip=lambda: load_clip(SMOKE.clip), head=(weight, bias), synthetic=synthetic, stage=stage, scale=scale)


def learned_by(name, classes):
    "The tensors that a stage of the trained CLIP rows might have learned."
    clip = load_clip(SMOKE.clip)
    draws = torch.Generator().manual_seed(0)
    contexts = {'coop': (1, ), 'locoop': (1, ), 'lsn': (3, classes)}
    if name in contexts: return {'context': torch.randn(*contexts[name], 4, WIDTH, generator=draws)}
    if name == 'cocoop': return ConditionalContext(context_from_words(clip, 'a photo of a'), WIDTH, draws).state_dict()
    if name == 'npos': return NPOSModel(WIDTH, draws).state_dict()
    if name == 'clipn': return NoTextEncoder(clip).state_dict()
    raise ValueError(f'nothing is known of the stage {name}')


def seen_by(role, penultimate, head):
    "Features and logits of a classifier in this role; logits of huge features are cut to float32's range."
    weight, bias = head
    logits = np.clip(penultimate.astype(np.float64) @ weight.T + bias, -3e38, 3e38)
    return {(role, 'penultimate'): penultimate,
            (role, 'logits'): logits.astype(penultimate.dtype),
            (role, 'pixels'): None}


def strange():
    "{name: test features}; the strange row, where there is one, comes first."
    usual = np.random.default_rng(1).standard_normal((7, WIDTH)).astype(np.float32) + 1
    one = np.eye(WIDTH, dtype=np.float32)[3]

    def first(row): return np.concatenate([np.asarray(row, np.float32)[None], usual])
    return {'usual': usual, 'zero': first(one*0), 'all zero': usual*0,
            '1e30': first(usual[0]*np.float32(1e30)), '3e38': first(np.sign(usual[0])*np.float32(3e38)),
            'one 3e38': first(one*np.float32(3e38)), '1e-40': first(usual[0]*np.float32(1e-40)),
            'smallest': first(one*np.float32(1e-45)),
            'half': usual.astype(np.float16), 'double': usual.astype(np.float64),
            'alike': np.repeat(usual[:1], 7, 0), 'one image': usual[:1]}


def may_refuse(name, case, classes):
    "Whether a method may answer with an error; everything else must have a score."
    if classes == 1 and name not in FROM_DIRECTIONS | {'VOS', 'MaxLogit', 'GradNorm'}: return True  # it needs two
    if case in ('zero', 'all zero'): return name in FROM_DIRECTIONS  # no direction
    overflows = TUNED | {'ViM', 'ASH-B', 'ASH-S', 'AugMix+ASH'}  # in float32
    return case in ('1e30', '3e38', 'one 3e38') and name in overflows


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('classes, negatives, alike',
                         [(3, 6, False), (1, 6, False), (3, 1, False), (3, 6, True)],
                         ids=['usual', 'one class', 'one negative', 'all images alike'])
def test_a_score_is_finite_or_refused_in_one_line(classes, negatives, alike, tmp_path):
    train = training(tmp_path, classes, negatives, alike)
    scored = 0
    for name in METHODS:
        try: method = methods()[name]().fit(train)
        except ValueError as e:
            assert (name, classes) == ('RMDS', 1) or (name, alike) == ('ViM', True), f'{name}: {e}'
            continue
        for case, images in strange().items():
            if name == 'VOS' and images.dtype != np.float32: continue  # it multiplies them by float32 tensors
            role = method.needs[0][0]
            if role == 'clip': test = {('clip', 'image'): images, ('clip', 'patch'): np.repeat(images[:, None], 2, 1)}
            else: test = seen_by(role, np.abs(images), train.head)
            where = f'{name}, {case}'
            try:
                with np.errstate(all='ignore'): scores, predicted = method.score_and_predict(test)
            except ValueError as e:
                assert may_refuse(name, case, classes) and len(str(e)) > 10 and '\n' not in str(e), f'{where}: {e}'
                continue
            scored += 1
            assert np.isfinite(scores).all(), f'{where}: {scores}'
            assert scores.dtype == np.float64 and scores.shape == (len(images),), f'{where}: {scores}'
            assert ((0 <= predicted) & (predicted < classes)).all(), where
    assert scored > (150 if classes == 1 else 250)


@pytest.mark.parametrize('size', [0, 1e-45, 1e-40, 1, 1e30, 3e38])
def test_scores_of_arrays_are_finite(size):
    logits = (np.random.default_rng(2).uniform(-1, 1, (5, 4))*size).astype(np.float32)
    for score in (msp, energy_score, gen): assert np.isfinite(score(logits)).all() and score(logits).dtype == np.float64
    for cosines in (logits, logits.astype(np.float64)): assert np.isfinite(mcm(cosines, 1e-3)).all()
    unit_rows = np.eye(4, dtype=np.float32)
    for half in (False, True):
        scores = neglabel(unit_rows, unit_rows[:1], unit_rows[1:2], temperature=1e-3, groups=1, half=half)
        assert np.isfinite(scores).all()
