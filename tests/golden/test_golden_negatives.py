"""Word pools and NegMining against what NegLabel's and OpenOOD-VLM's own code gave."""
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.models.clip import normalize_rows
from synood.scores.negatives import (fill_template, neg_mining, negative_prompts, openood_mining, row_quantiles,
                              similarity_quantiles)
from synood.data.words import make_pool, read_words

GOLDEN, OPENOOD = (np.load(Path(__file__).parent/'vlm'/f'{name}.npz', allow_pickle=False)
                   for name in ('negmine_a', 'negmine_ovlm_a'))


class Case:
    "One golden case: its word files on disk, its text features, the published result."
    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        for file, text in zip(self['file_names'], self['file_text']):
            (folder/str(file)).write_text(str(text), encoding='utf-8')
        self.features = dict(zip(map(str, self['prompts']), self['prompt_feats_raw']))

    def __getitem__(self, key):
        return GOLDEN[f'{self.name}__{key}']

    @property
    def pool(self):
        left_out = str(self['param_txt_exclude']).split(',') if self.name == 'edge' else []
        names = [str(name) for name in self['file_names'] if name not in left_out]
        return make_pool(read_words(self.folder, [n for n in names if n[:4] in ('noun', 'adj.')]))

    def encode(self, prompts):
        return normalize_rows(np.stack([self.features[prompt] for prompt in prompts]))

    @property
    def labels(self):
        return self.encode(fill_template([str(name) for name in self['class_names']], 'the nice {}'))

    def mine(self):
        pool = self.pool
        return neg_mining(self.encode(negative_prompts(pool)), self.labels, pool.pos,
                          float(self['param_neg_topk']), float(self['param_pencentile']))


@pytest.fixture(params=['main', 'odd', 'edge'])
def case(request, tmp_path):
    return Case(request.param, tmp_path)


def test_candidates_stand_in_reading_order(case):
    wanted = [*case['noun_prompts'], *case['adj_prompts']]
    assert negative_prompts(case.pool) == [str(prompt) for prompt in wanted]


def test_quantiles_and_selection(case):
    selected, quantiles = case.mine()
    nouns, kept = len(case['noun_prompts']), case['n_keep']
    np.testing.assert_allclose(quantiles, [*case['neg_sim_noun'], *case['neg_sim_adj']], atol=1e-6)
    assert list(selected[:kept[0]]) == list(case['ind_noun'][:kept[0]])
    assert list(selected[kept[0]:] - nouns) == list(case['ind_adj'][:kept[1]])
    assert kept[0] == case['adj_start_idx']


def test_selected_prompts_and_features(case):
    selected, _ = case.mine()
    prompts = negative_prompts(case.pool.take(selected))
    assert prompts == [str(prompt) for prompt in case['selected_prompts']]
    np.testing.assert_allclose(case.encode(prompts), case['text_features_neg'], atol=1e-6)
    np.testing.assert_allclose(case.labels, case['text_features_pos'], atol=1e-6)


def test_whole_ranking_is_the_published_one(case):
    pool = case.pool
    quantiles = similarity_quantiles(case.encode(negative_prompts(pool)), case.labels,
                                     float(case['param_pencentile']),
                                     int(case['param_emb_batchsize']))
    nouns = len(case['noun_prompts'])
    assert list(np.argsort(quantiles[:nouns], kind='stable')) == list(case['ind_noun'])
    assert list(np.argsort(quantiles[nouns:], kind='stable')) == list(case['ind_adj'])


@pytest.mark.parametrize('name', ['main', 'odd', 'edge'])
def test_openood_selection_and_rest(name):
    cosines = {part: torch.tensor(OPENOOD[f'{name}__cos_{part}']) for part in ('noun', 'adj')}
    nouns = len(cosines['noun'])
    closeness = row_quantiles(torch.cat([cosines['noun'], cosines['adj']]), interpolate=False)
    pos = ['noun']*nouns + ['adj']*len(cosines['adj'])
    for kind, chosen in zip(('sel', 'unsel'), openood_mining(closeness, pos, int(OPENOOD[f'{name}__total']))):
        wanted = [*OPENOOD[f'{name}__{kind}_adj'] + nouns, *OPENOOD[f'{name}__{kind}_noun']]
        assert list(chosen) == wanted
