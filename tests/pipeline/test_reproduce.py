"""papermill from end to end at `smoke`: the miniature's world and networks, all tables and figures."""
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

WANTED = ['fig1.pdf', 'fig1.png', 'fig2.png', 'fig3.csv', 'fig3.pdf', 'fig3.png', 'fig4.pdf', 'fig4.png',
          'fig4_gradient.csv',
          'manifest.json', 'results.csv',
          'table1.csv', 'table1.md', 'table1.tex', 'table1_ood_positive.csv', 'table1_convention.csv',
          'table1_paired.csv', 'table1_rivals.csv', 'table1_trained.csv', 'table1_dusk.csv',
          'table2.csv', 'table2_paired.csv', 'table2_published.csv',
          'table3.csv', 'table3_paired.csv',
          'table4.csv', 'table4_claims.csv', 'table4_labels.csv',
          'table5.csv', 'table5_crossed.csv',
          'table_krnft.csv', 'table_krnft_paired.csv', 'table_krnft_styles.csv', 'table_krnft.png',
          'table_cma.csv', 'table_cma_published.csv', 'table_cma_paired.csv', 'table_cma_gap.csv',
          'table_cma_gap.png',
          'table_streams_auroc.csv', 'table_streams_fpr95.csv', 'table_streams.png']
FULL_ALONE = {'table_cma_m2mix', 'table_cma_tuned', 'table_cma_m2mix_geometry', 'table_cma_weight',
              'table_cma_backbones', 'table_krnft_parts', 'table_krnft_backbones'}


def reproduce(place, *more):
    "Outcome of every notebook, by name, and the rows of the ledger."
    command = [sys.executable, '-m', 'synood', 'reproduce', '--scale', 'smoke', '--root', place/'runs', '--json', *more]
    environment = {key: value for key, value in os.environ.items() if key != 'OMP_NUM_THREADS'}
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    return printed['notebooks'], printed['ledger']


@pytest.mark.slow  # two minutes of a core; the same notebooks run whole in test_rehearsal.py
def test_every_table_and_figure_is_made(tmp_path):
    outcomes, ledger = reproduce(tmp_path)
    assert outcomes['table1'] == outcomes['synthesis'] == outcomes['table_plain'] == 'ran'
    folder = tmp_path/'paper_figures'/'smoke'
    assert not (folder/'table_plain.csv').exists()  # it needs a network that does not ship
    assert sorted(set(WANTED) - {p.name for p in folder.iterdir()}) == []
    assert any({'SynOOD', '97.01'} <= set(row.values()) for row in ledger), ledger
    rows = pd.read_csv(folder/'results.csv')
    experiments = {'table1', 'table2', 'table3', 'table4', 'table5', 'fig3', 'table_krnft', 'table_cma'}
    assert {name.split()[0] for name in rows.experiment} == experiments
    assert rows.auroc.between(0, 100).all()
    assert {'table4 with IDs', 'table3 clip-vit'} <= set(rows.experiment)
    methods = {'MSP', 'ODIN', 'VOS', 'RMDS', 'CSP', 'AdaNeg', 'TANL', 'KR-NFT', 'CMA', 'FLYP', 'CMA + SynOOD'}
    assert set(rows[rows.experiment == 'table1'].method) >= methods


@pytest.mark.slow  # minutes: networks are trained for every line of an ablation
def test_cells_for_a_full_run_alone_run_too(tmp_path):
    outcomes, _ = reproduce(tmp_path, '--full', '--only', 'table_cma,table_krnft,table_streams')
    assert outcomes == dict.fromkeys(('table_cma', 'table_krnft', 'table_streams'), 'ran')
    made = {path.stem for path in (tmp_path/'paper_figures'/'smoke').glob('*.csv')}
    assert sorted(FULL_ALONE - made) == []
