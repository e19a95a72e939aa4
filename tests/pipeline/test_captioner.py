"""Candidates for ZOC from published kinds of captioners, with tiny random weights and without a network."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor,
                          CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor)

from synood.evaluation.benchmark import load_benchmark, training_data
from synood.outliers.context import VisionLanguageModel
from synood.models.hub import random_init, find_model, random_config_folder
from synood.core.scales import get_scale
from synood.methods.zoc import (ZOC, random_blip_processor, candidate_words, captioner_tokens, captioner_candidates,
                                load_captioner)

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'cat', 'beach', 'umb', '##rella', 'a', '7', '.',
         *(f'word{chr(97 + k)}' for k in range(26)), '[DEC]', '[ENC]']
SIZE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
PICTURES = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (40, 50, 3), np.uint8)) for k in range(3)]


def tokenizer(): return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


def blip():
    text = dict(SIZE, vocab_size=len(WORDS) + 3, encoder_hidden_size=32,  # three outputs that are no token
                bos_token_id=WORDS.index('[DEC]'), sep_token_id=3, pad_token_id=0)
    config = BlipConfig(text_config=text, vision_config=dict(SIZE, image_size=32, patch_size=16, initializer_range=.5))
    processor = BlipProcessor(BlipImageProcessor(size=dict(height=32, width=32)), tokenizer())
    return BlipForConditionalGeneration, config, processor


def git():
    config = GitConfig(vision_config=dict(SIZE, image_size=32, patch_size=16), vocab_size=len(WORDS), bos_token_id=2,
                       eos_token_id=3, pad_token_id=0, **SIZE)
    images = CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))
    return GitForCausalLM, config, GitProcessor(images, tokenizer())


@pytest.fixture(params=[blip, git])
def saved(request, tmp_path):
    "A captioner's folder in its published form, its network and its processor."
    kind, config, processor = request.param()
    model = random_init(kind, config, 1, torch.device('cpu'))
    model.save_pretrained(tmp_path/'captioner')
    processor.save_pretrained(tmp_path/'captioner')
    yield tmp_path/'captioner', model, processor
    load_captioner.cache_clear()


def test_a_folder_gives_the_likeliest_tokens_of_every_step(saved):
    folder, model, processor = saved
    captioner = load_captioner((str(folder),))
    tokens = captioner_tokens(captioner, PICTURES, 6, 4)
    assert tokens.shape == (3, 6, 4) and tokens.dtype == np.int32
    pixels = processor(images=PICTURES, return_tensors='pt')['pixel_values']
    written = model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False, num_beams=1)
    for likeliest, sentence in zip(tokens[..., 0].tolist(), written.tolist()):
        sentence = sentence[1:]  # after the token that opens it
        end = sentence.index(3) + 1 if 3 in sentence else len(sentence)
        assert likeliest[:end] == sentence[:end]
    assert (captioner_tokens(captioner, PICTURES[1:2], 6, 4) == tokens[1:2]).all()
    assert (captioner_tokens(captioner, PICTURES, 6, 1)[..., 0] == tokens[..., 0]).all()


def test_words_are_whole_and_of_letters(saved):
    namer = captioner_candidates(load_captioner((str(saved[0]),)), 3, 4)
    known = {word for word in namer.known.words if word}
    assert {'cat', 'beach', 'umb'} <= known and not known & {'rella', 'a', '7', '.', 'sep'}
    assert len(namer.known.words) >= len(WORDS) and namer.known.special == {0, 1, 2, 3, 4}
    assert candidate_words(np.array([[[5, 8], [6, 11], [3, 7], [5, 5]]]), namer.known) == [('cat', 'beach', 'umb')]


def test_a_row_by_a_captioner(saved, tmp_path):
    folder = saved[0]
    scale = get_scale('smoke').replace(name='tiny', n_test=20, captioner=(str(folder),), captions='',
                                       zoc=dict(max_new_tokens=3, top_k=5))
    bench = load_benchmark(scale, tmp_path/'runs')
    method, test = ZOC().fit(training_data(bench, ZOC, 0)), bench.features('SUN', ZOC.needs)
    scores, words = method.score(test), method.words(test)
    assert scores.shape == (20,) and ((scores > 0) & (scores <= 1)).all()
    assert all(scores[i] == 1 for i, named in enumerate(words) if not named)
    assert ZOC.unavailable_reason(scale) == '' and 'a captioner' in ZOC.unavailable_reason(scale.replace(captioner=()))
    assert not list((tmp_path/'runs').rglob('zoc*'))  # no decoder was trained


def test_sentences_end_at_a_special_token():
    class Silent(torch.nn.Module):
        device, dtype = torch.device('cpu'), torch.float32
        def generate(self, **_):
            return SimpleNamespace(scores=(torch.eye(len(WORDS))[[5, 5]], torch.eye(len(WORDS))[[3, 3]]))
    tokens = captioner_tokens(VisionLanguageModel(Silent(), blip()[2], ''), PICTURES[:2], 5, 1)
    special = blip()[2].tokenizer.all_special_ids
    assert tokens[0, :2, 0].tolist() == [5, 3] and set(tokens[:, 2:].ravel().tolist()) <= set(special)


def test_what_is_no_captioner_says_so(saved, monkeypatch):
    folder = saved[0]
    with pytest.raises(FileNotFoundError, match='tried nobody/nothing .*captioner = '):
        load_captioner(('nobody/nothing',))
    for file in folder.glob('token*'): file.unlink()  # transformers then brings a tokenizer without a word
    with pytest.raises(ValueError, match='whole words cannot be told'):
        captioner_candidates(load_captioner((str(folder),)), 3, 4)
    load_captioner.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr('transformers.AutoProcessor.from_pretrained', lambda _: tokenizer())
        with pytest.raises(ValueError, match='needs a processor with a tokenizer, this one is BertTokenizer'):
            load_captioner((str(folder),))
    (folder/'model.safetensors').rename(folder/'pytorch_model.bin')
    with pytest.raises(ValueError, match='holds no .safetensors'): load_captioner((str(folder),))


def test_the_random_captioner_has_the_published_size():
    folder = find_model(('random:captioner',), 'captioner')
    assert folder == random_config_folder('captioner')
    model, processor = random_init(BlipForConditionalGeneration, folder, 0,
                                   torch.device('meta')), random_blip_processor(folder)
    assert 440e6 < sum(p.numel() for p in model.parameters()) < 450e6
    namer = captioner_candidates(VisionLanguageModel(model, processor, 'shape'), 9, 35)
    assert len(namer.known.words) == 30524 and {'cat', 'umbrella'} <= set(namer.known.words)
