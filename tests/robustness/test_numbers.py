"""Scores of features that no network should give: every method answers with finite numbers, or refuses in one line."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from synood.models.features import load_clip
from synood.methods.krnft import new_learner
from synood.methods.negation import NoTower
from synood.methods.npos import Mapped
from synood.methods.coop import Conditional, words_context
from synood.core.scales import get_scale
from synood.scores.method import Synthetic, Train, mcm, methods, neglabel
from synood.methods.logits import energy, gen, msp

WIDTH, SMOKE = 96, get_scale('smoke')
ROLES = 'finetuned', 'resnet', 'augmix', 'vit', 'swin'
METHODS = [name for name in methods() if name not in ('ODIN', 'ZOC')]  # which run a network on images, or one that was trained, and keep no arrays
FROM_DIRECTIONS = {name for name, method in methods().items() if method.needs[0][0] == 'clip'} | {'KNN'}
TUNED = {'SynOOD', 'CMA + SynOOD'}  # the projection's layer norm squares what it sees, in float32


def training(tmp_path, classes, negatives, alike):
    "A small training set of classes x 6 images; `alike`: the same image again and again."
    rng = np.random.default_rng(0)
    rows = lambda n: rng.standard_normal((n, WIDTH)).astype(np.float32) + 1
    labels = np.repeat(np.arange(classes), 6)
    images = np.repeat(rows(1), len(labels), 0) if alike else rows(len(labels)) + labels[:, None].astype(np.float32)/2
    head = rng.standard_normal((classes, WIDTH)).astype(np.float32)/WIDTH, rng.standard_normal(classes).astype(np.float32)
    text, words, found = rows(classes), rows(negatives), {('clip', 'image'): images}
    for role in ROLES: found |= seen_by(role, np.abs(images), head)
    scale = replace(SMOKE, groups=min(2, negatives), adaneg_groups=min(2, negatives), activated=3, knn_k=1, vim_dim=5, krnft_groups=1)
    def stage(name, **change):
        if name == 'krnft': save_file(new_learner(scale, 0, text, words).state_dict(), tmp_path/'learner.safetensors')
        elif name == 'vos': save_file({'head.weight': torch.from_numpy(head[0]), 'head.bias': torch.from_numpy(head[1]), 'energy_weight': torch.ones(classes)}, tmp_path/'vos.safetensors')
        else: save_file(learned_by(name, classes), tmp_path/f'{name}.safetensors')
        return tmp_path
    synthetic = lambda kind: Synthetic(images[::-1].copy(), images, labels, np.arange(len(labels)) % negatives if kind == 'text' else None)
    return Train(found, labels, text, words, 100., rest=rows(4), names=('cat', 'cup', 'cow')[:classes], clip=lambda: load_clip(SMOKE.clip), head=head, synthetic=synthetic, stage=stage, scale=scale)


def learned_by(name, classes):
    "The tensors that a stage of the trained CLIP rows might have learned."
    clip, draws = load_clip(SMOKE.clip), torch.Generator().manual_seed(0)
    contexts = {'coop': (1, ), 'locoop': (1, ), 'lsn': (3, classes)}
    if name in contexts: return {'context': torch.randn(*contexts[name], 4, WIDTH, generator=draws)}
    learners = {'cocoop': lambda: Conditional(words_context(clip, 'a photo of a'), WIDTH, draws), 'npos': lambda: Mapped(WIDTH, draws), 'clipn': lambda: NoTower(clip)}
    return learners[name]().state_dict()


def seen_by(role, penultimate, head):
    return {(role, 'penultimate'): penultimate, (role, 'logits'): np.clip(penultimate.astype(np.float64) @ head[0].T + head[1], -3e38, 3e38).astype(penultimate.dtype), (role, 'pixels'): None}


def strange():
    "{name: test features}; the strange row, where there is one, comes first."
    usual = np.random.default_rng(1).standard_normal((7, WIDTH)).astype(np.float32) + 1
    one = np.eye(WIDTH, dtype=np.float32)[3]
    first = lambda row: np.concatenate([np.asarray(row, np.float32)[None], usual])
    return {'usual': usual, 'zero': first(one*0), 'all zero': usual*0, '1e30': first(usual[0]*np.float32(1e30)), '3e38': first(np.sign(usual[0])*np.float32(3e38)),
            'one 3e38': first(one*np.float32(3e38)), '1e-40': first(usual[0]*np.float32(1e-40)), 'smallest': first(one*np.float32(1e-45)),
            'half': usual.astype(np.float16), 'double': usual.astype(np.float64), 'alike': np.repeat(usual[:1], 7, 0), 'one image': usual[:1]}


def may_refuse(name, case, classes):
    "Whether a method may answer with an error; everything else must have a score."
    if name not in FROM_DIRECTIONS and classes == 1 and name != 'VOS' and name != 'MaxLogit' and name != 'GradNorm': return True  # two classes or more
    if case in ('zero', 'all zero'): return name in FROM_DIRECTIONS  # no direction
    return case in ('1e30', '3e38', 'one 3e38') and name in TUNED | {'ViM', 'ASH-B', 'ASH-S', 'AugMix+ASH'}  # float32 overflows


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('classes, negatives, alike', [(3, 6, False), (1, 6, False), (3, 1, False), (3, 6, True)], ids=['usual', 'one class', 'one negative', 'all images alike'])
def test_a_score_is_finite_or_refused_in_one_line(classes, negatives, alike, tmp_path):
    train, scored = training(tmp_path, classes, negatives, alike), 0
    for name in METHODS:
        try: method = methods()[name]().fit(train)
        except ValueError as e:
            assert (name, classes) == ('RMDS', 1) or (name, alike) == ('ViM', True), f'{name}: {e}'
            continue
        for case, images in strange().items():
            if name == 'VOS' and images.dtype != np.float32: continue  # it multiplies them by float32 tensors
            role = method.needs[0][0]
            test = {('clip', 'image'): images, ('clip', 'patch'): np.repeat(images[:, None], 2, 1)} if role == 'clip' else seen_by(role, np.abs(images), train.head)
            try:
                with np.errstate(all='ignore'): scores, classes_ = method.assess(test)
            except ValueError as e:
                assert may_refuse(name, case, classes) and len(str(e)) > 10 and '\n' not in str(e), f'{name}, {case}: {e}'
                continue
            scored += 1
            assert np.isfinite(scores).all() and scores.dtype == np.float64 and scores.shape == (len(images),), f'{name}, {case}: {scores}'
            assert ((0 <= classes_) & (classes_ < classes)).all(), f'{name}, {case}'
    assert scored > (150 if classes == 1 else 250)


@pytest.mark.parametrize('size', [0, 1e-45, 1e-40, 1, 1e30, 3e38])
def test_scores_of_arrays_are_finite(size):
    logits = (np.random.default_rng(2).uniform(-1, 1, (5, 4))*size).astype(np.float32)
    for score in (msp, energy, gen): assert np.isfinite(score(logits)).all() and score(logits).dtype == np.float64
    for cosines in (logits, logits.astype(np.float64)): assert np.isfinite(mcm(cosines, 1e-3)).all()
    unit_rows = np.eye(4, dtype=np.float32)
    for half in (False, True): assert np.isfinite(neglabel(unit_rows, unit_rows[:1], unit_rows[1:2], temperature=1e-3, groups=1, half=half)).all()
