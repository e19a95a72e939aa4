"""Processes on one machine share the work, and leave the same bytes as one process."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from synood.detector import OODDetector
from synood.core.files import folder_hash

SCALE = 'base = "smoke"\nname = "tiny"\nn_train = 1\n[synthesis]\nsteps = 2\nstrength = 1.0\nbatch_size = 2\n'


@pytest.fixture
def scale(tmp_path):
    path = tmp_path/'tiny.toml'
    path.write_text(SCALE)
    return path


def command(root, scale, *before):
    "The line that runs the stage `synthesis`; `before`: what Python is to do first."
    return [sys.executable, *before, '-m', 'synood', 'run', 'synthesis', '--scale', str(scale), '--root', str(root)]


def folders(root):
    "Finished folders of a run and what is in them; there must be no others."
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name or p.name.endswith(('.part', '.parts'))]
    return {p.parent.relative_to(root).as_posix(): folder_hash(p.parent) for p in root.rglob('manifest.json')}


def start(line, **options):
    return subprocess.Popen([str(part) for part in line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, **options)


def ended(processes):
    "What processes printed that must all come to their end."
    outputs = [p.communicate()[0] for p in processes]
    for p, text in zip(processes, outputs): assert p.returncode == 0, text
    return outputs


def run(root, scale, processes=1):
    ended([start(command(root, scale)) for _ in range(processes)])
    return folders(root)


def test_two_processes_write_what_one_writes(tmp_path, scale):
    alone, together = run(tmp_path/'alone', scale), run(tmp_path/'together', scale, 2)
    assert alone == together and any('/synthesis/' in name for name in alone)


DIES = '''
import os, signal, sys
from synood.app.cli import main
from synood.outliers import synthesis
real, batches = synthesis.synthesise, []
def synthesise(*args):
    batches.append(real(*args))
    if len(batches) == 4: os.kill(os.getpid(), signal.SIGKILL)
    return batches[-1]
synthesis.synthesise = synthesise
main(sys.argv[3:])  # behind `-m synood`
'''


@pytest.mark.slow
def test_two_commands_complete_what_a_killed_one_left(tmp_path, scale):
    alone, together = run(tmp_path/'alone', scale), tmp_path/'together'
    first = start(command(together, scale, '-c', DIES))
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    stood = {p: p.stat().st_mtime_ns for p in together.glob('tiny/synthesis/*.part/[0-9]*[0-9]/*/*/*.png')}
    assert len(stood) == 12  # three batches of two images, each painted from two sides
    ended([start(command(together, scale)) for _ in range(2)])
    assert folders(together) == alone
    for path, when in stood.items():
        part = path.parents[3]  # NAME.part, which is NAME once it is finished
        finished = part.with_suffix('')/path.relative_to(part)
        assert finished.stat().st_mtime_ns == when  # as it was


@pytest.mark.slow
def test_two_reproductions_share_a_notebook(tmp_path):
    line = [sys.executable, '-m', 'synood', 'reproduce', '--scale', 'smoke', '--only', 'negatives',
            '--root', tmp_path/'runs']
    outputs = ended([start(line, cwd=tmp_path) for _ in range(2)])
    assert sorted(re.search(r'negatives +(ran)|nothing has (changed)', text).lastindex for text in outputs) == [1, 2]
    finished = folders(tmp_path/'runs')
    assert len([name for name in finished if '/negatives/' in name]) == 1
    assert not list(tmp_path.rglob('*.in.ipynb'))
    assert 'nothing has changed' in ended([start(line, cwd=tmp_path)])[0]


@pytest.mark.parametrize('late', [False, True], ids=['at once', 'both past the first look'])
def test_one_of_several_savers_wins(tmp_path, monkeypatch, late):
    move = os.replace
    if late: monkeypatch.setattr(os, 'replace', lambda *paths: (time.sleep(.5), move(*paths)))
    detector = OODDetector.from_names(['cat', 'cow'], 'smoke')
    folder = tmp_path/'detector'
    savers = {}
    ready, go = os.pipe()
    for k in range(4):
        if not (pid := os.fork()):
            os.close(go)
            os.read(ready, 1)  # until all are there
            try:
                detector.save(folder)
                os._exit(0)
            except FileExistsError as e: (tmp_path/f'refusal-{k}').write_text(str(e))
            finally: os._exit(2)
        savers[pid] = k
    os.close(ready)
    os.close(go)
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in savers)
    refusals = [p.read_text() for p in tmp_path.glob('refusal-*')]
    assert statuses == [0, 2, 2, 2] and len(refusals) == 3
    assert all(text.startswith(f'{folder} exists: ') and '\n' not in text for text in refusals)
    assert OODDetector.load(folder).names == ('cat', 'cow')
    assert [p.name for p in tmp_path.iterdir() if 'refusal' not in p.name] == ['detector']


FEATURES = '''
import os, sys, time
from pathlib import Path
import numpy as np
from synood.models import cache
cache.BATCH = 2
def squares(rows):
    with open(sys.argv[2], 'a') as made: made.write(f'{rows.start} {os.getpid()}\\n')
    for _ in range(6000):  # until the other one has begun as well
        if len({line.split()[1] for line in open(sys.argv[2])}) == 2: break
        time.sleep(.1)
    return {'square': np.array([[r**2] for r in rows])}
found = cache.cached_arrays(Path(sys.argv[1]), {'of': 'squares'}, 21, squares)['square'].ravel()
assert found.tolist() == [r**2 for r in range(21)]
'''


def test_two_processes_share_features(tmp_path):
    (tmp_path/'work.py').write_text(FEATURES)
    ended([start([sys.executable, tmp_path/'work.py', tmp_path/'cache', tmp_path/'made']) for _ in range(2)])
    starts, makers = zip(*(line.split() for line in (tmp_path/'made').read_text().splitlines()))
    assert sorted(map(int, starts)) == list(range(0, 21, 2)) and len(set(makers)) == 2  # each once, by two
    assert len([p for p in (tmp_path/'cache').rglob('*') if p.is_file()]) == 1
