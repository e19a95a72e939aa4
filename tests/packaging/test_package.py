"""The package as others get it: built, installed away from the checkout, complete."""
import os
import subprocess
import zipfile

import pytest


@pytest.fixture(scope='module')
def packed(wheel):
    "{name: size} of the files in the wheel."
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def elsewhere(command, folder, **variables):
    "Run outside the checkout, with no variable that could let it back in."
    environment = {name: value for name, value in os.environ.items()
                   if name not in {'PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV'}}
    done = subprocess.run([str(part) for part in command], cwd=folder, text=True,
                          env=environment | variables, capture_output=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_wheel_holds_every_module_and_asset(root, tracked, packed):
    wanted = {path.as_posix() for path in tracked if path.parts[0] == 'synood'}
    assert wanted - set(packed) == set()
    assert {name for name in packed if name.startswith('synood/')} - wanted == set()


@pytest.mark.parametrize('model', ['clip', 'classifier', 'inpainting', 'lister'])
def test_wheel_holds_the_miniature_weights(packed, model):
    folder = f'synood/assets/miniature/{model}/'
    weights = [size for name, size in packed.items()
               if name.startswith(folder) and name.endswith('.safetensors')]
    assert weights and min(weights) > 1000


def test_wheel_is_small_enough_to_ship(wheel):
    assert wheel.stat().st_size < 60e6


def test_metadata_says_what_settings_say(wheel, settings):
    with zipfile.ZipFile(wheel) as archive:
        name, = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = archive.read(name).decode()
        scripts = archive.read(name.replace('METADATA', 'entry_points.txt')).decode()
        assert any(n.endswith('LICENSE') for n in archive.namelist())
    lines = metadata.splitlines()
    assert f'Version: {settings["version"]}' in lines
    assert 'License-Expression: Apache-2.0' in lines
    assert f'Requires-Python: >={settings["min_python"]}' in lines
    assert {'Provides-Extra: dev', 'Provides-Extra: docs'} <= set(lines)
    assert 'synood = synood.app.cli:main' in scripts


def test_installed_package_is_not_the_checkout(clean_python, installed_wheel, root, tmp_path):
    command = 'import synood; print(synood.__file__, synood.__version__)'
    file, version = elsewhere([clean_python, '-c', command], tmp_path).split()
    assert file == str(installed_wheel/'synood'/'__init__.py')
    assert not installed_wheel.is_relative_to(root)
    assert version == (root/'synood'/'__init__.py').read_text().split('"')[1]
    command = 'import sys; print("\\n".join(sys.path))'
    assert str(root) not in elsewhere([clean_python, '-c', command], tmp_path).splitlines()


def test_every_module_imports_from_the_wheel(clean_python, installed_wheel, root, tmp_path):
    modules = sorted(path.stem for path in (root/'synood').glob('[!_]*.py'))
    command = '\n'.join(['import importlib, sys',
                         f'for name in {modules!r}: importlib.import_module("synood." + name)',
                         'print("done")'])
    assert elsewhere([clean_python, '-c', command], tmp_path, HF_HUB_OFFLINE='1') == 'done'


def test_constraints_pin_every_requirement(root, settings):
    pinned = {line.split('==')[0].lower().replace('_', '-')
              for line in (root/'constraints.txt').read_text().splitlines() if '==' in line}
    for key in [key for key in settings if key.endswith('requirements')]:
        for requirement in settings[key].split():
            name = requirement.split('==')[0].split('>=')[0].lower().replace('_', '-')
            assert name in pinned, f'{requirement} of {key} has no version in constraints.txt'
