"""What is finished stays: through a power cut, beside other containers, for other users. What is harmed is named."""
import ast
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synood.core import files as core_files, stages
from synood.app.cli import main
from synood.models.cache import cached_arrays
from synood.models.clip import image_features, load_clip
from synood.data.images import image_folder, read_sets
from synood.core.files import (atomic_file, atomic_folder, atomic_write, code_hash, file_hash, remove_stale_temps,
                               temporary_path)
from synood.core.stages import log_seconds, run_stage, stage_problem
from synood.core.scales import get_scale

SMOKE = get_scale('smoke')


# ---- power

CUT = '''
import sys, torch
torch.set_num_threads(1)
from synood.evaluation.benchmark import experiment
from synood.scores.method import NegLabel
rows = experiment('table1', [NegLabel()], 'smoke', (0,), sys.argv[1])
print('found', rows.auroc.mean(), rows.fpr95.mean())
'''


@pytest.fixture
def loop_disk(tmp_path):
    "A file system in a file: its folder, and a function that leaves what had reached the disk, as a power cut does."
    image, folder = tmp_path/'disk.img', tmp_path/'disk'
    folder.mkdir()
    if not all(map(shutil.which, ('mkfs.ext4', 'mount'))) or os.getuid():
        pytest.skip('root, mkfs.ext4 and mount are needed')
    with open(image, 'wb') as f: f.truncate(200*2**20)
    subprocess.run(['mkfs.ext4', '-q', image], check=True)
    mounted = subprocess.run(['mount', '-o', 'loop', image, folder], capture_output=True, text=True)
    if mounted.returncode: pytest.skip(f'no loop device: {mounted.stderr.strip()}')

    def cut():
        # what has reached the disk by now
        subprocess.run(['cp', '--sparse=always', image, tmp_path/'cut.img'], check=True)
        subprocess.run(['umount', folder], check=True)
        subprocess.run(['mount', '-o', 'loop', tmp_path/'cut.img', folder], check=True)
    yield folder, cut
    subprocess.run(['umount', folder], check=True)


@pytest.mark.slow
def test_a_power_cut_leaves_nothing_empty(loop_disk):
    disk, cut = loop_disk
    def rows():
        done = subprocess.run([sys.executable, '-c', CUT, str(disk/'runs')], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith('found'))
    before = rows()
    time.sleep(6)  # the journal with the names is written every 5 s, contents every 30
    cut()
    assert not [p for p in disk.rglob('*') if p.is_file() and p.suffix != '.lock' and not p.stat().st_size]
    assert subprocess.run([sys.executable, '-m', 'synood', 'verify', '--root', str(disk/'runs')]).returncode == 0
    assert rows() == before
    shutil.rmtree(disk/'runs'/'smoke'/'rows')  # all that they are made from is right as well
    assert rows() == before


def operations(monkeypatch):
    "Names of files that were synced and renamed, in order."
    seen = []
    sync, rename = os.fsync, os.replace

    def synced(handle):
        seen.append(('sync', os.readlink(f'/proc/self/fd/{handle}')))
        sync(handle)
    def renamed(source, target):
        seen.append(('rename', str(target)))
        rename(source, target)
    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(os, 'replace', renamed)
    return seen


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs /proc')
def test_contents_come_before_names(tmp_path, monkeypatch):
    place, seen = tmp_path.resolve(), operations(monkeypatch)
    atomic_write(place/'a.txt', 'a')
    (_, first), rename, folder = seen
    assert first.startswith(str(place/'a.txt.tmp-'))
    assert rename == ('rename', str(place/'a.txt'))
    assert folder == ('sync', str(place))
    seen.clear()
    with atomic_folder(place/'new'/'folder') as f:
        (f/'deep').mkdir()
        (f/'deep'/'b.txt').write_text('b')
    names = [Path(path).name.split('.tmp-')[0] for _, path in seen]
    assert names == [place.name, 'b.txt', 'deep', 'folder', 'folder', 'new']
    assert [kind for kind, _ in seen] == ['sync']*4 + ['rename', 'sync']
    seen.clear()
    log_seconds(place/'log', 'toy', 0, 1.)
    assert seen[-1] == ('sync', str(place/'log'/'timings.csv'))


def test_a_stage_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = operations(monkeypatch)
    final = run_stage('world', SMOKE.replace(name='cut', world='dev', n_train=2, n_test=10), (0,), tmp_path)[0]
    end = seen.index(('rename', str(final)))
    part = final.with_name(final.name + '.part')
    synced = {Path(path).relative_to(part) for kind, path in seen[:end]
              if kind == 'sync' and Path(path).is_relative_to(part)}
    assert {p.relative_to(final) for p in final.rglob('*') if p.is_file()} <= synced
    assert seen[end + 1] == ('sync', str(final.parent))


def test_a_disk_that_cannot_sync_is_taken_as_it_is_and_a_broken_one_is_not(tmp_path, monkeypatch):
    def fails(code):
        def sync(handle): raise OSError(code, os.strerror(code))
        monkeypatch.setattr(os, 'fsync', sync)
    fails(errno.EINVAL)
    atomic_write(tmp_path/'a', 'a')
    fails(errno.EIO)
    with pytest.raises(OSError, match='Input/output'): atomic_write(tmp_path/'b', 'b')
    assert [p.name for p in tmp_path.iterdir()] == ['a']


# ---- temporary files of others

def shaped(path, **parts):
    "A temporary name with another host, process or start."
    match = core_files._OURS.fullmatch(temporary_path(path).name)
    host, pid, started = (parts.get(k, match[i]) for i, k in enumerate(('host', 'pid', 'started'), 1))
    return path.with_name(f'{path.name}.tmp-{host}-{pid}-{started}-0123abcd')


@pytest.mark.skipif(not Path('/proc/self/ns/pid').exists(), reason='needs /proc')
def test_two_containers_on_one_folder_leave_each_other_alone(tmp_path):
    trial = ['unshare', '-pf', '--mount-proc', 'true']
    if not shutil.which('unshare') or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip('no namespaces here')
    script = ('import os, sys; from pathlib import Path\n'
              'from synood.core.files import remove_stale_temps, temporary_path\n'
              't = temporary_path(Path(sys.argv[1])/"x"); t.write_text("half")\n'
              'remove_stale_temps(t.parent); print(os.getpid(), t.name)')
    inside = ['unshare', '-pf', '--mount-proc', sys.executable, '-c', script, str(tmp_path)]
    mine = temporary_path(tmp_path/'y')
    mine.write_text('half')
    first = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.split()
    second = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.split()
    assert first[0] == second[0] and first[1][:14] != second[1][:14]  # one process number, two names
    remove_stale_temps(tmp_path)
    # all stay: nobody knows whether the other two still work
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, first[1], second[1]}


def test_who_is_dead(tmp_path):
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    at_work, dead, reused = (shaped(tmp_path/'x', **kind) for kind in ({}, dict(pid=ended.pid), dict(started='1')))
    far, forgotten = (shaped(tmp_path/'x', host=host) for host in ('00000000', '11111111'))
    no_proc, old_form = shaped(tmp_path/'x', started=''), tmp_path/'x.tmp-beef-1-0123abcd'
    users = tmp_path/'x.tmp-2024'
    for path in (at_work, dead, reused, far, forgotten, no_proc, old_form, users): path.mkdir()
    (forgotten/'in use').write_text('')
    week_ago = time.time() - 8*24*3600
    for path in (forgotten, no_proc, old_form, users, at_work): os.utime(path, (week_ago, week_ago))
    remove_stale_temps(tmp_path)
    assert set(tmp_path.iterdir()) == {at_work, far, forgotten, users}  # something in `forgotten` is new
    os.utime(forgotten/'in use', (week_ago, week_ago))
    os.utime(forgotten, (week_ago, week_ago))
    remove_stale_temps(tmp_path)
    assert not forgotten.exists()


# ---- rights

@pytest.mark.parametrize('mask, file_mode, folder_mode',
                         [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o002, 0o664, 0o775)])
def test_files_have_the_mode_that_the_umask_asks_for(tmp_path, mask, file_mode, folder_mode):
    before = os.umask(mask)
    try:
        scale = SMOKE.replace(name=f'mode{mask}', n_train=2, n_test=10)
        folders = [run_stage(name, scale, (0,), tmp_path/'runs')[0] for name in ('negatives', 'selection')]
        cached_arrays(tmp_path/'runs'/'cache', {'of': 'ones'}, 3, lambda rows: {'one': np.ones((len(rows), 1))})
        with atomic_file(tmp_path/'runs'/'single') as f:
            f.write_text('x')
            f.chmod(0o600)
    finally: os.umask(before)
    assert (folders[0]/'negatives.safetensors').exists()
    for path in (tmp_path/'runs').rglob('*'):
        if path.suffix == '.lock': continue
        assert path.stat().st_mode & 0o777 == (folder_mode if path.is_dir() else file_mode), path


def test_what_stands_can_be_used_by_one_who_may_only_read(tmp_path):
    if os.getuid(): pytest.skip('another user is needed')
    place = Path('/tmp')/f'synood-shared-{os.getpid()}'
    place.mkdir(mode=0o755)
    try:
        before = os.umask(0o022)
        scale = SMOKE.replace(name='shared', n_train=2, n_test=10)
        images = read_sets(run_stage('images', scale, (0,), place/'runs')[0])['id']
        clip = load_clip(SMOKE.clip)
        expected = image_features(clip, images, place/'runs'/'cache')
        os.umask(before)
        if not (pid := os.fork()):
            status = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                again = read_sets(run_stage('images', scale, (0,), place/'runs')[0])['id']
                status = 0 if (image_features(clip, again, place/'runs'/'cache') == expected).all() else 3
            except BaseException as e: print(repr(e), file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally: shutil.rmtree(place)


# ---- locks

@pytest.mark.parametrize('code', ['ENOLCK', 'EOPNOTSUPP', 'ENOSYS'])
@pytest.mark.parametrize('work', ['stage', 'features', 'score'])
def test_a_place_without_locks_is_named(tmp_path, monkeypatch, capsys, code, work):
    def refuses(handle, operation):
        if not operation & fcntl.LOCK_UN: raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
    monkeypatch.setattr(fcntl, 'flock', refuses)
    monkeypatch.chdir(tmp_path)
    if work == 'features':
        with pytest.raises(core_files.CannotLock, match='locks') as error:
            cached_arrays(tmp_path/'cache', {'of': 'ones'}, 1, lambda rows: {'one': np.ones((1, 1))})
        message = str(error.value)
    elif work == 'score':
        from synood.app.commands import write_scores
        with pytest.raises(core_files.CannotLock, match='locks') as error:
            write_scores(None, tmp_path, tmp_path/'out.csv', False, 'key')
        message = str(error.value)
    else:
        with pytest.raises(SystemExit) as ended: main(['run', 'images', '--scale', 'smoke', '--root', 'the_root'])
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert ended.value.code == 2 and 'the_root' in message
    assert 'its file system refuses locks' in message and 'local disk' in message and '\n' not in message


PACKAGE = Path(core_files.__file__).parents[1]


def test_no_module_takes_a_lock_of_its_own():
    for path in PACKAGE.rglob('*.py'):
        if path.stem != 'files': assert 'FileLock' not in path.read_text(encoding='utf-8'), path


# ---- caches

def same_size_and_time(source, target):
    "What `rsync -t` does: another file takes the place, with the size and time of the old one."
    status = target.stat()
    copy = target.with_name('copy')
    shutil.copy(source, copy)
    assert copy.stat().st_size == status.st_size
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(copy, target)
    assert (target.stat().st_size, target.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.fixture
def later(monkeypatch):
    "Everything was written long ago, so that it is remembered."
    real = time.time_ns
    monkeypatch.setattr(time, 'time_ns', lambda: real() + 10**10)


def pictures(folder, colours):
    folder.mkdir(parents=True)
    for name, colour in colours.items(): Image.new('RGB', (64, 64), colour).save(folder/f'{name}.bmp')
    return folder


def test_a_file_with_the_old_size_and_time_is_another(tmp_path, later):
    folder = pictures(tmp_path/'a', dict(one='red', two='green'))
    other = pictures(tmp_path/'b', dict(one='blue'))
    clip, cache = load_clip(SMOKE.clip), tmp_path/'cache'
    first = image_features(clip, image_folder(folder, labelled=False), cache)
    known = file_hash(folder/'one.bmp')
    same_size_and_time(other/'one.bmp', folder/'one.bmp')
    assert file_hash(folder/'one.bmp') == file_hash(other/'one.bmp') != known
    again = image_features(clip, image_folder(folder, labelled=False), cache)
    assert not np.allclose(first[0], again[0]) and np.allclose(first[1], again[1])
    with open(folder/'one.bmp', 'r+b') as f:  # in its place, the time put back
        status = os.stat(f.fileno())
        f.seek(-1, 2)
        f.write(b'\7')
    os.utime(folder/'one.bmp', ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_hash(folder/'one.bmp') != file_hash(other/'one.bmp')


def test_a_network_with_the_old_size_and_time_is_another(tmp_path, later):
    from synood.models.clip import encode_text, save_clip
    import torch
    folders = [tmp_path/'first', tmp_path/'second']
    clip = load_clip(SMOKE.clip)
    for factor, folder in zip((1, 2), folders):
        folder.mkdir()
        model = {k: v for k, v in clip.model.state_dict().items()}
        class Scaled(torch.nn.Module):
            def state_dict(self): return {k: v*factor if k == 'text_projection' else v for k, v in model.items()}
        save_clip(Scaled(), SMOKE.clip, folder)
    ids = (str(folders[0]),)
    first = encode_text(load_clip(ids), ['the nice cat'])
    key = stages.stage_key('negatives', SMOKE.replace(clip=ids))
    same_size_and_time(folders[1]/'open_clip_model.safetensors', folders[0]/'open_clip_model.safetensors')
    assert not np.allclose(first, encode_text(load_clip(ids), ['the nice cat']))
    assert key != stages.stage_key('negatives', SMOKE.replace(clip=ids))


def test_a_folder_that_grows_or_changes_is_looked_at_again(tmp_path, later):
    for k, name in enumerate('abcd'): pictures(tmp_path/'data'/name, {str(i): (k*60, i*40, 0) for i in range(2)})
    scale = SMOKE.replace(name='grow', world='photographs', data=str(tmp_path/'data'), protocol='rehearsal',
                          n_train=0, n_test=0, m=2)
    def train(): return read_sets(run_stage('images', scale, (0,), tmp_path/'runs')[0])['train']
    def key(): return stages.stage_key('images', scale)
    assert len(train()) == 4
    for name in 'abcd': Image.new('RGB', (64, 64), 'white').save(tmp_path/'data'/name/'9.bmp')
    assert len(train()) == 6
    before = key()
    Image.new('RGB', (65, 64), 'white').save(tmp_path/'data'/'a'/'9.bmp')  # in its place, another size
    assert key() != before
    shutil.rmtree(tmp_path/'data'/'a')
    assert 'a' not in train().classes


# ---- damage

def harms(folder):
    "(what was done, how) to the files of a stage's folder."
    files = sorted(p for p in folder.rglob('*') if p.is_file() and p.name != 'manifest.json')
    big = max(files, key=lambda p: p.stat().st_size)
    def turn(): big.write_bytes(big.read_bytes()[:-1] + bytes([big.read_bytes()[-1] ^ 1]))
    return dict(lost=files[0].unlink, empty=lambda: files[-1].write_bytes(b''), turned=turn,
                cut=lambda: os.truncate(big, big.stat().st_size - 1),
                more=lambda: (folder/'more.txt').write_text(''),
                unnamed=lambda: (folder/'manifest.json').write_text('{}'))


@pytest.mark.parametrize('name', ['world', 'images', 'selection', 'negatives', 'contexts'])
def test_no_stage_is_used_as_something_else(tmp_path, name):
    scale = SMOKE.replace(name='harm', n_train=2, n_test=10)
    folder = run_stage(name, scale, (0,), tmp_path/'runs')[0]
    for harm in harms(folder):
        kept = tmp_path/'kept'
        shutil.copytree(folder, kept)
        harms(folder)[harm]()
        with pytest.raises(ValueError, match='is damaged: .*synood verify --repair') as error:
            run_stage(name, scale, (0,), tmp_path/'runs')
        assert str(folder) in str(error.value) and '\n' not in str(error.value), harm
        shutil.rmtree(folder)
        shutil.move(kept, folder)
    assert stage_problem(folder, whole=True) == ''
    (folder/'.DS_Store').write_text('a file manager was here')
    run_stage(name, scale, (0,), tmp_path/'runs')


def test_twins_in_each_others_place(tmp_path):
    "Swapped files and folders are whole, and still not what belongs there."
    def swap(a, b):
        for source, target in ((a, tmp_path/'kept'), (b, a), (tmp_path/'kept', b)): os.replace(source, target)
    cache = tmp_path/'cache'
    def ones(name): return cached_arrays(cache, {'of': name}, 3,
                                         lambda rows: {'x': np.full((len(rows), 1), float(name))})['x']
    first, second = ones('1'), ones('2')
    swap(*sorted(cache.glob('*.safetensors')))
    with pytest.warns(UserWarning, match='it belongs under another name'): assert (ones('1') == first).all()
    with pytest.warns(UserWarning, match='it belongs under another name'): assert (ones('2') == second).all()
    folders = [run_stage('world', SMOKE.replace(name='twin', world='dev', n_train=n, n_test=10), (0,), tmp_path)[0]
               for n in (1, 2)]
    swap(*folders)
    with pytest.raises(ValueError, match='it is the folder .*synood verify --repair'):
        run_stage('world', SMOKE.replace(name='twin', world='dev', n_train=1, n_test=10), (0,), tmp_path)


def test_a_batch_or_a_part_that_was_harmed_before_the_end(tmp_path):
    "What a killed process leaves is as open to harm as what is finished."
    from synood.app.verify import compare, checkable_results
    scale, stop = SMOKE.replace(name='begun', n_train=2), [True]
    @stages.stage('toy-begun', shared=True)
    def begun(job):
        def make(batch, folder):
            if stop and batch == [2]: raise KeyboardInterrupt
            (folder/'x').write_text(str(batch))
        job.batches([0, 1, 2], 1, make)
    root = tmp_path/'runs'
    try:
        with pytest.raises(KeyboardInterrupt): run_stage('toy-begun', scale, (0,), root)
        part, = (root/'begun'/'toy-begun').glob('*.part')
        (part/'00001'/'x').write_text('')
        assert [t.path.name for t, problem in compare(checkable_results(root)) if problem] == ['00001']
        stop.clear()
        with pytest.warns(UserWarning, match='00001 is not what was made before the stop'):
            folder = run_stage('toy-begun', scale, (0,), root)[0]
    finally: del stages.stages['toy-begun']
    assert [p.read_text() for p in sorted(folder.glob('*/x'))] == ['[0]', '[1]', '[2]']
    assert not list(folder.rglob('.made'))

    def arrays(rows):
        if rows.start == 128 and not stop: raise KeyboardInterrupt
        return {'x': np.arange(rows.start, rows.stop, dtype=float)}
    for _ in range(2):  # two caches whose first parts look alike
        with pytest.raises(KeyboardInterrupt): cached_arrays(root/'cache', {'of': str(_)}, 200, arrays)
    first, second = sorted((root/'cache').glob('*.parts/00000.safetensors'))
    shutil.copy(second, first)
    found = [(t.path, problem) for t, problem in compare(checkable_results(root)) if problem]
    assert found == [(first, 'it belongs under another name')]
    stop.append(True)
    with pytest.warns(UserWarning, match='it belongs under another name'):
        for k in range(2): assert (cached_arrays(root/'cache', {'of': str(k)}, 200, arrays)['x']
                                   == np.arange(200)).all()


def test_verify_repairs_and_the_same_command_makes_it_again(tmp_path, capsys):
    root, scale = tmp_path/'runs', 'smoke'
    folder = run_stage('selection', scale, (0,), root)[0]
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    os.truncate(folder/'selection.jsonl', 10)
    for arguments, status in (([], 1), (['--repair'], 0), ([], 0)):
        with pytest.raises(SystemExit) as ended: main(['verify', '--root', str(root), *arguments])
        assert (ended.value.code or 0) == status, capsys.readouterr()
    assert not folder.exists()
    run_stage('selection', scale, (0,), root)
    assert (folder/'selection.jsonl').read_bytes() == whole['selection.jsonl']


def test_verify_names_a_detector(tmp_path, capsys):
    from synood.detector import OODDetector
    OODDetector.from_names(['cat', 'cow'], 'smoke').save(tmp_path/'runs'/'mine')
    def status():
        with pytest.raises(SystemExit) as ended: main(['verify', '--root', str(tmp_path/'runs'), '--json'])
        return ended.value.code or 0, json.loads(capsys.readouterr().out)
    assert status()[0] == 0
    file = tmp_path/'runs'/'mine'/'detector.safetensors'
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    code, report = status()
    assert code == 1
    assert [(d['kind'], d['path'], d['removed']) for d in report['damaged']] == [('detector', str(file.parent), False)]


# ---- versions

def test_code_hash_says_what_python_3_11_says():
    assert code_hash('def f(x): return [f"{x:{3}}", x]') == '847a43b238da'  # under any version
    if sys.version_info[:2] != (3, 11): pytest.skip('ast.dump of 3.11 is what counts')
    for path in [*PACKAGE.rglob('*.py'), *PACKAGE.with_name('tests').rglob('*.py')]:
        tree = ast.parse(path.read_text(encoding='utf-8'))
        assert core_files._dumped(tree) == ast.dump(tree), path


@pytest.mark.parametrize('version', ['3.12', '3.13', '3.14'])
def test_code_hash_is_the_same_under_other_versions(version, tmp_path):
    candidates = [*Path.home().glob(f'.pyenv/versions/{version}*/bin/python'), shutil.which(f'python{version}')]
    working = [str(path) for path in candidates
               if path and not subprocess.run([path, '-c', ''], capture_output=True).returncode]
    if not working: pytest.skip(f'there is no Python {version} here')
    source = Path(core_files.__file__).read_text(encoding='utf-8')
    start, end = source.index('_SINCE = '), source.index('\n# %%', source.index('def code_hash'))
    digest = source[source.index('def json_hash'):source.index('def file_stamp')]
    script = f'import ast, hashlib, json, sys\nfrom functools import lru_cache\n{digest}{source[start:end]}' \
        '\nfor path in sys.argv[1:]: print(code_hash(open(path, encoding="utf-8").read()))\n'
    (tmp_path/'hash.py').write_text(script, encoding='utf-8')
    files = sorted(PACKAGE.rglob('*.py'))
    command = [working[0], str(tmp_path/'hash.py'), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [code_hash(path.read_text(encoding='utf-8')) for path in files]


def test_a_clone_that_pip_never_saw(tmp_path, monkeypatch):
    import importlib.metadata
    known = importlib.metadata.version
    def version(name):
        if name == 'synood': raise importlib.metadata.PackageNotFoundError(name)
        return known(name)
    monkeypatch.setattr(importlib.metadata, 'version', version)
    assert stages.versions()['synood'] == sys.modules['synood'].__version__


# ---- names and texts

def test_names_that_differ_by_capitals_only_are_refused(tmp_path):
    run_stage('world', SMOKE.replace(name='small', n_train=2, n_test=10), (0,), tmp_path)
    with pytest.raises(ValueError, match='small is there already'):
        run_stage('world', SMOKE.replace(name='Small', n_train=2, n_test=10), (0,), tmp_path)


def test_every_text_is_utf8(root):
    "No module and no tool reads or writes a text in whatever a machine has."
    wrong = []
    for path in [*(root/'synood').glob('*.py'), *(root/'tools').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call): continue
            name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            given = {k.arg for k in node.keywords}
            if 'encoding' in given: continue
            needs = {'read_text': 1, 'write_text': 2}.get(name, 0)  # arguments, if the encoding is among them
            binary = len(node.args) > 1 and 'b' in str(getattr(node.args[1], 'value', 'b'))
            plain = name == 'open' and isinstance(node.func, ast.Name) and not binary
            if len(node.args) < needs or plain: wrong.append(f'{path.name}:{node.lineno}')
    assert not wrong, wrong
