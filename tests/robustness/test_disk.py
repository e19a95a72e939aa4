"""A disk that is full or cannot be written to: one line that names the folder, status 2, and the same command goes on once there is room."""
import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import synood
from synood.app.cli import main
from synood.outliers.context import load_lister
from synood.models.features import load_classifier
from synood.core.runs import folder_hash, run_stage
from synood.core.scales import get_scale
from synood.outliers.synthesis import painter_of

SCALE = 'base = "smoke"\nname = "tiny"\nn_train = 1\nsteps = 2\nstrength = 1.0\nbatch = 10\n'


@pytest.fixture(scope='module')
def place():
    "A folder that other users may enter, unlike pytest's."
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder/'tiny.toml').write_text(SCALE)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope='module')
def world(place):
    "The rendered world, for every run here to start from."
    torch.set_num_threads(1)
    scale = get_scale(str(place/'tiny.toml'))
    load_classifier(scale.classifier); painter_of(scale); load_lister(scale.lister)  # for all workers
    return run_stage('world', scale, (0,), place/'first')[0].parent


def begun(root, world):
    (root/'tiny').mkdir(parents=True)
    shutil.copytree(world, root/'tiny'/'world')
    return root


def command(place, root, stage='synthesis', prepare=lambda: None):
    "Status and the lines on standard error of `synood run` in a fork of this process."
    said = place/'stderr'
    said.write_text('')
    if not (pid := os.fork()):
        sys.stdout = sys.stderr = open(said, 'w')  # and not pytest's
        status = 99
        try:
            torch.set_num_threads(1)  # before any thread of this fork: torch repairs its own pool here, and not in two of them at once
            prepare()
            main(['run', stage, '--scale', str(place/'tiny.toml'), '--root', str(root)])
        except SystemExit as e: status = e.code or 0
        except BaseException as e: print('not caught:', repr(e), file=sys.stderr)
        finally: sys.stderr.flush(); os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.read_text().splitlines()


def outcome(root):
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name or p.name.endswith(('.part', '.parts'))]
    return {p.parent.relative_to(root).as_posix(): folder_hash(p.parent) for p in root.rglob('manifest.json')}


@pytest.fixture(scope='module')
def expected(place, world):
    status, said = command(place, begun(place/'expected', world))
    assert status == 0, said
    return outcome(place/'expected')


def refused(status, said, root, why):
    "The command ended with one line that says where and why."
    ours = [line for line in said if line.startswith('synood: ')]
    assert status == 2 and len(ours) == 1 and ours[0] == said[-1] and not any('Traceback' in line for line in said), said
    assert str(root) in ours[0] and why in ours[0] and 'the same command goes on from there' in ours[0], ours


def full_after(root, number, tally=None):
    "From its `number`-th creation, opening or renaming of a file below `root` on, this process is told that the disk is full."
    count, below = 0, str(root)
    def hook(event, args):
        nonlocal count
        if event not in ('open', 'os.rename', 'os.mkdir') or not str(args[0]).startswith(below): return
        if event == 'open' and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)): return
        count += 1
        if tally: tally.write_text(str(count))
        elif count >= number: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sys.addaudithook(hook)


def fills(place, world, expected, shares):
    tally = place/'tally'
    status, said = command(place, begun(place/'counted', world), prepare=lambda: full_after(place/'counted', 0, tally))
    assert status == 0 and outcome(place/'counted') == expected, said
    shutil.rmtree(place/'counted')
    total = int(tally.read_text())
    assert total > 40
    for share in shares:
        root = begun(place/'full', world)
        refused(*command(place, root, prepare=lambda: full_after(root, 1 + int(share*total))), root, 'No space left on device: free some space there')
        assert not [p for p in root.rglob('*') if '.tmp-' in p.name], 'an error is no kill: it tidies up'
        status, said = command(place, root)
        assert status == 0 and outcome(root) == expected, said
        shutil.rmtree(root)


def test_a_disk_that_fills_up(place, world, expected): fills(place, world, expected, [.6])


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_moment(place, world, expected): fills(place, world, expected, [k/12 for k in range(12)])


@pytest.fixture
def small_disk(place):
    "A file system of its own, to be made larger, smaller or read-only by `disk(options)`."
    folder = place/'disk'
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', str(folder)], capture_output=True, text=True) if shutil.which('mount') else None
    if done is None or done.returncode: folder.rmdir(); pytest.skip(f'a file system cannot be mounted here: {done.stderr.strip() if done else "there is no mount"}')
    yield folder, lambda options: subprocess.run(['mount', '-o', f'remount,{options}', str(folder)], check=True)
    subprocess.run(['umount', str(folder)], check=True)
    folder.rmdir()


def test_a_real_disk_that_is_full_or_read_only(place, world, expected, small_disk):
    disk, remount = small_disk
    root = begun(disk/'runs', world)
    status, said = command(place, root, 'contexts')  # so that it fills up in the middle of pictures
    assert status == 0, said
    room = os.statvfs(disk)
    remount(f'size={(room.f_blocks - room.f_bfree)*room.f_frsize + 60_000}')
    refused(*command(place, root), root, 'No space left on device')
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name]
    remount('size=64m')
    remount('ro')
    refused(*command(place, root), root, 'Read-only file system: make it writable or choose another root')
    remount('rw')
    status, said = command(place, root)
    assert status == 0 and outcome(root) == expected, said


def nobody():
    "Give up root's rights, for good."
    if os.getuid(): return
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    os.environ['HOME'] = '/nonexistent'
    if not os.access(Path(synood.__file__).parent/'assets'/'world.json', os.R_OK) or not os.access(Path(torch.__file__), os.R_OK): os._exit(77)


def test_a_folder_of_someone_else(place, world):
    root = begun(place/'theirs', world)
    writable = {p: stat.S_IMODE(p.stat().st_mode) for p in [root, *root.rglob('*')] if p.is_dir()}
    for p in writable: p.chmod(0o555)
    try: status, said = command(place, root, 'selection', nobody)
    finally:
        for p in writable: p.chmod(0o777)
    if status == 77: pytest.skip('without the rights of root this installation cannot be read')
    refused(status, said, root, 'Permission denied: make it writable or choose another root')
    status, said = command(place, root, 'selection', nobody)
    assert status == 0 and any('/selection/' in name for name in outcome(root)), said
    nowhere = place/'locked'
    nowhere.mkdir(mode=0o555)
    status, said = command(place, nowhere/'runs', 'selection', nobody)
    refused(status, said, nowhere, 'Permission denied')
