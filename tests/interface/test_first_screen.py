"""What the README's first screen says, run as it is written."""
import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import venv

import pytest

PAGE = 'http://127.0.0.1:7860'


@pytest.fixture(scope='module')
def readme(root):
    return (root/'README.md').read_text(encoding='utf-8')


def blocks(text):
    "[(language, code)] of the fenced blocks."
    return re.findall(r'^```(\w+)\n(.*?)^```', text, re.M | re.S)


@pytest.fixture(scope='module')
def screen(readme):
    "The first Python, the lines that install, and the line of the demo."
    (language, python), = blocks(readme[:readme.index('\n## ')])
    assert language == 'python'
    (_, commands), (_, cpu_torch) = blocks(readme[readme.index('\n## Install'):readme.index('\n## Two commands')])
    install, demo = commands.splitlines()
    return dict(python=python.strip(), install=install, demo=demo, cpu_torch=cpu_torch.strip())


@pytest.fixture
def clone(root, tracked, tmp_path):
    "The tracked files in a folder of their own, the large results left out."
    for name in tracked:
        if name.parts[0] == 'paper_figures': continue
        (tmp_path/'clone'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, tmp_path/'clone'/name)
    return tmp_path/'clone'


def test_it_is_short(readme, screen):
    assert len(readme.split()) <= 1000
    assert len(screen['python'].splitlines()) == 3


def test_it_says_what_it_has_to(readme):
    heads = re.findall(r'^## (.*)$', readme, re.M)
    assert heads[:7] == ['What it is, and for whom', 'Why not OpenOOD or pytorch-ood?', 'Install', 'Two commands',
                         'Results', 'The rooms', 'Change a setting']
    assert 'papermill nbs/' in readme  # how one notebook runs
    assert len(re.findall(r'https://arxiv.org/abs/\d{4}\.\d{5}', readme)) == 3


def rows_of(text):
    "The lines of a table, without its head, as lists of cells."
    rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ')][1:]
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def test_its_rows_are_those_of_the_results(readme, root):
    "Photographs first, then the miniature."
    from synood.evaluation.report import reproduction_table
    part = readme[readme.index('\n## Results'):readme.index('\n## The rooms')]
    photographs, miniature = map(rows_of, part.split('**The miniature**'))
    with open(root/'paper_figures'/'photos'/'table1.csv', encoding='utf-8') as file:
        found = {line['method']: line for line in csv.DictReader(file)}
    assert list(photographs) == ['MCM', 'NegLabel', 'SynOOD', 'KNN (CLIP)', 'Energy']
    columns = 'unknown auroc', 'unknown fpr95', 'Average auroc', 'Average fpr95'
    for name, cells in photographs.items():
        assert cells == [f'{float(found[name][column].split()[0]):.1f}' for column in columns]
    lines = reproduction_table('mini', root/'runs')
    assert list(miniature) == ['MCM', 'NegLabel', 'SynOOD', 'RMDS']
    for name, cells in miniature.items():
        assert cells == [cell for cell in lines.loc[name].iloc[:4] if cell != 'not published']


def test_its_rooms_are_the_folders(readme, root):
    named = re.findall(r'^\| \[(\w+)\]\(nbs/\1/\)', readme, re.M)
    assert named == [folder.name for folder in sorted((root/'nbs').glob('[0-9]_*'))]


def scored(printed):
    "The scores of the cat and of the rocket."
    scores = dict(re.findall(r'examples/(\w+)\.jpg +([\d.]+)', printed))
    return float(scores['cat']), float(scores['rocket'])


def test_three_lines_of_python(screen, readme, root, clean_python, tmp_path):
    shutil.copytree(root/'synood'/'assets'/'examples', tmp_path/'synood'/'assets'/'examples')
    keep = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    done = subprocess.run([clean_python, '-c', screen['python']], cwd=tmp_path, env=keep, check=True,
                          text=True, capture_output=True)
    cat, rocket = scored(done.stdout)
    assert cat > .5 > 10*rocket
    shown = scored(readme)  # the README prints what these lines print
    assert abs(cat - shown[0]) < 1e-4 and abs(rocket - shown[1]) < 1e-4


def opened(process, seconds):
    "True when the page answers; False when the process ends or time is up."
    deadline = time.time() + seconds
    while time.time() < deadline and process.poll() is None:
        try: return urllib.request.urlopen(PAGE, timeout=60).status == 200
        except OSError: time.sleep(.5)
    return False


@pytest.mark.slow  # minutes: it installs torch
def test_the_whole_screen_in_a_fresh_environment(screen, clone):
    with socket.socket() as s:
        if not s.connect_ex(('127.0.0.1', 7860)): pytest.skip('port 7860 is taken')
    venv.create(clone/'fresh', with_pip=True)
    keep = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    keep['PATH'] = f"{clone/'fresh'/'bin'}:{keep['PATH']}"

    def sh(line, **more):
        return subprocess.run(line, shell=True, cwd=clone, env=keep, text=True, capture_output=True, **more)
    if sh('pip download --no-deps -d fresh/probe typer').returncode: pytest.skip('no package index can be reached')
    done = sh(screen['install'])
    assert done.returncode == 0, done.stderr
    (clone/'fresh'/'three_lines.py').write_text(screen['python'])
    cat, zigzag = scored(sh('python - < fresh/three_lines.py', check=True).stdout)
    assert cat > .3 > 10*zigzag
    process = subprocess.Popen(screen['demo'].split(), cwd=clone, env=keep, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try: answered = opened(process, 1200)
    finally:
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=300)[0]
    assert answered, printed
    assert 'Traceback' not in printed


def test_the_pictures_are_those_of_the_miniature(root):
    import numpy as np
    from PIL import Image
    from synood.data.miniature import render, world
    from synood.core.scales import rng
    for name, kind, concept in (('cat', 'id', 'cat'), ('zigzag', 'Textures', None)):
        pixels = render(world('dev').sample(kind, rng(0, 'readme', kind, 0), concept), rng(1, 'readme', kind, 0))
        assert (np.asarray(Image.open(root/'nbs'/'images'/f'{name}.png')) == pixels).all()


def test_its_settings_are_read(readme, tmp_path):
    from synood.core.scales import get_scale
    text, = (code for language, code in blocks(readme) if language == 'toml')
    (tmp_path/'mine.toml').write_text(text)
    mine, mini = get_scale(str(tmp_path/'mine.toml')), get_scale('mini')
    assert (mine.m, mine.synthesis.strength) == (200, .5) != (mini.m, mini.synthesis.strength)
    assert mine.replace(name='mini', m=mini.m, synthesis=dict(strength=mini.synthesis.strength)) == mini
