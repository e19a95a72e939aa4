"""tools/bench_scores.py at sizes of no interest: both ways agree. How fast they are is not tested."""
import re
import subprocess
import sys

SIZES = '--images 40 --classes 5 --negatives 23 --width 16 --groups 4 --penultimate 16 --train 60 --few 8 --repeats 1'.split()


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


def table(root, name):
    "{method: (images, seconds and ratios, what is said of the difference)} of a benchmark that prints a line for each."
    done = bench(root, name)
    assert done.returncode == 0, done.stderr
    title, columns, *lines = done.stdout.splitlines()
    assert title.startswith(f'{name}: images 40, classes 5, penultimate 16, train 60, few 8;')
    assert columns.split()[:2] == ['seconds', 'images'] and columns.endswith('largest difference')
    rows = [re.fullmatch(r'(\S+) +(\d+)((?: +\d+\.\d+)+)  (\D*(?:60 )?)(\S+)', line).groups() for line in lines]
    assert all(float(difference) < 1e-4 for *_, difference in rows)
    return {method: (int(images), list(map(float, numbers.split())), words.strip()) for method, images, numbers, words, _ in rows}


def test_ours_agrees_with_pytorch_ood(root):
    rows = table(root, 'visual')
    assert list(rows) == ['MSP', 'MaxLogit', 'Energy', 'ReAct', 'ASH-P', 'ASH-B', 'ASH-S', 'DICE', 'KNN', 'RMDS', 'ViM']
    assert {name for name, (images, *_) in rows.items() if images == 8} == {'DICE', 'RMDS'}
    assert all(len(numbers) == 5 for _, numbers, _ in rows.values())
    assert {name: words for name, (*_, words) in rows.items() if words} == {
        'KNN': 'differs by design; squared', 'RMDS': 'differs by design; times 60'}


def test_ours_agrees_with_the_published_form(root):
    rows = table(root, 'published')
    assert {name: (images, len(numbers), words) for name, (images, numbers, words) in rows.items()} == dict.fromkeys(
        ['GradNorm', 'DICE', 'RMDS'], (8, 3, ''))


def test_an_unknown_name_lists_the_known(root):
    refused = bench(root, 'neglabels')
    assert refused.returncode == 2
    assert 'unknown neglabels: choose from neglabel' in refused.stderr
