"""The visual rows of Table 1: what they cost in passes of a network, and what it takes to add one."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib
import numpy as np
import pandas as pd
import pytest

import synood.scores.method as scores
from synood.evaluation.benchmark import experiment, load_benchmark
from synood.core.scales import get_scale
from synood.methods.logits import LogitScore

SCALE = get_scale('smoke').replace(name='tiny', n_test=10, test_splits=2, seeds=(0, 1))


def test_every_network_sees_an_image_once(passes, tmp_path):
    post_hoc = [m() for m in scores.methods().values() if m.needs[0][0] != 'clip' and m.name != 'ODIN']
    assert {'MSP', 'VOS', 'GEN', 'RMDS', 'DICE', 'AugMix+ASH'} <= {m.name for m in post_hoc}
    rows = experiment('passes', post_hoc, SCALE, root=tmp_path)
    images = sum(map(len, load_benchmark(SCALE, tmp_path).sets.values()))
    assert passes == {'clip image': images, 'classifier': images}  # the linear head costs no pass of its own
    assert len(rows) == len(post_hoc)*2*5 and rows.auroc.between(0, 100).all()
    experiment('passes again', post_hoc, SCALE, root=tmp_path)
    assert passes == {'clip image': images, 'classifier': images}
    odin = experiment('odin', [scores.get_method('ODIN')()], SCALE, root=tmp_path)
    pushed = next(name for name in passes if name.startswith('ODIN'))
    tested = images - len(load_benchmark(SCALE, tmp_path).sets['train'])
    assert passes == {'clip image': images, 'classifier': images, pushed: tested}
    assert len(odin) == 2*5


@pytest.fixture
def made_up():
    "A method of a user's own: this definition is all there is."
    before = dict(scores._methods)

    @scores.register
    @dataclass
    class SecondGuess(LogitScore):
        "How far the second guess is behind."
        name: ClassVar[str] = 'second guess'
        source: ClassVar[str] = 'made up for a test'

        def score(self, test):
            top = np.sort(self.logits(test), axis=1)
            return (top[:, -1] - top[:, -2]).astype(np.float64)
    yield 'second guess'
    scores._methods.clear()
    scores._methods.update(before)


def test_a_new_method_is_in_the_results_and_in_the_table(made_up, tmp_path, monkeypatch):
    few = {'MSP', 'MCM', 'CSP', 'NegLabel', 'NegLabel (OpenOOD)', 'AdaNeg', 'TANL', 'SynOOD', made_up}
    for name in set(scores.methods()) - few: monkeypatch.delitem(scores._methods, name)
    matplotlib.use('Agg')
    notebook = json.loads((Path(__file__).parents[2]/'nbs'/'9_experiments'/'table1.ipynb').read_text())
    names = dict(display=lambda *a: None, scale='smoke', seeds=(), chosen=(), root=str(tmp_path/'runs'))
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and source.startswith('#| stage'): exec(source, names)
    folder = tmp_path/'paper_figures'/'smoke'
    results = pd.read_csv(folder/'results.csv')
    assert len(results[results.method == made_up]) == 5
    table = pd.read_csv(folder/'table1.csv').set_index('method')
    assert table.loc[made_up, 'network'] == 'embedded:clip, then a linear head'
    assert table.loc[made_up, 'in the paper'] == 'no'
    assert f'| {made_up} |' in (folder/'table1.md').read_text()
