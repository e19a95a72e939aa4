"""What draws tables and figures runs on made-up rows: of protocols without near-OOD or far-OOD sets, and of one seed.

The rows that they ask for are those that a plan counts."""
import csv
import json
from collections import Counter

import pytest

from synood.core.notebooks import notebook_name
from synood.core.scales import get_scale
from synood.data.images import protocols
from synood.evaluation import table_check
from synood.evaluation.plan import asked_rows
from synood.evaluation.table_check import check_notebook, check_tables, table_notebooks
from synood.scores.method import methods

PAPER = get_scale('paper').replace(data='nowhere')
# One with both groups, and one without far-OOD sets; `mos`, without near-OOD sets, runs whole in test_rehearsal.py.
SCALES = {'mini': get_scale('mini').replace(seeds=(0, 1)),
          'no far sets': PAPER.replace(protocol='near_alone', seeds=(0, 1))}
NEAR_ALONE = """
from dataclasses import replace
from synood.data.datasets import protocols
for half in ('', '-base', '-new'):
    near = protocols[f'openood15{half}']
    protocols[f'near_alone{half}'] = replace(near, name=f'near_alone{half}', far=())
"""


@pytest.fixture(params=SCALES)
def scale(request, monkeypatch):
    "A scale, whose protocol the kernels of notebooks know too."
    exec(NEAR_ALONE, {})
    made_up = table_check.with_made_up_rows

    def with_protocol(cells, scale, root):
        cells = made_up(cells, scale, root)
        first = next(cell for cell in cells if 'use_made_up_rows()' in cell['source'])
        first['source'] = NEAR_ALONE + first['source']
        return cells
    monkeypatch.setattr(table_check, 'with_made_up_rows', with_protocol)
    yield SCALES[request.param]
    for half in ('', '-base', '-new'): del protocols[f'near_alone{half}']


def tables(folder):
    "Name -> lines of every table in a folder."
    return {path.stem: list(csv.reader(path.open(encoding='utf-8'))) for path in folder.glob('*.csv')}


COLUMNS = 'protocol', 'method', 'images', 'training', 'strategy', 'm'
NOT_PLANNED = 'dusk', 'light', 'table_plain'  # what only the miniature has


def rows_made(folder, run_seed):
    "How often each row was asked for at a seed, in all experiments."
    made = Counter()
    for listed in folder.glob('*.json'):
        if any(word in listed.stem for word in NOT_PLANNED): continue
        for name in json.loads(listed.read_text())['files']:
            with open(folder/name, newline='', encoding='utf-8') as file: row = next(csv.DictReader(file))
            if int(row['seed']) == run_seed: made[tuple(row[column] for column in COLUMNS)] += 1
    return made


def rows_planned(scale):
    "The same, as a plan has it."
    planned = Counter()
    for asked in (one for one in asked_rows(scale) if one.rows):
        changed = scale.replace(**asked.change)
        for method in (one for one in asked.cells if not one.unavailable_reason(changed)):
            cell = (str(getattr(method, name, '')) for name in COLUMNS[2:])
            planned[changed.protocol, method.name, *cell] += asked.times
    return planned


def test_every_table_is_made_of_the_sets_that_there_are(scale, tmp_path):
    checked = [check_notebook(path, scale, tmp_path/'runs') for path in table_notebooks()]
    assert [one for one in checked if one.problem] == []
    made = tables(tmp_path/'paper_figures'/scale.name)
    wanted = {'table1', 'table1_paired', 'table1_rivals', 'table1_trained', 'table1_published', 'table2',
              'table2_paired', 'table3', 'table3_paired', 'table4', 'table4_claims', 'table4_phases', 'table5',
              'table5_claims', 'fig3', 'table_cma', 'table_cma_paired', 'table_krnft', 'table_krnft_paired',
              'table_krnft_prompts'}
    assert sorted(wanted - set(made)) == []
    assert rows_made(tmp_path/'runs'/scale.name/'rows', scale.seeds[0]) == rows_planned(scale)
    assert ('table1_dusk' in made) == (scale.name == 'mini')
    groups = protocols[scale.protocol].groups()
    columns = [column.rpartition(' ')[0] for column in made['table1'][0] if column.endswith(' auroc')]
    assert sorted(columns) == sorted([*groups, 'Average'])
    known = dict.fromkeys(line[0] for line in made['table1_paired'][1:])
    assert set(known) - {'far without Places'} == {*groups.values(), 'ID'}
    rivals = [column.split()[0] for column in made['table1_rivals'][0][1:]]
    assert set(rivals) == set(groups.values())
    named = {line[0] for line in made['table1'][1:] if line[0]}
    assert named == {m.name for m in methods().values() if not m.unavailable_reason(scale)}
    trained = {line[0] for line in made['table1_trained']}  # no pair asks for a method without rows
    assert 'ZOC' in trained and ('CLIPN' in trained) == ('CLIPN' in named)
    assert all(cell for line in made['table1_paired'][1:] for cell in line[:3])
    assert not [name for name, lines in made.items() for line in lines if 'nan' in line]


def test_the_cells_left_out_are_few():
    two = [path for path in table_notebooks() if notebook_name(path) in ('table2', 'table5')]
    checked = {notebook_name(one.name): one for one in check_tables(PAPER, two)}
    assert (checked['table2'].left_out, checked['table5'].left_out) == (0, 2)
