"""torch.compile, as the scale's field `compiled` asks for it, paints the same pictures."""
import shutil

import pytest
import torch

from synood.models.classifier import load_classifier
from synood.core.scales import get_scale
from synood.outliers.synthesis import inpainting_model, synthesise

pytestmark = [pytest.mark.slow,  # minutes of compiling
              pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler on a CPU')]


def test_compiled_networks_paint_the_same():
    plain = get_scale('mini').replace(synthesis=dict(steps=2, strength=1., iterations=2))
    compiled = plain.replace(synthesis=dict(compiled=True))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = ['A photo only remain lamp .']*2
    pictures = []
    for scale in (plain, compiled):
        classifier = load_classifier(scale.classifier)
        *_, last = synthesise(inpainting_model(scale), classifier, pixels, prompts, ['a', 'b'], 0, scale)
        pictures.append(last.pixels)
    assert inpainting_model(compiled).unet._compiled_call_impl is not None
    torch.testing.assert_close(*pictures, atol=1e-4, rtol=0)
