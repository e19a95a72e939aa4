"""tools/bench_scores.py at sizes of no interest: both ways agree. How fast they are is not tested."""
import re
import subprocess
import sys

import pytest

SIZES = ('--images 40 --classes 5 --negatives 23 --width 16 --groups 4 --penultimate 16 --train 60 --few 8 '
         '--repeats 1').split()


def bench(root, *arguments):
    return subprocess.run([sys.executable, 'tools/bench_scores.py', *arguments, *SIZES], cwd=root,
                          capture_output=True, text=True)


def test_ours_agrees_with_the_straightforward_way(root):
    done = bench(root, 'neglabel', 'adaneg', 'krnft')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, block in zip(['neglabel', 'adaneg', 'krnft'], [lines[:5], lines[5:10], lines[10:]], strict=True):
        title, columns, seconds, memory, difference = block
        assert title.startswith(f'{name}: images 40, classes 5, negatives 23, width 16, groups 4;')
        assert columns.split() == ['straightforward', 'ours', 'ratio']
        assert re.fullmatch(r'seconds( +[\d.]+){2} +[\d.-]+', seconds)
        assert re.fullmatch(r'peak MB( +[\d.]+){2} +[\d.-]+', memory)
        assert float(difference.removeprefix('largest difference ')) < 1e-4


@pytest.fixture(scope='module')
def tables(root):
    """{benchmark: {method: (images, how many seconds and ratios, what is said of the difference)}}

    of those that print a line for each method."""
    done = bench(root, 'visual', 'published')
    assert done.returncode == 0, done.stderr
    tables = {}
    pattern = r'(\S+) +(\d+)((?: +\d+\.\d+)+)  (\D*(?:60 )?)(\S+)'
    for line in done.stdout.splitlines():
        if title := re.fullmatch('(visual|published): images 40, classes 5, penultimate 16, train 60, few 8; .*', line):
            rows = tables[title[1]] = {}
        elif not line.startswith('seconds '):
            method, images, numbers, words, difference = re.fullmatch(pattern, line).groups()
            assert float(difference) < 1e-4, line
            rows[method] = int(images), len(numbers.split()), words.strip()
    return tables


def test_ours_agrees_with_pytorch_ood(tables):
    names = ['MSP', 'MaxLogit', 'Energy', 'ReAct', 'ASH-P', 'ASH-B', 'ASH-S', 'DICE', 'KNN', 'RMDS', 'ViM']
    methods = dict.fromkeys(names, (40, 5, ''))
    methods |= {'DICE': (8, 5, ''),
                'KNN': (40, 5, 'differs by design; squared'),
                'RMDS': (8, 5, 'differs by design; times 60')}
    assert list(tables['visual'].items()) == list(methods.items())


def test_ours_agrees_with_the_published_form(tables):
    assert tables['published'] == dict.fromkeys(['GradNorm', 'DICE', 'RMDS'], (8, 3, ''))


def test_an_unknown_name_lists_the_known(root):
    refused = bench(root, 'neglabels')
    assert refused.returncode == 2
    assert 'unknown neglabels: choose from neglabel' in refused.stderr
