"""tools/bench_scores.py at sizes of no interest: both ways agree. How fast they are is not tested."""
import re
import subprocess
import sys

SIZES = '--images 40 --classes 5 --negatives 23 --width 16 --groups 4 --repeats 1'.split()


def bench(root, *arguments):
    return subprocess.run([sys.executable, 'tools/bench_scores.py', *arguments, *SIZES], cwd=root,
                          capture_output=True, text=True)


def test_ours_agrees_with_the_straightforward_way(root):
    done = bench(root)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, block in zip(['neglabel', 'adaneg', 'krnft'], [lines[:5], lines[5:10], lines[10:]], strict=True):
        title, columns, seconds, memory, difference = block
        assert title.startswith(f'{name}: images 40, classes 5, negatives 23, width 16, groups 4;')
        assert columns.split() == ['straightforward', 'ours', 'ratio']
        assert re.fullmatch(r'seconds( +[\d.]+){2} +[\d.-]+', seconds)
        assert re.fullmatch(r'peak MB( +[\d.]+){2} +[\d.-]+', memory)
        assert float(difference.removeprefix('largest difference ')) < 1e-4


def test_an_unknown_name_lists_the_known(root):
    refused = bench(root, 'neglabels')
    assert refused.returncode == 2
    assert 'unknown neglabels: choose from neglabel' in refused.stderr
