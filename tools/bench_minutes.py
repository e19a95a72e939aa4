"""Minutes and CPU-minutes of the long commands: two of README, and the rehearsal of the paper's run.

    python tools/bench_minutes.py reproduce    `synood reproduce`, from nothing: its results go to a folder of their own
    python tools/bench_minutes.py reproduce --root runs     the same into this folder, which must not exist yet
    python tools/bench_minutes.py rehearsal    `synood reproduce --scale rehearsal`, likewise
    python tools/bench_minutes.py test         `make test`

All run in an environment that is installed. `load` tells whether the machine was at rest when it began.
"""
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from bench import TOOLS, cpu_seconds, run

REPRODUCE = [sys.executable, '-m', 'synood', 'reproduce', '--scale', 'mini', '--root']
REHEARSAL = [sys.executable, '-m', 'synood', 'reproduce', '--scale', 'rehearsal', '--root']
TEST = ['make', 'test']
ADOPT_ORPHANS = 36  # Linux: prctl's PR_SET_CHILD_SUBREAPER


def wait_for_orphans(seconds=10):
    "Wait for processes whose parent ended before them: only then is what they used counted as this process's."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try: pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError: return
        if not pid: time.sleep(.1)


def minutes(command):
    "One row: minutes by the clock, and of the processor in all processes that the command started."
    ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1)
    started, before = time.perf_counter(), cpu_seconds()
    done = subprocess.run(command, cwd=TOOLS.parent, check=False)
    seconds = time.perf_counter() - started
    if done.returncode: sys.exit(f'the command ended with status {done.returncode}: nothing was written')
    wait_for_orphans()
    return dict(minutes=round(seconds/60, 3), cpu_minutes=round((cpu_seconds() - before)/60, 3))


def options(parser):
    parser.add_argument('what', choices=['reproduce', 'rehearsal', 'test'])
    parser.add_argument('--root', type=Path, help='of the first two: a new folder for results; else a temporary one')


def measure(args):
    if args.root and args.root.exists(): sys.exit(f'{args.root} exists: what stands there would not be made again')
    if args.what == 'test': return {}, {'minutes': {'make test': minutes(TEST)}}
    command, row, scale = {'reproduce': (REPRODUCE, 'make reproduce', 'mini'),
                           'rehearsal': (REHEARSAL, 'rehearsal', 'rehearsal')}[args.what]
    with nullcontext(args.root) if args.root else tempfile.TemporaryDirectory() as root:
        return dict(scale=scale), {'minutes': {row: minutes([*command, str(root)])}}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
