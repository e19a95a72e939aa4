"""What a command starts ends with it, however it ends; what a shell and other environments do to a command."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SYNOOD = [sys.executable, '-m', 'synood']
PATIENCE = 300  # seconds for what would hang; no measure of speed


def started(*arguments, **more):
    "A command in a session of its own."
    return subprocess.Popen([*SYNOOD, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **more)


def family(process, wanted):
    "All processes below one, once `wanted` of their command lines, a list, is true."
    for _ in range(4*PATIENCE):
        below = psutil.Process(process.pid).children(recursive=True)
        try:
            if wanted([' '.join(p.cmdline()) for p in below]): return below
        except psutil.Error: pass  # it has just ended
        assert process.poll() is None, process.communicate()
        time.sleep(.25)
    pytest.fail('that did not begin')


def two_kernels(lines):
    "Two workers, for each the fork server that it starts kernels from, and a copy of that."
    return sum('forkserver import main' in line for line in lines) >= 4


def living(processes):
    "Those of some processes that live on after a long wait; they are ended."
    left = [p for p in psutil.wait_procs(processes, timeout=PATIENCE)[1] if p.status() != psutil.STATUS_ZOMBIE]
    for p in left: p.kill()
    return left


@pytest.mark.slow
@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130),
                                            (signal.SIGKILL, -9)])
def test_reproduce_leaves_no_kernel_and_no_worker(tmp_path, number, status):
    process = started('reproduce', '--scale', 'smoke', '--only', 'table1,table4', '--jobs', '2',
                      '--root', tmp_path/'runs')
    below = family(process, two_kernels)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert living(below) == []
    assert process.returncode == status
    assert 'Traceback' not in said
    if status > 0: assert 'stopped: what was finished is kept' in said


@pytest.mark.slow
def test_drawing_for_the_pretraining_ends_with_its_command(tmp_path):
    process = started('pretrain', 'classifier', '--share', '0.2', '--root', tmp_path)
    below = family(process, lambda lines: any('spawn_main' in line for line in lines))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert living(below) == [] and process.returncode == 143


def test_a_command_stopped_by_a_queue_says_so(tmp_path):
    (tmp_path/'long.toml').write_text('base = "mini"\nn_train = 4000\n')  # longer than anybody waits
    process = started('run', 'world', '--scale', tmp_path/'long.toml', '--root', tmp_path)
    while not list(tmp_path.glob('long/world/*.part/*')):
        assert process.poll() is None, process.communicate()
        time.sleep(.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert said.splitlines()[-1] == 'stopped: what was finished is kept, the same command goes on from there'


@pytest.mark.skipif(os.name != 'posix', reason='pipes of a POSIX shell')
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_reader_that_has_seen_enough_ends_a_command_in_silence(unbuffered):
    line = f'{sys.executable} -m synood methods | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', line], capture_output=True, text=True,
                          env=os.environ | {'PYTHONUNBUFFERED': unbuffered})
    assert done.stdout.strip() == '141' and done.stderr == ''


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device that is always full')
def test_a_full_disk_behind_standard_output_is_one_line():
    with open('/dev/full', 'w') as full:
        done = subprocess.run([*SYNOOD, 'methods'], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ['synood: [Errno 28] No space left on device']


def other_environment(folder):
    "Variables that offer another kernel `python3`, start-up files and another default window to a kernel."
    kernel = folder/'jupyter'/'kernels'/'python3'
    kernel.mkdir(parents=True)
    argv = [sys.executable, '-c', f'open({str(folder/"seen")!r}, "w")']
    (kernel/'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='Python 3', language='python')))
    startup = folder/'ipython'/'profile_default'/'startup'/'00.py'
    startup.parent.mkdir(parents=True)
    (folder/'start.py').write_text(f'open({str(folder/"seen")!r}, "w")')
    shutil.copy(folder/'start.py', startup)
    (startup.parent.parent/'ipython_kernel_config.py').write_text(f'open({str(folder/"seen")!r}, "w")')
    return dict(JUPYTER_PATH=str(folder/'jupyter'), IPYTHONDIR=str(folder/'ipython'), MPLBACKEND='TkAgg',
                PYTHONSTARTUP=str(folder/'start.py'), JUPYTER_DEFAULT_PROVISIONER_NAME='none', HOME='/nonexistent',
                JUPYTER_RUNTIME_DIR='/nonexistent', MPLCONFIGDIR=str(folder))


@pytest.mark.slow
def test_reproduce_runs_its_own_interpreter_in_any_folder(tmp_path):
    home = tmp_path/'a {b} %c $HOME "q" \\ line\nbreak \N{GRINNING FACE}'
    home.mkdir()
    done = subprocess.run([*SYNOOD, 'reproduce', '--scale', 'smoke', '--only', 'choices_visual'], capture_output=True,
                          text=True,
                          cwd=home, env=os.environ | {'PYTHONPATH': str(ROOT)} | other_environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path/'seen').exists()
    assert (home/'runs'/'smoke'/'notebooks'/'choices_visual.ipynb').exists()


def test_make_hands_a_root_on_as_it_is(tmp_path):
    for name in ('Makefile', 'settings.ini', 'constraints.txt', 'setup.py'): shutil.copy(ROOT/name, tmp_path)
    script = tmp_path/'.venv'/'bin'/'synood'
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    script.chmod(0o755)
    (tmp_path/'.venv'/'.stamp-installed').touch()
    root = 'a {b} %c "d" `e` \'f\''
    outer = ('MAKEFLAGS', 'MFLAGS', 'MAKEOVERRIDES', 'MAKELEVEL', 'VENV')  # what a make around this test hands on
    ours = {k: v for k, v in os.environ.items() if k not in outer}
    done = subprocess.run(['make', 'reproduce', f'ROOT={root}', 'SCALE=smoke', 'VENV=.venv'], cwd=tmp_path, env=ours,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:-1] == ['reproduce', '--scale', 'smoke', '--root', root]
