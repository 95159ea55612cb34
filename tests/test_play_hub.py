"""Who watches and who holds the controls, without a network: a slow viewer sees what is new, and slows nobody."""

import json

from tokendream.play.hub import BURST, MOST_LINES, MOST_VIEWERS, RATE, WINDOW, Hub, Viewer


def sent(viewer):
    """What is on its way to a viewer, in order; it is taken off."""
    return [viewer.outgoing.get_nowait() for _ in range(viewer.outgoing.qsize())]


def test_who_does_not_acknowledge_gets_no_more_and_then_the_newest():
    viewer = Viewer()
    for i in range(WINDOW + 100):
        viewer.show(str(i))
    assert sent(viewer) == [str(i) for i in range(WINDOW)]
    viewer.acknowledge(1)
    assert sent(viewer) == [str(WINDOW + 99)]
    viewer.acknowledge(64)  # more than were sent: no credit
    for i in range(100):
        viewer.show(str(i))
    assert sent(viewer) == [str(i) for i in range(WINDOW)]


def test_a_picture_has_no_more_to_wait_for_than_what_was_sent_before():
    viewer = Viewer()
    viewer.show("1")
    viewer.learn(setup={})
    viewer.show("2")
    assert sent(viewer) == ["1", '{"setup": {}}', "2"]


def test_a_viewer_may_say_so_much():
    viewer = Viewer(now=0.0)
    assert sum(viewer.allows(1.0, 0.0) for _ in range(1000)) == BURST
    viewer = Viewer(now=0.0)
    assert all(viewer.allows(1.0, i / RATE) for i in range(5000))


def test_what_a_page_must_know_is_never_pushed_out():
    hub = Hub()
    hub.set_up({"env": "Pong"})
    hub.publish('{"state": 0}')
    viewer = hub.join()
    for _ in range(2 * MOST_LINES):
        hub.tell("a line")
    hub.join()
    facts = [json.loads(text) for text in sent(viewer)]
    assert facts[0] == {"setup": {"env": "Pong"}}
    assert facts[1] == {"you": {"controls": True, "free": False, "viewers": 1}}
    assert facts[2] == {"state": 0}
    assert facts[3:-1] == [{"notice": "a line", "file": ""}] * (MOST_LINES - 3)
    assert facts[-1] == {"you": {"controls": True, "free": False, "viewers": 2}}


def test_controls_are_held_by_one():
    hub = Hub()
    first, second = hub.join(), hub.join()
    assert hub.holder is first
    assert not hub.take(second)
    assert not hub.use(second)
    hub._heard -= 31  # its holder fell asleep
    assert hub.take(second)
    hub.release(first)  # holds nothing
    assert hub.holder is second
    hub.leave(second)
    assert hub.holder is None
    assert hub.use(first)  # free controls are taken by using them
    assert hub.holder is first


def test_who_uses_the_controls_keeps_them():
    hub = Hub()
    first, second = hub.join(), hub.join()
    hub._heard -= 31
    assert hub.use(first)
    assert not hub.take(second)


def test_there_is_room_for_so_many():
    hub = Hub()
    assert all(hub.join() for _ in range(MOST_VIEWERS))
    assert hub.join() is None
