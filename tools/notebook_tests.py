"""The tests of all notebooks, or of those whose path holds a text: as `nbdev_test`, but each in a process of its own.

    python tools/notebook_tests.py [TEXT] [--jobs 2]

A notebook registers anew what its module has registered. In a process that several share, the next one would meet
classes of the last. Each process is forked from one that has imported the package, so that imports cost nothing.
"""
import argparse
import multiprocessing
import os
import sys
import time
from importlib import import_module
from multiprocessing.connection import wait

from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb

FORK = multiprocessing.get_context('fork')


def test_here(path):
    os.chdir(path.parent)
    config = get_config()
    passed, _ = test_nb(path, skip_flags=config.tst_flags.split(), basepath=config.config_path)
    sys.exit(not passed)


def test_all(paths, jobs):
    "Yield (path, whether it passed, its seconds) as each ends, `jobs` at a time; one that is killed has not passed."
    todo, running = list(paths), {}
    while todo or running:
        while todo and len(running) < jobs:
            path = todo.pop(0)
            process = FORK.Process(target=test_here, args=(path,))
            process.start()
            running[process.sentinel] = process, path, time.monotonic()
        for sentinel in wait(running):
            process, path, begun = running.pop(sentinel)
            process.join()
            yield path, process.exitcode == 0, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('text', nargs='?', default='', help='part of the paths; default: every notebook')
    parser.add_argument('--jobs', type=int, default=2, help='notebooks at a time')
    parser.add_argument('--slowest', type=int, default=5, help='how many of the slowest are named')
    args = parser.parse_args()
    paths = [path.resolve() for path in sorted(nbglob(as_path=True)) if args.text in str(path)]
    if not paths:
        sys.exit(f'no path of a notebook holds {args.text!r}')
    import_module(get_config().lib_name + '.core.scales').discover()
    tested = list(test_all(paths, args.jobs))
    failed = [path.name for path, passed, _ in tested if not passed]
    print(f'{len(paths) - len(failed)} of {len(paths)} notebooks passed')
    slowest = sorted(tested, key=lambda one: -one[2])[:args.slowest]
    print('the slowest:', ', '.join(f'{path.name} {seconds:.0f} s' for path, _, seconds in slowest))
    if failed:
        sys.exit('failed: ' + ', '.join(failed))


if __name__ == '__main__':
    main()
