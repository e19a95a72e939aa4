"""InterNeg and TINS against what their official code gave, with the tiny text encoder of the golden files."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from synood.methods.interneg import InterNeg, InterNegSettings, intermodal_mining, intermodal_values
from synood.methods.tins import TINS, Starts, TINSSettings, balanced_probability
from synood.scores.head import negative_groups

FOLDER = Path(__file__).parent/'vlm'
INTERNEG, TINS_ = (np.load(FOLDER/f'{name}.npz', allow_pickle=False) for name in ('interneg_a', 'tins_a'))
CLOSE = {'rtol': 1e-4, 'atol': 1e-6}
INVERTED = {'rtol': 1e-3, 'atol': 1e-4}  # after 10 to 30 steps of AdamW


def tiny_encoder(arrays):
    "The text encoder of a golden file: token ids (P, L), places (P,), vectors (P, W) -> raw features (P, D)."
    weights = {key: torch.tensor(arrays[key]) for key in arrays.files if key.startswith('w_')}

    def encode(tokens, places, vectors):
        rows = torch.arange(len(tokens))
        x = weights['w_token'][tokens].index_put((rows, places), vectors) + weights['w_pos']
        means = x.cumsum(1)/torch.arange(1, x.shape[1] + 1)[None, :, None]
        x = x + torch.tanh(means @ weights['w_A']) @ weights['w_B']
        x = F.layer_norm(x, x.shape[-1:], weights['w_ln_weight'], weights['w_ln_bias'])
        return x[rows, tokens.argmax(1)] @ weights['w_proj']

    return encode


def unit(arrays, *names): return [torch.tensor(arrays[name]) for name in names]


class Queue:
    "Hands out stored draws in their order, along an axis."
    def __init__(self, array, axis=0): self.left, self.axis = torch.tensor(array), axis

    def __call__(self, n):
        now, self.left = self.left.split([n, self.left.shape[self.axis] - n], self.axis)
        return now


def watch(method, arrays, case):
    "Scores and classes of the stream of a golden case, and the bank and the images inverted after each batch."
    sizes, inverted = [], []
    real = method.score_batch

    def score_batch(images, logits):
        before = method.grouped_scores(images, logits)
        out = real(images, logits)
        inverted.append(int((before < method.how.threshold).sum()))
        sizes.append(len(method.bank))
        return out

    method.score_batch = score_batch
    method.text, method.words, method.temperature_used = arrays['text'], arrays['neg'], .01
    method.batch, method.run_seed = int(arrays[f'{case}__batch']), 0
    method.with_prototypes(arrays['proto'])
    scores, classes = method.score_and_predict({('clip', 'image'): arrays['img']})
    assert sizes == list(arrays[f'{case}__n_bank']) and inverted == list(arrays[f'{case}__n_inverted'])
    return scores, classes


def test_interneg_mining():
    def get(key): return INTERNEG[f'mine__{key}']
    candidates = torch.tensor(np.concatenate([get('noun'), get('adj')]))
    passed, values = intermodal_values(candidates, *unit(INTERNEG, 'mine__proto', 'mine__base'))
    nouns = len(get('noun'))
    pos = ['noun']*nouns + ['adj']*len(get('adj'))
    assert [int(passed[:nouns].sum()), int(passed[nouns:].sum())] == [get('n_pass_noun'), get('n_pass_adj')]
    selected = intermodal_mining(passed, values, pos, int(get('total')))
    assert list(selected) == [*get('sel_adj') + nouns, *get('sel_noun')]
    np.testing.assert_allclose(candidates[torch.tensor(selected)], INTERNEG['neg'], atol=1e-6)


@pytest.mark.parametrize('case', sorted({key.partition('__')[0] for key in INTERNEG.files if key.endswith('__conf')}))
def test_interneg_stream(case):
    def get(key): return INTERNEG[f'{case}__{key}']
    method = InterNeg()
    method.how = InterNegSettings(n_groups=int(get('G')), bank=int(get('cap')), threshold=float(get('thres')))
    method.encode = tiny_encoder(INTERNEG)
    method.tokens = torch.tensor(INTERNEG['template_tokens'])
    method.places = (method.tokens == 259).int().argmax(1)
    method.draw_vectors, method.draw_templates = Queue(get('init')), Queue(get('templates'), 1)
    scores, classes = watch(method, INTERNEG, case)
    assert (classes == get('pred')).all()
    np.testing.assert_allclose(scores, get('conf'), **CLOSE)
    np.testing.assert_allclose(method.bank.features, get('bank'), **INVERTED)
    np.testing.assert_allclose(method.bank.values, get('bank_scores'), **INVERTED)


# ---- TINS -----------------------------------------------------------------------------------

def tins_columns(groups, permuted=True):
    return torch.from_numpy(negative_groups(len(TINS_['neg']), groups, 0 if permuted else None))


def test_tins_mining():
    def get(key): return TINS_[f'mine__{key}']
    passed, values = intermodal_values(*unit(TINS_, 'mine__pool', 'proto', 'base'))
    assert (passed.numpy() == get('valid')).all()
    np.testing.assert_allclose(values, get('scores'), **CLOSE)
    selected = intermodal_mining(passed, values, ['noun']*len(values), int(get('total')))
    assert list(selected) == list(get('selected'))


@pytest.mark.parametrize('key', [key for key in TINS_.files if key.startswith('grouped_')])
def test_tins_score(key):
    images, text, negatives = unit(TINS_, 'img', 'text', 'neg')
    logits = 100*images @ torch.cat([text, negatives]).T
    columns = tins_columns(int(key.split('_')[1]), not key.endswith('noperm'))
    np.testing.assert_allclose(balanced_probability(logits, len(text), columns), TINS_[key], **CLOSE)


def stored_starts():
    tokens, places, vectors, features = unit(TINS_, 'init_tokens', 'init_positions', 'init_vectors', 'init_features')
    return Starts(tokens.long(), places, vectors, features, torch.tensor(TINS_['init_reg']))


def test_tins_starts():
    "The features and the closeness of the sentences that were stored, from the encoder and the prototypes."
    starts = stored_starts()
    features = F.normalize(tiny_encoder(TINS_)(starts.tokens, starts.places, starts.vectors), dim=-1)
    np.testing.assert_allclose(features, starts.features, atol=1e-5)
    np.testing.assert_allclose((1 + features @ torch.tensor(TINS_['proto']).T).mean(1), starts.closeness, atol=1e-5)


@pytest.mark.parametrize('case', sorted({key.partition('__')[0] for key in TINS_.files if key.endswith('__scores')}
                                        - {'mine'}))
def test_tins_stream(case):
    def get(key): return TINS_[f'{case}__{key}']
    method = TINS(random_start=f'{case}__init' in TINS_.files)
    room = int(get('buffer'))*bool(get('use_buffer'))
    method.how = TINSSettings(n_groups=int(get('G')), bank=int(get('cap')), buffer=room, steps=int(get('steps')),
                              threshold=float(get('thres')), push=float(get('reg')))
    method.encode, method.starts = tiny_encoder(TINS_), stored_starts()
    if method.random_start:
        tokens = torch.tensor(get('placeholder_tokens')).long()
        method.placeholder, method.draw_vectors = (tokens, (tokens == 259).int().argmax(1)), Queue(get('init'))
    drawn = {key: torch.tensor(TINS_[key]) for key in TINS_.files if key.startswith(f'{case}__resample_batch')}
    orders = [drawn[key] for key in sorted(drawn, key=lambda key: int(key.rpartition('batch')[2]))]
    method.draw_order = lambda n: orders.pop(0)
    first, buffered, real = [], [], method.score_batch

    def score_batch(images, logits):
        first.append(method.grouped_scores(images, logits))
        out = real(images, logits)
        buffered.append(len(method.bank.buffer))
        return out

    method.score_batch = score_batch
    scores, _ = watch(method, TINS_, case)
    assert buffered == list(get('n_buffer')) and not orders
    np.testing.assert_allclose(torch.cat(first), get('first_scores'), **INVERTED)
    np.testing.assert_allclose(scores, get('scores'), **CLOSE)
    np.testing.assert_allclose(method.bank.features.float(), get('bank').astype(np.float32), **INVERTED)
    np.testing.assert_allclose(method.bank.values, get('bank_scores'), **INVERTED)
