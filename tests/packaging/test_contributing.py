"""The method that CONTRIBUTING.md adds: pasted into a notebook of its own, it is listed, evaluated and tabled."""
import importlib
import re
import sys

import numpy as np
import pandas as pd
import pytest
from fastcore.test import test_close as close
from nbdev.config import get_config

import synood.methods
import synood.scores.method as scores

NOTEBOOK = 'nbs/5_methods/margin.ipynb'


@pytest.fixture(scope='module')
def blocks(root):
    "The Python of CONTRIBUTING.md: a method, its test, an experiment."
    return re.findall(r'^```python\n(.*?)^```', (root/'CONTRIBUTING.md').read_text(encoding='utf-8'), re.M | re.S)


@pytest.fixture
def margin(blocks, root, tools, tmp_path, monkeypatch):
    "The module that the notebook exports, beside the package's own; all is as before afterwards."
    (tmp_path/NOTEBOOK).parent.mkdir(parents=True)
    (tmp_path/'settings.ini').write_bytes((root/'settings.ini').read_bytes())
    monkeypatch.chdir(tmp_path)
    get_config.cache_clear()
    tools.nb.main(['new', NOTEBOOK])
    text = tmp_path/'.nbtext'/'margin.py'
    method, test, _ = blocks
    text.write_text(text.read_text().replace('#| export\nimport numpy as np\n',
                                             f'{method}\n# %%\nimport numpy as np\n{test}'))
    tools.nb.main(['save', NOTEBOOK])
    before = dict(scores._methods)
    monkeypatch.setattr(synood.methods, '__path__', [*synood.methods.__path__, str(tmp_path/'synood'/'methods')])
    yield tmp_path/'synood'/'methods'/'margin.py'
    scores._methods.clear()
    scores._methods.update(before)
    if sys.modules.pop('synood.methods.margin', None): del synood.methods.margin
    get_config.cache_clear()


def test_the_example_is_short_and_new(blocks):
    lines = [line for line in blocks[0].splitlines() if line.strip() and not line.startswith('#')]
    assert len(lines) <= 15 and max(map(len, lines)) <= 120
    assert 'Margin' not in scores.methods()


def test_the_notebook_is_one_that_check_accepts(margin, tools, tmp_path):
    content = (tmp_path/NOTEBOOK).read_text().replace('One line that says what this holds', 'A margin')
    assert list(tools.nb.notebook_faults(content, set())) == []
    assert 'class Margin(ZeroShot)' in margin.read_text()


def test_the_method_is_listed_and_found_where_it_is_defined(margin, list_methods):
    line, = [line for line in list_methods(margin).splitlines() if line.startswith('Margin ')]
    assert 'clip image' in line and 'an example, from no paper' in line
    assert 'synood.methods.margin' not in sys.modules  # nothing names the module: the look-up finds it
    assert scores.get_method('Margin').__module__ == 'synood.methods.margin'


def test_its_test_passes_and_would_fail_for_another_score(margin, blocks):
    names = dict(np=np, test_close=close, Margin=scores.get_method('Margin'))
    exec(blocks[1], names)
    names['Margin'].score = lambda self, test: self.similarities(test).max(1)
    with pytest.raises(AssertionError): exec(blocks[1], names)


def test_the_experiment_gives_rows_beside_neglabel(margin, blocks, tmp_path):
    names = dict(Margin=scores.get_method('Margin'))
    exec(blocks[2], names)  # writes to runs/ in the current folder, which is the test's own
    rows = names['rows']
    assert rows.groupby('method').size().to_dict() == {'NegLabel': 5, 'Margin': 5}
    assert np.isfinite(rows[['auroc', 'fpr95', 'aupr_in', 'aupr_out', 'id_acc']].to_numpy()).all()
    assert rows.auroc.between(0, 100).all()
    apart = rows.pivot(index='dataset', columns='method', values='auroc')
    assert (apart.Margin != apart.NegLabel).any()
    assert set(apart.index) == {'near', 'iNaturalist', 'SUN', 'Places', 'Textures'}
    table = pd.read_csv(tmp_path/'paper_figures'/'smoke'/'results.csv')
    assert set(table[table.experiment == 'margin'].method) == {'NegLabel', 'Margin'}


def test_afterwards_the_registry_is_as_it_was():
    assert 'Margin' not in scores.methods()
    with pytest.raises(ModuleNotFoundError): importlib.import_module('synood.margin')
