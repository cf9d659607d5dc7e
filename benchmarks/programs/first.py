"""Prints the seconds of one first call: a server that runs, an image that is built, no template."""

import json
import time

import jitney

app = jitney.App("first")


@app.function(cpu=0.01, memory=64)
def born():
    return time.time()


if __name__ == "__main__":
    with app.run():
        asked = time.time()
        print(json.dumps([born.remote() - asked]))
