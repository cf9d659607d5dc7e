"""What `Dict` and `Queue` have in common: handles that ask nothing before their first use, and ephemeral ones."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from jitney.client import session as sessions
from jitney.client.portal import PORTAL
from jitney.client.talk import Ask, Talk, talk
from jitney.errors import AlreadyExistsError, InvalidError, JitneyError, NotFoundError, UnsupportedError
from jitney.runner import state
from jitney.values import ids, objects
from jitney.values.objects import HEARTBEAT_S, ObjectKind, ObjectRecord
from jitney.wire.messages.objects import ObjectDelete, ObjectHeartbeat, ObjectList, ObjectOpen, ObjectRename
from jitney.wire.methods import OBJECT_DELETE, OBJECT_HEARTBEAT, OBJECT_LIST, OBJECT_OPEN, OBJECT_RENAME, Method

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T", bound="NamedObject")
_Handles = list  # a method has the name


class NamedObject:
    """A handle of an object on the server, by name or by id."""

    KIND: ClassVar[ObjectKind]

    def __init__(self, name: str = "", object_id: str = "", *, create_if_missing: bool = False) -> None:
        """Of the SDK: use `from_name`, `from_id` or `ephemeral`."""
        self._name = name
        self._create = create_if_missing
        self._object_id = object_id
        self._where: object = None  # the container's configuration under which the id was found

    @classmethod
    def from_name(cls, name: str, *, create_if_missing: bool = False, environment_name: str | None = None) -> Self:
        """The one of that name. Nothing is asked before its first use.

        Args:
            name: up to 64 letters, digits, '.', '_' and '-'.
            create_if_missing: make it then, if there is none.

        Raises:
            InvalidError: nothing can have that name.
        """
        if environment_name:
            raise UnsupportedError(
                "from_name(environment_name=...) is not supported by this version",
                hint="a second JITNEY_HOME is a second, separate server",
            )
        return cls(objects.check_name(name, cls.KIND), create_if_missing=create_if_missing)

    @classmethod
    def from_id(cls, object_id: str) -> Self:
        """The one with that id. Nothing is asked before its first use.

        Raises:
            InvalidError: it is no such id.
        """
        return cls(object_id=ids.check(object_id, cls.KIND.prefix))

    @classmethod
    def ephemeral(cls) -> Ephemeral[Self]:
        """A new one without a name, for a `with` or `async with` block; it is gone with the end of the block.

        If this process dies, it is gone five minutes later.
        """
        return Ephemeral(cls)

    def __repr__(self) -> str:
        if self._name:
            return f"{type(self).__name__}.from_name({self._name!r})"
        return f"{type(self).__name__}.from_id({self._object_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self._name, "" if self._name else self._object_id, self._create))

    @property
    def name(self) -> str | None:
        """Its name; None for one that was got by its id."""
        return self._name or None

    @property
    def object_id(self) -> str:
        """Its id.

        Raises:
            InvalidError: it has not been looked up yet.
        """
        if not self._object_id:
            raise InvalidError(f"{self!r} has no id yet", hint="it has one after its first use, or after .hydrate()")
        return self._object_id

    @talk
    def hydrate(self) -> Talk[Self]:
        """Look it up now rather than at its first use; gives itself.

        Raises:
            NotFoundError: there is none of that name.
        """
        yield from self._open()
        return self

    @talk
    def info(self) -> Talk[ObjectRecord]:
        """Its name, and when it was made.

        Raises:
            NotFoundError: there is none of that name.
        """
        record: ObjectRecord = yield Ask(OBJECT_OPEN, ObjectOpen(kind=self.KIND, object_id=(yield from self._id())))
        return record

    # ------------------------------------------------------------------------------------------- of the SDK

    def _id(self) -> Generator[Ask, Any, str]:
        """Its id, looked up at the first use; anew in a container that was forked from where it had been."""
        if self._object_id and (self._where is state.config or not self._name):
            return self._object_id
        return (yield from self._open())

    def _open(self) -> Generator[Ask, Any, str]:
        if self._name:
            request = ObjectOpen(kind=self.KIND, name=self._name, create_if_missing=self._create)
        else:
            request = ObjectOpen(kind=self.KIND, object_id=self._object_id)
        record = yield Ask(OBJECT_OPEN, request)
        self._object_id, self._where = record.object_id, state.config
        return self._object_id

    def _ask(self, method: Method[Any, Any], *, held: bool = False, **fields: Any) -> Generator[Ask, Any, Any]:
        """The answer of a method about this object; where it was deleted and has been made again, of the new one."""
        object_id = yield from self._id()
        try:
            return (yield Ask(method, method.request(object_id=object_id, **fields), held=held))
        except NotFoundError:
            if not self._name:
                raise
        if (yield from self._open()) == object_id:
            raise InvalidError(f"{self!r}: the server knows the object, and not its content")
        return (yield Ask(method, method.request(object_id=self._object_id, **fields), held=held))


def _rebuild(kind: type[T], name: str, object_id: str, create_if_missing: bool) -> T:
    return kind(name, object_id, create_if_missing=create_if_missing)


class Ephemeral(Generic[T]):
    """An object for the time of a block; see `NamedObject.ephemeral`."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._object_id = ""
        self._beating: asyncio.Task[None] | None = None

    def __enter__(self) -> T:
        return PORTAL.call(self._begin())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        PORTAL.call(self._end())

    async def __aenter__(self) -> T:
        return await PORTAL.acall(self._begin())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await PORTAL.acall(self._end())

    async def _begin(self) -> T:
        import asyncio

        session = sessions.current()
        record = await session.request(OBJECT_OPEN, ObjectOpen(kind=self._kind.KIND, ephemeral=True))
        self._object_id = record.object_id
        self._beating = asyncio.get_running_loop().create_task(self._beat())
        return self._kind(object_id=self._object_id)

    async def _beat(self) -> None:
        import asyncio

        message = ObjectHeartbeat(object_ids=(self._object_id,))
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await sessions.current().request(OBJECT_HEARTBEAT, message)
            except JitneyError:  # the next one may get through
                pass

    async def _end(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        try:
            message = ObjectDelete(kind=self._kind.KIND, object_id=self._object_id)
            await sessions.current().request(OBJECT_DELETE, message)
        except NotFoundError:
            pass


class Named(Generic[T]):
    """All objects of a kind that have names."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind

    @talk
    def create(self, name: str, *, allow_existing: bool = False) -> Talk[T]:
        """Make one.

        Raises:
            AlreadyExistsError: there is one of that name.
        """
        handle = self._kind.from_name(name, create_if_missing=True)
        if not allow_existing:
            try:
                yield Ask(OBJECT_OPEN, ObjectOpen(kind=self._kind.KIND, name=name))
            except NotFoundError:
                pass
            else:
                raise AlreadyExistsError(f"there is a {self._kind.KIND} {name!r} already", hint="use from_name()")
        yield from handle._open()
        return handle

    @talk
    def rename(self, old_name: str, new_name: str) -> Talk[None]:
        """Give one another name. It stays the same object: what has it open or mounted notices nothing, and code that
        names it by the old name does not find it any more.

        Raises:
            NotFoundError: there is none of that name.
            AlreadyExistsError: there is one of the new name.
            InvalidError: nothing can have that name.
        """
        kind = self._kind.KIND
        objects.check_name(new_name, kind)
        record = yield Ask(OBJECT_OPEN, ObjectOpen(kind=kind, name=objects.check_name(old_name, kind)))
        yield Ask(OBJECT_RENAME, ObjectRename(kind=kind, object_id=record.object_id, new_name=new_name))

    @talk
    def list(self, *, max_objects: int = 1_000) -> Talk[_Handles[T]]:
        """Those that there are, newest first."""
        listed = yield Ask(OBJECT_LIST, ObjectList(kind=self._kind.KIND, limit=max_objects))
        return [self._kind(record.name, record.object_id) for record in listed.objects]

    @talk
    def delete(self, name: str, *, allow_missing: bool = False) -> Talk[None]:
        """End one, with all that is in it.

        Raises:
            NotFoundError: there is none of that name.
        """
        try:
            yield Ask(OBJECT_DELETE, ObjectDelete(kind=self._kind.KIND, name=name))
        except NotFoundError:
            if not allow_missing:
                raise
