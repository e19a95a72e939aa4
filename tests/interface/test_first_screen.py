"""What the README's first screen says, run as it is written."""
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
def screen(root):
    "[(language, code)] of the blocks before the README's second paragraph."
    text = (root/'README.md').read_text(encoding='utf-8')
    blocks = re.findall(r'^```(\w+)\n(.*?)^```', text[:text.index('\nA classifier that knows')], re.M | re.S)
    assert [language for language, _ in blocks] == ['sh', 'python', 'sh']
    return dict(zip(('install', 'python', 'demo'), (code.strip() for _, code in blocks)))


@pytest.fixture
def clone(root, tracked, tmp_path):
    "The tracked files in a folder of their own, the large results left out."
    for name in tracked:
        if name.parts[0] == 'paper_figures': continue
        (tmp_path/'clone'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, tmp_path/'clone'/name)
    return tmp_path/'clone'


def test_it_is_short(screen):
    assert len(screen['python'].splitlines()) == 3 and len(screen['install'].splitlines()) == len(screen['demo'].splitlines()) == 1


def scored(printed):
    "The scores of the cat and of the zigzag."
    found = dict(re.findall(r'nbs/images/(\w+)\.png +([\d.]+)', printed))
    return float(found['cat']), float(found['zigzag'])


def test_three_lines_of_python(screen, root, clean_python, tmp_path):
    shutil.copytree(root/'nbs'/'images', tmp_path/'nbs'/'images')
    keep = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    printed = subprocess.run([clean_python, '-c', screen['python']], cwd=tmp_path, env=keep, text=True, capture_output=True, check=True).stdout
    cat, zigzag = scored(printed)
    assert cat > .3 > 10*zigzag


def opened(process, seconds):
    "True when the page answers; False when the process ends or time is up."
    deadline = time.time() + seconds
    while time.time() < deadline and process.poll() is None:
        try: return urllib.request.urlopen(PAGE, timeout=2).status == 200
        except OSError: time.sleep(.5)
    return False


@pytest.mark.slow  # minutes: it installs torch
def test_the_whole_screen_in_a_fresh_environment(screen, clone):
    with socket.socket() as s:
        if not s.connect_ex(('127.0.0.1', 7860)): pytest.skip('port 7860 is taken')
    venv.create(clone/'fresh', with_pip=True)
    keep = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    keep['PATH'] = f"{clone/'fresh'/'bin'}:{keep['PATH']}"

    def sh(line, **more): return subprocess.run(line, shell=True, cwd=clone, env=keep, text=True, capture_output=True, **more)
    if sh('pip download --no-deps -d fresh/probe typer').returncode: pytest.skip('no package index can be reached')
    done = sh(screen['install'])
    assert done.returncode == 0, done.stderr
    (clone/'fresh'/'three_lines.py').write_text(screen['python'])
    cat, zigzag = scored(sh('python - < fresh/three_lines.py', check=True).stdout)
    assert cat > .3 > 10*zigzag
    process = subprocess.Popen(screen['demo'].split('#')[0].split(), cwd=clone, env=keep, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try: answered = opened(process, 180)
    finally:
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[0]
    assert answered, told
    assert 'Traceback' not in told


def test_the_pictures_are_those_of_the_miniature(root):
    import numpy as np
    from PIL import Image
    from synood.data.miniature import render, world
    from synood.core.scales import rng
    for name, kind, concept in (('cat', 'id', 'cat'), ('zigzag', 'Textures', None)):
        pixels = render(world('dev').sample(kind, rng(0, 'readme', kind, 0), concept), rng(1, 'readme', kind, 0))
        assert (np.asarray(Image.open(root/'nbs'/'images'/f'{name}.png')) == pixels).all()
