"""Who watches and who holds the controls, without a network: a slow viewer sees what is new, and slows nobody."""

import asyncio
import json

import pytest

from tokendream.play.hub import BURST, MOST_VIEWERS, RATE, WINDOW, Hub, Viewer


def test_a_viewer_has_one_place_for_a_picture():
    async def go():
        viewer = Viewer(1)
        for i in range(5):
            viewer.offer(b"%d" % i)
        assert await viewer.next() == b"4"
        assert (viewer.sent, viewer.dropped) == (1, 4)
        viewer.offer(b"5")
        viewer.tell("text")
        assert await viewer.next() == "text"  # words first: they are few
        assert await viewer.next() == b"5"

    asyncio.run(go())


def test_who_does_not_acknowledge_gets_no_more_and_then_the_newest():
    async def go():
        viewer = Viewer(1)
        for i in range(WINDOW):
            viewer.offer(b"%d" % i)
            await viewer.next()
        for i in range(100):
            viewer.offer(b"late %d" % i)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.05)
        assert (viewer.sent, viewer.dropped) == (WINDOW, 99)
        viewer.acknowledge(1)
        assert await viewer.next() == b"late 99"
        viewer.acknowledge(64)  # more than were sent: no credit
        for i in range(WINDOW):
            viewer.offer(b"%d" % i)
            await viewer.next()
        viewer.offer(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.05)

    asyncio.run(go())


def test_a_viewer_may_say_so_much():
    viewer = Viewer(1, now=0.0)
    assert sum(viewer.allows(1.0, 0.0) for _ in range(1000)) == BURST
    viewer = Viewer(1, now=0.0)
    assert all(viewer.allows(1.0, i / RATE) for i in range(5000))


def test_pictures_are_not_queued_on_the_way_to_the_loop():
    async def go():
        hub = Hub()
        hub.attach(asyncio.get_running_loop())
        viewer = hub.join()
        for i in range(1000):  # the loop has no turn in between
            hub.publish(b"%d" % i)
        await asyncio.sleep(0)
        assert viewer.dropped == 0
        while isinstance(message := await viewer.next(), str):
            pass
        assert message == b"999"

    asyncio.run(go())


def test_what_a_page_must_know_is_never_pushed_out():
    async def go():
        hub = Hub()
        hub.attach(asyncio.get_running_loop())
        hub.set_up({"env": "Pong"})
        viewer = hub.join()
        for _ in range(60):
            hub.leave(hub.join())
            hub.tell("a line")
        await asyncio.sleep(0)
        texts = [json.loads(await viewer.next()) for _ in range(2 + 32)]
        assert texts[0] == {"setup": {"env": "Pong"}}
        assert texts[1] == {"you": {"controls": True, "free": False, "viewers": 1}}
        assert not viewer._texts

    asyncio.run(go())


def test_controls_are_held_by_one():
    async def go():
        hub = Hub()
        hub.attach(asyncio.get_running_loop())
        first, second = hub.join(), hub.join()
        assert hub.holder is first
        assert not hub.take(second)
        hub._heard -= 31  # its holder fell asleep
        assert hub.take(second)
        hub.release(first)  # holds nothing
        assert hub.holder is second
        hub.leave(second)
        assert hub.holder is None
        assert hub.take(first)
        assert len([hub.join() for _ in range(MOST_VIEWERS)]) == MOST_VIEWERS
        assert hub.join() is None

    asyncio.run(go())


# Who is let in.
