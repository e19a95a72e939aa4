"""The embedded networks: their recipes learn, their files are what the manifests say, their grades can be had again."""
import json
import signal
import subprocess
import sys

import pytest

from synood.app.pretraining import (PICTURE_COUNTS, SHIPPED_NETWORKS, TrainingPlan, evaluate_networks, manifest,
                                    network_recipes, pretrain, shipped_card)
from synood.core.files import embedded_model_folder, file_hash

FEW = dict.fromkeys(PICTURE_COUNTS, 12)
SHORT = {name: TrainingPlan(samples=480, batch=12, lr=1e-3, warmup=4, average=.9 if name == 'inpainting' else 0.)
         for name in ('clip', 'clip-plain', 'clip-small', 'clip-vit', 'tower', 'classifier', 'vae', 'inpainting',
                      'lister')}


@pytest.fixture(scope='module')
def school(tmp_path_factory):
    "A folder in which networks are trained for forty steps; they share pictures and what they need."
    return tmp_path_factory.mktemp('school')


@pytest.mark.parametrize('name', sorted(SHORT))
def test_every_recipe_learns(school, name):
    assert set(SHORT) == set(network_recipes) - {'inpainting-wide'}  # which differs from `inpainting` in widths alone
    about = manifest(pretrain(name, school, SHORT, FEW))
    losses = [loss for _, loss in about['curve']]
    assert len(losses) == 40
    assert sum(losses[-8:]) < .9*sum(losses[:8])
    assert about['samples'] == 480


KILLED = '''
import os, signal, sys
from synood.app.pretraining import TrainingPlan, pretrain
from synood.core.training import TrainState
save, steps = TrainState.save_if_due, 0
def save_and_die(*args):
    global steps
    save(*args)
    steps += 1
    if steps == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
if __name__ == '__main__':
    TrainState.save_if_due = save_and_die
    pretrain('classifier', sys.argv[1], {'classifier': TrainingPlan(samples=360, batch=12, lr=1e-3, warmup=4)},
             {'id': 12}, seconds_between=0)
'''


def test_killed_and_resumed_is_the_same_network(tmp_path):
    script, hashes = tmp_path/'train.py', []
    script.write_text(KILLED)
    for name, kill in (('whole', False), ('cut', True)):
        command = [sys.executable, str(script), str(tmp_path/name)]
        if kill:  # after 10 of 30 steps
            killed = subprocess.run([*command, '10'], capture_output=True)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
            assert (tmp_path/name/'classifier'/'checkpoint.safetensors').exists()
        subprocess.run([*command, '0'], check=True, stderr=subprocess.DEVNULL)
        hashes.append(manifest(tmp_path/name/'classifier'/'network')['sha256'])
    assert hashes[0] == hashes[1]
    assert not (tmp_path/'cut'/'classifier'/'checkpoint.safetensors').exists()


def test_another_plan_does_not_overwrite_a_network(school):
    pretrain('classifier', school, SHORT, FEW)
    with pytest.raises(ValueError, match='made by another plan'):
        pretrain('classifier', school, SHORT | {'classifier': TrainingPlan(samples=24, batch=12, lr=1e-3)}, FEW)


def test_without_names_the_networks_that_ship_are_trained(monkeypatch, tmp_path):
    from synood.app import cli
    trained = []
    def note(name, root, plans, sizes):
        trained.append(name)
        return root/name
    monkeypatch.setattr('synood.app.pretraining.pretrain', note)
    monkeypatch.setattr('synood.app.pretraining.package_networks', lambda root: root/'miniature')
    cli.pretrain([], tmp_path, 1., True)
    assert trained == list(SHIPPED_NETWORKS) and 'clip-plain' in network_recipes


@pytest.mark.parametrize('name', SHIPPED_NETWORKS)
def test_files_are_what_the_manifest_says(name):
    folder, about = embedded_model_folder(name), manifest(name)
    hashes = {p.relative_to(folder).as_posix(): file_hash(p) for p in folder.rglob('*')
             if p.is_file() and p.name != 'manifest.json'}
    assert hashes == about['sha256']
    assert {'recipe', 'samples', 'commit', 'curve', 'metrics', 'built_from', 'packages'} <= set(about)
    assert not about['commit'].endswith('dirty')
    assert about['recipe']['seed'] == 0


def test_all_weights_together_stay_small():
    folders = [embedded_model_folder(name) for name in SHIPPED_NETWORKS]
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob('*') if path.is_file()]
    assert sum(sizes) <= 40e6


def test_recipes_are_the_ones_that_were_run():
    for name in SHIPPED_NETWORKS:
        about = manifest(name)
        for network in (about, *about['built_from'].values()):
            shipped = network_recipes[network['name']]
            recipe = json.loads(json.dumps(vars(shipped.plan) | {'mix': shipped.mix}))
            assert network['recipe'].items() >= recipe.items(), network['name']


@pytest.mark.slow
def test_the_report_card_can_be_had_again(tmp_path):
    "On 200 pictures, within what another machine's arithmetic may move."
    networks = {name: f'embedded:{name}' for name in SHIPPED_NETWORKS}
    card = evaluate_networks(networks, tmp_path).set_index(['model', 'metric']).value
    shipped = shipped_card().set_index(['model', 'metric']).value
    assert set(card.index) == set(shipped.index)
    assert (card - shipped).abs().max() < 3
