"""tools/bench_prompts.py on a few steps: all three loops learn the same context. How fast they are is not tested."""
import json
import subprocess
import sys

LOOPS = ['full length, image tower', 'full length, cached features', 'cut, cached features (synood)']


def bench(root, place, *arguments):
    "What was printed, and what was written."
    done = subprocess.run([sys.executable, 'tools/bench_prompts.py', *arguments, '--repeats', '2', '--json', str(place/'figures.json')], cwd=root,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), json.loads((place/'figures.json').read_text())


def same_context(shown, found):
    "Three loops that went a long way and ended in one place, as printed."
    assert list(found['loops']) == LOOPS
    for line, (name, f) in zip(shown[2:5], found['loops'].items(), strict=True):
        assert len(f['seconds']) == 2 and f['ratio'] > 0
        assert f['difference'] <= 1e-6 < 1e-3 < f['moved']
        assert line.startswith(name) and line.split()[-1] == f"{f['difference']:.1e}"


def test_a_scale_and_its_stage(root, tmp_path):
    shown, found = bench(root, tmp_path, '--scale', 'smoke', '--steps', '3')
    same_context(shown, found)
    assert (found['clip'], found['classes'], found['batch'], found['steps'], found['tokens']) == ('embedded:clip', 20, 32, 3, {'full': 24, 'cut': 8})
    assert (found['stage']['shots'], found['stage']['epochs'], found['stage']['steps']) == (2, 1, 2)  # 40 images, batches of 32
    assert shown[5].startswith('the stage at smoke, 2 shots, 1 epochs, 2 steps')


def test_a_network_alone(root, tmp_path):
    shown, found = bench(root, tmp_path, '--clip', 'embedded:clip', '--classes', '2', '--length', '4', '--steps', '2')
    same_context(shown, found)
    assert len(shown) == 5 and 'stage' not in found
    assert (found['classes'], found['length'], found['steps']) == (2, 4, 2) and found['tokens']['cut'] < found['tokens']['full']
