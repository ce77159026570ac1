"""The backplane of many servers: NATS JetStream keeps the logs, and who is here; each server mirrors both.

    post -> stream KERNEL_CHAT_LOG (rooms) or KERNEL_CHAT_PASSING (mailboxes, rooms without history)
         -> followed by every server -> its own store -> its own people

The store is this server's mirror of the log: pages and searches are answered from it, as in the embedded backplane. An
entry is mirrored before it is delivered, so that who joins finds it either in the page or among what follows.

- A message of a stream holds several posts of one session. Ids are made of its sequence number and the place in it;
  even ones are of the log, odd ones of what passes.
- What cannot be mirrored is not delivered: it stays in the streams, and is read again from the last one that was kept.
- Of each session one message is under way at a time: so the order of its posts is kept, whatever is lost and repeated.
- What is posted twice is recognised twice: the same message by JetStream, for `_DUPLICATE_SECONDS`; the same post in
  another message by whoever follows, for a day. All see the same stream, so all drop the same.
- A person is a key in a bucket, named after the fold of his nickname: to create it is to claim the name. A server says
  every few seconds that it lives; the people of one that does not are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import nats.errors
import nats.js.errors
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, StorageType, StreamConfig
from nats.js.kv import KeyValue

from kernel import MIB, StartError

from .backplane import MAILBOX, Done, Entry, Hub, NotPosted, Person, Post, Taken, taken_by
from .follower import Followed, Follower
from .names import fold, is_logged
from .store import Mirrored, Retention, Store
from .stored import Spawn, StoredBackplane

LOG, PASSING = "KERNEL_CHAT_LOG", "KERNEL_CHAT_PASSING"
_LOG_SUBJECT, _PASSING_SUBJECT = "kernel.chat.log.", "kernel.chat.passing."
_PEOPLE, _OWNERS = "KERNEL_CHAT_PEOPLE", "KERNEL_CHAT_OWNERS"
_ALIVE = "kernel.chat.alive"
_DUPLICATE_SECONDS = 600.0
_PASSING_SECONDS = 600.0
_ALIVE_SECONDS = 3.0
_DEAD_SECONDS = 15.0
_TRY_SECONDS = 3.0
_RETRY_SECONDS = 0.3
_GIVE_UP_SECONDS = 100.0
_START_SECONDS = 20.0
_BATCH_MAX = 64
_ARRIVED_BYTES_MAX = 16 * MIB
_MIRROR_RETRY_SECONDS_FIRST = 0.2
_MIRROR_RETRY_SECONDS_MAX = 10.0

log = logging.getLogger("kernel.service.chat")

_Batch = Annotated[list[Post], msgspec.Meta(max_length=_BATCH_MAX)]
_Failures = (nats.errors.Error, OSError, TimeoutError)


class JetStreamBackplane(StoredBackplane):
    """See the top of this file.

    Args:
        url: `nats://HOST:PORT`.
        credentials: a file with what proves us there; empty: nothing.
        store: the mirror, not yet open.
        spawn: starts a task that ends with the service.
    """

    def __init__(self, url: str, credentials: str, store: Store, retention: Retention, spawn: Spawn) -> None:
        super().__init__(store, spawn, lambda contexts, entries: None)
        self.node = secrets.token_hex(8)
        self._url = url
        self._credentials = credentials
        self._retention = retention
        self._client = Client()
        self._hub: Hub | None = None
        self._people: dict[str, Person] = {}
        self._own: dict[str, Person] = {}
        self._dirty: dict[str, Person] = {}
        self._gone: list[Person] = []
        self._flushing = False
        self._heard_at: dict[str, float] = {}
        self._connected_at = 0.0
        self._waiting: dict[str, deque[tuple[Post, Done]]] = {}
        self._arrived: list[Mirrored] = []
        self._arrived_bytes = 0
        self._mirroring = self._held = False
        self._mirror_retry_seconds = _MIRROR_RETRY_SECONDS_FIRST
        self._followers: list[Follower] = []
        # By stream: the last message that has arrived, and the last one that is mirrored.
        self._taken = {LOG: 0, PASSING: 0}
        self._kept = {LOG: 0, PASSING: 0}
        self._buckets: dict[str, KeyValue] = {}

    @property
    def people(self) -> Mapping[str, Person]:
        return self._people

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self, hub: Hub) -> None:
        self._hub = hub
        await self._open()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._connect()
                await self._make_streams()
                await self._follow()
        except nats.js.errors.ServiceUnavailableError:
            raise StartError(f"the NATS server at {self._where} has no JetStream: start it with -js") from None
        except _Failures as error:
            why = str(error) or type(error).__name__
            raise StartError(
                f"no NATS server answers at {self._where}: start one (nats-server -js), or leave backplane= out ({why})"
            ) from None
        self._spawn(self._live())

    @property
    def _where(self) -> str:
        return self._url.rpartition("@")[2].removeprefix("nats://")

    async def _connect(self) -> None:
        self._connected_at = asyncio.get_running_loop().time()
        options: dict[str, Any] = {"user_credentials": self._credentials} if self._credentials else {}
        probe = Client()  # one that does not try for ever, to learn whether anybody is there
        await probe.connect(
            self._url, error_cb=_ignore, connect_timeout=2, max_reconnect_attempts=1, reconnect_time_wait=0, **options
        )
        await probe.close()
        await self._client.connect(
            self._url,
            name="kernel chat",
            reconnected_cb=self._reconnected,
            error_cb=_ignore,
            connect_timeout=2,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            ping_interval=10,
            pending_size=-1,
            **options,
        )

    async def _make_streams(self) -> None:
        js = self._client.jetstream(timeout=_TRY_SECONDS)
        keep = self._retention
        for config in (
            StreamConfig(
                name=LOG,
                subjects=[_LOG_SUBJECT + "*"],
                max_msgs_per_subject=keep.messages_max,
                max_age=keep.seconds_max,
                duplicate_window=min(_DUPLICATE_SECONDS, keep.seconds_max),
                storage=StorageType.FILE,
            ),
            StreamConfig(
                name=PASSING,
                subjects=[_PASSING_SUBJECT + "*"],
                max_age=_PASSING_SECONDS,
                duplicate_window=min(_DUPLICATE_SECONDS, _PASSING_SECONDS),
                storage=StorageType.FILE,
            ),
        ):
            try:
                await js.stream_info(str(config.name))
            except nats.js.errors.NotFoundError:
                await js.add_stream(config)
        for bucket in (_PEOPLE, _OWNERS):
            try:
                self._buckets[bucket] = await js.key_value(bucket)
            except nats.js.errors.NotFoundError:
                self._buckets[bucket] = await js.create_key_value(KeyValueConfig(bucket, storage=StorageType.FILE))

    async def _follow(self) -> None:
        js = self._client.jetstream(timeout=_TRY_SECONDS)
        known = (await js.stream_info(LOG)).state.last_seq
        if self._store.last_id > known:  # another log than the one that was mirrored
            await self._threads.write(self._store.forget)
        self._taken[LOG] = self._kept[LOG] = self._store.last_id
        await self._client.subscribe(_ALIVE, cb=self._on_alive)
        self._followers = [
            Follower(self._client, LOG, self._store.last_id, self._on_log),
            Follower(self._client, PASSING, 0, self._on_passing),
            Follower(self._client, f"KV_{_PEOPLE}", 0, self._on_person),
        ]
        for follower in self._followers:
            self._spawn(follower.run())
            await follower.caught_up.wait()

    async def stop(self) -> None:
        if self._client.is_connected:
            with contextlib.suppress(*_Failures):
                async with asyncio.timeout(_TRY_SECONDS):
                    await asyncio.gather(*(self._delete(person) for person in [*self._own.values(), *self._gone]))
        if self._client.is_connected or self._client.is_reconnecting:
            await self._client.close()
        await self._threads.stop()

    async def _reconnected(self) -> None:
        self._connected_at = asyncio.get_running_loop().time()
        self._heard_at.clear()
        for follower in self._followers:
            follower.begin_again()
        self._dirty.update(self._own)
        self._flush_soon()

    # --- logs --------------------------------------------------------------------------------------------------------

    def post(self, post: Post, done: Done) -> None:
        key = post.session
        queue = self._waiting.get(key)
        if queue is not None:
            queue.append((post, done))
            return
        self._waiting[key] = deque([(post, done)])
        self._spawn(self._post_all(key))

    async def _post_all(self, key: str) -> None:
        """The posts of one session, some at a time."""
        queue = self._waiting[key]
        try:
            while queue:
                subject = self._subject(queue[0][0])
                batch = [queue.popleft()]
                while queue and len(batch) < _BATCH_MAX and self._subject(queue[0][0]) == subject:
                    batch.append(queue.popleft())
                result = await self._publish(subject, [post for post, _ in batch])
                for place, (_, done) in enumerate(batch):
                    done(result if isinstance(result, NotPosted) else _id(result, place, subject))
        finally:
            del self._waiting[key]
            for _, done in queue:
                done(NotPosted("the server is shutting down"))

    def _subject(self, post: Post) -> str:
        logged = is_logged(post.log) and post.log[0] != MAILBOX and self._retention.on
        return (_LOG_SUBJECT if logged else _PASSING_SUBJECT) + post.log.replace(".", "%")

    async def _publish(self, subject: str, posts: list[Post]) -> int | NotPosted:
        """Until it is there; its sequence number."""
        first, last = posts[0], posts[-1]
        number = f"{first.session}:{first.n}:{last.n}" if first.n and last.n else secrets.token_hex(16)
        data = msgspec.json.encode(posts)
        js = self._client.jetstream(timeout=_TRY_SECONDS)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GIVE_UP_SECONDS
        while True:
            try:
                return (await js.publish(subject, data, headers={"Nats-Msg-Id": number})).seq
            except _Failures as error:
                if loop.time() > deadline:
                    return NotPosted(f"the log cannot be reached: {error}")
            await asyncio.sleep(_RETRY_SECONDS)

    def _on_log(self, message: Followed) -> None:
        self._on_posts(LOG, message)

    def _on_passing(self, message: Followed) -> None:
        self._on_posts(PASSING, message)

    def _on_posts(self, stream: str, message: Followed) -> None:
        self._taken[stream] = message.sequence
        posts: list[Post] = []
        with contextlib.suppress(msgspec.DecodeError):  # whoever wrote it was no chat
            posts = msgspec.json.decode(message.data, type=_Batch)
        passing = "~" if stream == PASSING else ""
        for place, post in enumerate(posts):
            id_ = _id(message.sequence, place, message.subject)
            entry = Entry(id_, post.log, message.at, post.kind, post.nick, post.text)
            self._arrived.append(Mirrored(entry, passing + post.session, post.n))
        self._arrived_bytes += len(message.data)
        if self._arrived_bytes > _ARRIVED_BYTES_MAX:  # the store is slow
            self._hold()
        if not self._mirroring:
            self._mirroring = True
            self._spawn(self._mirror())

    async def _mirror(self) -> None:
        """Keep what arrived, then hand it on."""
        assert self._hub is not None
        try:
            while self._arrived or self._held:
                arrived, self._arrived, self._arrived_bytes = self._arrived, [], 0
                taken = dict(self._taken)
                fresh = await self._keep(arrived, taken)
                if fresh is not None:
                    self._kept = taken
                    self._hub.delivered(fresh)
                if self._held and not self._arrived:
                    self._go_on()
        finally:
            self._mirroring = False

    async def _keep(self, arrived: list[Mirrored], taken: dict[str, int]) -> list[Entry] | None:
        """Mirror it; what is new. None: it could not be done; after a while it comes again from the streams."""
        try:
            fresh = await self._threads.write(lambda: self._store.mirror(arrived, taken[LOG]))
        except Exception as error:  # whatever it is, nobody may miss a message for it
            if self._mirror_retry_seconds == _MIRROR_RETRY_SECONDS_FIRST:
                log.warning("the chat's messages cannot be written and wait in NATS", extra={"reason": str(error)})
            self._hold()
            self._arrived, self._arrived_bytes = [], 0
            self._taken = dict(self._kept)
            await asyncio.sleep(self._mirror_retry_seconds)
            self._mirror_retry_seconds = min(self._mirror_retry_seconds * 2, _MIRROR_RETRY_SECONDS_MAX)
            return None
        self._mirror_retry_seconds = _MIRROR_RETRY_SECONDS_FIRST
        return fresh

    def _hold(self) -> None:
        """Take no more of the streams."""
        self._held = True
        for follower in self._followers[:2]:
            follower.hold()

    def _go_on(self) -> None:
        """Take what follows the last entries that were kept."""
        self._held = False
        for follower, stream in zip(self._followers, (LOG, PASSING), strict=False):
            follower.go_on(self._kept[stream])

    # --- people ------------------------------------------------------------------------------------------------------

    async def claim(self, person: Person) -> None:
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                await self._check_owner(person)
                await self._take_name(person)
        except _Failures as error:
            raise Taken(f"the name cannot be had now, NATS does not answer ({type(error).__name__})") from None
        old = self._own.get(person.session)
        self.update(person)
        if old is not None and fold(old.nick) != fold(person.nick):
            self._gone.append(old)
            self._flush_soon()

    async def _check_owner(self, person: Person) -> None:
        key = _key(person)
        if person.principal:
            with contextlib.suppress(nats.js.errors.KeyWrongLastSequenceError):
                await self._buckets[_OWNERS].create(key, person.principal.encode())
        try:
            owner = (await self._buckets[_OWNERS].get(key)).value
        except nats.js.errors.NotFoundError:
            return
        if owner != person.principal.encode():
            raise Taken(f"the nickname '{person.nick}' belongs to somebody who can prove it: take another one")

    async def _take_name(self, person: Person) -> None:
        bucket, key = self._buckets[_PEOPLE], _key(person)
        value = msgspec.json.encode(replace(person, node=self.node))
        try:
            await bucket.create(key, value)
            return
        except nats.js.errors.KeyWrongLastSequenceError:
            entry = await bucket.get(key)
        holder = msgspec.json.decode(entry.value or b"", type=Person)
        if holder.session != person.session and holder.session in self._people:
            raise taken_by(holder, person.nick)
        try:
            await bucket.update(key, value, last=entry.revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            raise Taken(f"somebody else is just taking the name '{person.nick}'") from None

    def update(self, person: Person) -> None:
        person = replace(person, node=self.node)
        self._own[person.session] = self._dirty[person.session] = person
        self._change(person.session, person, "")
        self._flush_soon()

    def release(self, session: str, reason: str) -> None:
        person = self._own.pop(session, None)
        self._dirty.pop(session, None)
        if person is not None:
            self._gone.append(person)
            self._change(session, None, reason)
            self._flush_soon()

    def _change(self, session: str, new: Person | None, reason: str) -> None:
        assert self._hub is not None
        old = self._people.pop(session, None)
        if new is not None:
            self._people[session] = new
        if old != new:
            self._hub.changed(old, new, reason)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._spawn(self._flush())

    async def _flush(self) -> None:
        """Tell the other servers, until they know."""
        try:
            while self._dirty or self._gone:
                dirty, self._dirty = self._dirty, {}
                gone, self._gone = self._gone, []
                try:
                    await asyncio.gather(*map(self._put, dirty.values()), *map(self._delete, gone))
                except BaseException as error:
                    self._dirty = {**dirty, **self._dirty}
                    self._gone += gone
                    if not isinstance(error, _Failures):
                        raise
                    await asyncio.sleep(_RETRY_SECONDS)
                self._dirty = {session: person for session, person in self._dirty.items() if session in self._own}
        finally:
            self._flushing = False

    async def _put(self, person: Person) -> None:
        await self._buckets[_PEOPLE].put(_key(person), msgspec.json.encode(person))

    async def _delete(self, person: Person) -> None:
        """Unless the name is somebody else's by now."""
        bucket = self._buckets[_PEOPLE]
        with contextlib.suppress(nats.js.errors.NotFoundError, nats.js.errors.APIError):
            entry = await bucket.get(_key(person))
            holder = msgspec.json.decode(entry.value or b"", type=Person)
            if holder.session == person.session and holder.node == person.node:
                await bucket.delete(_key(person), last=entry.revision)

    def _on_person(self, message: Followed) -> None:
        key = message.subject.rpartition(".")[2]
        if message.headers.get("KV-Operation"):
            for person in list(self._people.values()):
                if _key(person) == key and person.node != self.node:
                    self._change(person.session, None, "")
            return
        with contextlib.suppress(msgspec.DecodeError):
            person = msgspec.json.decode(message.data, type=Person)
            if person.node != self.node:
                self._heard_at.setdefault(person.node, asyncio.get_running_loop().time())
                self._own.pop(person.session, None)  # he has come to another server
                self._change(person.session, person, "")

    # --- servers -----------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            with contextlib.suppress(*_Failures):
                if self._client.is_connected:
                    await self._client.publish(_ALIVE, self.node.encode())
                    self._forget_dead()
            await asyncio.sleep(_ALIVE_SECONDS)

    async def _on_alive(self, message: Msg) -> None:
        self._heard_at[message.data.decode(errors="replace")] = asyncio.get_running_loop().time()

    def _forget_dead(self) -> None:
        now = asyncio.get_running_loop().time()
        for person in list(self._people.values()):
            heard_at = max(self._heard_at.get(person.node, 0.0), self._connected_at)
            if person.node != self.node and now - heard_at > _DEAD_SECONDS:
                self._gone.append(person)
                self._change(person.session, None, "his server is gone")
        if self._gone:
            self._flush_soon()


def _id(sequence: int, place: int, subject: str) -> int:
    return sequence << 8 | place << 1 | subject.startswith(_PASSING_SUBJECT)


def _key(person: Person) -> str:
    return fold(person.nick).encode().hex()


async def _ignore(error: Exception) -> None:
    """The client logs each failed attempt; who calls it learns of it anyway."""
