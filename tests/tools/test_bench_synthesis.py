"""tools/bench_synthesis.py on four pictures: both sides paint the same. How fast they are is not tested."""
import json
import math
import subprocess
import sys


def bench(root, *arguments):
    command = [sys.executable, 'tools/bench_synthesis.py', *arguments, '--rounds', '1', '--quick']
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_published_loop_and_ours_paint_the_same(root, tmp_path):
    shown = bench(root, '--images', '4', '--batch', '4', '--out', str(tmp_path/'figures.json'))
    figures = json.loads((tmp_path/'figures.json').read_text())
    assert figures['difference'] <= 1
    for side in ('reference', 'ours'):
        assert 0 < figures[side]['shares']['UNet'] < sum(figures[side]['shares'].values()) < 1.05
        assert figures[side]['unet']['share'] > 0 and figures[side]['unet']['tflops'] > 0
    assert figures['settings']['steps'] == 2 and f"ratio {figures['ratio']:.2f}" in shown


def test_growth_with_m_is_fitted(root):
    shown = bench(root, 'linear', '--batch', '1').splitlines()
    assert [line.split(':')[0] for line in shown[1:6]] == [f'm = {m:4}' for m in (1, 2, 4, 8, 16)]
    assert math.isfinite(float(shown[6].removeprefix('seconds grow with m to the power ')))
