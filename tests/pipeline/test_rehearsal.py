"""The paper's run on stand-ins: every notebook to its end, and no setting but sizes differs from `paper`."""
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synood.app import rehearsal as app_rehearsal
from synood.app.cli import write_scale
from synood.app.rehearsal import SIZES, changed_settings, mos_files, write_stand_ins
from synood.core.notebooks import find_notebooks, notebook_name
from synood.core.scales import FILE_FIELDS, differing_settings, get_scale
from synood.data.datasets import table_protocol
from synood.data.images import protocols
from synood.evaluation.benchmark import experiment
from synood.evaluation.report import published
from synood.outliers.finetuning import SynOOD
from synood.scores.method import NegLabel, methods

TABLES = {'table1', 'table1_paired', 'table1_rivals', 'table1_trained', 'table1_published', 'table2',
          'table2_paired', 'table2_published', 'table3', 'table3_paired', 'table4', 'table4_claims', 'table4_phases',
          'table5', 'table5_claims', 'fig1_moves', 'fig3', 'fig4_scores', 'fig4_gradient', 'table_cma',
          'table_cma_paired', 'table_krnft', 'table_krnft_paired', 'table_krnft_prompts'}
FIGURES = {'fig1', 'fig2', 'fig3', 'fig4', 'table1', 'table3', 'table_krnft'}


def reproduce(place, scale, *more):
    "Outcome of every notebook by name, and what was said."
    command = [sys.executable, '-m', 'synood', 'reproduce', '--scale', scale, '--root', place/'runs', '--json', *more]
    environment = {key: value for key, value in os.environ.items() if key != 'SYNOOD_PHOTOS'}
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)['notebooks'], done.stderr


def lines(path):
    with open(path, newline='', encoding='utf-8') as file: return list(csv.reader(file))


def test_only_sizes_differ_from_the_paper():
    paper, rehearsal = get_scale('paper').values(), get_scale('rehearsal').values()
    changed = {name for name in paper if paper[name] != rehearsal[name]}
    assert changed == set(SIZES) == set(changed_settings().index)
    batches = {'synthesis.batch_size', 'cocoop.batch_size'}  # larger ones take fewer steps
    assert all(rehearsal[name] < paper[name] for name in changed - batches - {'name', 'figure3.shares'})
    assert set(rehearsal['figure3.shares']) < set(paper['figure3.shares'])


def test_a_missing_number_is_found_and_what_nobody_has_published_is_none(tmp_path):
    (tmp_path/'a.csv').write_text('method,m,Average auroc,near fpr95,auroc_published\nnanny,,1.0,2.0,\n')
    (tmp_path/'b.csv').write_text('method,m,Average auroc,near fpr95,p\nnanny,,nan ± nan,,NaN\n')
    assert [missing_numbers(tmp_path/name) for name in ('a.csv', 'b.csv')] == [
        [], ['Average auroc', 'near fpr95', 'p']]


def test_the_tables_that_stand_have_no_missing_number(root):
    tables = [path for path in (root/'paper_figures').glob('*/*.csv') if path.name != 'results.csv']
    assert tables and not {path.name: found for path in tables if (found := missing_numbers(path))}


def test_photographs_of_ones_own_become_the_stand_ins(tmp_path, monkeypatch):
    for name, colour in dict(a='red', b='orange').items():
        (tmp_path/'photos'/name).mkdir(parents=True)
        Image.new('RGB', (200, 150), colour).save(tmp_path/'photos'/name/'1.jpg')
    monkeypatch.setenv('SYNOOD_PHOTOS', str(tmp_path/'photos'))
    monkeypatch.setattr(app_rehearsal, 'write_networks', lambda folder: {})
    monkeypatch.setattr(app_rehearsal, 'mos_files', lambda: dict(SUN=mos_files()['SUN']))
    scale = get_scale(write_scale('rehearsal', None, tmp_path/'runs'))
    files = mos_files()['SUN']
    assert scale.data == str(tmp_path/'runs'/'stand_ins'/'images') and len(files) == 24
    for name in files:
        with Image.open(Path(scale.data)/name) as cut: mode, colours = cut.mode, np.asarray(cut.convert('RGB'))
        assert colours.std((0, 1)).max() < 9  # one colour, as no drawn picture has
        if mode != 'L': assert colours[..., 0].mean() > 200 > 60 > colours[..., 2].mean()


def check_results(folder, protocol, seeds):
    "Every table and figure is there, with every row."
    made = {path.name for path in folder.iterdir()}
    wanted = {f'{name}.csv' for name in TABLES} | {f'{name}.pdf' for name in FIGURES} | {'results.csv', 'report.html'}
    assert sorted(wanted - made) == []
    assert [name for name, *_ in lines(folder/'table1_no_row.csv')[1:]] == ['NegRefine']  # its lists come from outside
    rows = pd.read_csv(folder/'results.csv')
    assert rows[['auroc', 'fpr95']].notna().all(axis=None) and rows.auroc.between(0, 100).all()
    first, second = (rows[rows.experiment == name] for name in ('table1', 'table2'))
    assert set(first.method) == set(methods()) - {'NegRefine'} and set(first.seed) == set(seeds)
    assert set(first.dataset) == set(protocols[protocol].groups())
    assert set(second.method) == set(published('table2').method) and set(second.n_id) == {200}
    of_table2 = table_protocol('Table 2', get_scale('rehearsal').replace(protocol=protocol))
    assert set(second.dataset) == set(protocols[of_table2].groups())
    assert {line[2] for line in lines(folder/'fig3.csv')[1:]} - {''} == {'1000', '2000'}
    assert not {path.name: found for path in folder.glob('*.csv') if (found := missing_numbers(path))}


def missing_numbers(path):
    "The columns of a table with a cell that is 'nan', as also in 'nan ± nan', or a measure of ours that is empty."
    head, *rest = lines(path)
    def is_measure(column): return re.search('auroc|fpr95|id_acc|accuracy', column, re.I) and not re.search(
        'published|difference', column, re.I)
    def is_missing(column, cell): return re.search(r'\bnan\b', cell, re.I) or not cell and is_measure(column)
    return [column for line in rest for column, cell in zip(head, line, strict=True) if is_missing(column, cell)]


def check_blocks(place, seeds):
    "Figure 3 has added a second block at every seed, and no image was painted twice."
    for seed in seeds:
        blocks = list((place/'runs'/'rehearsal'/'synthesis').glob(f'seed{seed}-*'))
        painted = [image.relative_to(block).parts[2:] for block in blocks for image in block.glob('*/grad/**/*.png')]
        assert (len(blocks), len(painted), len(set(painted))) == (2, 2000, 2000)


@pytest.fixture(scope='module')
def one_seed(tmp_path_factory): return tmp_path_factory.mktemp('one_seed')


ONE_SEED = 'rehearsal', '--jobs', '1', '--set', 'seeds=[0]'


def test_every_notebook_runs_to_its_end_at_one_seed(one_seed):
    outcomes, said = reproduce(one_seed, *ONE_SEED)
    assert outcomes == dict.fromkeys(map(notebook_name, find_notebooks()), 'ran')
    assert 'holds stand-ins: everything runs, and the numbers mean nothing' in said
    check_results(one_seed/'paper_figures'/'rehearsal', 'mos', [0])
    check_blocks(one_seed, [0])


def test_stand_ins_change_what_is_read_and_no_more(one_seed):
    found = write_stand_ins(one_seed/'runs'/'stand_ins', None)  # they stand
    assert set(found) <= set(FILE_FIELDS)
    scale = get_scale('rehearsal').replace(**found)
    assert {name for name, value in scale.values().items() if value != get_scale('rehearsal').get(name)} == set(found)


def test_a_second_run_starts_the_kernel_of_a_lost_file_and_no_other(one_seed):
    figures = one_seed/'paper_figures'/'rehearsal'
    before = (figures/'results.csv').read_bytes()
    (figures/'table5.csv').unlink()
    outcomes, _ = reproduce(one_seed, *ONE_SEED)
    assert outcomes == dict.fromkeys(map(notebook_name, find_notebooks()), 'stands') | dict(table5='ran')
    assert (figures/'table5.csv').exists()
    assert (figures/'results.csv').read_bytes() == before


def test_methods_that_do_not_fit_have_a_line_and_the_others_their_rows(tmp_path):
    of_shots, fitting = {'CoOp', 'CoCoOp', 'LoCoOp', 'LSN', 'InterNeg', 'TINS'}, {'MCM', 'NegLabel', 'KR-NFT'}
    asked = ','.join((*of_shots, *fitting, 'KNN', 'KNN (CLIP)', 'NegRefine'))
    outcomes, said = reproduce(tmp_path, 'smoke', '--only', 'table1,table_krnft', '--methods', asked, '--jobs', '1',
                               '--set', 'coop.shots=5', '--set', 'knn.k=81', '--set', 'n_test=10')
    assert set(outcomes.values()) == {'ran'}
    assert 'coop.shots = 5: class ' in said and 'knn.k = 81: there are 80 training images' in said
    folder = tmp_path/'paper_figures'/'smoke'
    lack = {name: why for name, why in lines(folder/'table1_no_row.csv')[1:]}
    assert set(lack) == of_shots | {'KNN', 'KNN (CLIP)', 'NegRefine'}
    assert '`negrefine.lists`' in lack['NegRefine']
    assert 'coop.shots asks for 5' in lack['CoOp'] and 'knn.k = 81 neighbours of 80' in lack['KNN']
    shown = {line[0] for line in lines(folder/'table1.csv')} - {'', 'method'}
    assert shown == fitting
    assert lines(folder/'table_krnft.csv')
    made = {path.name for path in (tmp_path/'runs'/'smoke').iterdir()}  # what chosen rows need, and no more
    assert {'images', 'negatives', 'probe', 'krnft'} <= made and not made & {'synthesis', 'contexts', 'zoc', 'cma'}


@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('rehearsal')


@pytest.mark.slow  # seven minutes of a core, and fewer for each that follows: what is learned stands
@pytest.mark.parametrize('protocol', ['mos', 'openood15', 'synood_table2'])
def test_every_notebook_runs_to_its_end(protocol, place):
    outcomes, _ = reproduce(place, 'rehearsal', '--set', f'protocol={protocol}')
    assert outcomes == dict.fromkeys(map(notebook_name, find_notebooks()), 'ran')
    check_results(place/'paper_figures'/'rehearsal', protocol, (0, 1, 2))


@pytest.mark.slow  # two minutes of a core each
@pytest.mark.parametrize('name', ['release', 'paper-text'])
def test_the_other_readings_of_the_paper_run_at_the_sizes_of_a_rehearsal(name, tmp_path):
    whole, rehearsal = get_scale(name), get_scale('rehearsal')
    scale = whole.replace(name='cut', presets=(*whole.presets, 'rehearsal'), m=rehearsal.m, seeds=(0,))
    changed = differing_settings(whole=whole, cut=scale)
    assert {setting: line['cut'] for setting, line in changed.items() if line['cut'] != rehearsal.get(setting)} == {
        'seeds': (0,)}
    scale = scale.replace(**write_stand_ins(tmp_path/'stand_ins', None))
    rows = experiment(name, [NegLabel(), SynOOD()], scale, root=tmp_path/'runs')
    assert set(rows.method) == {'NegLabel', 'SynOOD'} and set(rows.dataset) == set(protocols['mos'].groups())
    assert rows[['auroc', 'fpr95']].notna().all(axis=None)
    made = {path.name for path in (tmp_path/'runs'/'cut').iterdir()}
    assert ('textimages' in made) == (name == 'release')
