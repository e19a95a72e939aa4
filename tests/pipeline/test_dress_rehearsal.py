"""The paper's networks at full size with random weights, on one photograph, from the question to the score."""
import resource
import sys

import numpy as np
import pytest
import torch

from synood.evaluation.benchmark import experiment, load_benchmark, synthetic_features
from synood.outliers.context import read_contexts
from synood.models.clip import load_clip
from synood.outliers.finetuning import SynOOD, nearest_negative
from synood.data.images import read_image
from synood.scores.negatives import read_negatives
from synood.core.stages import run_stage
from synood.core.scales import get_scale
from synood.scores.method import NegLabel
from synood.outliers.inpainting import _load_painter
from synood.outliers.synthesis import inpainting_model, read_synthetic

pytestmark = [pytest.mark.slow,  # five minutes, ten gigabytes
              pytest.mark.filterwarnings('ignore:.*answers name nothing', 'ignore:AUROC .* is below 0.5',
                                         'ignore:the prompt .* is longer')]


@pytest.fixture
def scale(photos, tmp_path):
    """The scale paper-random on one photograph for every role: published sizes, resolution and sampler, but few steps,
    two iterations, two layers of the context model, and the miniature's hundred words. bfloat16 on a GPU, float32 on a
    CPU."""
    file, data = min(photos.glob('flower/*')), tmp_path/'data'
    for role in ('train/flower', 'id/flower', 'near', 'iNaturalist', 'SUN', 'Places', 'Textures'):
        (data/role).mkdir(parents=True)
        read_image(file).rotate(0 if 'flower' in role else 90, expand=True).save(data/role/'it.png')
    precision = {} if torch.cuda.is_available() else dict(unet_precision='fp32', vae_precision='fp32')
    return get_scale('paper-random').replace(
        world='photographs', data=str(data), protocol='mini', n_train=0, n_test=0, test_splits=1, m=1, seeds=(0,),
        corpus='miniature', n_groups=1, context_model=('random:lister-2',), context=dict(max_new_tokens=8),
        synthesis=dict(steps=4, iterations=2, batch_size=1) | precision,
        finetuning=dict(projection_epochs=1, label_epochs=1))


def test_one_photograph_goes_the_whole_way_at_full_size(scale, tmp_path):
    root = tmp_path/'runs'

    def run(name): return run_stage(name, scale, (0,), root)[0]
    asked, = read_contexts(run('contexts'))
    assert asked['name'] == 'flower' and asked['answer'] and asked['prompt'].startswith('A photo only remain ')

    made, (record,) = read_synthetic(run('synthesis'), 'grad')
    assert made.read(0).size == (512, 512) and np.asarray(made.read(0)).std() > 0
    assert np.isfinite(record['energies'] + record['losses']).all()
    painter = inpainting_model(scale)
    sizes = [round(sum(x.numel() for x in net.parameters())/1e6)
             for net in (painter.unet, painter.vae, painter.text_encoder)]
    assert sizes == [866, 84, 340]  # million
    del painter
    _load_painter.cache_clear()

    bench = load_benchmark(scale, root)
    synthetic = synthetic_features(bench, 'grad', 0)
    negatives = read_negatives(run('negatives'))
    for features in (synthetic.features, synthetic.partners, negatives.features):
        assert features.shape[1] == load_clip(scale.clip).width == 512 and np.isfinite(features).all()
    assert nearest_negative(synthetic.features, negatives.features).tolist()[0] in range(len(negatives.words))

    rows = experiment('rehearsal', [NegLabel(), SynOOD()], scale, (0,), root)
    assert len(rows) == 10 and np.isfinite(rows[['auroc', 'fpr95']].astype(float)).all(axis=None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1e6 if sys.platform == 'linux' else 1e9)
    assert peak < 20, f'{peak:.1f} GB of memory'
