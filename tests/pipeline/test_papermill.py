"""A notebook run with plain papermill: from any folder, all it makes lies in the checkout, and git sees nothing new."""
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest


@pytest.fixture(scope='module')
def clone(root, tracked, tmp_path_factory):
    "A checkout of its own, everything committed; of the results only what a clean `git status` needs."
    folder = tmp_path_factory.mktemp('by_hand')/'clone'
    for name in tracked:
        if name.parts[0] != 'paper_figures':
            (folder/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root/name, folder/name)
    git(folder, 'init', '-q')
    git(folder, 'add', '-A')
    git(folder, '-c', 'user.name=x', '-c', 'user.email=x@localhost', 'commit', '-qm', 'all')
    return folder


def git(folder, *arguments):
    done = subprocess.run(['git', *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def papermill(clone, place, notebook, output, seeds):
    command = [sys.executable, '-m', 'papermill', '--no-progress-bar', notebook, output, '-p', 'scale', 'smoke',
               '-p', 'seeds', seeds]
    done = subprocess.run([str(part) for part in command], cwd=place, env={**os.environ, 'PYTHONPATH': str(clone)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def cell_before_work(path):
    "The parameters of a notebook and the lines that resolve them; None if it has no parameter `root`."
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == 'code']
    declared = next((k for k, source in enumerate(code) if re.search(r'^root: str = ', source, re.M)), None)
    if declared is None: return None
    return code[declared] + '\n' + next(source for source in code[declared:] if 'resolve_root(root)' in source)


def test_every_notebook_takes_a_root_in_the_checkout_and_seeds_in_any_form(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = {path.name: cell_before_work(path) for path in sorted((root/'nbs').glob('[0-9]_*/*.ipynb'))}
    cells = {name: source for name, source in cells.items() if source and 'parse_seeds' in source}
    assert {'table1.ipynb', 'fig4.ipynb', 'choices.ipynb', '00_negatives.ipynb'} <= set(cells) and len(cells) > 15
    for name, source in cells.items():
        parameters, lines = source.split('#| stage', 1)
        for given, seeds in ((1, (1,)), ('0,1', (0, 1)), ('0-2', (0, 1, 2)), ([3], (3,)), ((), ())):
            names = {}
            exec(parameters, names)
            assert names['root'] == 'runs', name
            names['seeds'] = given
            exec(lines, names)
            assert names['root'] == root/'runs' and names['seeds'] == seeds, name


def test_from_elsewhere(clone, tmp_path):
    seeds = '1'  # a number for papermill
    papermill(clone, tmp_path, clone/'nbs'/'9_experiments'/'fig4.ipynb', 'elsewhere.ipynb', seeds)
    assert list((clone/'runs'/'smoke').glob('*/*/manifest.json'))
    assert (clone/'paper_figures'/'smoke'/'fig4.png').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['elsewhere.ipynb']
    assert git(clone, 'status', '--porcelain') == ''


@pytest.mark.slow  # a minute: synthesis and tuning
def test_from_the_clone(clone):
    papermill(clone, clone, 'nbs/9_experiments/table5.ipynb', 'out.ipynb', '1')
    assert (clone/'out.ipynb').exists()
    assert (clone/'paper_figures'/'smoke'/'table5.csv').exists()
    assert git(clone, 'status', '--porcelain') == ''


def test_the_results_in_git_are_seen_by_git(root):
    if not (root/'.git').exists():
        pytest.skip('not a git checkout')
    folders = dict(mini=False, dev=False, photos=False, bench=False, smoke=True, mine=True)
    for folder, ignored in folders.items():
        done = subprocess.run(['git', 'check-ignore', '-q', f'paper_figures/{folder}/new.csv'], cwd=root)
        assert (done.returncode == 0) == ignored, folder
