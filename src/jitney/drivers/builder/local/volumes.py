"""Volumes of a step: lent for as long as it runs, with a folder above each for what it writes.

What it wrote is committed when all its commands have ended well, and before the layer of the step is there: who is
killed between the two does the step again, and commits again what it writes. A step that fails leaves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from jitney.drivers.builder.local.bench import Bench
from jitney.errors import InvalidError, JitneyError, UnsupportedError
from jitney.ports.box import Bind, BoxVolume
from jitney.ports.lending import Lender, LentVolume, Loan
from jitney.values.images import Layer, volumes_of
from jitney.values.volumes import VolumeMount


class StepVolumes:
    """Those of one step; for most there are none."""

    def __init__(self, boxed: tuple[BoxVolume, ...] = (), loan: Loan | None = None) -> None:
        self.boxed = boxed
        self._loan = loan

    async def commit(self, what: str, message: str) -> None:
        """Keep what was written. `what` is the step in an error.

        Raises:
            JitneyError: as ports.lending has it.
        """
        if self._loan is None:
            return
        try:
            await self._loan.commit([one.upper for one in self.boxed], message)
        except JitneyError as error:
            text = f"{what} has ended well, but what it wrote to its volumes cannot be committed: {error.message}"
            raise type(error)(text, hint=error.hint) from error


@contextlib.asynccontextmanager
async def opened(bench: Bench, lender: Lender | None, layer: Layer | None) -> AsyncIterator[StepVolumes]:
    """The volumes of a step, laid out.

    Raises:
        NotFoundError: one is not there.
        UnsupportedError: nobody lends any.
    """
    mounts = volumes_of(layer)
    if not mounts:
        yield StepVolumes()
        return
    if lender is None:
        raise no_lender(mounts)
    async with lender.lend(mounts) as loan, bench.uppers(len(mounts)) as uppers:
        pairs = zip(loan.volumes, uppers, strict=True)
        yield StepVolumes(tuple(_boxed(volume, upper) for volume, upper in pairs), loan)


def no_lender(mounts: Sequence[VolumeMount]) -> UnsupportedError:
    """This builder is nobody's who has volumes."""
    return UnsupportedError(
        f"a step has a volume at {mounts[0].path}, and this builder can mount none",
        hint="build with a server and its worker: `jitney image build`, or `image.build()`",
    )


def check_paths(volumes: Sequence[BoxVolume], needed: Sequence[Bind], what: str) -> None:
    """Whether no volume hides what the step needs.

    Raises:
        InvalidError: one does.
    """
    for volume in volumes:
        hidden = next((one.target for one in needed if f"{one.target}/".startswith(f"{volume.target}/")), "")
        if hidden:
            raise InvalidError(
                f"{what}: a volume at {volume.target} would hide {hidden}, which steps need",
                hint=f"mount it at another path, such as /mnt{volume.target}",
            )


def _boxed(volume: LentVolume, upper: str) -> BoxVolume:
    mount = volume.mount
    own = "" if mount.read_only else upper
    return BoxVolume(target=mount.path, layers=volume.layers, upper=own, sub_path=mount.sub_path)
