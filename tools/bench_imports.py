"""CPU-seconds of what should be quick: importing the detector, and the commands that load no network.

    python tools/bench_imports.py
    python tools/bench_imports.py --repeats 5

Every row is a process of its own, and the median of a few; user and system time together, of all threads. `x torch`:
how often `import torch` fits in. The first run of each is not counted: it fills the cache of files.
"""
import statistics
import subprocess
import sys
from functools import partial

from bench import cpu_seconds, in_turn, run

COMMANDS = {
    'import torch': [sys.executable, '-c', 'import torch'],
    'from synood.detector import OODDetector': [sys.executable, '-c', 'from synood.detector import OODDetector'],
    'synood --help': [sys.executable, '-m', 'synood', '--help'],
    'synood --version': [sys.executable, '-m', 'synood', '--version'],
    'synood methods': [sys.executable, '-m', 'synood', 'methods'],
}


def cpu_seconds_of(command):
    "User and system time of one process that must end well."
    before = cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode: raise SystemExit(f'{" ".join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}')
    return cpu_seconds() - before


def table(commands, repeats):
    "{command: its median, and how often `import torch` fits in}."
    calls = {name: partial(cpu_seconds_of, command) for name, command in commands.items()}
    in_turn(calls, 1)
    seconds = {name: statistics.median(values) for name, values in in_turn(calls, repeats).items()}
    return {name: {'cpu_seconds': round(value, 3), 'x torch': round(value/seconds['import torch'], 2)}
            for name, value in seconds.items()}


def options(parser):
    parser.add_argument('--repeats', type=int, default=3)


def measure(args):
    return dict(repeats=args.repeats), {'imports': table(COMMANDS, args.repeats)}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
