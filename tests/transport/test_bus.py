"""A37 and what else a bus promises: nobody waits for anybody, nothing is lost in silence."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from planloom.errors import ConfigError, EventGapError, NoReplyError
from planloom.transport import hearing
from planloom.transport.bus import EventBus
from planloom.transport.event import Event
from planloom.transport.hearing import GAP


def event(number: int, topic: str = "t", run: str = "r") -> Event:
    return Event(f"{run}/{number}", topic, "/test", 1_760_000_000.5, "s", run, None, {"n": number}, number)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a37_listeners_that_raise_or_sleep_hold_up_neither_the_publisher_nor_the_others() -> None:
    async def main() -> tuple[float, list[list[int]], int]:
        heard: list[list[int]] = [[] for _ in range(5)]
        all_heard = asyncio.Event()

        def hears(place: int) -> Any:
            async def callback(one: Event) -> None:
                heard[place].append(one.data["n"])
                if all(len(heard[good]) == 100 for good in (0, 2, 4)):
                    all_heard.set()

            return callback

        async def raises(one: Event) -> None:
            heard[1].append(one.data["n"])
            raise RuntimeError("always")

        def sleeps(one: Event) -> None:
            heard[3].append(one.data["n"])
            let_go.wait(1)

        let_go = threading.Event()
        bus = EventBus(history=50)
        slowest_s = 0.0
        for callback in (hears(0), raises, hears(2), sleeps, hears(4)):
            bus.listen(callback)
        for number in range(100):
            began = time.perf_counter()
            bus.publish(event(number))
            slowest_s = max(slowest_s, time.perf_counter() - began)
        await asyncio.wait_for(all_heard.wait(), 5)
        remembered = len(bus.recent())
        let_go.set()
        await bus.close()
        return slowest_s, heard, remembered

    slowest_s, heard, remembered = asyncio.run(main())

    assert slowest_s < 0.010
    assert [heard[good] for good in (0, 1, 2, 4)] == [list(range(100))] * 4
    assert remembered == 50


def test_a_listener_that_sleeps_on_the_loop_holds_up_nobody_either() -> None:
    async def main() -> list[int]:
        heard: list[int] = []

        async def sleeps(_: Event) -> None:
            await asyncio.Event().wait()

        async def hears(one: Event) -> None:
            heard.append(one.data["n"])

        bus = EventBus()
        stuck = bus.listen(sleeps)
        bus.listen(hears)
        for number in range(10):
            bus.publish(event(number))
        await turns()
        await stuck.stop()
        await bus.close()
        return heard

    assert asyncio.run(main()) == list(range(10))


def test_a_subscription_hears_what_was_published_before_anybody_read_from_it() -> None:
    async def main() -> list[int]:
        async with EventBus() as bus:
            subscription = bus.subscribe("t")
            bus.publish(event(1))
            bus.publish(event(2))
            return [(await anext(subscription)).data["n"], (await anext(subscription)).data["n"]]

    assert asyncio.run(main()) == [1, 2]


@pytest.mark.parametrize(
    ("topic", "run", "ids"),
    [
        ("*", None, ["r/1", "r/2", "q/3"]),
        ("planloom.step.*", None, ["r/2", "q/3"]),
        ("planloom.step.failed", None, ["q/3"]),
        ("*", "r", ["r/1", "r/2"]),
        ("planloom.step.*", "r", ["r/2"]),
    ],
)
def test_a_subscription_hears_its_topic_and_its_run_and_nothing_else(topic: str, run: str, ids: list[str]) -> None:
    async def main() -> list[str]:
        bus = EventBus()
        subscription = bus.subscribe(topic, run)
        bus.publish(event(1, "planloom.run.started"))
        bus.publish(event(2, "planloom.step.completed"))
        bus.publish(event(3, "planloom.step.failed", "q"))
        await bus.close()
        assert [one.id for one in bus.recent(topic, run)] == ids
        return [one.id async for one in subscription]

    assert asyncio.run(main()) == ids


def test_an_event_that_comes_twice_is_heard_once() -> None:
    async def main() -> tuple[list[bool], list[str]]:
        bus = EventBus()
        subscription = bus.subscribe()
        published = [bus.publish(event(1)), bus.publish(event(1)), bus.publish(event(2))]
        await bus.close()
        return published, [one.id async for one in subscription]

    assert asyncio.run(main()) == ([True, False, True], ["r/1", "r/2"])


def test_a_full_buffer_tells_its_reader_what_is_missing_and_where_to_read_it_and_goes_on() -> None:
    async def main() -> tuple[list[int], EventGapError, list[int]]:
        bus = EventBus()
        subscription = bus.subscribe(buffer=2)
        for number in range(1, 6):
            bus.publish(event(number))
        bus.publish(event(7, run="q"))
        before = [(await anext(subscription)).data["n"] for _ in range(2)]
        with pytest.raises(EventGapError) as gap:
            await anext(subscription)
        bus.publish(event(6))
        await bus.close()
        assert subscription.missed == 4
        return before, gap.value, [one.data["n"] async for one in subscription]

    before, gap, rest = asyncio.run(main())

    assert before == [1, 2]
    assert (gap.missed, gap.after) == (4, {"r": 2, "q": 6})
    assert "journal.read" in str(gap)
    assert rest == [6]


def test_events_that_come_after_a_gap_and_before_it_is_read_are_kept_in_their_place() -> None:
    async def main() -> list[Any]:
        bus, found = EventBus(), []
        subscription = bus.subscribe(buffer=2)
        for number in (1, 2, 3):
            bus.publish(event(number))
        found += [(await anext(subscription)).data["n"], (await anext(subscription)).data["n"]]
        bus.publish(event(4))  # the gap is the only one in the buffer
        await bus.close()
        with pytest.raises(EventGapError):
            await anext(subscription)
        return found + [one.data["n"] async for one in subscription]

    assert asyncio.run(main()) == [1, 2, 4]


def test_a_listener_whose_buffer_was_full_is_told_so() -> None:
    async def main() -> tuple[list[Event], int]:
        heard: list[Event] = []

        async def hears(one: Event) -> None:
            heard.append(one)

        bus = EventBus()
        listener = bus.listen(hears, buffer=1)
        for number in (1, 2, 3):
            bus.publish(event(number))
        await turns()
        await bus.close()
        return heard, listener.missed

    heard, missed = asyncio.run(main())

    assert [one.type for one in heard] == ["t", GAP]
    assert heard[1].data == {"missed": 2, "after": {"r": 1}}
    assert missed == 2


def test_a_request_gets_the_reply_that_it_caused_and_no_other() -> None:
    async def main() -> tuple[Event, dict[str, Any]]:
        async with EventBus() as bus:

            async def answers(asked: Event) -> None:
                bus.publish(Event.new("noise", correlation_id=asked.correlation_id))
                bus.reply(asked, {"sum": asked.data["a"] + asked.data["b"]})

            bus.listen(answers, "sum")
            reply = await bus.request("sum", {"a": 1, "b": 2}, timeout=5)
            return reply, reply.to_dict()

    reply, told = asyncio.run(main())

    assert (reply.type, reply.data) == ("sum.reply", {"sum": 3})
    assert told["correlationid"] == reply.correlation_id
    assert told["causationid"] == reply.causation_id


def test_a_listener_in_a_thread_can_answer() -> None:
    async def main() -> Event:
        async with EventBus() as bus:

            def answers(asked: Event) -> None:
                bus.reply(asked, {"thread": threading.current_thread() is not threading.main_thread()})

            bus.listen(answers, "ask")
            return await bus.request("ask", {}, timeout=5)

    assert asyncio.run(main()).data == {"thread": True}


def test_a_request_that_nobody_answers_says_so() -> None:
    async def main() -> None:
        async with EventBus() as bus:
            with pytest.raises(NoReplyError, match="nobody answered 'lonely'"):
                await bus.request("lonely", {}, timeout=0.01)
            assert list(bus._subscriptions) == []

    asyncio.run(main())


def test_an_event_is_told_in_the_terms_of_cloudevents() -> None:
    told = Event("r/3", "planloom.step.completed", "/planloom", 1_760_000_000.5, "a", "r", "r/2", {"x": 1}, 3).to_dict()

    assert json.loads(json.dumps(told)) == {
        "specversion": "1.0",
        "id": "r/3",
        "source": "/planloom",
        "type": "planloom.step.completed",
        "subject": "a",
        "time": "2025-10-09T08:53:20.500000Z",
        "correlationid": "r",
        "causationid": "r/2",
        "sequence": "0000000003",
        "datacontenttype": "application/json",
        "data": {"x": 1},
    }


def test_closing_lets_listeners_hear_what_has_come_and_ends_subscriptions() -> None:
    async def main() -> tuple[list[int], list[int], bool]:
        heard: list[int] = []

        async def hears(one: Event) -> None:
            await turns(2)
            heard.append(one.data["n"])

        bus = EventBus()
        bus.listen(hears)
        subscription = bus.subscribe()
        for number in range(5):
            bus.publish(event(number))
        await bus.close()
        late = bus.publish(event(9))
        return heard, [one.data["n"] async for one in subscription], late

    assert asyncio.run(main()) == (list(range(5)), list(range(5)), False)


def test_a_closed_listener_hears_no_more() -> None:
    async def main() -> int:
        bus = EventBus()
        listener = bus.listen(lambda _: None)
        bus.publish(event(1))
        listener.close()
        bus.publish(event(2))
        await bus.close()
        return listener.heard

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("topic", ["", "x" * 300, None])
def test_what_is_no_topic_is_refused(topic: Any) -> None:
    with pytest.raises(ConfigError, match="is no topic"):
        EventBus().subscribe(topic)


def test_a_buffer_for_no_events_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds none"):
        EventBus().subscribe(buffer=0)


def test_publishing_where_there_is_no_event_loop_says_so() -> None:
    with pytest.raises(ConfigError, match="no event loop"):
        EventBus().publish(event(1))


def test_ids_of_new_events_do_not_come_twice() -> None:
    ids = [Event.new("t").id for _ in range(1_000)]

    assert len(set(ids)) == 1_000


# --- listeners that do their worst ---------------------------------------------------------------


def exits(_: Event) -> None:
    sys.exit(3)


def ends_an_iterator(_: Event) -> None:
    next(iter(()))


async def exits_on_the_loop(_: Event) -> None:
    sys.exit(3)


async def is_cancelled_by_itself(_: Event) -> None:
    raise asyncio.CancelledError


def interrupts(_: Event) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("callback", [exits, ends_an_iterator, interrupts, exits_on_the_loop, is_cancelled_by_itself])
def test_a_listener_may_raise_whatever_it_likes_and_goes_on_hearing(callback: Any) -> None:
    async def main() -> tuple[int, int]:
        async with EventBus() as bus:
            listener = bus.listen(callback)
            for number in range(3):
                bus.publish(event(number))
            async with asyncio.timeout(5):
                await listener.drained()
            return listener.heard, listener.failed

    assert asyncio.run(main()) == (3, 3)


def test_listeners_whose_threads_never_come_back_keep_nobody_from_hearing_nor_the_process_from_ending() -> None:
    program = """if True:
        import asyncio, threading
        from planloom import Event, EventBus

        async def main():
            heard = asyncio.Event()
            loop = asyncio.get_running_loop()
            async with EventBus() as bus:
                for _ in range(40):
                    bus.listen(lambda event: threading.Event().wait())
                bus.listen(lambda event: loop.call_soon_threadsafe(heard.set))
                bus.publish(Event.new("t"))
                await heard.wait()
                await asyncio.to_thread(int)

        asyncio.run(main())
        print("ended")
    """

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert done.stdout == "ended\n", done.stderr


def test_a_listener_that_will_not_be_stopped_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "STOP_S", 0.01)

    async def main() -> None:
        let_go = asyncio.Event()

        async def stubborn(_: Event) -> None:
            while not let_go.is_set():
                with suppress(asyncio.CancelledError):
                    await let_go.wait()

        bus = EventBus()
        listener = bus.listen(stubborn)
        bus.publish(event(1))
        await turns()
        async with asyncio.timeout(5):
            await listener.stop()
            await bus.close()
        let_go.set()
        await turns()

    asyncio.run(main())


@pytest.mark.parametrize("what", ["bus", "listener"])
def test_a_listener_may_close_the_bus_or_itself_from_within(what: str) -> None:
    async def main() -> list[str]:
        done: list[str] = []
        bus = EventBus()

        async def ends_it(one: Event) -> None:
            if what == "bus":
                await bus.close()
            else:
                await listener.drained()
                await listener.stop()
            done.append(one.id)

        listener = bus.listen(ends_it)
        bus.publish(event(1))
        bus.publish(event(2))
        async with asyncio.timeout(5):
            while not done:
                await asyncio.sleep(0)
        await turns()
        return done

    assert asyncio.run(main()) == ["r/1"]


def test_what_one_who_hears_changes_nobody_else_notices() -> None:
    async def main() -> list[Any]:
        bus = EventBus()
        changed = asyncio.Event()

        async def changes(one: Event) -> None:
            one.data["deep"].clear()
            changed.set()

        bus.listen(changes)
        subscription = bus.subscribe()
        mine = {"deep": {"n": 1}}
        bus.publish(Event.new("t", mine))
        await changed.wait()
        bus.recent()[0].data["deep"]["n"] = 2
        return [mine, (await anext(subscription)).data, bus.recent()[0].data]

    assert asyncio.run(main()) == [{"deep": {"n": 1}}] * 3


def test_what_another_loop_or_thread_publishes_is_heard_where_the_bus_lives() -> None:
    async def main() -> list[int]:
        bus = EventBus()
        subscription = bus.subscribe()

        async def elsewhere() -> None:
            bus.publish(event(1))

        reading = asyncio.create_task(anext(subscription))
        await turns()
        await asyncio.to_thread(asyncio.run, elsewhere())
        async with asyncio.timeout(5):
            first = await reading
            await asyncio.to_thread(bus.publish, event(2))
            return [first.data["n"], (await anext(subscription)).data["n"]]

    assert asyncio.run(main()) == [1, 2]


def test_subscriptions_that_nobody_holds_are_forgotten() -> None:
    async def main() -> int:
        bus = EventBus()
        for _ in range(100):
            bus.subscribe()
        gc.collect()
        return len(bus._subscriptions)

    assert asyncio.run(main()) == 0
