"""ZOC's score against a restatement of its code, whose own number is larger for OOD."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from synood.methods.zoc import ZOC, WordTable, zoc_score

GOLDEN = dict(np.load(Path(__file__).parent/'baselines'/'clip_trained_a.npz', allow_pickle=False))
IMAGES, TEXT, WORDS, MASS = (GOLDEN[key] for key in ('img', 'txt', 'zoc_generated', 'zoc_ood_score_sum'))
ALL = [np.arange(len(WORDS))]*len(IMAGES)


def test_one_less_the_mass_of_the_candidates():
    np.testing.assert_allclose(1 - zoc_score(IMAGES, TEXT, WORDS, ALL), MASS, rtol=1e-4, atol=1e-12)
    # with the two lists exchanged it is that mass itself, to all its digits
    exchanged = zoc_score(IMAGES, WORDS, TEXT, [np.arange(len(TEXT))]*len(IMAGES))
    np.testing.assert_allclose(exchanged, MASS, rtol=1e-4, atol=0)


def test_the_method_computes_the_same():
    method, names = ZOC(), tuple(f'word{i}' for i in range(len(WORDS)))
    method.text, method.logit_scale, method.without = TEXT, 100., {'class'}
    method.table = WordTable(None, '', {name: i for i, name in enumerate(names)}, WORDS)
    method.candidates = lambda test: [(*names, 'Class')]*len(IMAGES)
    test = {('clip', 'image'): 3*IMAGES, ('clip', 'pixels'): SimpleNamespace(cache=None)}
    np.testing.assert_allclose(1 - method.score(test), MASS, rtol=1e-4, atol=1e-12)
    assert (method.predict(test) == (IMAGES @ TEXT.T).argmax(1)).all()


@pytest.mark.parametrize('scale', [1., 20., 100.])
def test_lists_of_different_length(scale):
    lists = [np.arange(i) for i in range(len(IMAGES))]
    scores = zoc_score(IMAGES, TEXT, WORDS, lists, scale, chunk=4)
    for image, rows, score in zip(IMAGES.astype(np.float64), lists, scores):
        p = np.exp(scale*np.concatenate([TEXT, WORDS[rows]]) @ image)
        np.testing.assert_allclose(score, p[:len(TEXT)].sum()/p.sum(), rtol=1e-6)
    assert scores[0] == 1
