"""A network's folder that somebody sends: whatever its files say, no code of theirs runs, and no network is asked."""
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DEED = 'open({mark!r}, "w")\nfrom transformers import CLIPTokenizer\nclass T(CLIPTokenizer): pass\n'
ADDRESS = 'ADDRESS'  # of the server that must hear nothing
OURS = {'AutoTokenizer': ['deed.T', 'deed.T']}
THEIRS = {'AutoModelForImageTextToText': 'deed.T', 'AutoConfig': 'someone/beacon--deed.T'}

REFUSED = [  # kind, file, key, value
    ('clip', 'open_clip_config.json', 'model_cfg.text_cfg.tokenizer_kwargs', {'trust_remote_code': True}),
    ('clip', 'open_clip_config.json', 'model_cfg.text_cfg.hf_model_name', 'someone/beacon'),
    ('clip', 'open_clip_config.json', 'model_cfg.text_cfg.hf_tokenizer_name', 'hf-hub:someone/beacon'),
    ('clip', 'open_clip_config.json', 'model_cfg.vision_cfg.timm_model_name', 'hf-hub:someone/beacon'),
    ('clip', 'open_clip_config.json', 'model_cfg.vision_cfg.timm_model_pretrained', True),
    ('clip', 'open_clip_config.json', 'model_cfg.vision_cfg.act_kwargs', {'inplace': 'x'}),
    ('clip', 'open_clip_config.json', 'model_cfg.pretrained_image', ADDRESS),
    ('clip', 'tokenizer_config.json', 'auto_map', OURS),
    ('clip', 'tokenizer_config.json', 'vocab_file', '/etc/hostname'),
    ('clip', 'tokenizer_config.json', 'fast_tokenizer_files', ['../tokenizer.json']),
    ('clip', 'special_tokens_map.json', 'auto_map', OURS),
    ('clip', 'config.json', 'auto_map', THEIRS),
    ('classifier', 'config.json', 'architecture', 'hf-hub:someone/beacon'),
    ('classifier', 'config.json', 'architecture', 'local-dir:/etc'),
    ('classifier', 'config.json', 'pretrained_cfg.url', ADDRESS),
    ('classifier', 'config.json', 'pretrained_cfg.file', '/etc/hostname'),
    ('classifier', 'config.json', 'pretrained_cfg.hf_hub_id', 'someone/beacon'),
    ('classifier', 'config.json', 'pretrained_cfg.custom_load', True),
    ('classifier', 'config.json', 'model_args.pretrained', True),
    ('classifier', 'config.json', 'model_args.pretrained_cfg_overlay', {'url': ADDRESS}),
    ('inpainting', 'model_index.json', 'scheduler', ['deed', 'T']),
    ('inpainting', 'model_index.json', 'scheduler', ['diffusers', 'DiffusionPipeline']),
    ('inpainting', 'model_index.json', 'unet', ['deed', 'T']),
    ('inpainting', 'unet/config.json', 'act_fn', 'someone/beacon'),
    ('inpainting', 'vae/config.json', 'quantization_config', {'quant_method': 'bitsandbytes'}),
    ('inpainting', 'scheduler/scheduler_config.json', 'auto_map', OURS),
    ('inpainting', 'text_encoder/config.json', 'auto_map', THEIRS),
    ('inpainting', 'tokenizer/tokenizer_config.json', 'auto_map', OURS),
    ('lister', 'config.json', 'auto_map', THEIRS),
    ('lister', 'config.json', 'text_config.auto_map', THEIRS),
    ('lister', 'config.json', 'vision_config', {'model_type': 'timm_wrapper', 'architecture': 'hf-hub:someone/beacon'}),
    ('lister', 'config.json', 'vision_config.use_pretrained_backbone', True),
    ('lister', 'config.json', '_attn_implementation', 'someone/beacon'),
    ('lister', 'config.json', 'quantization_config', {'quant_method': 'bitsandbytes'}),
    ('lister', 'generation_config.json', 'custom_generate', 'someone/beacon'),
    ('lister', 'processor_config.json', 'auto_map', {'AutoProcessor': 'deed.T'}),
    ('lister', 'processor_config.json', 'image_processor.auto_map', {'AutoImageProcessor': 'deed.T'}),
    ('lister', 'preprocessor_config.json', 'auto_map', {'AutoImageProcessor': 'deed.T'}),
    ('lister', 'tokenizer_config.json', 'auto_map', OURS)]
LEFT_OUT = [  # entries and files that no library gets: the network is as it was
    ('clip', 'tokenizer_config.json', '_name_or_path', 'someone/beacon'),
    ('clip', 'tokenizer_config.json', 'chat_template', '{{ "".__class__ }}'),
    ('classifier', 'config.json', 'pretrained_cfg.origin_url', ADDRESS),
    ('inpainting', 'model_index.json', 'safety_checker', ['deed', 'T']),
    ('inpainting', 'unet/config.json', '_name_or_path', 'someone/beacon'),
    ('lister', 'config.json', '_name_or_path', 'someone/beacon'),
    ('lister', 'adapter_config.json', 'base_model_name_or_path', 'someone/beacon'),
    ('lister', 'config.json', 'vision_config.architecture', 'hf-hub:someone/beacon'),
    ('lister', 'config.json', 'pretraining_tp', 1)]
KINDS = 'clip', 'classifier', 'inpainting', 'lister'


def poison(folder, name, key, value):
    file = folder/name
    value = json.loads(json.dumps(value).replace(ADDRESS, os.environ['HF_ENDPOINT']))
    usual = {'model_type': 'llama'} if file.name == 'config.json' else {}
    settings = json.loads(file.read_text()) if file.exists() else usual
    place, *parts = settings, *key.split('.')
    for part in parts[:-1]: place = place[part]
    place[parts[-1]] = value
    file.write_text(json.dumps(settings))


def readers(kind):
    "Everything in the package that opens such a folder."
    from synood.outliers import context, synthesis
    from synood.evaluation import costs
    from synood.models import classifier, clip
    from synood.methods import zoc
    return dict(
        clip=[clip.load_clip, costs.meta_clip_network, costs.clip_tokenizer],
        classifier=[classifier.load_classifier, costs.meta_classifier],
        inpainting=[synthesis.load_inpainting, lambda ids: costs.inpainting_flops(ids, 64),
                    lambda ids: costs.denoising_steps(costs_scale(ids))],
        lister=[context.load_context_model, zoc.load_captioner,
                lambda ids: costs.context_model_flops(ids, 'What is beside the {name}? <image>', 2)])[kind]


def costs_scale(ids):

    from synood.core.scales import get_scale
    return get_scale('smoke').replace(inpainting=ids)


def said(read, folder):
    "What a reader says of a folder; empty where it takes it."
    try: read((str(folder),))
    except (ValueError, OSError) as e: return str(e)
    return ''


def attack(place):
    "Every reader on every folder: what was said, and what was heard or done meanwhile, as JSON."
    from synood.core.files import embedded_model_folder
    mark, messages = place/'EXECUTED', []
    cases = [(kind, '', '', None) for kind in KINDS] + REFUSED + LEFT_OUT
    for number, (kind, name, key, value) in enumerate(cases):
        folder = place/str(number)
        shutil.copytree(embedded_model_folder(kind), folder)
        if key: poison(folder, name, key, value)
        messages.append([said(read, folder) for read in readers(kind)])
    for kind in KINDS:  # and with the code beside it
        folder = place/f'{kind} with code'
        shutil.copytree(embedded_model_folder(kind), folder)
        for case in REFUSED:
            if case[0] == kind and 'auto_map' in case[2]: poison(folder, *case[1:])
        (folder/'deed.py').write_text(DEED.format(mark=str(mark)))
        messages.append([said(read, folder) for read in readers(kind)])
    print(json.dumps(dict(told=messages, executed=mark.exists())))


@pytest.fixture(scope='module')
def heard(): return []


@pytest.fixture(scope='module')
def attacked(heard, tmp_path_factory):
    "The answers of a process for which the hub is a server on this machine, and which nobody told to be offline."
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_response(404)
            self.end_headers()
        do_HEAD = do_POST = do_GET
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    place = tmp_path_factory.mktemp('poisoned')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    switches = 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'SYNOOD_DOWNLOAD'
    env = {key: x for key, x in os.environ.items() if key not in switches}
    env |= dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(place/'hf'), OMP_NUM_THREADS='1')
    run = subprocess.run([sys.executable, __file__, str(place)], env=env, stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=900)
    server.shutdown()
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1]) | dict(place=place, shown=run.stderr)


def test_nothing_runs_nothing_is_asked_and_nothing_is_shown(attacked, heard):
    assert heard == [] and not attacked['executed']
    assert attacked['shown'] == ''


def test_an_honest_folder_is_read_by_all(attacked): assert not any(map(any, attacked['told'][:len(KINDS)]))


def labels(cases): return [f'{kind}-{name}-{key}'.replace('/', '_') for kind, name, key, _ in cases]


@pytest.mark.parametrize('number', range(len(REFUSED)), ids=labels(REFUSED))
def test_what_could_name_code_is_refused_in_one_line_that_names_it(number, attacked):
    _, name, key, _ = REFUSED[number]
    for line in filter(None, attacked['told'][len(KINDS) + number]):
        assert '\n' not in line and line.startswith(str(attacked['place']))
        assert f'{name}: ' in line and key.rpartition('.')[2] in line
    assert attacked['told'][len(KINDS) + number][0]


@pytest.mark.parametrize('number', range(len(LEFT_OUT)), ids=labels(LEFT_OUT))
def test_what_only_tells_is_left_out(number, attacked):
    assert not any(attacked['told'][len(KINDS) + len(REFUSED) + number])


def test_a_folder_with_code_is_refused(attacked):
    for lines in attacked['told'][-len(KINDS):]: assert all('deed.py is no data of a network' in line for line in lines)


if __name__ == '__main__': attack(Path(sys.argv[1]))
