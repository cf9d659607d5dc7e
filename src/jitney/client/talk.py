"""Two colours from one conversation: a body that yields what it asks the server, and is told the answers.

    @talk
    def length(self) -> Talk[int]:
        answer = yield Ask(DICT_LENGTH, DictRef(object_id=self._id))
        return answer.number

`d.length()` asks on this thread's own connection, with no loop and no other thread between; `d.length.aio()` by the
portal. Either way the body runs where its caller is: values of users are pickled and unpickled there (see dual).

In a `talk_iter` the body also yields lists of items.

An answer may *hold* something, such as an item of a queue, that goes back to its place unless we say that it has
arrived. On the portal that is said when it has reached the caller: one that was cancelled meanwhile never got it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from jitney.client import blocking
from jitney.client import session as sessions
from jitney.client.portal import PORTAL, post
from jitney.runner import state
from jitney.wire import codec

if TYPE_CHECKING:
    import msgspec

    from jitney.client.session import Session
    from jitney.wire.methods import Method

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


class Ask:
    """A request: the message of a method. `held`: see the module."""

    __slots__ = ("held", "message", "method")

    def __init__(self, method: Method[Any, Any], message: msgspec.Struct, *, held: bool = False) -> None:
        self.method = method
        self.message = message
        self.held = held

    def here(self) -> Any:
        """The answer, on this thread."""
        session = sessions.current()
        endpoint = session.direct()
        if endpoint is None and state.config is not None:
            endpoint = session.endpoint()  # there is a server where a container is: no need for a portal
        elif endpoint is None:
            PORTAL.call(session.link())
            endpoint = session.direct()
        if endpoint is not None and not PORTAL.is_here():
            body = blocking.ask(endpoint, self.method.name, codec.encode(self.message), held=self.held)
            if body is not None:
                return codec.decode(body, self.method.answer)
        if not self.held:
            return session.ask(self.method, self.message)
        arrival = _Arrival()
        try:
            answer = PORTAL.call(arrival.wait(session, self))
        except BaseException:
            arrival.say(False)
            raise
        arrival.say(True)
        return answer

    async def aio(self) -> Any:
        """The answer, for the caller's loop."""
        session = sessions.current()
        if not self.held:
            return await PORTAL.acall(session.request(self.method, self.message))
        arrival = _Arrival()
        try:
            answer = await PORTAL.acall(arrival.wait(session, self))
        except BaseException:
            arrival.say(False)
            raise
        arrival.say(True)
        return answer


class _Arrival:
    """Whether an answer that holds something has reached its caller. All but `say` is on the portal."""

    def __init__(self) -> None:
        self._settle: Callable[[bool], None] | None = None
        self._said: bool | None = None

    async def wait(self, session: Session, ask: Ask) -> Any:
        answer, settle = await (await session.link()).request_held(ask.method, ask.message)
        if self._said is None:
            self._settle = settle
        else:
            settle(self._said)
        return answer

    def say(self, has_arrived: bool) -> None:
        """The caller has it, or will not; from any thread."""
        post(PORTAL.loop(), self._say, has_arrived)

    def _say(self, has_arrived: bool) -> None:
        self._said = has_arrived
        if self._settle is not None:
            self._settle(has_arrived)


Talk = Generator[Ask, Any, R]
Pages = Generator["Ask | list[R]", Any, None]


def here(talk: Talk[R]) -> R:
    """Have a conversation on this thread."""
    try:
        ask = next(talk)
        while True:
            try:
                answer = ask.here()
            except BaseException as error:
                ask = talk.throw(error)
            else:
                ask = talk.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def there(talk: Talk[R]) -> R:
    """Have a conversation by the portal."""
    try:
        ask = next(talk)
        while True:
            try:
                answer = await ask.aio()
            except BaseException as error:
                ask = talk.throw(error)
            else:
                ask = talk.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class BoundTalk(Generic[P, R]):
    """A method in two colours: call it, or await its `.aio`."""

    def __init__(self, call: Callable[P, Talk[R]], doc: str | None = None) -> None:
        self._call = call
        self.__doc__ = doc

    def body(self, *args: P.args, **kwargs: P.kwargs) -> Talk[R]:
        """The conversation itself, for other bodies."""
        return self._call(*args, **kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return here(self._call(*args, **kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for async code."""
        return await there(self._call(*args, **kwargs))


class BoundTalkIter(Generic[P, R]):
    """A method that gives items, in two colours: iterate over it, or `async for` over its `.aio`."""

    def __init__(self, call: Callable[P, Pages[R]], doc: str | None = None) -> None:
        self._call = call
        self.__doc__ = doc

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        talk = self._call(*args, **kwargs)
        try:
            step = next(talk, None)
            while step is not None:
                if not isinstance(step, Ask):
                    yield from step
                    step = next(talk, None)
                    continue
                try:
                    answer = step.here()
                except BaseException as error:
                    step = talk.throw(error)
                else:
                    step = _sent(talk, answer)
        finally:
            talk.close()

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]:
        """The same for async code."""
        talk = self._call(*args, **kwargs)
        try:
            step = next(talk, None)
            while step is not None:
                if not isinstance(step, Ask):
                    for item in step:
                        yield item
                    step = next(talk, None)
                    continue
                try:
                    answer = await step.aio()
                except BaseException as error:
                    step = talk.throw(error)
                else:
                    step = _sent(talk, answer)
        finally:
            talk.close()


def _sent(talk: Pages[R], answer: Any) -> Ask | list[R] | None:
    """The next step; None at the end."""
    try:
        return talk.send(answer)
    except StopIteration:
        return None


class talk(Generic[S, P, R]):  # noqa: N801 (a decorator)
    """Descriptor: a conversation that both colours can have."""

    def __init__(self, func: Callable[Concatenate[S, P], Talk[R]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    @overload
    def __get__(self, obj: None, owner: type[S]) -> talk[S, P, R]: ...
    @overload
    def __get__(self, obj: S, owner: type[S]) -> BoundTalk[P, R]: ...
    def __get__(self, obj: S | None, owner: type[S]) -> talk[S, P, R] | BoundTalk[P, R]:
        if obj is None:
            return self
        return BoundTalk(_bind(self._func, obj), self.__doc__)


class talk_static(Generic[P, R]):  # noqa: N801 (a decorator)
    """Descriptor: a conversation of a class, that needs no object of it."""

    def __init__(self, func: Callable[P, Talk[R]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    def __get__(self, obj: object, owner: type) -> BoundTalk[P, R]:
        return BoundTalk(self._func, self.__doc__)


class talk_iter(Generic[S, P, R]):  # noqa: N801 (a decorator)
    """Descriptor: a conversation that gives items to both colours."""

    def __init__(self, func: Callable[Concatenate[S, P], Pages[R]]) -> None:
        self._func = func
        self.__doc__ = func.__doc__

    @overload
    def __get__(self, obj: None, owner: type[S]) -> talk_iter[S, P, R]: ...
    @overload
    def __get__(self, obj: S, owner: type[S]) -> BoundTalkIter[P, R]: ...
    def __get__(self, obj: S | None, owner: type[S]) -> talk_iter[S, P, R] | BoundTalkIter[P, R]:
        if obj is None:
            return self
        return BoundTalkIter(_bind(self._func, obj), self.__doc__)


def _bind(func: Callable[Concatenate[S, P], R], obj: S) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return func(obj, *args, **kwargs)

    return call
