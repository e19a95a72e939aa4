"""NegRefine against what its official code gave: mining, the filter with given answers, and the score."""
from pathlib import Path

import numpy as np
import pytest

from synood.data.words import read_words
from synood.methods.csp import CSP_PHRASES, CSP_SUPERCLASSES, CSP_TEMPLATES, adjective_phrases
from synood.methods.negrefine import (NegRefineWordNet, ask_words, clean_words, kept_words, nearest_classes,
                                      negrefine_pool, pair_scores)
from synood.models.clip import normalize_rows
from synood.scores.head import neglabel
from synood.scores.negatives import fill_template, neg_mining

FOLDER = Path(__file__).parent/'vlm'
SCORES, LABELS = (np.load(FOLDER/f'{name}.npz', allow_pickle=False) for name in ('negrefine_a', 'negrefine_labels_a'))
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}
SCORED = sorted({key.partition('__')[0] for key in SCORES.files if '__' in key})
MINED, FILTERED = (sorted({key.partition('__')[0] for key in LABELS.files if key.startswith(part)})
                   for part in ('mine_', 'filter_'))


@pytest.mark.parametrize('case', MINED)
def test_mining(case, tmp_path):
    def get(key): return LABELS[f'{case}__{key}']
    for file, text in zip(get('file_names'), get('file_text')):
        (tmp_path/str(file)).write_text(str(text), encoding='utf-8')
    files = [str(name) for name in get('file_names') if name[:4] in ('noun', 'adj.')]
    classes = [str(name) for name in get('classes')]
    pool = negrefine_pool(read_words(tmp_path, files), classes)
    nouns = [word for word, pos in zip(pool.words, pool.pos) if pos == 'noun']
    phrases = adjective_phrases(pool.words[len(nouns):], int(get('param_seed')))
    table = dict(zip(map(str, get('prompts')), get('prompt_raw').astype(np.float32)))

    def ensemble(words, templates):
        return normalize_rows(np.mean([[table[p] for p in fill_template(words, t)] for t in templates], 0))

    features = np.concatenate([ensemble(nouns, CSP_TEMPLATES), ensemble(phrases, CSP_PHRASES)])
    selected, closeness = neg_mining(features, ensemble(classes, CSP_TEMPLATES), pool.pos,
                                     float(get('param_neg_top_p')), float(get('param_pencentile')), .95)
    np.testing.assert_allclose(closeness, [*get('sim_noun'), *get('sim_adj')], atol=1e-6)
    chosen = [(*nouns, *phrases)[k] for k in selected]
    assert chosen == [str(word) for word in (*get('selected_nouns'), *get('selected_phrases'))]


def test_sentences_and_superclasses():
    assert tuple(SCORES['noun_templates']) == CSP_TEMPLATES and tuple(SCORES['adj_templates']) == CSP_PHRASES
    assert [str(phrase).removeprefix('{} ') for phrase in LABELS['superclasses']] == list(CSP_SUPERCLASSES)


@pytest.mark.parametrize('case', FILTERED)
def test_filter(case):
    def get(key): return LABELS[f'{case}__{key}']
    names = [str(name) for name in get('classes')]
    words, row = clean_words(map(str, get('words'))), {str(w): k for k, w in enumerate(get('cleaned_sorted'))}
    assert sorted(words) == list(row)
    nearest = nearest_classes(get('word_raw'), get('class_raw'))
    assert (nearest == get('top_classes')).all()

    def ask(asked):
        return ask_words(asked, names, nearest[[row[word] for word in asked]], lambda word: get('proper')[row[word]],
                         lambda word, name: get('subcategory')[row[word], names.index(name)])

    answers = ask(words)
    log = [' | '.join(part for part in (word, name) if part) + f' | {verdict}' + ' '*bool(verdict)
           for word, name, verdict in answers]
    assert sorted(log) == sorted(map(str, get('log_sorted')))
    verdicts = [verdict for _, _, verdict in answers]
    counts = [verdicts.count(verdict) for verdict in ('proper noun', 'the same', 'subcategory')]
    assert counts == list(get('counts'))
    assert sorted(kept_words(answers)) == list(get('kept_sorted'))
    first = clean_words(map(str, get('words')[:5]))
    assert sorted(kept_words(ask(first))) == list(get('kept_first5_sorted'))


@pytest.mark.parametrize('case', SCORED)
def test_score(case):
    def get(key): return SCORES[f'{case}__{key}']
    def ensemble(raw): return normalize_rows(raw.astype(np.float32).mean(1))
    images, text = normalize_rows(get('img_raw')), ensemble(get('pos_raw'))
    negatives = np.concatenate([ensemble(get('noun_raw')), ensemble(get('adj_raw'))])
    np.testing.assert_allclose(text, get('pos_features'), atol=1e-6)
    np.testing.assert_allclose(negatives, get('neg_features'), atol=1e-6)
    table = {tuple(pair): feature for pair, feature in zip(get('pair_index').tolist(), ensemble(get('pair_raw')))}
    asked = set()

    def of_pairs(label, words):
        asked.update((label, int(word)) for word in words)
        return np.stack([table[label, int(word)] for word in words])

    of_words = neglabel(images, text, negatives, groups=int(get('ngroup')))
    of_both = pair_scores(images, text, negatives, of_pairs, .01, NegRefineWordNet.n_classes, NegRefineWordNet.n_words)
    known = np.isfinite(get('score'))
    np.testing.assert_allclose(of_words, get('neglabel'), **CLOSE)
    np.testing.assert_allclose(of_both[known], get('multi')[known], **CLOSE)
    scores = of_words + NegRefineWordNet.weight*of_both
    np.testing.assert_allclose(scores[known], get('score')[known], **CLOSE)
    np.testing.assert_allclose(scores, get('stable_score'), **CLOSE)
    tops = zip(get('top_pos').tolist(), get('top_neg').tolist())
    assert asked == {(label, word) for labels, words in tops for label in labels for word in words}
