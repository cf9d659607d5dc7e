"""What leaves the worker of a container that has secrets: lines without their values, all of them, before its end."""

import asyncio

import pytest
from tests.worker.test_agent import staged as staged

from jitney.drivers.runtime.fake import FakeRuntime, Script
from jitney.errors import ImageBuildError
from jitney.testing import virtual_loop
from jitney.values.containers import Launch, LogLine, TemplateSpec
from jitney.values.images import ImageSpec, RunCommands
from jitney.wire.messages import workers
from jitney.worker.redacting import HOLD_S, LOOKS_AHEAD, LOOKS_PER_S, RedactedOutput, RedactedText

VALUE = "swordfish-1234"


def line(text, fd=1):
    return LogLine(1, "ta-1", fd, text)


class Reader:
    def __init__(self):
        self.lines = []
        self.takes = True

    def __call__(self, lines):
        if self.takes:
            self.lines += lines
        return self.takes

    @property
    def texts(self):
        return [one.text for one in self.lines]


def play(act, values=(VALUE,), run=virtual_loop.run):
    async def main():
        reader = Reader()
        output = RedactedOutput(reader, {f"K{number}": value for number, value in enumerate(values)})
        await output.prepare()
        await act(output, reader)

    run(main())


def test_values_are_replaced_in_both_descriptors_and_in_notes():
    async def act(output, reader):
        assert output([line(f"a {VALUE}"), line(VALUE, 2), line(f"refused {VALUE}.example.com", 0), line("b")])
        assert reader.texts == ["a ***", "***", "refused ***.example.com", "b"]
        assert [one.fd for one in reader.lines] == [1, 2, 0, 1]

    play(act)


def test_a_line_that_may_be_a_beginning_waits_for_a_moment_and_no_longer():
    async def act(output, reader):
        output([line("so sword")])
        output([line("other", 2)])
        assert reader.texts == ["other"]
        await asyncio.sleep(3 * HOLD_S)
        assert reader.texts == ["other", "so sword"]
        output([line("fish-1234")])
        assert reader.texts == ["other", "so sword", "***"]

    play(act)


def test_what_is_held_at_the_end_goes_on():
    async def act(output, reader):
        output([line("so sword"), line("and swo", 2)])
        output.finish()
        assert sorted(reader.texts) == ["and swo", "so sword"]
        output.finish()
        assert len(reader.lines) == 2

    play(act)


def test_a_reader_that_refuses_is_heard():
    async def act(output, reader):
        reader.takes = False
        assert not output([line("x")])
        reader.takes = True
        assert output([line("y")])
        assert reader.texts == ["y"]

    play(act)


def test_values_that_are_too_short_cost_nothing():
    async def act(output, reader):
        lines = [line("yes 12345")]
        assert output(lines)
        assert reader.lines[0] is lines[0]

    play(act, ["yes", "12345"])


def test_a_flood_of_secrets_is_refused_in_the_end_and_taken_again_later():
    async def act(output, reader):
        flood, taken = [line(VALUE * 1_000)], 0
        while output(flood):
            taken += 1
            assert taken < LOOKS_AHEAD
        assert taken >= LOOKS_AHEAD // 40_000
        assert VALUE not in "".join(reader.texts)
        assert not output([line("quiet")])
        asyncio.get_running_loop().advance(LOOKS_AHEAD / LOOKS_PER_S)
        assert output([line("quiet")])

    play(act)


def test_many_values_are_prepared_beside_the_loop():
    async def act(output, reader):
        output([line("v" * 2 + "x" * 19_990)])
        output([line(f"w{VALUE}")])
        output.finish()
        assert reader.texts[-1] == "w***"

    play(act, ["".join(chr(33 + (i * i + 7 * i) % 90) for i in range(30_000)), VALUE], asyncio.run)  # on a thread


def test_containers_with_the_same_values_share_what_is_looked_for():
    async def act(output, reader):
        other, third = RedactedOutput(reader, {"K0": VALUE}), RedactedOutput(reader, {"K0": VALUE + "x"})
        await other.prepare()
        await third.prepare()
        assert other._patterns is output._patterns is not third._patterns
        other([line(VALUE)])
        output([line(VALUE)])
        assert reader.texts == ["***", "***"]

    play(act)


def test_what_a_build_says():
    quiet = RedactedText(["", VALUE])
    assert quiet(f"step\nwith {VALUE}\nend") == "step\nwith ***\nend"
    assert quiet(VALUE[:8]) == VALUE[:8]
    assert quiet(VALUE[8:]) == "***"
    assert RedactedText([])("x") == "x"


# ------------------------------------------------------------------------------------------------ in the agent


def test_output_is_complete_before_the_end_is_told_and_has_no_value(staged):
    async def play(stage):
        template = TemplateSpec(image_id=stage.image_id)
        launch = Launch(
            container_id="ta-1",
            function_id="fu-1",
            app_id="ap-1",
            token="t",
            template=template,
            config={},
            secrets={"KEY": VALUE},
        )
        stage.server.command(workers.StartContainer(launch=launch))
        await stage.server.until(lambda: any(isinstance(r, workers.ContainerExited) for r in stage.server.reports))
        kinds = [type(report) for report in stage.server.reports]
        texts = [one.text for r in stage.server.reports if isinstance(r, workers.ContainerLogs) for one in r.lines]
        assert texts == ["the key is ***", "it ends with sword"]
        assert kinds.index(workers.ContainerExited) > len(kinds) - 1 - kinds[::-1].index(workers.ContainerLogs)
        assert VALUE not in repr((stage.agent.state.containers, stage.agent.state.story, stage.runtime.started))

    output = (f"the key is {VALUE}", "it ends with sword")
    staged(play, FakeRuntime(script=lambda _: Script(exit_after_ms=1, output=output)))


@pytest.mark.parametrize("ends_well", [True, False])
def test_lines_and_errors_of_a_build_have_no_value(staged, ends_well):
    async def play(stage):
        async def build(spec, progress, lender):
            progress(1, 1, "commands", f"TOKEN={VALUE}")
            if ends_well:
                return await fake.build(stage.builder, ImageSpec(), lambda *_: None)
            raise ImageBuildError(f"step 1 failed\n  TOKEN={VALUE}", hint=f"what of {VALUE}?")

        fake = type(stage.builder)
        stage.builder.build = build
        spec = ImageSpec(layers=(RunCommands(commands=("env",), secrets={"TOKEN": VALUE}),))
        stage.server.command(workers.BuildImage(build_id="bu-2", spec=spec))
        await stage.server.until(lambda: ended(stage))
        assert VALUE not in repr(stage.server.reports)
        lines = [r.line for r in stage.server.reports if isinstance(r, workers.BuildLine) and r.build_id == "bu-2"]
        assert lines == ["TOKEN=***"]
        assert ends_well or ended(stage)[0].message == "step 1 failed\n  TOKEN=***"

    staged(play)


def ended(stage):
    return [r for r in stage.server.reports if isinstance(r, workers.BuildEnded) and r.build_id == "bu-2"]
