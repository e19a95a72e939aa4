"The exported detector against the detector itself: the notebook of the export comes before it and cannot."
import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from synood.detector import OODDetector
from synood.models.clip import load_clip, normalize_rows
from synood.outliers.finetuning import Projection
from synood.data.images import read_image
from synood.methods.krnft import NFTAdapter
from synood.detector.onnx import ONNX_TOLERANCE, PixelScoreHead, largest_difference, write_onnx
from synood.scores.head import Gallery, ScoreHead, classify_images
from synood.core.scales import rng

EMBEDDED = 'embedded:clip-small',


def rows(count, width, name):
    "Unit rows (count, width), the same at every call."
    return normalize_rows(rng(0, 'test onnx', name).normal(size=(count, width)).astype(np.float32))


def detector(**parts):
    "A detector with drawn labels, three of them tuned."
    clip = load_clip(EMBEDDED)
    usual = dict(names=tuple('abcdefg'), negative_names=tuple(f'n{i}' for i in range(22)),
                 text=rows(7, clip.width, 'text'), negatives=rows(22, clip.width, 'negatives'),
                 clip=EMBEDDED, clip_hash=clip.hash, temperature=.05, groups=4, tuned=np.array([3, 20, 21]))
    return OODDetector(**usual | parts)


def stirred(kind, **more):
    "A learner away from its start, where it changes nothing."
    learner = NFTAdapter(load_clip(EMBEDDED).width, 16, kind, **more)
    draws = torch.Generator().manual_seed(1)
    for p in learner.parameters(): p.data += .1*torch.randn(p.shape, generator=draws)
    return learner.eval().requires_grad_(False)


def projection(): return Projection(96, draws=torch.Generator().manual_seed(0)).requires_grad_(False)


PARTS = dict(plain=dict,
             projection=lambda: dict(projection=projection()),
             mcm=lambda: dict(groups=0),
             pictures=lambda: dict(gallery=Gallery(rows(40, 96, 'gallery').astype(np.float32), np.arange(40) % 7, k=3)),
             binary=lambda: dict(learner=stirred('binary')),
             csc=lambda: dict(learner=stirred('csc', classes=7, negatives=22)))


@pytest.mark.parametrize('parts', PARTS)
def test_the_graphs_head_agrees_with_the_detector(parts):
    plain, raw = detector(**PARTS[parts]()), 3*rows(300, 96, 'images')
    projected = raw if plain.projection is None else plain.projection(torch.from_numpy(raw)).numpy()
    for ours, theirs in zip(plain.head(torch.from_numpy(raw)), classify_images(plain.head, normalize_rows(projected))):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-6)
        assert ours.numpy().dtype == theirs.dtype


@pytest.mark.parametrize('kind', ['binary', 'csc', 'pictures'])
def test_heads_export(kind, tmp_path):
    plain, clip = detector(**PARTS[kind]()), load_clip(EMBEDDED)
    labels = dict(names=plain.names, negative_names=plain.negative_names, threshold=None)
    home = write_onnx(clip, plain.head, tmp_path/'onnx', labels)
    images = rng(0, 'test onnx', 'pixels').integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    network = copy.deepcopy(PixelScoreHead(clip, plain.head)).cpu()
    assert largest_difference(network, home/'detector.onnx', images) <= ONNX_TOLERANCE


def test_score_py_agrees_with_the_detector_on_photographs(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)  # a GPU would round convolutions to 10 bits
    plain = detector()
    paths = sorted(path for path in photos.rglob('*.*'))
    with Image.open(paths[0]) as image: image.convert('CMYK').save(tmp_path/'cmyk.jpg')
    paths.append(tmp_path/'cmyk.jpg')
    table = plain.predict([read_image(path) for path in paths])
    home = plain.export_onnx(tmp_path/'onnx')
    done = subprocess.run([sys.executable, home/'score.py', *paths], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count('\n') == 1
    assert done.stderr.endswith('detector.json are data; no threshold: nothing was decided\n')
    lines = [line.split('\t') for line in done.stdout.splitlines()]
    assert [row[0] for row in lines] == [str(path) for path in paths]
    np.testing.assert_allclose([float(row[1]) for row in lines], table.score, rtol=0, atol=ONNX_TOLERANCE)
    labels = [['', label, negative] for label, negative in zip(table.label, table.negative)]
    assert [[row[2], row[3], row[5]] for row in lines] == labels


@pytest.mark.slow  # half a minute, three gigabytes
def test_a_vit_b_16_exports(tmp_path):
    clip = load_clip(('random:clip',))
    head = ScoreHead(rows(1000, 512, 'many text'), rows(10_000, 512, 'many negatives'), .01, 100)
    labels = dict(names=list(range(1000)), negative_names=list(range(10_000)), threshold=None)
    home = write_onnx(clip, head, tmp_path/'onnx', labels)
    assert 3.6e8 < (home/'detector.onnx').stat().st_size < 3.8e8  # nothing of the text encoder
