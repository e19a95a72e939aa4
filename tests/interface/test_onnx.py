"The exported detector against the detector itself, a road that the notebook of the export cannot walk: it comes before."
import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from synood.detector import OODDetector, _judged
from synood.models.features import load_clip, unit
from synood.outliers.finetuning import Projection
from synood.data.images import read_image
from synood.methods.krnft import NFTLearner
from synood.detector.onnx_export import TOLERANCE, FromPixels, Judge, difference, write_onnx
from synood.core.scales import rng

EMBEDDED = 'embedded:clip-small',


def rows(count, width, name):
    "Unit rows (count, width), the same at every call."
    return unit(rng(0, 'test onnx', name).normal(size=(count, width)).astype(np.float32))


def detector(**parts):
    "A detector with drawn labels, three of them tuned."
    clip = load_clip(EMBEDDED)
    return OODDetector(**dict(names=tuple('abcdefg'), negative_names=tuple(f'n{i}' for i in range(22)), text=rows(7, clip.width, 'text'),
                       negatives=rows(22, clip.width, 'negatives'), clip=EMBEDDED, clip_hash=clip.hash, temperature=.05, groups=4,
                       tuned=np.array([3, 20, 21])) | parts)


def judge_of(d): return Judge(d.text, d.negatives, d.temperature, d.groups, d.tuned, d.projection, d.learner)


def stirred(kind, **more):
    "A learner away from its start, where it changes nothing."
    learner, draws = NFTLearner(load_clip(EMBEDDED).width, 16, kind, **more), torch.Generator().manual_seed(1)
    for p in learner.parameters(): p.data += .1*torch.randn(p.shape, generator=draws)
    return learner.eval().requires_grad_(False)


PARTS = dict(plain=dict, projection=lambda: dict(projection=Projection(96, draws=torch.Generator().manual_seed(0)).requires_grad_(False)),
             mcm=lambda: dict(groups=0), binary=lambda: dict(learner=stirred('binary')), csc=lambda: dict(learner=stirred('csc', classes=7, negatives=22)))


@pytest.mark.parametrize('parts', PARTS)
def test_the_judge_agrees_with_the_detector(parts):
    made, raw = detector(**PARTS[parts]()), 3*rows(300, 96, 'images')
    projected = raw if made.projection is None else made.projection(torch.from_numpy(raw)).numpy()
    for ours, theirs in zip(judge_of(made)(torch.from_numpy(raw)), _judged(made, unit(projected))):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-6)
        assert ours.numpy().dtype == theirs.dtype


@pytest.mark.parametrize('kind', ['binary', 'csc'])
def test_learners_export(kind, tmp_path):
    made, clip = detector(**PARTS[kind]()), load_clip(EMBEDDED)
    home = write_onnx(clip, judge_of(made), tmp_path/'onnx', dict(names=made.names, negative_names=made.negative_names, threshold=None))
    images = rng(0, 'test onnx', 'pixels').integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert difference(copy.deepcopy(FromPixels(clip, judge_of(made))).cpu(), home/'detector.onnx', images) <= TOLERANCE


def test_score_py_agrees_with_the_detector_on_photographs(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)  # a GPU would round convolutions to 10 bits
    made = detector()
    paths = sorted(path for path in photos.rglob('*.*'))
    with Image.open(paths[0]) as image: image.convert('CMYK').save(tmp_path/'cmyk.jpg')
    paths.append(tmp_path/'cmyk.jpg')
    table = made.predict([read_image(path) for path in paths])
    home = made.export_onnx(tmp_path/'onnx')
    done = subprocess.run([sys.executable, home/'score.py', *paths], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.endswith('detector.json are data; no threshold: nothing was decided\n') and done.stderr.count('\n') == 1
    found = [line.split('\t') for line in done.stdout.splitlines()]
    assert [row[0] for row in found] == [str(path) for path in paths]
    np.testing.assert_allclose([float(row[1]) for row in found], table.score, rtol=0, atol=TOLERANCE)
    assert [[row[2], row[3], row[5]] for row in found] == [['', label, negative] for label, negative in zip(table.label, table.negative)]


@pytest.mark.slow  # half a minute, three gigabytes
def test_a_vit_b_16_exports(tmp_path):
    clip = load_clip(('random:clip',))
    judge = Judge(rows(1000, 512, 'many text'), rows(10_000, 512, 'many negatives'), .01, 100)
    home = write_onnx(clip, judge, tmp_path/'onnx', dict(names=list(range(1000)), negative_names=list(range(10_000)), threshold=None))
    assert 3.6e8 < (home/'detector.onnx').stat().st_size < 3.8e8  # nothing of the text encoder
