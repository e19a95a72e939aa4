"""What merged results and the ledger say when a file behind them is damaged, changed or gone."""
import json
import shutil

import pytest

from synood.core.rows import ROW_COLUMNS, Rows, merge_rows, publish_rows, read_published, read_rows, rows_problem
from synood.evaluation.report import check_results, verify_results, folders_used, reproduction_table, merge_results

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
    for read in (reproduction_table, merge_results, check_results):
        with pytest.raises(ValueError, match='results.csv is damaged .* bring it back from git'): read('smoke', root)


def test_rows_of_tables_that_were_not_made_stay_with_their_stages(root):
    results, manifest = figures(root, 'results.csv'), figures(root, 'manifest.json')
    other = results.read_text().replace('table1,', 'table_krnft plants,').split('\n', 1)[1]
    results.write_text(results.read_text() + other)
    kept = json.loads(manifest.read_text())
    kept['stages']['smoke/krnft/gone'] = {'settings': {}}
    manifest.write_text(json.dumps(kept))
    before = results.read_bytes()
    merge_results('smoke', str(root))
    assert results.read_bytes() == before and verify_results('smoke', root) is None
    assert set(json.loads(manifest.read_text())['stages']) == {'smoke/cma/abc', 'smoke/krnft/gone'}
    results.unlink()
    merge_results('smoke', root)
    assert other not in results.read_text()
    assert set(json.loads(manifest.read_text())['stages']) == {'smoke/cma/abc'}


@pytest.fixture
def published(tmp_path):
    "Two runs with the rows of one parameter set; the list `toy` names the second. Root, file of each, and the list."
    runs = tmp_path.resolve()/'runs'
    first, second = (Rows(runs/'smoke'/'rows', context) for context in ('context-a', 'context-b'))
    for results, auroc in ((first, 95.49), (second, 50.)): results.make({}, lambda: [LINE | dict(auroc=auroc)])
    publish_rows(second.folder, 'toy', [second.path({})])
    return runs, first.path({}), second.path({}), second.folder/'toy.json'


@pytest.mark.parametrize('text, cause', [
    ('{"ablation": false}', "(KeyError: 'files'): delete it"), ('', '(JSONDecodeError'), ('null', '(TypeError'),
    ('{"ablation": false, "files": []}', 'name files'), (None, '(ValueError: it is not what was written)')])
def test_a_damaged_list_of_rows_is_named(published, text, cause):
    root, _, _, listed = published
    listed.write_text(listed.read_text().replace('-b', '-a') if text is None else text)
    with pytest.raises(ValueError) as error: merge_rows(root, 'smoke')
    assert 'toy.json is damaged' in str(error.value) and cause in str(error.value)


def improved(text): return text.replace('50.0', '99.9')
def cut(text): return text[:-30]
def emptied(text): return ''


@pytest.mark.parametrize('harm', [improved, cut, emptied])
def test_a_damaged_row_is_named_with_the_command_that_repairs(published, harm):
    root, _, csv, _ = published
    csv.write_text(harm(csv.read_text()))
    with pytest.raises(ValueError) as error: merge_rows(root, 'smoke')
    repair = f'`synood verify --repair --root {root}`'
    assert f'{csv} is damaged: it is not what was written: {repair}' in str(error.value)


def test_rows_in_each_others_place_and_rows_without_their_hash(published):
    root, other, csv, listed = published
    shutil.copy(csv.with_suffix('.sha256'), other.with_suffix('.sha256'))
    shutil.copy(csv, other)  # a row of the same name, and its hash, of another context
    assert rows_problem(other) == 'it is not what was written'
    csv.with_suffix('.sha256').write_text('')
    assert rows_problem(csv) == f'the hash beside it, {csv.stem}.sha256, is damaged'
    csv.with_suffix('.sha256').unlink()
    assert rows_problem(csv) == 'the hash beside it is missing'
    shutil.copy(listed, listed.with_name('twin.json'))
    with pytest.raises(ValueError, match='it is the list of another experiment'):
        read_published(listed.with_name('twin.json'))


def test_rows_of_before_there_were_hashes(tmp_path):
    (tmp_path/'torn.csv').write_text('scale,world\nsmoke\n')
    with pytest.warns(UserWarning, match=f'the rows in {tmp_path} are of an earlier version'):
        with pytest.raises(ValueError, match='it lacks the columns aupr_in'): read_rows(tmp_path/'torn.csv', False)


def test_rows_that_do_not_fit_the_columns(tmp_path):
    results = Rows(tmp_path/'rows', 'context')
    with pytest.raises(ValueError, match='rows do not fit the columns'): results.make({}, lambda: [dict(auroc=1)])
