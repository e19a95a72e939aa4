"""papermill from end to end at `smoke`; a second run starts no kernel; a lost file is made again, and no more."""
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


@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('reproduce')


def reproduce(place, *more):
    "Outcome of every notebook, by name, and the rows of the ledger."
    command = [sys.executable, '-m', 'synood', 'reproduce', '--scale', 'smoke', '--root', place/'runs', '--json', *more]
    environment = {key: value for key, value in os.environ.items() if key != 'OMP_NUM_THREADS'}
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    return printed['notebooks'], printed['ledger']


def test_every_table_and_figure_is_made(place):
    outcomes, ledger = reproduce(place)
    assert outcomes['table1'] == outcomes['synthesis'] == outcomes['table_plain'] == 'ran'
    folder = place/'paper_figures'/'smoke'
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


def test_a_second_run_starts_no_kernel_and_a_lost_file_runs_one(place):
    assert (place/'runs').exists(), 'the first test made nothing'
    before = (place/'paper_figures'/'smoke'/'results.csv').read_bytes()
    outcomes, _ = reproduce(place)
    assert set(outcomes.values()) == {'stands'}
    (place/'paper_figures'/'smoke'/'table5.csv').unlink()
    outcomes, _ = reproduce(place)
    assert [name for name, what in outcomes.items() if what == 'ran'] == ['table5']
    assert (place/'paper_figures'/'smoke'/'table5.csv').exists()
    assert (place/'paper_figures'/'smoke'/'results.csv').read_bytes() == before
