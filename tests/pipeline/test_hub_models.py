"""Published model ids, resolved in a local cache without a network."""
import json
import shutil

import numpy as np
import open_clip
import pytest
from PIL import Image

from synood.models.clip import encode_images, load_clip, save_clip
from synood.models.hub import find_model, hub_commits
from synood.core.stages import run_stage
from synood.core.scales import get_scale


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache that holds the embedded CLIP as `Miniature-1/published` of the repository
    someone/miniature; open_clip knows the architecture and the tag."""
    embedded = find_model(('embedded:clip',))
    config = json.loads((embedded/'open_clip_config.json').read_text())
    del config['model_cfg']['text_cfg']['hf_tokenizer_name']
    (tmp_path/'Miniature-1.json').write_text(json.dumps(config['model_cfg']))
    open_clip.add_model_config(tmp_path/'Miniature-1.json')
    repository = tmp_path/'hub'/'models--someone--miniature'
    (repository/'refs').mkdir(parents=True)
    (repository/'refs'/'main').write_text('1234')
    snapshot = repository/'snapshots'/'1234'
    snapshot.mkdir(parents=True)
    shutil.copy(embedded/'open_clip_model.safetensors', snapshot)
    published = dict(hf_hub='someone/miniature/', **config['preprocess_cfg'])

    def known(*names): return published if names == ('Miniature-1', 'published') else {}
    monkeypatch.setattr(open_clip, 'get_pretrained_cfg', known)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.delenv('SYNOOD_DOWNLOAD', raising=False)
    usual = open_clip.get_tokenizer
    words = usual(f'local-dir:{embedded}')
    monkeypatch.setattr(open_clip, 'get_tokenizer',
                        lambda name: words if name == 'Miniature-1' else usual(name))
    return snapshot


def test_a_published_clip_is_loaded_from_the_cache(hub):
    published = load_clip(('Miniature-1/published',))
    embedded = load_clip(('embedded:clip',))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8))
    np.testing.assert_allclose(encode_images(published, [picture]),
                               encode_images(embedded, [picture]), atol=1e-5)
    assert published.hash != embedded.hash  # made from other files


def test_a_cache_without_safetensors_is_not_found(hub):
    (hub/'open_clip_model.safetensors').rename(hub/'open_clip_pytorch_model.bin')
    with pytest.raises(FileNotFoundError, match='someone/miniature: no .safetensors'):
        load_clip(('Miniature-1/published',))


def test_the_next_id_is_tried_and_a_miss_names_all(hub):
    assert find_model(('someone/else', 'Miniature-1/published')) == hub
    with pytest.raises(FileNotFoundError) as caught:
        find_model(('someone/else', 'Miniature-1/other'))
    message = str(caught.value)
    assert 'someone/else' in message and 'Miniature-1/other' in message and '\n' not in message


def test_nothing_is_downloaded_unless_asked(hub, monkeypatch):
    asked = []
    def download(repository, local_files_only, **patterns):
        asked.append((repository, local_files_only))
        return str(hub)
    monkeypatch.setattr('huggingface_hub.snapshot_download', download)
    for wish, offline in (('', False), ('1', True), ('1', False)):
        monkeypatch.setenv('SYNOOD_DOWNLOAD', wish)
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', offline)
        find_model(('someone/else',))
    assert asked == [('someone/else', True), ('someone/else', True), ('someone/else', False)]


def test_a_published_clip_that_was_trained_further_is_a_folder_of_its_own(hub, tmp_path):
    published = load_clip(('Miniature-1/published',))
    kept = tmp_path/'kept'
    kept.mkdir()
    save_clip(published.model, ('Miniature-1/published',), kept)
    config = json.loads((kept/'open_clip_config.json').read_text())
    assert config['preprocess_cfg']['mean'] == [.5]*3 and config['model_cfg']['embed_dim'] == 96
    config['model_cfg']['text_cfg']['hf_tokenizer_name'] = 'local'  # the miniature's words are not OpenAI's
    (kept/'open_clip_config.json').write_text(json.dumps(config))
    for file in find_model(('embedded:clip',)).glob('*.json'):
        if file.name not in ('open_clip_config.json', 'manifest.json'): shutil.copy(file, kept)
    shutil.copy(find_model(('embedded:clip',))/'merges.txt', kept)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8))
    again = load_clip((str(kept),))
    np.testing.assert_array_equal(encode_images(again, [picture]), encode_images(published, [picture]))


def test_a_manifest_names_the_revision_that_was_used(hub, tmp_path, monkeypatch):
    for name in list(hub_commits): monkeypatch.delitem(hub_commits, name)
    ids = 'someone/else', 'Miniature-1/published'
    scale = get_scale('smoke').replace(name='tiny', n_train=1, n_test=10, clip=ids)
    folder = run_stage('negatives', scale, (0,), tmp_path)[0]
    assert json.loads((folder/'manifest.json').read_text())['models'] == {'Miniature-1/published': hub.name}
