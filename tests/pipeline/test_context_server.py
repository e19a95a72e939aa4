"""Contexts from a model on a server: many requests at once, resumed after an error, and the key nowhere on the disk."""
import pytest

from chat_server import KEY, on, serving
from synood.app.cli import main
from synood.app.doctor import endpoint_item
from synood.app.preflight import preflight
from synood.core.stages import run_stage
from synood.models.endpoint import EndpointError
from synood.outliers.context import read_contexts


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)


def test_a_run_that_was_stopped_asks_about_the_rest(tmp_path):
    with serving(room=35) as server:  # 32 pictures are a batch
        scale = on(server)
        with pytest.raises(EndpointError, match=r'\*\*\* has no credit left \(402\)'):
            run_stage('contexts', scale, (0,), tmp_path)
        assert len(list((tmp_path/'cache'/'answers').rglob('*.json'))) == 35
        server.asked.clear()
        records = read_contexts(run_stage('contexts', scale, (0,), tmp_path)[0])
    assert len(records) == 40 and len(server.asked) == 5
    assert {r['answer'] for r in records} == {'moon, cactus'} and {r['items'] for r in records} == {('moon', 'cactus')}
    for text in server.asked: assert 'list the elements' in text and '<image>' not in text and 'assistant' not in text
    preflight(scale, tmp_path, 'synthesis')  # the server has gone, and is not needed any more
    assert not [p for p in tmp_path.rglob('*') if p.is_file() and KEY.encode() in p.read_bytes()]


def test_preflight_asks_one_question(tmp_path, monkeypatch):
    with serving() as server:
        preflight(on(server), tmp_path, 'contexts')
        assert len(server.asked) == 1
        assert 'says of a red picture: moon, cactus' in endpoint_item(on(server)).finding
        monkeypatch.setenv('OPENAI_API_KEY', 'sk-wrong')
        with pytest.raises(EndpointError, match='refuses the key'): preflight(on(server), tmp_path, 'contexts')
    assert not list(tmp_path.rglob('contexts'))


def test_a_command_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with serving() as server: address = f'openai:http://localhost:{server.server_port}/v1#toy'
    (tmp_path/'mine.toml').write_text(f'base = "smoke"\ncontext_model = "{address}"\n')
    with pytest.raises(SystemExit) as ended: main(['run', 'contexts', '--scale', 'mine.toml', '--root', 'r'])
    assert ended.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert 'no server can be reached (Connection refused): start it, or correct the address' in line
    (tmp_path/'mine.toml').write_text(f'base = "smoke"\ncontext_model = "openai:http://me:{KEY}@localhost/v1#toy"\n')
    with pytest.raises(SystemExit): main(['run', 'contexts', '--scale', 'mine.toml', '--root', 'r'])
    line, = capsys.readouterr().err.splitlines()
    assert 'put it into OPENAI_API_KEY' in line and KEY not in line
