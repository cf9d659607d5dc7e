"""Prints when its function ran: 'AT <Unix time>'."""

import time

import jitney

app = jitney.App("edited")
WHICH = "VERSION"


@app.function(cpu=0.01, memory=64)
def when():
    return time.time()


@app.local_entrypoint()
def main():
    print("AT", when.remote())
