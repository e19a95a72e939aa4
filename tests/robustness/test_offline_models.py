"""Published formats, each as a folder and in a hub's cache, with tiny weights and without a network."""
import json
import shutil
import socket

import huggingface_hub
import numpy as np
import open_clip
import pytest
import timm
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, CLIPTextModel

from synood.outliers.context import generate_answers, load_context_model
from synood.models.hub import random_init, device, find_model, hub_commits, random_config_folder
from synood.models.classifier import encode_classifier, load_classifier
from synood.models.clip import clip_tokenizer, encode_images, encode_text, load_clip
from synood.core.scales import get_scale
from synood.outliers.inpainting import _load_painter, blank_latent, blank_text, encode_prompts, load_inpainting

OLD, NEW = 'a'*40, 'b'*40  # commits
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    "Hub clients believe they are online; whoever tries, and whoever asks for a download, fails the test."
    tried, usual = [], huggingface_hub.snapshot_download
    def cut_off(*where, **_):
        tried.append(where)
        raise OSError('no network in this test')
    def local_only(repository, **options):
        if not options['local_files_only']: tried.append(repository)
        return usual(repository, **options)
    for owner, name in ((socket, 'getaddrinfo'), (socket, 'create_connection'), (socket.socket, 'connect')):
        monkeypatch.setattr(owner, name, cut_off)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', local_only)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.delenv('SYNOOD_DOWNLOAD', raising=False)
    yield
    for kept in (load_context_model, _load_painter, blank_text, blank_latent): kept.cache_clear()
    assert tried == []


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "publish(repository, folder) puts a folder into a made-up cache, twice: as `main` and, with other weights, as `v2`."
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    def publish(repository, folder):
        home = tmp_path/'hub'/f'models--{repository.replace("/", "--")}'
        (home/'refs').mkdir(parents=True)
        for ref, commit in (('main', OLD), ('v2', NEW)):
            (home/'refs'/ref).write_text(commit)
            shutil.copytree(folder, home/'snapshots'/commit)
        change(home/'snapshots'/NEW)
        return home/'snapshots'
    return publish


def change(folder):
    "Make other networks of the files below a folder."
    for file in folder.rglob('*.safetensors'):
        save_file({name: x*1.25 for name, x in load_file(file).items()}, file, {'format': 'pt'})


def total(network): return sum(float(x.detach().double().abs().sum()) for x in network.parameters())


def painted(ids):
    painter = load_inpainting(ids)
    return np.array([total(painter.unet), total(painter.vae), float(encode_prompts(painter, ['a cow']).abs().sum())])


LOADERS = dict(
    clip=lambda ids: encode_images(load_clip(ids), [PICTURE]),
    classifier=lambda ids: encode_classifier(load_classifier(ids), [PICTURE])[0],
    inpainting=painted,
    lister=lambda ids: np.array([total(load_context_model(ids).model)]))


@pytest.mark.parametrize('kind', LOADERS)
def test_a_folder_in_the_published_format_is_the_network_it_was_copied_from(kind, tmp_path):
    shutil.copytree(find_model((f'embedded:{kind}',)), tmp_path/'own')
    np.testing.assert_array_equal(LOADERS[kind]((str(tmp_path/'own'),)), LOADERS[kind]((f'embedded:{kind}',)))
    assert hub_commits[str(tmp_path/'own')] == ''


@pytest.mark.parametrize('kind', LOADERS)
def test_a_pin_picks_the_revision_in_the_cache(kind, hub):
    repository, load = f'someone/{kind}', LOADERS[kind]
    hub(repository, find_model((f'embedded:{kind}',)))
    newest, pinned, old = (load((f'{repository}{pin}',)) for pin in ('', '@v2', f'@{OLD}'))
    np.testing.assert_array_equal(newest, load((f'embedded:{kind}',)))
    np.testing.assert_array_equal(newest, old)
    assert not np.allclose(newest, pinned)
    assert [hub_commits[f'{repository}{pin}'] for pin in ('', '@v2', f'@{OLD}')] == [OLD, NEW, OLD]


@pytest.mark.parametrize('kind', LOADERS)
def test_a_missing_model_is_one_line_that_says_what_to_do(kind, hub, monkeypatch):
    hub('someone/else', find_model(('embedded:classifier',)))
    with pytest.raises(FileNotFoundError) as caught:
        LOADERS[kind](('someone/thing', 'someone/else@v3', 'nonsense'))
    message = str(caught.value)
    setting = 'context_model' if kind == 'lister' else kind
    assert '\n' not in message
    for part in ('someone/thing (hub someone/thing: not in the local cache)',
                 'someone/else@v3 (hub someone/else: not in', 'nonsense (neither a folder nor a hub id)',
                 f'{setting} = ["./folder"]', 'SYNOOD_DOWNLOAD=1'):
        assert part in message


def test_offline_overrules_the_wish_to_download(hub, monkeypatch):
    monkeypatch.setenv('SYNOOD_DOWNLOAD', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    advice = 'not in the local cache.*or unset HF_HUB_OFFLINE and set SYNOOD_DOWNLOAD=1'
    with pytest.raises(FileNotFoundError, match=advice):
        find_model(('someone/thing',), 'clip')


def test_a_pin_stands_behind_the_names_of_timm_and_open_clip(hub, tmp_path, monkeypatch):
    weights = tmp_path/'timm'
    weights.mkdir()
    with torch.random.fork_rng(): save_file(timm.create_model('resnet10t').state_dict(), weights/'model.safetensors')
    hub('timm/resnet10t.c3_in1k', weights)
    old, new = (load_classifier((f'resnet10t.c3_in1k{pin}',)) for pin in ('', '@v2'))
    assert (old.size, old.resize) == (224, 235)  # as it is tested, not as it was trained
    assert np.allclose(new.bias, old.bias*1.25) and new.hash != old.hash

    embedded, clip = find_model(('embedded:clip',)), tmp_path/'clip'
    clip.mkdir()
    shutil.copy(embedded/'open_clip_model.safetensors', clip)
    config = json.loads((embedded/'open_clip_config.json').read_text())
    del config['model_cfg']['text_cfg']['hf_tokenizer_name']
    (tmp_path/'Miniature-2.json').write_text(json.dumps(config['model_cfg']))
    open_clip.add_model_config(tmp_path/'Miniature-2.json')
    published = dict(hf_hub='someone/clip/', **config['preprocess_cfg'])

    def known(*names): return published if names == ('Miniature-2', 'published') else {}
    monkeypatch.setattr(open_clip, 'get_pretrained_cfg', known)
    words = open_clip.get_tokenizer(f'local-dir:{embedded}')
    monkeypatch.setattr(open_clip, 'get_tokenizer', lambda name: words)
    hub('someone/clip', clip)
    old, new = (encode_text(load_clip((f'Miniature-2/published{pin}',)), ['the nice cat']) for pin in ('', '@v2'))
    assert not np.allclose(old, new)
    assert hub_commits['Miniature-2/published@v2'] == NEW


def test_shards_are_read_whole_or_not_at_all_and_half_precision_twins_are_left_alone(hub, tmp_path):
    lister, pipe = tmp_path/'lister', tmp_path/'pipe'
    shutil.copytree(find_model(('embedded:lister',)), lister)
    shutil.copytree(find_model(('embedded:inpainting',)), pipe)
    whole = AutoModelForImageTextToText.from_pretrained(lister, dtype=torch.float32)
    (lister/'model.safetensors').unlink()
    whole.save_pretrained(lister, max_shard_size='2MB')
    unet = UNet2DConditionModel.from_pretrained(pipe, subfolder='unet')
    shutil.rmtree(pipe/'unet')
    unet.save_pretrained(pipe/'unet', max_shard_size='8MB')
    assert len(list(lister.glob('model-*-of-*'))) > 1 < len(list((pipe/'unet').glob('*-of-*')))
    weights = load_file(pipe/'vae'/'diffusion_pytorch_model.safetensors')
    twin = {name: torch.zeros_like(x) for name, x in weights.items()}
    save_file(twin, pipe/'vae'/'diffusion_pytorch_model.fp16.safetensors')
    np.testing.assert_allclose(painted((str(pipe),)), painted(('embedded:inpainting',)), rtol=1e-6)
    np.testing.assert_allclose(total(load_context_model((str(lister),)).model), total(whole), rtol=1e-6)
    snapshot = hub('someone/lister', lister)/OLD
    next(snapshot.glob('model-00002-of-*')).unlink()
    with pytest.raises(FileNotFoundError, match='hub someone/lister: model-00002-of-.* is missing in the local cache'):
        load_context_model(('someone/lister',))


def test_an_id_as_open_clip_and_timm_write_it_is_the_repository(hub):
    for kind in ('clip', 'classifier'):
        hub(f'someone/{kind}', find_model((f'embedded:{kind}',)))
        for name in (f'someone/{kind}', f'someone/{kind}@v2'):
            np.testing.assert_array_equal(LOADERS[kind]((f'hf-hub:{name}',)), LOADERS[kind]((name,)))
        assert hub_commits[f'hf-hub:someone/{kind}@v2'] == NEW
    for name, message in (('someone/else', r'\(hub someone/else: not in the local cache\).*SYNOOD_DOWNLOAD=1'),
                       ('resnet18', r'\(neither a folder nor a hub id\)'),
                       ('someone/classifier', 'holds no open_clip_config.json: a CLIP is read as open_clip saves it')):
        with pytest.raises(FileNotFoundError, match=message): load_clip((f'hf-hub:{name}',))


@pytest.mark.parametrize('kind', LOADERS)
def test_a_snapshot_needs_not_hold_all_that_the_hub_does(kind, hub):
    snapshot = hub(f'someone/{kind}', find_model((f'embedded:{kind}',)))/OLD
    here = [str(f.relative_to(snapshot)) for f in snapshot.rglob('*') if f.is_file()]
    more = 'model.fp32.safetensors', 'below/config.json', 'README.md', 'onnx/model.json', *here
    (snapshot.parents[1]/'trees').mkdir()
    listing = dict(format_version=1, files={name: dict(size=2, blob_id='b'*40) for name in more})
    (snapshot.parents[1]/'trees'/f'{OLD}.json').write_text(json.dumps(listing))
    np.testing.assert_array_equal(LOADERS[kind]((f'someone/{kind}',)), LOADERS[kind]((f'embedded:{kind}',)))


ERRORS = TimeoutError(), OSError(''), RuntimeError('\n \n'), KeyError(), ValueError('one\ntwo'), StopIteration()


@pytest.mark.parametrize('error', ERRORS, ids=repr)
def test_whatever_a_hub_says_the_next_id_is_tried(error, monkeypatch):
    def fails(*_, **__): raise error
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fails)
    assert find_model(('someone/thing', 'embedded:clip')) == find_model(('embedded:clip',))
    reason = 'one' if str(error).strip() else type(error).__name__
    with pytest.raises(FileNotFoundError, match=f'hub someone/thing: {reason}') as caught:
        find_model(('someone/thing',))
    assert '\n' not in str(caught.value) and 'two' not in str(caught.value)


@pytest.mark.parametrize('kind', LOADERS)
def test_a_poisoned_snapshot_is_refused(kind, hub, tmp_path):
    snapshot = hub(f'someone/{kind}', find_model((f'embedded:{kind}',)))/OLD
    (snapshot/'deed.py').write_text('')
    with pytest.raises(ValueError, match='deed.py is no data of a network'): LOADERS[kind]((f'someone/{kind}',))
    (snapshot/'deed.py').unlink()
    (tmp_path/'hub'/'secret.json').write_text('{}')
    (snapshot/'vocab.json').unlink(missing_ok=True)
    (snapshot/'vocab.json').symlink_to(tmp_path/'hub'/'secret.json')
    with pytest.raises(ValueError, match='vocab.json is a link that leads out'): LOADERS[kind]((f'someone/{kind}',))


def blobs(snapshot):
    "Keep a snapshot's files as the hub does: links to blobs beside it."
    home = snapshot.parents[1]/'blobs'
    home.mkdir(exist_ok=True)
    for number, file in enumerate(sorted(f for f in snapshot.rglob('*') if f.is_file())):
        file.rename(home/f'{number}')
        file.symlink_to(home/f'{number}')


@pytest.mark.parametrize('kind', LOADERS)
def test_a_cache_of_links_is_the_network_that_it_stands_for(kind, hub):
    snapshot = hub(f'someone/{kind}', find_model((f'embedded:{kind}',)))/OLD
    blobs(snapshot)
    np.testing.assert_array_equal(LOADERS[kind]((f'someone/{kind}',)), LOADERS[kind]((f'embedded:{kind}',)))


def test_missing_tensors_and_vocabularies_are_not_made_up(tmp_path):
    for kind, weights in (('lister', 'model.safetensors'), ('inpainting', 'text_encoder/model.safetensors'),
                          ('inpainting', 'vae/diffusion_pytorch_model.safetensors')):
        folder = tmp_path/kind/weights.replace('/', '-')
        shutil.copytree(find_model((f'embedded:{kind}',)), folder)
        tensors = load_file(folder/weights)
        lost = sorted(tensors)[len(tensors)//2]
        save_file({name: x for name, x in tensors.items() if name != lost}, folder/weights, {'format': 'pt'})
        with pytest.raises(ValueError, match='its weights lack 1 tensors'): LOADERS[kind]((str(folder),))
    for kind, words in (('clip', '.'), ('lister', '.'), ('inpainting', 'tokenizer')):
        folder = tmp_path/f'{kind} without words'
        shutil.copytree(find_model((f'embedded:{kind}',)), folder)
        for file in (*(folder/words).glob('tokenizer.json'), *(folder/words).glob('merges.txt')): file.unlink()
        with pytest.raises(ValueError, match='holds no vocabulary'): LOADERS[kind]((str(folder),))


def test_the_next_id_stands_in(hub):
    hub('sd2-community/tiny', find_model(('embedded:inpainting',)))
    np.testing.assert_array_equal(painted(('someone/deleted', 'sd2-community/tiny')), painted(('embedded:inpainting',)))
    assert 'someone/deleted' not in hub_commits


def test_random_weights_are_drawn_for_the_parts_of_a_pipeline():
    home, where = random_config_folder('inpainting'), device()
    vae = random_init(AutoencoderKL, home/'vae', seed=0, where=where)
    meta = torch.device('meta')  # no weights: they would take gigabytes
    unet = random_init(UNet2DConditionModel, home/'unet', seed=0, where=meta)
    text_encoder = random_init(CLIPTextModel, home/'text_encoder', seed=0, where=meta)
    scheduler = PNDMScheduler.from_config(PNDMScheduler.load_config(home/'scheduler'))
    tokenizer = clip_tokenizer(home/'tokenizer')
    with torch.inference_mode(): seen = vae.decode(torch.ones(1, 4, 8, 8, device=where)).sample
    assert seen.shape == (1, 3, 64, 64) and seen.isfinite().all() and seen.std() > 0
    assert (unet.config.in_channels, unet.config.cross_attention_dim) == (9, text_encoder.config.hidden_size)
    assert scheduler.config.prediction_type == 'epsilon'
    assert (tokenizer.model_max_length, vae.config.scaling_factor) == (77, .18215)


@pytest.mark.slow  # three gigabytes and half a minute
def test_a_random_lister_of_full_width_answers_the_same_alone_and_in_a_batch():
    lister = load_context_model(('random:lister-2',))
    question = get_scale('paper').context.question
    together = generate_answers(lister, [PICTURE, PICTURE.rotate(90)], ['temple', 'very old flower'], question, 4)
    assert together[1:] == generate_answers(lister, [PICTURE.rotate(90)], ['very old flower'], question, 4)
    assert all(together)
