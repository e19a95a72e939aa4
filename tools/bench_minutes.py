"""Minutes and CPU-minutes of the long commands: two of README, the rehearsal of the paper's run, and photographs.

    python tools/bench_minutes.py reproduce    `synood reproduce`, from nothing: its results go to a folder of their own
    python tools/bench_minutes.py reproduce --root runs     the same into this folder, which must not exist yet
    python tools/bench_minutes.py rehearsal    `synood reproduce --scale rehearsal`, likewise
    python tools/bench_minutes.py test         `make test`
    python tools/bench_minutes.py photographs --data FOLDER     `synood reproduce --scale photos`, likewise

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

REPRODUCE, REHEARSAL, PHOTOGRAPHS = ([sys.executable, '-m', 'synood', 'reproduce', '--scale', scale, '--root']
                                     for scale in ('mini', 'rehearsal', 'photos'))
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
    parser.add_argument('what', choices=['reproduce', 'rehearsal', 'test', 'photographs'])
    parser.add_argument('--root', type=Path, help='but for test: a new folder for results; else a temporary one')
    parser.add_argument('--data', default=os.environ.get('DATA'), help='for photographs: the folder of their sets')


def measure(args):
    if args.what == 'photographs' and not args.data: sys.exit('name the folder of the photographs: --data or DATA=')
    if args.root and args.root.exists(): sys.exit(f'{args.root} exists: what stands there would not be made again')
    if args.what == 'test': return {}, {'minutes': {'make test': minutes(TEST)}}
    command, row, scale = {'reproduce': (REPRODUCE, 'make reproduce', 'mini'),
                           'rehearsal': (REHEARSAL, 'rehearsal', 'rehearsal'),
                           'photographs': (PHOTOGRAPHS, 'photographs', 'photos')}[args.what]
    data = ['--data', str(Path(args.data).resolve())] if args.what == 'photographs' else []
    with nullcontext(args.root) if args.root else tempfile.TemporaryDirectory() as root:
        return dict(scale=scale), {'minutes': {row: minutes([*command, str(root), *data])}}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
