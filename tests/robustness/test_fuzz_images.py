"""Damaged, lying and hostile image files: every one is read or named, soon and in little memory."""
import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fuzzed_images as fuzzed
import numpy as np
import pandas as pd
import pytest

from synood.detector import OODDetector
from synood.data.images import check_images, find_files, image_folder, read_image

# pytest resets the filters that `synood.data.images` sets; what a user sees of them, the command shows below.
pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'),
              pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')]
SECONDS = 60  # of work on one file: whether it ends, and not how fast
BASELINE = 1000  # MB of a process with torch that scored one small image; 567 with torch and `synood.data.images` alone
LARGEST = 1500  # MB that the largest picture adds: libwebp holds one of 89 million pixels four times


@pytest.fixture(scope='module')
def detector():
    return OODDetector.from_names(['circle', 'square', 'star'], 'mini')


@pytest.fixture(scope='module')
def saved(detector, tmp_path_factory):
    detector.save(folder := tmp_path_factory.mktemp('detector')/'saved')
    return folder


def sources():
    "Valid files of every format, and some photographs if SYNOOD_PHOTOS names a folder."
    photos = os.environ.get('SYNOOD_PHOTOS')
    photographs = sorted(Path(photos).glob('*/*.[jJ]*'))[:5] if photos else ()
    return fuzzed.valid(np.random.default_rng(0), photographs)


def damaged(folder, count):
    "A folder of `count` damaged files, of strangers and of traps, and one of things that are no files."
    fuzzed.fill(folder/'damaged', fuzzed.mutants(np.random.default_rng(7), sources(), count))
    fuzzed.fill(folder/'strangers', fuzzed.strangers())
    fuzzed.fill(folder/'traps', fuzzed.traps())
    return {f'odd/{name}' for name in fuzzed.oddities(folder/'odd')}


@pytest.fixture
def few(tmp_path): return tmp_path, damaged(tmp_path, 60)


@pytest.fixture(scope='module')
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp('many')
    return folder, damaged(folder, 1000)


def check_line(problem):
    assert problem and problem == problem.strip() and len(problem) < 1000
    assert 'PIL' not in problem and 'MAX_IMAGE_PIXELS' not in problem and ' at 0x' not in problem


def check_table(table, folder, good):
    "One line per file; a file has a score or a problem; all `good` ones have a score."
    assert sorted(os.path.relpath(path, folder) for path in table.path) == sorted(find_files(folder, by_content=True))
    problems = table.problem.fillna('')
    scored = table[problems == '']
    assert np.isfinite(scored.score.astype(float)).all()
    assert table[problems != ''].score.isna().all() and table[problems != ''].label.isna().all()
    for problem in problems[problems != '']:
        check_line(problem)
        assert '\n' not in problem
    assert good <= {os.path.relpath(path, folder) for path in scored.path}
    return scored


def test_every_valid_file_is_read(tmp_path):
    fuzzed.fill(tmp_path/'valid', sources().items())
    assert check_images(image_folder(tmp_path/'valid', labelled=False))[0] == []


def test_few_are_read_or_named(few):
    folder, good = few
    for name in find_files(folder, by_content=True):
        started = time.process_time()
        n_open = len(os.listdir('/dev/fd'))
        try: assert {read_image(folder/name, orient=orient).mode for orient in (False, True)} == {'RGB'}
        except (ValueError, FileNotFoundError) as e:
            assert str(e).startswith(f'{folder/name}: ') and name not in good
            check_line(str(e).removeprefix(f'{folder/name}: '))
        assert time.process_time() - started < SECONDS, name
        assert len(os.listdir('/dev/fd')) == n_open, name


def test_check_images_agrees_with_reading(few):
    images = image_folder(few[0], labelled=False)
    broken = {path for path, _ in check_images(images)[0]}
    def is_read(path):
        try: return bool(read_image(path))
        except (ValueError, FileNotFoundError): return False
    assert broken == {path for path in images.paths if not is_read(path)}


def test_few_are_scored_or_named(few, detector):
    folder, good = few
    (folder/'odd'/'pipe.png').unlink()  # what hangs on it could not be stopped here; the command below has a time limit
    check_table(pd.concat(detector.stream(folder, size=16)), folder, good)


def scored_by_command(folder, saved, *options):
    "What `synood score` prints of a folder, in a process of its own, and the MB at its peak."
    code = ('import sys; from fuzzed_images import megabytes; from synood.app.cli import main\n'
            'try: main(sys.argv[1:])\n'
            'finally: print(megabytes(), file=sys.stderr)')
    path = os.pathsep.join([str(Path(fuzzed.__file__).parent), *sys.path])
    command = [sys.executable, '-c', code, 'score', str(folder), '--detector', str(saved), *options]
    done = subprocess.run(command, capture_output=True, timeout=600,
                          env=os.environ | dict(PYTHONIOENCODING='utf-8:strict', PYTHONPATH=path))
    *lines, peak = done.stderr.decode(errors='surrogateescape').splitlines()
    assert done.returncode == 1, lines  # some could not be read
    ours = [line for line in lines if any(word in line for word in ('Warning', 'PIL', 'Traceback', 'Exception'))]
    assert not ours, ours  # libtiff, in C, writes lines of its own
    return done.stdout.decode(errors='surrogateescape'), float(peak)


def test_the_command_names_what_it_cannot_read(few, saved):
    folder, good = few
    text, peak = scored_by_command(folder, saved)
    table = pd.DataFrame(csv.DictReader(io.StringIO(text)))  # pandas reads no odd bytes
    check_table(table.replace('', None), folder, good)
    assert peak < BASELINE + 500


@pytest.mark.slow
def test_many_are_read_or_named_apart(many, tmp_path):
    folder, good = many
    fuzzed.fill(tmp_path/'large', fuzzed.large())
    rows = []
    for place in (folder, tmp_path):
        command = [sys.executable, fuzzed.__file__, str(place)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600,
                              env=os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path)))
        assert 'Warning' not in done.stderr and not done.returncode
        *records, whole = map(json.loads, done.stdout.splitlines())
        assert len(records) == len(find_files(place, by_content=True))
        rows += records
    table = pd.DataFrame([dict(problem='', crash='', pixels=0) | row for row in rows])
    print(f'{len(table)} files: {(table.pixels > 0).sum()} read, {(table.problem != "").sum()} named; '
          f'slowest {table.seconds.max():.1f} s, '
          f'{whole["megabytes"]:.0f} MB before and at most {table.grown.max():.0f} more')
    assert (table.crash == '').all(), table[table.crash != ''].to_dict('records')
    assert ((table.pixels > 0) ^ (table.problem != '')).all()
    assert {str(folder/name) for name in good} <= set(table[table.pixels > 0].path)
    for path, problem in zip(table.path, table.problem):
        if problem: check_line(problem.removeprefix(f'{path}: '))
    assert (table.left_open == 0).all()
    slow = table[table.seconds > SECONDS]
    assert slow.empty, slow[['path', 'seconds']].to_dict('records')
    hungry = table[table.grown > np.where(table.pixels > 2**24, LARGEST, 1024 - whole['megabytes'])]
    assert hungry.empty, hungry[['path', 'grown', 'problem']].to_dict('records')


@pytest.mark.slow
def test_many_are_scored_or_named(many, detector, saved):
    folder, good = many
    text, peak = scored_by_command(folder, saved, '--json')
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == len(find_files(folder, by_content=True))
    scored = check_table(pd.DataFrame(lines), folder, good)
    print(f'{len(lines)} files, {len(scored)} scored, peak {peak:.0f} MB')
    assert peak < BASELINE + LARGEST + 350  # CLIP's transform copies it once more
