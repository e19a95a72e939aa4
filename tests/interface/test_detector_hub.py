"""A detector is published, and comes back: the hub's own library does both, its server is played."""
import shutil

import huggingface_hub
import pytest

from synood.detector import OODDetector

COMMIT = 'c0ffee'*6 + 'abcd'


@pytest.fixture(scope='module')
def detector(): return OODDetector.from_names(['cat', 'house', 'tree'], 'mini')


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A cache into which what is uploaded is put as if it had been downloaded."
    shelf = tmp_path/'cache'/'models--me--cats'

    def create(self, repo_id, **k): return huggingface_hub.RepoUrl(f'https://huggingface.co/{repo_id}')
    monkeypatch.setattr(huggingface_hub.HfApi, 'create_repo', create)

    def upload(self, *, repo_id, folder_path, **k):
        shutil.copytree(folder_path, shelf/'snapshots'/COMMIT)
        (shelf/'refs').mkdir()
        (shelf/'refs'/'main').write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.HfApi, 'upload_folder', upload)
    return shelf


def test_published_and_fetched(detector, hub):
    detector.push_to_hub('me/cats')
    files = {p.name for p in (hub/'snapshots'/COMMIT).iterdir()}
    assert files == {'README.md', 'detector.json', 'detector.safetensors'}
    card = huggingface_hub.ModelCard.load(hub/'snapshots'/COMMIT/'README.md')
    assert card.data.library_name == 'synood'
    assert 'Classes: cat, house, tree' in card.text and 'promises nothing yet' in card.text
    again = OODDetector.from_pretrained('me/cats', cache_dir=hub.parent, local_files_only=True)
    assert again.names == detector.names and (again.text == detector.text).all() and again.threshold is None


def test_a_damaged_download_is_named(detector, hub):
    detector.push_to_hub('me/cats')
    (hub/'snapshots'/COMMIT/'detector.safetensors').write_bytes(b'cut')
    with pytest.raises(ValueError, match='detector.safetensors cannot be read'):
        OODDetector.from_pretrained('me/cats', cache_dir=hub.parent, local_files_only=True)
