"""What merged results and the ledger say when a file behind them is damaged, changed or gone."""
import json

import pytest

from synood.core.rows import ROW_COLUMNS, Rows, publish_rows
from synood.evaluation.report import verify_results, folders_used, reproduction_table, merge_results

LINE = dict.fromkeys(ROW_COLUMNS, '') | dict(method='NegLabel', group='far', fpr95_ood_positive=0., id_acc=92., seed=0)


@pytest.fixture
def root(tmp_path):
    "A root with two rows of Table 1, a stage folder of another experiment and the record of the notebook that made it."
    runs = tmp_path.resolve()/'runs'
    results = Rows(runs/'smoke'/'rows', 'c')
    lines = [LINE | dict(dataset='SUN', auroc=90., fpr95=30.), LINE | dict(dataset='Places', auroc=80., fpr95=60.)]
    results.make({}, lambda: lines)
    publish_rows(results.folder, 'table1', [results.path({})])
    stage = runs/'smoke'/'cma'/'abc'
    stage.mkdir(parents=True)
    (runs/'smoke'/'notebooks').mkdir()
    (stage/'manifest.json').write_text(json.dumps({'settings': {'clip': [f'{runs}/smoke/cma/xyz']}}))
    outputs = dict.fromkeys([f'{runs}/smoke/cma/abc', f'{runs}/gone', '/elsewhere/table.csv'], '')
    (runs/'smoke'/'notebooks'/'28.json').write_text(json.dumps(dict(outputs=outputs)))
    merge_results('smoke', runs)
    return runs


def figures(root, name): return root.parent/'paper_figures'/'smoke'/name


def test_a_manifest_names_the_folders_behind_the_rows_without_the_place_of_the_root(root):
    kept = json.loads(figures(root, 'manifest.json').read_text())
    assert kept['stages'] == {'smoke/cma/abc': {'settings': {'clip': ['runs/smoke/cma/xyz']}}}
    (root/'smoke'/'notebooks'/'28.json').unlink()
    assert folders_used(root, 'smoke', figures(root, 'manifest.json')) == {root/'smoke'/'cma'/'abc'}


@pytest.mark.parametrize('text', ['', 'null', '{"outputs": 3, "stages": []}'])
@pytest.mark.parametrize('name', ['notebooks/28.json', 'cma/abc/manifest.json', 'manifest.json'])
def test_a_damaged_file_is_named(root, name, text):
    file = figures(root, name) if name == 'manifest.json' else root/'smoke'/name
    file.write_text(text)
    if name.startswith('cma') and text.startswith('{'):  # whatever a stage noted is passed on
        merge_results('smoke', root)
        return
    with pytest.raises(ValueError) as error: merge_results('smoke', root)
    assert f'{file} is damaged' in str(error.value) and '\\n' not in str(error.value)


def test_changed_results_are_not_shown(root):
    before = reproduction_table('smoke', root).loc['NegLabel'].tolist()
    file = figures(root, 'results.csv')
    file.write_text(file.read_text().replace('90.0', '99.0'))
    for show in (reproduction_table, verify_results):
        with pytest.raises(ValueError) as error: show('smoke', root)
        assert f'{file} does not hold the rows below {root}' in str(error.value)
    file.unlink()
    assert verify_results('smoke', root) is None
    merge_results('smoke', root)
    assert reproduction_table('smoke', root).loc['NegLabel'].tolist() == before
    file.write_text('')
    with pytest.raises(ValueError, match='results.csv is damaged'): reproduction_table('smoke', root)
