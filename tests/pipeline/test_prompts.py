"""The trained CLIP rows as a whole: passes of the network, trainings that are killed, and messages about bad input."""
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import synood.core.training as training
from synood.evaluation.benchmark import experiment, load_benchmark
from synood.data.captions import read_captions
from synood.app.cli import app
from synood.models.clip import load_clip
from synood.methods.coop import few_shot_images, few_shot_features, train_cocoop, train_coop
from synood.core.stages import run_stage
from synood.core.scales import get_scale, scales
from synood.scores.method import get_method, methods

TRAINED = 'CoOp', 'CoCoOp', 'LoCoOp', 'LSN', 'NPOS', 'CLIPN', 'ZOC'
SCALE = get_scale('smoke').replace(name='tiny', n_test=10)


def test_no_row_of_table_1_is_missing():
    from synood.evaluation.report import published
    assert set(published('table1').method) <= set(methods())


def test_clip_sees_an_image_once_for_all_trained_rows(passes, tmp_path):
    rows = experiment('trained', [get_method(name)() for name in TRAINED], SCALE, root=tmp_path)
    assert len(rows) == len(TRAINED)*5 and rows.auroc.between(0, 100).all() and rows.id_acc.gt(50).all()
    sets = load_benchmark(SCALE, tmp_path).sets
    tested = sum(len(images) for name, images in sets.items() if name != 'train')
    learned, captioned = len(sets['train']), SCALE.n_captions  # all of them: the seeds share their features
    assert len(read_captions(run_stage('captions', SCALE, (0,), tmp_path)[0]).captions) == captioned
    assert passes['clip image'] == tested + learned + captioned
    assert passes['clip patch'] == tested + learned
    before = dict(passes)
    experiment('trained again', [get_method(name)() for name in TRAINED], SCALE, root=tmp_path)
    assert passes == before


@pytest.mark.parametrize('train', [train_coop, train_cocoop])
def test_a_training_that_was_killed_ends_in_the_same_bits(train, tmp_path):
    clip, images = load_clip(SCALE.clip), load_benchmark(SCALE, tmp_path).sets['train']
    scale = SCALE.replace(coop=dict(epochs=4), cocoop=dict(epochs=2))
    shots = few_shot_features(clip, few_shot_images(images, 2, 0), tmp_path/'cache')
    straight = train(clip, images.classes, shots, scale, 0)
    steps, real_update, real_checkpoint = [], training.optimiser_step, training.TrainState.save_if_due

    def interrupted_update(*arguments):
        steps.append(1)
        if len(steps) == 5: raise KeyboardInterrupt
        real_update(*arguments)

    def checkpoint_each_step(course, path, seconds): real_checkpoint(course, path, 0.)

    path = tmp_path/'state.safetensors'
    with patch.object(training, 'optimiser_step', interrupted_update), \
         patch.object(training.TrainState, 'save_if_due', checkpoint_each_step), pytest.raises(KeyboardInterrupt):
        train(clip, images.classes, shots, scale, 0, path)
    assert path.exists()
    resumed = train(clip, images.classes, shots, scale, 0, path)
    assert len(steps) == 5 < len(straight.losses) and resumed.losses == straight.losses
    for a, b in zip(straight.model.state_dict().values(), resumed.model.state_dict().values()): assert torch.equal(a, b)


def test_a_seed_changes_the_shots_and_the_context(tmp_path):
    folders = run_stage('coop', SCALE, (0, 1), tmp_path)
    first, second = (load_file(folder/'coop.safetensors')['context'] for folder in folders.values())
    assert first.shape == second.shape == (1, SCALE.coop.n_ctx, 96) and not torch.equal(first, second)


@pytest.mark.parametrize('settings, message', [
    ({'coop.shots': 5}, 'coop.shots = 5: class airplane has 4 images: lower it, or bring more'),
    ({'coop.n_ctx': 30}, 'behind 30 context vectors needs'),
    ({'coop.lr': float(2**62)}, 'CoOp: the loss of step')], ids=['shots', 'length', 'rate'])
def test_what_cannot_be_trained_is_an_error_of_one_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.setitem(scales, 'odd', SCALE.replace(name='odd', coop=dict(epochs=20)).replace(**settings))
    done = CliRunner().invoke(app, ['run', 'coop', '--scale', 'odd', '--root', str(tmp_path)])
    text = str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else done.output
    assert done.exit_code and message in text, text


def test_rows_without_captions_say_what_they_lack():
    bare, paper = SCALE.replace(captions='', captioner=()), get_scale('paper')
    for scale, wanted in ((bare, {'CLIPN', 'NegRefine', 'ZOC'}), (paper, {'CLIPN', 'NegRefine'})):
        assert {name for name in methods() if get_method(name).unavailable_reason(scale)} == wanted
    with pytest.raises(ValueError, match='captions.tsv'):
        run_stage('captions', SCALE.replace(captions=''), (0,), 'runs')


def test_a_kept_prompt_scores_as_its_method(tmp_path):
    from synood.detector import OODDetector
    images = load_benchmark(SCALE, tmp_path).sets
    from_names = OODDetector.from_names(images['train'].classes, SCALE)
    detector = from_names.fit(images['train'], 'CoOp', SCALE, tmp_path/'fit')
    detector.save(tmp_path/'kept')
    pictures = [images['id'].path(i) for i in range(5)]
    kept = OODDetector.load(tmp_path/'kept')
    np.testing.assert_allclose(kept.score(pictures), detector.score(pictures), atol=1e-7)
    assert kept.method == 'CoOp' and len(set(kept.score(pictures))) > 1
    for name in ('CoCoOp', 'LoCoOp', 'LSN', 'NPOS', 'ZOC', 'CLIPN'):
        other = OODDetector.from_names(images['train'].classes, SCALE)
        with pytest.raises(ValueError, match='cannot be kept as a detector'):
            other.fit(images['train'], name, SCALE, tmp_path/'fit')
