"""Dual encoders of today: published configurations of open_clip with sizes cut, tiny random weights, all CLIP rows."""
import json
import warnings
import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_model
from timm.models import register_model
from synood.core.scales import get_scale
from synood.evaluation.benchmark import experiment
from synood.models.clip import encode_text, load_clip
from synood.scores.method import methods

# name of open_clip -> (its image tower in timm, the sizes that are cut)
NETWORKS = {
    'ViT-B-16-SigLIP2': ('vit_base_patch16_siglip_224', dict(depth=2, embed_dim=64, num_heads=2, img_size=32)),
    'PE-Core-T-16-384': ('vit_pe_core_tiny_patch16_384', dict(depth=2, img_size=32)),
    'MobileCLIP2-B': ('vit_base_mci_224', dict(depth=2, img_size=32)),
    'MobileCLIP2-S0': ('fastvit_mci0', dict(layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128))),
}
READ_THE_TEXT_TOWER = {'CoOp', 'CoCoOp', 'LoCoOp', 'LSN', 'CLIPN', 'ZOC'}
READ_PATCHES = {'GL-MCM', 'LoCoOp'}
NOT_CAUSAL = {'ViT-B-16-SigLIP2', 'MobileCLIP2-S0'}
# torch's CPU kernels for AVX2 crash in the backward pass of its first layer (1 x 1, stride 2, channels last)
NOT_TRAINED_HERE = {'MobileCLIP2-S0'}


def make_tokenizer(folder):
    "A small tokenizer with an end token, in the format of the published one; its number of tokens."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    words = Tokenizer(models.BPE(unk_token='<unk>'))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ['<pad>', '<eos>', '<bos>', '<unk>']
    words.train_from_iterator(['a photo of the nice abcdefghijklmnopqrstuvwxyz.,-']*3,
                              trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    words.post_processor = processors.TemplateProcessing(single='$A <eos>', special_tokens=[('<eos>', 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token='<pad>', eos_token='<eos>', bos_token='<bos>',
                                   unk_token='<unk>')
    fast.save_pretrained(folder)
    return len(fast)


def register_tower(tower, sizes):
    "Make timm know a tower by a name of its own, of cut sizes."
    def small(pretrained=False, **settings): return timm.create_model(tower, pretrained=False, **settings | sizes)
    small.__name__ = f'small_{tower}'
    small.__module__ = __name__
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it may be registered from the test before
        register_model(small)
    return small.__name__


@pytest.fixture(scope='module')
def network(request, tmp_path_factory):
    "A folder with a network of open_clip's name, its sizes cut."
    name, folder = request.param, tmp_path_factory.mktemp('network')
    tower, sizes = NETWORKS[name]
    settings = open_clip.get_model_config(name)
    settings['vision_cfg'] |= dict(timm_model_name=register_tower(tower, sizes), image_size=sizes.get('img_size', 64))
    settings['text_cfg'] |= dict(width=64, heads=2, layers=2)
    settings['embed_dim'] = 64
    if 'hf_tokenizer_name' in settings['text_cfg']:
        settings['text_cfg'] |= dict(vocab_size=make_tokenizer(folder), hf_tokenizer_name='local')
    (folder/'open_clip_config.json').write_text(json.dumps(dict(model_cfg=settings, preprocess_cfg={})))
    (folder/'named').mkdir()
    (folder/'named'/'tiny-network.json').write_text(json.dumps(settings))
    open_clip.add_model_config(folder/'named')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(open_clip.create_model('tiny-network'), str(folder/'open_clip_model.safetensors'))
    return name, folder


def expected_reason(method, name, no_row):
    "A part of the line that says why a method has no row; '' for one that has."
    if method in ('InterNeg', 'TINS') and method in no_row: return 'no candidate passes'  # with random weights
    if method in READ_PATCHES: return 'features of patches are known for'
    if method in READ_THE_TEXT_TOWER and name in NOT_CAUSAL: return 'prompts can be learned for text towers'
    return ''


@pytest.mark.parametrize('network', [name if name == 'ViT-B-16-SigLIP2' else pytest.param(name, marks=pytest.mark.slow)
                                     for name in NETWORKS], indirect=True)
def test_every_row_runs_or_says_why_not(network, tmp_path):
    name, folder = network
    clip = load_clip((str(folder),))
    assert encode_text(clip, ['a dog', 'the house']).shape == (2, 64)
    scale = get_scale('smoke').replace(name='backbone', clip=(str(folder),), n_test=10, n_train=4,
                                       krnft=dict(crops=8, crops_kept=2, steps=4))
    on_clip = [m for m in methods().values() if m.needs[0][0] == 'clip' and not m.unavailable_reason(scale)]
    if name in NOT_TRAINED_HERE: on_clip = [m for m in on_clip if not m.backbone]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        rows = experiment('backbones', [m() for m in on_clip], scale, (0,), tmp_path/'runs')
    no_row = rows.attrs['no_row']
    for method in (m.name for m in on_clip):
        reason = expected_reason(method, name, no_row)
        assert (reason in no_row[method] and '\n' not in no_row[method]) if reason else method not in no_row, method
    assert set(rows.method) == {m.name for m in on_clip} - set(no_row)
    assert np.isfinite(rows[['auroc', 'fpr95']].to_numpy(float)).all()
