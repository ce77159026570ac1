"""Many people at once, and people who do not read."""

from __future__ import annotations

import asyncio

from kernel.plugins.chat.protocol import Said

from .conftest import TRANSPORTS, MakePlace, Person

CROWD_SECONDS = 120


async def test_200_people_on_three_transports_see_every_message_once_in_each_senders_order(serve: MakePlace) -> None:
    count, each = 200, 3
    place = await serve()
    people = [await place.person(f"p{number}", TRANSPORTS[number % 3]) for number in range(count)]

    async def talk(person: Person) -> None:
        for number in range(each):
            await person.client.say("lobby", f"{person.client.nick} {number}")

    await asyncio.gather(*map(talk, people))
    for person in people:
        await person.until(lambda person: person.of(Said)[-1].id >= last_id(people), CROWD_SECONDS)
    wanted = sorted(f"p{speaker} {number}" for speaker in range(count) for number in range(each))
    order = people[0].texts()
    assert sorted(order) == wanted
    for speaker in range(count):
        said = [text for text in order if text.startswith(f"p{speaker} ")]
        assert said == [f"p{speaker} {number}" for number in range(each)]
    assert all(person.texts() == order for person in people)
    assert len((await people[0].client.who("lobby")).people) == count


def last_id(people: list[Person]) -> int:
    return max(person.of(Said)[-1].id for person in people)
