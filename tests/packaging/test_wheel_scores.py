"""An image is scored by the installed wheel: no checkout, no network."""
import csv
import os
import subprocess

import pytest

SCRIPT = '''
from PIL import Image
from synood.detector import OODDetector
from synood.data.miniature import CLASSES, render, world
from synood.core.scales import rng
dev = world('dev')
def picture(kind, i): return Image.fromarray(render(dev.sample(kind, rng(0, kind, i)), rng(1, kind, i)))
known = [picture('id', i) for i in range(40)]
OODDetector.from_names(CLASSES, 'mini').calibrate(known).save('detector')
known[0].save('known.png')
'''


@pytest.fixture(scope='module')
def away(clean_python, tmp_path_factory):
    "Run a command in a folder of its own, offline, with nothing of the checkout in reach."
    folder = tmp_path_factory.mktemp('away')
    keep = {k: v for k, v in os.environ.items() if k not in {'PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV'}}
    environment = keep | {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}

    def run(*command):
        return subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    return run


def test_wheel_scores_an_image_offline(away, clean_python):
    done = away(clean_python, '-c', SCRIPT)
    assert done.returncode == 0, done.stderr
    scored = away(clean_python.parent/'synood', 'score', 'known.png', '--detector', 'detector')
    assert scored.returncode == 0, scored.stderr
    header, line = csv.reader(scored.stdout.splitlines())
    assert header == ['path', 'score', 'is_ood', 'label', 'confidence', 'negative', 'problem']
    assert line[0] == 'known.png' and 0 < float(line[1]) < 1


def test_wheel_knows_photographs_offline(away, clean_python):
    names = "['cat', 'coffee cup', 'bottle']"
    lines = ('from synood.detector import OODDetector', 'from synood.data.examples import example_photographs',
             'paths = [example_photographs()[name].path for name in ("cat", "coffee", "rocket", "flower")]',
             f'print(*OODDetector.from_names({names}).score(paths))')
    done = away(clean_python, '-c', '\n'.join(lines))
    assert done.returncode == 0, done.stderr
    cat, coffee, rocket, flower = map(float, done.stdout.split())
    assert min(cat, coffee) > .5 > 5*max(rocket, flower)


def test_wheel_runs_a_stage_and_says_what_reproduce_needs(away, clean_python):
    done = away(clean_python.parent/'synood', 'run', 'selection', '--scale', 'smoke', '--json')
    assert done.returncode == 0 and '"0": "runs' in done.stdout, done.stderr
    refused = away(clean_python.parent/'synood', 'reproduce', '--scale', 'smoke')
    assert refused.returncode == 2
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith('synood: reproduce runs the notebooks of a source checkout')


def test_a_missing_detector_is_one_line(away, clean_python):
    refused = away(clean_python.parent/'synood', 'score', '.', '--detector', 'nowhere')
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith('synood: nowhere holds no detector')
    assert 'Traceback' not in refused.stderr
