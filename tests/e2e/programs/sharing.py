"""Containers that share a dict and a queue: workers take jobs, count them, and say who they are."""

import os

import jitney

app = jitney.App("sharing")
counts = jitney.Dict.from_name("sharing-counts", create_if_missing=True)
jobs = jitney.Queue.from_name("sharing-jobs", create_if_missing=True)


@app.function(max_containers=3, min_containers=0)
def work(done: jitney.Queue, last: int) -> int:
    taken = 0
    while (job := jobs.get(timeout=20)) != last:
        counts.increment("jobs")
        counts[("square", job)] = job * job
        done.put((job, os.getpid()))
        taken += 1
    return taken


@app.function()
def remember(size: int) -> int:
    counts["large"] = bytes(size)
    return counts.increment("remembered")


@app.function()
async def later(key: str) -> int:
    await counts.put.aio(key, 1)
    return await counts.increment.aio(key)


@app.function()
def take(partition: str) -> str:
    with jobs.get(lease=60, partition=partition) as value:
        return value


@app.local_entrypoint()
def main(jobs_count: int = 60):
    with jitney.Queue.ephemeral() as done:
        workers = work.starmap([(done, -1)] * 3)
        jobs.put_many(range(jobs_count))
        jobs.put_many([-1] * 3)
        taken = list(workers)
        rows = done.get_many(jobs_count)
        assert sorted(job for job, _ in rows) == list(range(jobs_count))
        assert sum(taken) == jobs_count
        assert counts["jobs"] == jobs_count
        assert all(counts[("square", job)] == job * job for job in range(jobs_count))
        print(f"{jobs_count} jobs by {len({pid for _, pid in rows})} containers")
    assert remember.remote(300_000) == 1
    assert len(counts["large"]) == 300_000
    assert later.remote("k") == 2
    jobs.put("leased", partition="p")
    assert take.remote("p") == "leased"
    assert jobs.len(total=True) == 0
    print("all is as it should be")
