"""Features of patches on the published architecture, with random weights."""
import open_clip
import pytest
import torch
import torch.nn.functional as F

from synood.models.clip import patch_tokens


@pytest.fixture(scope='module')
def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model('ViT-B-16-quickgelu', pretrained=None).visual.eval().requires_grad_(False)


@torch.inference_mode()
def test_value_path_of_the_last_block(tower):
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    *blocks, last = tower.transformer.resblocks
    x = tower.conv1(pixels).flatten(2).mT  # (1, 196, 768)
    x = torch.cat([tower.class_embedding.expand(1, 1, -1), x], 1) + tower.positional_embedding  # (1, 197, 768)
    x = tower.ln_pre(x)
    for block in blocks: x = block(x)
    v = last.attn.out_proj(F.linear(last.ln_1(x), last.attn.in_proj_weight[2*768:], last.attn.in_proj_bias[2*768:]))
    v = v + x
    v = v + last.mlp(last.ln_2(v))
    expected = (tower.ln_post(v) @ tower.proj)[:, 1:]  # (1, 196, 512)
    patches = patch_tokens(tower, pixels)
    assert patches.shape == (1, 196, 512)
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3
    assert not torch.allclose(patches[0, 0], patches[0, 1], atol=1e-3)
    whole = tower(pixels)
    by_hand = (tower.ln_post(last(x)) @ tower.proj)[:, 0]  # (1, 512)
    assert torch.allclose(by_hand, whole, atol=1e-5)  # the hand-made way to the last block is the tower's
    assert not torch.allclose(patches.mean(1), whole, atol=1e-3)
