"""CSP, AdaNeg and TANL against what their official code gave on the same features."""
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.methods import tanl
from synood.models.clip import normalize_rows
from synood.scores.negatives import fill_template, neg_mining
from synood.scores.method import TrainData
from synood.scores.head import neglabel
from synood.data.words import read_words
from synood.methods.csp import CSP_PHRASES, CSP_SUPERCLASSES, CSP_TEMPLATES, adjective_phrases, csp_pool
from synood.methods.adaneg import AdaNeg, OpenOODNegLabel

FOLDER = Path(__file__).parent/'vlm'
CSP_, ADANEG, TANL_ = (np.load(FOLDER/f'{name}.npz', allow_pickle=False)
                       for name in ('csp_a', 'adaneg_a', 'tanl_a'))
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}
CASES = ['main', 'odd', 'edge']


# ---- CSP ------------------------------------------------------------------------------------

class Words:
    "One golden case of CSP: its word files on disk and its text encoder, a table."
    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        for file, text in zip(self['file_names'], self['file_text']):
            (folder/str(file)).write_text(str(text), encoding='utf-8')
        self.table = dict(zip(map(str, self['prompts']), self['prompt_feats_raw']))
        without = [] if name == 'edge' else str(self['param_txt_exclude']).removesuffix('.txt').split(',')
        files = [str(n) for n in self['file_names'] if n[:4] in ('noun', 'adj.')]
        self.pool = csp_pool(read_words(folder, files), without=without)
        self.nouns = [w for w, pos in zip(self.pool.words, self.pool.pos) if pos == 'noun']
        seed = int(self['param_seed'])
        self.phrases = adjective_phrases(self.pool.words[len(self.nouns):], seed)

    def __getitem__(self, key):
        return CSP_[f'{self.name}__{key}']

    def ensemble(self, words, templates):
        return np.mean([[self.table[p] for p in fill_template(words, t)] for t in templates], 0)

    def mine(self):
        text = normalize_rows(self.ensemble([str(n) for n in self['class_names']], CSP_TEMPLATES))
        features = normalize_rows(np.concatenate([self.ensemble(self.nouns, CSP_TEMPLATES),
                                        self.ensemble(self.phrases, CSP_PHRASES)]))
        mined = neg_mining(features, text, self.pool.pos, float(self['param_neg_topk']),
                           float(self['param_pencentile']), duplicate_cosine=.95)
        return text, features, *mined


@pytest.fixture(params=CASES)
def words(request, tmp_path):
    return Words(request.param, tmp_path)


def test_csp_sentences():
    assert list(CSP_['noun_templates']) == list(CSP_TEMPLATES)
    assert [str(t).removesuffix(' ').removeprefix('{} ') for t in CSP_['csp_templates']] == list(CSP_SUPERCLASSES)
    assert list(CSP_['adj_templates']) == list(CSP_PHRASES)


def test_csp_words_and_phrases(words):
    assert words.nouns == [str(w) for w in words['noun_words']]
    assert words.phrases == [str(p) for p in words['csp_phrases']]


def test_csp_mining(words):
    text, features, selected, quantiles = words.mine()
    nouns, kept = len(words.nouns), words['n_keep']
    np.testing.assert_allclose(quantiles, [*words['neg_sim_noun'], *words['neg_sim_adj']], atol=1e-6)
    assert list(selected[:kept[0]]) == list(words['ind_noun'][:kept[0]])
    assert list(selected[kept[0]:] - nouns) == list(words['ind_adj'][:kept[1]])
    assert kept[0] == words['adj_start_idx']
    np.testing.assert_allclose(text, words['text_features_pos'], atol=1e-6)
    np.testing.assert_allclose(features[selected], words['text_features_neg'], atol=1e-6)


@pytest.mark.parametrize('key', [k for k in CSP_.files if '__forward_ngroup' in k])
def test_csp_scores(key):
    case, groups = key.split('__forward_ngroup')
    features = (normalize_rows(CSP_[f'{case}__{kind}']) for kind in ('img', 'text_features_pos', 'text_features_neg'))
    np.testing.assert_allclose(neglabel(*features, groups=int(groups)), CSP_[key], **CLOSE)


# ---- AdaNeg ---------------------------------------------------------------------------------

def adaneg(case, order=None, **fields):
    "The method after it has seen the stream of a golden case, its scores and classes."
    def get(key): return ADANEG[f'{case}__{key}']
    fields = dict(batch=int(get('batch_size')), memory=int(get('memleng')), groups=int(get('group_num'))) | fields
    method = AdaNeg(**fields).fit(TrainData(features={}, labels=np.zeros(0, int), text=get('txt_pos'),
                                        negatives=get('txt_neg'), logit_scale=100.))
    images = get('img') if order is None else get('img')[order]
    return method, *method.score_and_predict({('clip', 'image'): images})


ADANEG_CASES = ['main', 'repl', 'odd', 'edge']


@pytest.mark.parametrize('case', ADANEG_CASES)
@pytest.mark.parametrize('published,by_sample', [('mean', False), ('samada', True)])
def test_adaneg_scores_and_classes(case, published, by_sample):
    ways = dict(combine='combine', adaonly='adaptive', vanillaonly='static', multiply='multiply')
    for theirs, in_score in ways.items():
        _, scores, classes = adaneg(case, by_sample=by_sample, in_score=in_score)
        np.testing.assert_allclose(scores, ADANEG[f'{case}__{published}_{theirs}_conf'], **CLOSE)
        assert (classes == ADANEG[f'{case}__{published}_pred']).all()


@pytest.mark.parametrize('case', ADANEG_CASES)
def test_adaneg_memory(case):
    bank = adaneg(case)[0].bank
    wanted = ADANEG[f'{case}__final_entropy']
    assert (bank.count.numpy() == ADANEG[f'{case}__final_counts']).all()
    assert not wanted[:, -1].any()  # their last place is never used, ours does not exist
    np.testing.assert_allclose(bank.entropy.numpy(), wanted[:, :-1], **CLOSE)
    if case in ('repl', 'edge'):
        np.testing.assert_allclose(bank.slots.numpy(), ADANEG[f'{case}__final_memory'][:, :-1], atol=1e-6)


@pytest.mark.parametrize('case', ADANEG_CASES)
def test_adaneg_with_the_adaptive_gap(case):
    method, scores, _ = adaneg(case, adaptive_gap=True)
    np.testing.assert_allclose(scores, ADANEG[f'{case}__adagap_mean_combine_conf'], **CLOSE)
    n_surely_id = sum(method.gate.recent)
    assert [n_surely_id, len(method.gate.recent) - n_surely_id] == list(ADANEG[f'{case}__adagap_counts'])


def test_adaneg_depends_on_batches_and_order_as_published():
    for batch in (1, 64):
        _, scores, _ = adaneg('main', batch=batch)
        np.testing.assert_allclose(scores, ADANEG[f'main__mean_combine_conf_bs{batch}'], **CLOSE)
    _, scores, _ = adaneg('main', order=ADANEG['main__order'])
    np.testing.assert_allclose(scores, ADANEG['main__mean_combine_conf_reordered'], **CLOSE)


@pytest.mark.parametrize('case', ADANEG_CASES)
def test_openood_neglabel(case):
    features = (ADANEG[f'{case}__{kind}'] for kind in ('img', 'txt_pos', 'txt_neg'))
    image, text, negatives = features
    train = TrainData(features={}, labels=np.zeros(0, int), text=text, negatives=negatives, logit_scale=100.)
    method = OpenOODNegLabel(groups=int(ADANEG[f'{case}__group_num'])).fit(train)
    np.testing.assert_allclose(method.score({('clip', 'image'): image}), ADANEG[f'{case}__neglabel_ovlm_conf'], **CLOSE)


def test_half_precision_loses_the_entropies_and_little_of_the_score():
    method = adaneg('main', half=True)[0]
    stored = torch.arange(1, 10) < method.bank.count[:, None]
    assert method.bank.entropy[:, 1:][stored].isnan().float().mean() > .9
    static, exact = (adaneg('main', half=half, in_score='static')[1] for half in (True, False))
    np.testing.assert_allclose(static, exact, atol=.05)


# ---- TANL -----------------------------------------------------------------------------------

@pytest.mark.parametrize('case', ['main', 'g0', 'odd', 'edge'])
def test_tanl(case, monkeypatch):
    def get(key): return TANL_[f'{case}__{key}']
    method = tanl.TANL(activated=int(get('param_beta')), step=int(get('param_gamma')), mix=float(get('param_alpha')),
                  gap=float(get('param_gap')), queue=int(get('param_memleng')), batch=int(get('batch_size')))
    method.text, method.noise = get('txt_pos'), get('noise')
    method.temperature_used, method.kept = .01, method.activated
    method.words = np.concatenate([get('txt_neg'), get('txt_unselected')])
    method.shuffles = get('perm_pos'), get('perm_noise')
    thresholds = []
    real_otsu = tanl.otsu_threshold
    def watched_otsu(scores):
        thresholds.append(real_otsu(scores))
        return thresholds[-1]
    monkeypatch.setattr(tanl, 'otsu_threshold', watched_otsu)
    scores, classes = method.score_and_predict({('clip', 'image'): get('img')})
    np.testing.assert_allclose(thresholds, get('thres'), atol=1e-7)
    np.testing.assert_allclose(scores, get('conf'), **CLOSE)
    assert (classes == get('pred')).all()
    np.testing.assert_allclose(method.id_activations.numpy(), get('final_queue_pos'), **CLOSE)
    np.testing.assert_allclose(method.ood_activations.numpy(), get('final_queue_neg'), **CLOSE)
