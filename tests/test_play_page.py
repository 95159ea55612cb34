"""The page in headless Chromium: it loads, every mode is entered by its key, pictures move, a key moves the dream, and
a recording is written and opens again. Screenshots are kept under screenshots/ (ignored)."""

import itertools
from pathlib import Path

import pytest
from browser import chromium, find
from playing import PLAIN, Client, make_run, serving

from tokendream.config.config import vary
from tokendream.play.view import MODES

SHOTS = Path(__file__).parents[1] / "screenshots"

pytestmark = pytest.mark.skipif(find() is None, reason="there is no Chromium on the PATH (apt-get install chromium)")

PIXELS = "[...document.querySelectorAll('.screen > *')].map(part => part.src ?? part.innerHTML).join('|')"
"""All that the panels show."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with serving(make_run(folder / "run"), folder / "recordings") as server, chromium(folder / "profile") as page:
        page.server = server
        page.size(1440, 900)
        page.goto(server.url)
        page.until("document.body.dataset.mode === 'agent-game'")
        yield page
    assert not page.complaints


def step(page):
    return int(page.js("document.body.dataset.step"))


def enter(page, number, mode):
    page.key(f"Digit{number}")
    page.until(f"document.body.dataset.mode === '{mode}'")


def pause(page, on):
    if (page.js("document.body.dataset.paused") == "true") != on:
        page.key("KeyP")
        page.until(f"document.body.dataset.paused === '{str(on).lower()}'")


@pytest.mark.parametrize(("number", "mode"), list(enumerate(MODES, 1)))
def test_every_mode_is_entered_by_its_key_and_moves(page, number, mode):
    enter(page, number, mode)
    pause(page, False)
    before, seen = step(page), page.js(PIXELS)
    page.until(f"Number(document.body.dataset.step) !== {before}")
    page.until(f"Number(document.body.dataset.step) > 2 && ({PIXELS}) !== {seen!r}")
    visible = page.js("[...document.querySelectorAll('#panels figure')].filter(f => f.offsetParent).map(f => f.id)")
    expected = {"panel-dream", "tokens-dream", "entropy"}
    if MODES[mode].truth is not None:
        expected |= {"panel-frame", "panel-reconstruction", "tokens-reconstruction"}
    assert set(visible) == expected
    assert page.js("document.querySelector('#modes .on').dataset.mode") == mode
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    page.shoot(SHOTS / f"{number}-{mode}.png")


def test_a_key_moves_the_dream_while_paused_and_undo_brings_it_back(page):
    enter(page, 4, "person-dream")
    pause(page, True)
    before, seen = step(page), page.js(PIXELS)
    page.key("ArrowLeft")
    page.until(f"Number(document.body.dataset.step) === {before + 1}")
    assert page.js("document.querySelector('#actions .taken span').textContent") == "left"
    page.key("KeyD")
    page.until(f"Number(document.body.dataset.step) === {before + 2}")
    assert page.js("document.querySelector('#actions .taken span').textContent") == "right"
    assert page.js(PIXELS) != seen
    page.key("Comma")
    page.key("Comma")
    page.until(f"Number(document.body.dataset.step) === {before}")
    page.until(f"({PIXELS}) === {seen!r}")


def test_a_held_key_acts_until_it_is_let_go(page):
    enter(page, 2, "person-game")
    pause(page, False)
    taken = "document.querySelector('#actions .taken span')?.textContent"
    page.key("ArrowRight", hold=lambda: page.until(f"{taken} === 'right'"))
    page.until(f"{taken} === 'stay'")


def test_click_an_action_what_if(page):
    enter(page, 1, "agent-game")
    pause(page, True)
    page.key("KeyG")  # else the game may be over just here, and the next step a new one
    page.until("document.body.dataset.step === '0'")
    before = step(page)
    page.js("document.querySelectorAll('#actions button')[2].click()")
    page.until(f"Number(document.body.dataset.step) === {before + 1}")
    assert page.js("document.querySelector('#actions .taken span').textContent") == "right"


def test_futures_are_shown_and_one_is_chosen(page):
    enter(page, 1, "agent-game")
    pause(page, False)
    page.key("KeyF")
    page.until("!document.getElementById('futures').hidden")
    page.until("document.getElementById('futures-step').textContent.startsWith('5 ')")
    page.shoot(SHOTS / "futures.png")
    page.js("document.querySelectorAll('#futures button')[2].click()")
    page.until("document.body.dataset.mode === 'agent-dream'")
    page.until("document.getElementById('futures').hidden")


def test_slow_motion_and_help(page):
    pause(page, False)
    fps = int(page.js("document.body.dataset.fps"))
    page.key("Minus")
    page.until(f"Number(document.body.dataset.fps) < {fps}")
    page.key("Equal")
    page.until(f"Number(document.body.dataset.fps) === {fps}")
    page.key("Slash")
    page.until("document.getElementById('help').open")
    page.shoot(SHOTS / "help.png")
    page.js("""(() => { const help = document.getElementById('help'), button = document.getElementById('help-close');
      button.focus(); help.close(); // until the next frame the focus stays where nothing is shown any more
      button.dispatchEvent(new KeyboardEvent('keydown', {code: 'KeyP', bubbles: true})); })()""")
    page.until("document.body.dataset.paused === 'true'")


def test_a_recording_is_written_and_opens_again(page):
    enter(page, 3, "agent-dream")
    pause(page, False)
    page.key("KeyV")
    page.until(r"/stop · ([6-9]|\d\d)/.test(document.getElementById('do-record').textContent)")
    page.key("KeyV")
    page.key("KeyC")
    page.until("document.querySelector('#notices a')?.href.includes('/files/play-')")
    page.until("[...document.querySelectorAll('#episodes option')].some(o => o.text.startsWith('play-'))")
    page.js("""(() => { const list = document.getElementById('episodes');
      list.value = [...list.options].findIndex(o => o.text.startsWith('play-'));
      list.dispatchEvent(new Event('change')); })()""")
    page.until("document.body.dataset.mode === 'replay'")
    page.until("!document.getElementById('replay').hidden && document.getElementById('seek').value > 1")
    written = {path.suffix for path in page.server.player._recordings.iterdir()}
    assert written == {".mp4", ".safetensors", ".png"}


def test_the_controls_are_given_back_and_taken(page):
    button, who = "document.getElementById('take')", "document.getElementById('viewers').textContent"
    assert page.js(f"{button}.hidden")  # nobody is there to give them to
    other = Client(page.server)
    page.until(f"!{button}.hidden && {button}.textContent === 'give them back'")
    page.js(f"{button}.click()")
    page.until(f"{who} === 'the controls are free · 2 watch'")
    page.js(f"{button}.click()")
    page.until(f"{who} === 'you hold the controls · 2 watch'")
    other.close()
    page.until(f"{button}.hidden")


def test_the_screen_of_atari_stands_beside_what_the_agent_sees(page, tmp_path):
    run = make_run(tmp_path / "run", vary(PLAIN, "env", id="atari:Breakout"), steps=8)
    with serving(run, tmp_path / "recordings") as server:
        page.goto(server.url)
        page.until("document.querySelector('#panel-screen img').naturalWidth === 210")
        pause(page, False)
        page.until("Number(document.body.dataset.step) > 3")
        boxes = page.js("""['screen', 'frame', 'reconstruction', 'dream'].map(name =>
          document.querySelector(`#panel-${name} img`).getBoundingClientRect()).map(b => [b.left, b.top, b.width])""")
        assert len({top for _, top, _ in boxes}) == 1
        assert all(a + width <= b for (a, _, width), (b, _, _) in itertools.pairwise(boxes))
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        page.shoot(SHOTS / "screen.png")
        enter(page, 3, "agent-dream")
        assert not page.js("document.querySelector('#panel-screen').offsetParent")
        page.goto(page.server.url)
        page.until("document.body.dataset.mode && !document.body.classList.contains('lost')")


def test_uncertainty_is_shown_of_tokens_that_are_no_grid(page, tmp_path):
    run = make_run(tmp_path / "run", vary(PLAIN, "env", id="CartPole-v1"), steps=8)
    with serving(run, tmp_path / "recordings") as server:
        page.goto(server.url)
        page.until("document.body.dataset.mode === 'agent-game'")
        pause(page, True)
        page.key("KeyG")  # before the first step there is no uncertainty yet
        page.until("document.body.dataset.step === '0'")
        mean = "document.getElementById('entropy-mean').textContent"
        page.until(f"{mean}.startsWith('0.00 nats a token')")
        assert page.js("document.querySelectorAll('#entropy .glow span').length") == 4
        pause(page, False)
        page.until(f"/^[0-9.]+ nats a token/.test({mean}) && !{mean}.startsWith('0.00')")
        page.goto(page.server.url)
        page.until("document.body.dataset.mode && !document.body.classList.contains('lost')")


def test_what_is_expected_stays_within_the_plot(page):
    expected = page.js("""import('/draw.js').then(({plot}) => {
      const svg = document.getElementById('plot');
      plot(svg, [[0, 0], [0, 0], [50, -50]], 240);
      const {y, height} = svg.querySelector('path.expected').getBBox();
      return [y, y + height, svg.clientHeight];
    })""")
    assert 0 < expected[0] < expected[1] < expected[2]


@pytest.mark.parametrize(("number", "mode"), [(6, "person-both"), (4, "person-dream"), (8, "replay-both")])
def test_a_phone_holds_all_of_it(page, number, mode):
    page.size(390, 844, 2, mobile=True)
    enter(page, number, mode)
    pause(page, False)
    page.key("KeyG")
    page.until("Number(document.body.dataset.step) > 3 && Number(document.body.dataset.step) < 20")
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    page.shoot(SHOTS / f"phone-{mode}.png")
    if MODES[mode].who == "person":
        pause(page, True)
        before = step(page)
        x, y = page.js("""(() => { const b = document.querySelector('#pad [data-buttons=LEFT]').getBoundingClientRect();
          return [b.left + b.width / 2, b.top + b.height / 2]; })()""")
        page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        page.until(f"Number(document.body.dataset.step) === {before + 1}")
        assert page.js("document.querySelector('#actions .taken span').textContent") == "left"
    page.size(1440, 900)


def test_the_page_comes_back_when_the_server_was_away(page):
    """A viewer that is shown out opens its websocket again by itself."""
    page.js("window.lostOnce = false; new MutationObserver(() => { if (document.body.classList.contains('lost'))"
            " window.lostOnce = true; }).observe(document.body, {attributes: true})")  # fmt: skip
    enter(page, 1, "agent-game")
    pause(page, False)
    page.server.player._call(setattr, page.server.hub.holder, "_allowance", -1000.0)  # as if it had said too much
    page.until("window.lostOnce")
    page.until("!document.body.classList.contains('lost')")
    before = step(page)
    page.until(f"Number(document.body.dataset.step) !== {before}")
