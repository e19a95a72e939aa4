"""CPU-seconds of what should be quick: importing the detector, and the commands that load no network.

    python tools/bench_imports.py            # a table: CPU-seconds, and how often `import torch` fits in
    python tools/bench_imports.py --json     # the same for a program
    python tools/bench_imports.py --repeats 5

Every line is a process of its own, and the median of a few; user and system time together, of all threads. The first
run of each is not counted: it fills the cache of files.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

COMMANDS = {
    'import torch': [sys.executable, '-c', 'import torch'],
    'from synood.detector import OODDetector': [sys.executable, '-c', 'from synood.detector import OODDetector'],
    'synood --help': [sys.executable, '-m', 'synood', '--help'],
    'synood --version': [sys.executable, '-m', 'synood', '--version'],
    'synood methods': [sys.executable, '-m', 'synood', 'methods'],
}


def cpu_seconds(command):
    "User and system time of one process that must end well."
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode: raise SystemExit(f'{" ".join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}')
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def measure(commands, repeats):
    "{what: median CPU-seconds}; the commands take turns, so that a busy minute hits all of them."
    seconds = {name: [] for name in commands}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            used = cpu_seconds(command)
            if turn: seconds[name].append(used)
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratios(seconds):
    "{what: seconds and how often `import torch` fits in}."
    torch = seconds['import torch']
    return {name: dict(cpu_seconds=round(value, 3), times_torch=round(value/torch, 2))
            for name, value in seconds.items()}


def table(rows):
    "The rows as text."
    lines = [f'{"":42}{"CPU-seconds":>12}{"x torch":>9}']
    lines += [f'{name:42}{row["cpu_seconds"]:12.2f}{row["times_torch"]:9.2f}' for name, row in rows.items()]
    return '\n'.join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', action='store_true')
    chosen = parser.parse_args(arguments)
    rows = ratios(measure(COMMANDS, chosen.repeats))
    print(json.dumps(rows, indent=1) if chosen.json else table(rows))


if __name__ == '__main__': main()
