"""The commands of a detector as a user has them: other processes, signals, large folders."""
import contextlib
import csv
import hashlib
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from synood.app.commands import (check_new_folder, check_table, commands, output_format, read_state, resolve_output,
                                 write_scores)
from synood.detector import OODDetector

PATIENCE = 600  # seconds for what would hang; no measure of speed


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kept')/'detector'
    OODDetector.from_names(['cat', 'house', 'tree'], 'mini').save(folder)
    return folder


def many(folder, count, seed=0):
    "`count` names in folders of a thousand, all of the same eight pictures."
    draws = np.random.default_rng(seed)
    folder.mkdir()
    first = []
    for i in range(8):
        first.append(folder/f'{i}.png')
        Image.fromarray(draws.integers(0, 255, (40, 40, 3), np.uint8)).save(first[-1])
    for k in range(count - 8):
        home = folder/f'{k//1000:04}'
        home.mkdir(exist_ok=True)
        os.link(first[k % 8], home/f'{k:07}.png')
    return folder


def synood(*arguments, **more):
    return subprocess.Popen([sys.executable, '-m', 'synood', *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **more)


PAUSED = '''
import sys
from synood.app.cli import main
from synood.core import files
write, paused = files.atomic_write, []
def write_and_pause(path, text):
    write(path, text)
    if not paused and str(path).endswith('.part.json'):
        paused.append(print('a batch is written', flush=True))
        sys.stdin.readline()
files.atomic_write = write_and_pause
main(sys.argv[1:])
'''


def paused(*arguments):
    "`synood score` that has written its first batch, and goes on once its standard input is closed."
    process = subprocess.Popen([sys.executable, '-c', PAUSED, *map(str, arguments)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'a batch is written\n', process.communicate()
    return process


def test_stopped_by_ctrl_c_it_goes_on(detector, tmp_path):
    photos, out = many(tmp_path/'photos', 200), tmp_path/'scores.csv'
    command = ('score', photos, '--detector', detector, '--out', out)
    process = paused(*command)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and 'the same command goes on from there' in err and 'Traceback' not in err, err
    state, = tmp_path.glob('.scores.csv.*.part.json')
    before = json.loads(state.read_text())['counts'][0]
    assert 0 < before < 200 and not out.exists()
    again = synood(*command)
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0 and '200 images, no threshold: nothing was decided, 0 that cannot be read' in err
    assert [p.name for p in tmp_path.iterdir() if 'part' in p.name] == []
    lines = list(csv.DictReader(out.open()))
    assert len(lines) == 200 and len({line['path'] for line in lines}) == 200
    whole = {}
    for line in lines: whole.setdefault(os.stat(line['path']).st_ino, set()).add(round(float(line['score']), 4))
    assert len(whole) == 8 and all(len(scores) == 1 for scores in whole.values())  # the same picture, the same score


def test_two_at_once_do_not_mix(detector, tmp_path):
    photos, out = many(tmp_path/'photos', 200), tmp_path/'scores.csv'
    both = [synood('score', photos, '--detector', detector, '--out', out) for _ in range(2)]
    errors = [p.communicate(timeout=PATIENCE)[1] for p in both]
    assert 0 in {p.returncode for p in both} and {p.returncode for p in both} <= {0, 2}
    for process, error in zip(both, errors):
        assert process.returncode == 0 or 'is being written by another process' in error
    assert len(list(csv.DictReader(out.open()))) == 200


def test_a_reader_that_has_enough(detector, tmp_path):
    photos = many(tmp_path/'photos', 2000)
    process = synood('score', photos, '--detector', detector)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == 141 and 'Traceback' not in process.stderr.read()
    process.stderr.close()


def test_two_detectors_do_not_take_turns_at_one_table(detector, tmp_path):
    photos, out = many(tmp_path/'photos', 200), tmp_path/'scores.csv'
    OODDetector.from_names(['boat', 'shoe'], 'mini').save(tmp_path/'other')
    first = paused('score', photos, '--detector', detector, '--out', out)
    second = synood('score', photos, '--detector', tmp_path/'other', '--out', out)
    errors = second.communicate(timeout=PATIENCE)[1]
    assert second.returncode == 2 and 'is being written by another process' in errors
    first.communicate(timeout=PATIENCE)
    assert first.returncode == 0 and len(list(csv.DictReader(out.open()))) == 200


def test_a_link_keeps_being_one_and_what_is_no_file_is_kept(detector, tmp_path):
    photos = many(tmp_path/'photos', 8)
    (tmp_path/'store').mkdir()
    (tmp_path/'store'/'real.csv').write_text('old')
    (tmp_path/'link.csv').symlink_to('second')
    (tmp_path/'second').symlink_to('store/real.csv')
    judge = OODDetector.load(detector)
    write_scores(judge, photos, tmp_path/'link.csv', False, 'k')
    assert (tmp_path/'link.csv').is_symlink() and (tmp_path/'second').is_symlink()
    assert len(list(csv.DictReader((tmp_path/'store'/'real.csv').open()))) == 8
    assert sorted(p.name for p in (tmp_path/'store').iterdir()) == ['real.csv']
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path/'socket'))
        for place, message in ((tmp_path/'socket', 'a device or a socket'), (tmp_path, 'is a folder')):
            with pytest.raises(OSError, match=message): resolve_output(place)
    (tmp_path/'store'/'real.csv').unlink()
    write_scores(judge, photos, tmp_path/'link.csv', False, 'k')  # the link led nowhere
    assert (tmp_path/'store'/'real.csv').is_file()


def test_nothing_but_results_may_stand_where_results_go(detector, tmp_path):
    photos = many(tmp_path/'photos', 8)
    for place, message in ((photos/'0.png', 'is a picture'), (detector/'scores.csv', 'folder of the detector'),
                           (tmp_path/'photos'/'0.png'/'x.csv', 'no folder')):
        with pytest.raises((OSError, ValueError), match=message): check_table(place, detector)
    if os.geteuid():
        (tmp_path/'locked').mkdir(mode=0o500)
        with pytest.raises(OSError, match='locked'): check_table(tmp_path/'locked'/'scores.csv', detector)


def test_a_table_whose_parts_disagree_is_not_gone_on_with(detector, tmp_path):
    photos, out = many(tmp_path/'photos', 12), tmp_path/'s.csv'
    judge = OODDetector.load(detector)

    class Stopped:
        def stream(self, images, skip=0):
            for i, table in enumerate(judge.stream(images, size=4, skip=skip)):
                if i == 2: raise KeyboardInterrupt
                yield table
    write_scores(judge, photos, tmp_path/'whole.csv', False, 'k')
    part, note = tmp_path/'.s.csv.k.part', tmp_path/'.s.csv.k.part.json'
    for damage in ('cut', 'zeros', 'another head', 'empty note', 'no part', 'no note'):
        with pytest.raises(KeyboardInterrupt): write_scores(Stopped(), photos, out, False, 'k')
        raw = part.read_bytes()
        if damage == 'cut': part.write_bytes(raw[:-5])
        if damage == 'zeros': part.write_bytes(raw[:-5] + bytes(5))
        if damage == 'another head': part.write_bytes(raw.replace(b'"score"', b'"cores"'))
        if damage == 'empty note': note.write_text('')
        if damage == 'no part': part.unlink()
        if damage == 'no note': note.unlink()
        if not damage.startswith('no '):
            with pytest.raises(ValueError, match='begins anew') as said: write_scores(judge, photos, out, False, 'k')
            assert str(note) in str(said.value) and '\n' not in str(said.value)
            note.unlink()  # as the line says
        write_scores(judge, photos, out, False, 'k')
        assert out.read_bytes() == (tmp_path/'whole.csv').read_bytes()
        assert not part.exists() and not note.exists()


def test_a_long_name_is_no_hindrance(detector, tmp_path):
    out = tmp_path/('x'*250 + '.csv')
    write_scores(OODDetector.load(detector), many(tmp_path/'photos', 8), out, False, 'k'*12)
    assert out.is_file() and sorted(p.name for p in tmp_path.iterdir()) == ['photos', out.name]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(detector, tmp_path):
    def peak(count):
        photos = many(tmp_path/str(count), count)
        pid = os.fork()
        if not pid:
            import torch
            torch.set_num_threads(1)
            seen = sum(len(t) for t in OODDetector.load(detector).stream(photos))
            (tmp_path/f'{count}.txt').write_text(f'{seen} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}')
            os._exit(0)
        os.waitpid(pid, 0)
        seen, kilobytes = map(int, (tmp_path/f'{count}.txt').read_text().split())
        assert seen == count
        return kilobytes/1024
    few, lots = peak(2000), peak(40000)
    print(f'peak memory: {few:.0f} MB for 2,000 images, {lots:.0f} MB for 40,000')
    assert lots < few + 30


# ---- calls that make no sense

def call(*arguments):
    "A command in this process; whatever it raises is raised here."
    app = typer.Typer(callback=lambda: None)
    app.add_typer(commands)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app(list(map(str, arguments)), standalone_mode=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "Folders of pictures: `photos` of three classes, `more` of no class, an empty `store`; names and links."
    pictures = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), np.uint8)
    for k, name in enumerate(('cat', 'house', 'tree')):
        (tmp_path/'photos'/name).mkdir(parents=True)
        for i in range(2): Image.fromarray(pictures[2*k + i]).save(tmp_path/'photos'/name/f'{i}.png')
    for name in ('more', 'store', 'new'): (tmp_path/name).mkdir()
    for i in range(2): Image.fromarray(pictures[6 + i]).save(tmp_path/'more'/f'{i}.png')
    (tmp_path/'names.txt').write_text('cat\nhouse\ntree')
    for link, target in (('gone-link', 'gone'), ('loop', 'loop'), ('to-folder', 'store')):
        (tmp_path/link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('arguments, message', [
    ('photos --out new', 'name a new folder'), ('--out x', 'nothing to fit'),
    ('--names names.txt --method SynOOD --out x', 'SynOOD is fitted on images'),
    ('photos --calibrate nowhere --out x', 'no such folder'),
    ('photos --tpr .9 --out x', '--tpr goes with --calibrate'),
    ('photos --calibrate photos --out x', '6 calibration images cannot guarantee 95%'),
    ('photos --calibrate photos --tpr .5 --out x --m 3', '6 of 6 calibration images would be fitted on'),
    ('photos --out photos/x', 'would be taken for a class'), ('more --out x', 'lie outside the class folders')])
def test_a_fit_that_cannot_be_is_refused_before_the_work(place, arguments, message):
    with pytest.raises((ValueError, OSError)) as error: call('fit', *arguments.split())
    assert message in str(error.value) and '\n' not in str(error.value)
    assert not (place/'runs'/'mini'/'synthesis').exists() and not (place/'x').exists()


@pytest.mark.parametrize('arguments, message', [
    ('nowhere', 'no such image or folder'), ('store', 'no images below'),
    ('more --out new', 'is a folder: name a file'),
    ('more --json --spreadsheet', 'goes with CSV'), ('more --out a.xlsx', 'name it .csv')])
def test_a_table_that_cannot_be_is_refused(place, detector, arguments, message):
    with pytest.raises((ValueError, OSError)) as error: call('score', *arguments.split(), '--detector', detector)
    assert message in str(error.value)


@pytest.mark.parametrize('name, message', [
    ('new', 'name a new folder'), ('gone-link', 'exists'), ('-', 'standard output'), ('names.txt/x', 'another place')])
def test_a_new_folder_that_cannot_be_made(place, name, message):
    with pytest.raises(OSError, match=message): check_new_folder(Path(name))


@pytest.mark.parametrize('name, message', [
    ('loop', 'name another file'), ('to-folder', 'is a folder'), ('n'*300, 'name another file'),
    ('names.txt/x', 'name another file')])
def test_where_a_table_cannot_go(place, name, message):
    with pytest.raises(OSError, match=message): resolve_output(place/name)


@pytest.mark.parametrize('name', ['a.xlsx', 'a.json', 'a.tsv.gz'])
def test_a_name_that_promises_another_form(name):
    with pytest.raises(ValueError, match='name it .csv or .jsonl'): output_format(Path(name))


@pytest.mark.parametrize('text', ['', 'null', '{}', '[]', '{"bytes": 4}', dict(bytes=99), dict(counts=[1]),
                                  dict(last=None)])
def test_a_damaged_note_beside_an_unfinished_table(place, text):
    part, note = place/'.toy.csv.part', place/'.toy.csv.part.json'
    part.write_bytes(b'head\nline\nhalf a li')
    state = dict(bytes=10, counts=[1, 0, 0], last='a', sha256=hashlib.sha256(b'head\nline\n').hexdigest())
    note.write_text(json.dumps(state))
    assert read_state(part) == state
    note.write_text(json.dumps(state | text) if isinstance(text, dict) else text)
    with pytest.raises(ValueError) as error: read_state(part)
    assert f'{note} does not describe' in str(error.value)
