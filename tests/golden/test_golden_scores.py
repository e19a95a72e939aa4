"""MCM and NegLabel against scores that their official code gave on the same features."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.models.clip import normalize_rows
from synood.scores.head import negative_groups, id_probability, mcm, neglabel

FOLDER = Path(__file__).parent/'vlm'
MCM, NEGLABEL, PERMUTATIONS = (np.load(FOLDER/f'{name}.npz', allow_pickle=False)
                               for name in ('mcm_a', 'neglabel_a', 'randperm_seed0'))
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}  # the official code computes in float32, logits up to 100
CASES = 'main', 'odd', 'edge'


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('suffix', ['', '_raw'])
def test_mcm_at_its_temperatures(case, suffix):
    image, text = (normalize_rows(MCM[f'{case}__{kind}{suffix}'].astype(np.float64)) for kind in ('img', 'txt'))
    cosines = image @ text.T
    np.testing.assert_allclose(mcm(cosines), MCM[f'{case}__mcm_T1'], **CLOSE)
    np.testing.assert_allclose(mcm(cosines, .01), MCM[f'{case}__mcm_T0.01'], **CLOSE)
    np.testing.assert_allclose(cosines.max(1), MCM[f'{case}__maxlogit'], **CLOSE)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('tau', [1, 2, 100])
def test_mcm_on_scaled_logits(case, tau):
    logits = 100*MCM[f'{case}__img'].astype(np.float64) @ MCM[f'{case}__txt'].T
    np.testing.assert_allclose(mcm(logits, tau), MCM[f'{case}__ovlm_tau{tau}_conf'], **CLOSE)
    assert (logits.argmax(1) == MCM[f'{case}__ovlm_tau{tau}_pred']).all()


def grouped_keys(pattern):
    "(case, number of groups) of the arrays whose name fits."
    matches = (re.fullmatch(rf'(\w+)__{pattern}', key) for key in NEGLABEL.files)
    return sorted((match[1], int(match[2])) for match in matches if match)


def features(case):
    return tuple(NEGLABEL[f'{case}__{kind}'] for kind in ('img', 'txt_pos', 'txt_neg'))


@pytest.mark.parametrize('case,groups', grouped_keys(r'forward_ngroup(\d+)'))
def test_neglabel_with_the_permutation(case, groups):
    got = neglabel(*features(case), groups=groups)
    np.testing.assert_allclose(got, NEGLABEL[f'{case}__forward_ngroup{groups}'], **CLOSE)


@pytest.mark.parametrize('case,groups', grouped_keys(r'grouping(\d+)_noperm'))
def test_neglabel_in_the_given_order(case, groups):
    got = neglabel(*features(case), groups=groups, seed=None)
    np.testing.assert_allclose(got, NEGLABEL[f'{case}__grouping{groups}_noperm'], **CLOSE)


@pytest.mark.parametrize('case', CASES)
def test_one_group_is_the_ungrouped_softmax(case):
    # not NegLabel's own ngroup=1, which adds up raw logits by mistake
    got = neglabel(*features(case), groups=1)
    np.testing.assert_allclose(got, NEGLABEL[f'{case}__grouping1'], **CLOSE)


def test_neglabel_at_twice_the_temperature():
    got = neglabel(*features('main'), temperature=.02, groups=5)
    np.testing.assert_allclose(got, NEGLABEL['main__forward_ngroup5_t2'], **CLOSE)


def test_mean_over_the_first_groups_only():
    # the official fusion of "three" groups averages two
    columns = negative_groups(100, 5)[:2]
    id_logits, negative_logits = (torch.tensor(NEGLABEL[f'main__{kind}_sim']) for kind in ('pos', 'neg'))
    got = id_probability(id_logits, negative_logits[:, columns]).numpy()
    np.testing.assert_allclose(got, NEGLABEL['main__forward_ngroup5_fuse3'], **CLOSE)


@pytest.mark.parametrize('case,groups', grouped_keys(r'perm(\d+)'))
def test_groups_are_dealt_like_the_original(case, groups):
    count = len(NEGLABEL[f'{case}__txt_neg'])
    dealt = negative_groups(count, groups).ravel()
    assert (dealt == NEGLABEL[f'{case}__perm{groups}']).all()


@pytest.mark.parametrize('key', [key for key in PERMUTATIONS.files if key.startswith('cpu_')])
def test_permutation_of_seed_0(key):
    count = int(key.removeprefix('cpu_'))
    assert (negative_groups(count, 1).ravel() == PERMUTATIONS[key]).all()
