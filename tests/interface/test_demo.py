"""The demo's page: through its interface, and, marked slow, in a real browser.

The picture of the page in the README is made anew by
    SYNOOD_SCREENSHOT=nbs/images/demo.png pytest -m slow tests/interface/test_demo.py
"""
import asyncio
import json
import os
import random
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from PIL import Image

from synood.detector.demo import demo_detector, example_pictures, photograph_detector, serve
from synood.detector import OODDetector
from synood.data.miniature import CLASSES, draw_item, plan, world

gradio_client = pytest.importorskip('gradio_client', reason="the demo needs Gradio: pip install 'gradio>=6'")
NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}'


@pytest.fixture(scope='module')
def zero_shot():
    scenes = [Image.fromarray(draw_item(world('dev'), item)[1]) for item in plan(world('dev'), 0, 30) if item.kind
              == 'id']
    return OODDetector.from_names(CLASSES, 'mini').calibrate(scenes)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory, zero_shot):
    "Files to upload: a known class, a texture, a text that pretends, half a picture."
    folder = tmp_path_factory.mktemp('pictures')
    examples = example_pictures(zero_shot)
    examples['Known classes'][1][1].save(folder/'known.png')
    examples['Far from all of them'][2][1].save(folder/'texture.png')
    (folder/'x.png').write_text('this is a text')
    (folder/'cut.png').write_bytes((folder/'known.png').read_bytes()[:2000])
    return folder


def free_port():
    "A port that is free, and below those that the system gives to whoever asks for any."
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)): return port


def client_of(url, **more):
    return gradio_client.Client(url, verbose=False, httpx_kwargs=dict(timeout=600), **more)


@pytest.fixture
def served(request):
    "A function that serves a detector's page and gives its address; all are closed at the end."
    def at(detector, **settings):
        page = serve(detector, port=free_port(), block=False, **settings)
        request.addfinalizer(page.close)
        return page.local_url
    return at


def test_page_answers_through_its_interface(served, zero_shot, pictures):
    client = client_of(served(zero_shot), download_files=False)

    def judge(name):
        return client.predict(gradio_client.handle_file(pictures/name), api_name='/judge')[1]

    assert '<p class="so-word">ID</p>' in judge('known.png')
    assert '<p class="so-word">OOD</p>' in judge('texture.png')
    assert '<b>x.png</b> cannot be read as a picture (not an image' in judge('x.png')
    assert '<b>cut.png</b> cannot be read as a picture' in judge('cut.png')
    for name in ('x.png', 'cut.png'):
        assert 'Traceback' not in judge(name) and '/gradio/' not in judge(name)


def test_page_has_no_examples_for_classes_of_ones_own(served, zero_shot, pictures):
    own = replace(zero_shot, names=('a dog', *zero_shot.names[1:]), threshold=None, tpr=None)
    client = client_of(served(own), download_files=False)
    assert 'No verdict' in client.predict(gradio_client.handle_file(pictures/'known.png'), api_name='/judge')[1]
    tiles, = (c for c in client.config['components'] if 'so-tiles' in str(c['props'].get('value')))
    assert tiles['props']['visible'] is False and '<button' not in tiles['props']['value']


def test_who_has_no_login_is_told_nothing(served, zero_shot, pictures):
    url = served(zero_shot, login={'ann': 'a:b', 'bob': 'c'})
    with pytest.raises((ValueError, gradio_client.exceptions.AuthenticationError), match='Could not login'):
        client_of(url, auth=('ann', 'c'))
    for path in ('config', 'gradio_api/info'):
        with pytest.raises(HTTPError, match='401'): urlopen(url + path)
    client = client_of(url, download_files=False, auth=('ann', 'a:b'))
    page = client.predict(gradio_client.handle_file(pictures/'known.png'), api_name='/judge')[1]
    assert '<p class="so-word">ID</p>' in page


def test_behind_a_proxy_it_names_its_sub_path(served, zero_shot):
    config = json.loads(urlopen(served(zero_shot, root_path='/ood/') + 'config').read())
    assert urlsplit(config['root']).path == '/ood'


def test_a_slow_machine_is_waited_for(served, zero_shot, monkeypatch):
    import uvicorn
    start = uvicorn.Server.startup

    async def late(self, *args, **kwargs):
        await asyncio.sleep(7)  # Gradio itself gives up after five
        return await start(self, *args, **kwargs)
    monkeypatch.setattr(uvicorn.Server, 'startup', late)
    assert urlopen(served(zero_shot)).status == 200


def test_an_open_address_is_told_and_a_password_is_not(served, zero_shot, capfd):
    served(zero_shot, host='0.0.0.0')
    assert 'whoever reaches 0.0.0.0 can use the demo' in capfd.readouterr().err
    served(zero_shot, host='0.0.0.0', login={'ann': 'secret'})
    printed = ''.join(capfd.readouterr())
    assert 'whoever' not in printed and 'secret' not in printed


# ---- in a browser -----------------------------------------------------------------------------

@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='the browser is driven by playwright')
    if not (chromium := shutil.which('chromium')):
        pytest.skip('there is no chromium on the PATH')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=['--no-sandbox'], timeout=600_000)
        yield browser
        browser.close()


@pytest.fixture
def outside(monkeypatch):
    "Addresses beyond this machine that this process connects to, looks up or that a page asks for."
    hosts, connect, look_up = [], socket.socket.connect, socket.getaddrinfo

    def is_local(host):
        return host in (None, 'localhost', '::1', '') or str(host).startswith('127.')

    def watched_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            hosts.append(address[0])
        return connect(self, address)

    def watched_look_up(host, *args, **kwargs):
        if not is_local(host):
            hosts.append(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, 'connect', watched_connect)
    monkeypatch.setattr(socket, 'getaddrinfo', watched_look_up)
    return hosts


@pytest.fixture
def opened(browser, outside):
    "A function that opens an address; no error may stand in the console, nothing may be asked of another host."
    contexts, errors = [], []

    def look(url, **settings):
        contexts.append(browser.new_context(locale='en', **settings))
        contexts[-1].set_default_timeout(600_000)  # milliseconds
        tab = contexts[-1].new_page()
        tab.on('console', lambda message: message.type == 'error' and errors.append(message.text))
        tab.on('pageerror', lambda error: errors.append(str(error)))
        tab.on('dialog', lambda dialog: (errors.append(f'dialog: {dialog.message}'), dialog.dismiss()))
        tab.on('request', lambda request: urlsplit(request.url).hostname not in ('127.0.0.1', None)
               and outside.append(request.url))
        tab.goto(url)
        tab.wait_for_selector('#so-file input[type=file]', state='attached')
        return tab
    yield look
    for context in contexts:
        context.close()
    assert errors == [] and outside == []


def upload(tab, path, shows):
    tab.set_input_files('#so-file input[type=file]', path)
    tab.wait_for_selector(shows)
    return tab.inner_text('#so-answer')


@pytest.mark.slow
def test_page_in_a_browser(served, opened, pictures, tmp_path):
    detector = demo_detector(tmp_path/'runs')
    url = served(detector)
    tab = opened(url, viewport=dict(width=1100, height=900))
    tab.click('.so-tiles button:has-text("cat")')
    tab.wait_for_selector('.so-word')
    assert tab.inner_text('.so-word') == 'ID' and 'cat' in tab.inner_text('.so-verdict')
    assert tab.locator('.so-gallery img').count() == 5
    assert tab.get_attribute('.so-line', 'aria-label').startswith('score 0.')
    assert tab.get_attribute('.so-tiles button:has-text("cat")', 'aria-pressed') == 'true'
    assert 'Taken for none of the 20 classes' in upload(tab, pictures/'texture.png', '.so-ood')
    assert tab.inner_text('.so-word') == 'OOD'
    tab.wait_for_selector('.so-tiles button[aria-pressed=true]', state='detached')  # this comes after the verdict
    assert 'x.png cannot be read as a picture' in upload(tab, pictures/'x.png', '.so-refused')
    assert upload(tab, pictures/'known.png', '.so-id').startswith('ID')


@pytest.mark.slow
def test_photographs_in_a_browser(served, opened, tmp_path):
    tab = opened(served(photograph_detector()), viewport=dict(width=1100, height=900))
    tab.click('.so-tiles button:has-text("rocket")')
    tab.wait_for_selector('.so-ood')
    tab.click('.so-tiles button:has-text("cat")')
    tab.wait_for_selector('.so-id')
    assert tab.inner_text('.so-word') == 'ID' and 'cat' in tab.inner_text('.so-verdict')
    tab.screenshot(path=tmp_path/'demo.png', full_page=True)
    keep(tmp_path/'demo.png')


def keep(shot):
    "Store the screenshot where the variable says, in few colours."
    with Image.open(shot) as image:
        assert image.width == 1100
        if wanted := os.environ.get('SYNOOD_SCREENSHOT'):
            Path(wanted).parent.mkdir(parents=True, exist_ok=True)
            image.convert('RGB').quantize(256, kmeans=3, dither=Image.Dither.NONE).save(wanted, optimize=True)


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_page_fits_a_phone_and_shows_the_verdict(served, opened, zero_shot, scheme):
    tab = opened(served(zero_shot), viewport=dict(width=390, height=844), color_scheme=scheme)
    tab.click('.so-tiles button:has-text("marbled")')
    tab.wait_for_selector('.so-ood')
    tab.wait_for_function("document.querySelector('.so-word').getBoundingClientRect().bottom < innerHeight")
    assert tab.evaluate('document.documentElement.scrollWidth') <= 390
    colour = tab.evaluate("getComputedStyle(document.querySelector('.so')).backgroundColor")
    light = sum(map(int, colour.strip('rgb()').split(','))) > 3*128
    assert light == (scheme == 'light')


@pytest.mark.slow
def test_labels_never_become_markup(served, opened, zero_shot, pictures):
    nasty = replace(zero_shot, names=(NASTY, *zero_shot.names[1:]),
                    negative_names=(f'moss {NASTY}', *zero_shot.negative_names[1:]),
                    text=zero_shot.text[[2, *range(1, 20)]], threshold=1e-9)
    tab = opened(served(nasty))
    assert NASTY in upload(tab, pictures/'known.png', '.so-id')
    assert tab.locator('#so-answer img').count() == 1
