"""Metrics against values that the public implementations gave on the same scores."""
import warnings
from pathlib import Path

import numpy as np
import pytest

from synood.evaluation.metrics import aupr, auroc, fpr95, id_accuracy, measure

GOLDEN = np.load(Path(__file__).parent/'baselines'/'metrics_a.npz', allow_pickle=False)
CASES = [str(name) for name in GOLDEN['case_names']]
METRICS = [str(name) for name in GOLDEN['metric_names']]
CLOSE = {'abs': 1e-12, 'rel': 0}


def published(case, implementation):
    "{metric: value} of one implementation."
    row = [str(name) for name in GOLDEN['impl_names']].index(implementation)
    return dict(zip(METRICS, GOLDEN[f'{case}__values'][row]))


@pytest.fixture(autouse=True)
def quiet():
    "Some cases are inverted on purpose."
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='AUROC')
        yield


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def scores(case):
    return GOLDEN[f'{case}__id'], GOLDEN[f'{case}__ood']


def test_default_rules_give_the_recommended_values(case, scores):
    wanted = dict(zip(METRICS, GOLDEN[f'{case}__recommended']))
    got = measure(*scores)
    assert {name: got[name] for name in METRICS} == pytest.approx(wanted, **CLOSE)
    assert got['fpr95'] == wanted['fpr95']


def test_closest_rule_is_that_of_neglabel_and_csp(case, scores):
    for implementation in ('neglabel', 'csp'):
        wanted = published(case, implementation)
        assert fpr95(*scores, rule='closest') == wanted['fpr95']
        assert auroc(*scores) == pytest.approx(wanted['auroc'], **CLOSE)
        assert aupr(*scores) == pytest.approx(wanted['aupr_in'], **CLOSE)
        assert aupr(*scores, positive='ood') == pytest.approx(wanted['aupr_out'], **CLOSE)


def test_interpolated_rule_is_that_of_cma(case, scores):
    wanted = published(case, 'cma')
    assert fpr95(*scores, rule='interpolated') == pytest.approx(wanted['fpr95'], **CLOSE)
    assert aupr(*scores, rule='trapezoid') == pytest.approx(wanted['aupr_in'], **CLOSE)


def test_ood_positive_is_that_of_openood(case, scores):
    # OpenOOD thins its ROC curve and so jumps past the threshold where all tie groups are alike
    implementation = 'pytorch_ood' if case == 'pairs_diag' else 'openood'
    wanted = published(case, implementation)['fpr95']
    assert fpr95(*scores, positive='ood') == pytest.approx(wanted, abs=1e-7)
    wanted = published(case, 'openood')
    assert aupr(*scores, 'id', 'trapezoid') == pytest.approx(wanted['aupr_in'], **CLOSE)
    assert aupr(*scores, 'ood', 'trapezoid') == pytest.approx(wanted['aupr_out'], **CLOSE)


def test_exact_rule_is_openoods_id_positive_helper(case, scores):
    wanted = 1. if case == 'pairs_diag' else fpr95(*scores)  # the thinned curve again
    assert published(case, 'openood_fpr_recall_idpos')['fpr95'] == wanted


def test_id_accuracy_leaves_ood_images_out():
    assert id_accuracy(GOLDEN['acc__pred'], GOLDEN['acc__label']) == GOLDEN['acc__openood']
