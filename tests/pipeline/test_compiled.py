"""torch.compile, as the scale's field `compiled` asks for it, paints the same pictures."""
import shutil
from dataclasses import replace

import pytest
import torch

from synood.models.features import load_classifier
from synood.core.scales import get_scale
from synood.outliers.synthesis import painter_of, synthesise

pytestmark = [pytest.mark.slow,  # minutes of compiling
              pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler on a CPU')]


def test_compiled_networks_paint_the_same():
    plain = replace(get_scale('mini'), steps=2, strength=1., iterations=2)
    compiled = replace(plain, compiled=True)
    pixels, names = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), ['a', 'b']
    made = [synthesise(painter_of(scale), load_classifier(scale.classifier), pixels, ['A photo only remain lamp .']*2, names, 0, scale)[-1].pixels
            for scale in (plain, compiled)]
    assert painter_of(compiled).unet._compiled_call_impl is not None
    torch.testing.assert_close(*made, atol=1e-4, rtol=0)
