"""tools/bench_prompts.py on a few steps: all three loops learn the same context. How fast they are is not tested."""
import json
import subprocess
import sys

LOOPS = ['full length, image tower', 'full length, cached features', 'cut, cached features (synood)']


def bench(root, place, *arguments):
    "What was printed, and what was written."
    command = [sys.executable, 'tools/bench_prompts.py', *arguments,
               '--repeats', '2', '--json', str(place/'figures.json')]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), json.loads((place/'figures.json').read_text())


def same_context(shown, figures):
    "Three loops that went a long way and ended in one place, as printed."
    assert list(figures['loops']) == LOOPS
    for line, (name, f) in zip(shown[2:5], figures['loops'].items(), strict=True):
        assert len(f['seconds']) == 2 and f['ratio'] > 0
        assert f['difference'] <= 1e-6 < 1e-3 < f['moved']
        assert line.startswith(name) and line.split()[-1] == f"{f['difference']:.1e}"


def test_a_scale_and_its_stage(root, tmp_path):
    shown, figures = bench(root, tmp_path, '--scale', 'smoke', '--steps', '3')
    same_context(shown, figures)
    wanted = dict(clip='embedded:clip', classes=20, batch=32, steps=3, tokens={'full': 24, 'cut': 8})
    assert {key: figures[key] for key in wanted} == wanted
    stage = dict(shots=2, epochs=1, steps=2)  # 40 images, batches of 32
    assert {key: figures['stage'][key] for key in stage} == stage
    assert shown[5].startswith('the stage at smoke, 2 shots, 1 epochs, 2 steps')


def test_a_network_alone(root, tmp_path):
    shown, figures = bench(root, tmp_path, '--clip', 'embedded:clip', '--classes', '2', '--length', '4', '--steps', '2')
    same_context(shown, figures)
    assert len(shown) == 5 and 'stage' not in figures
    assert (figures['classes'], figures['length'], figures['steps']) == (2, 4, 2)
    assert figures['tokens']['cut'] < figures['tokens']['full']
