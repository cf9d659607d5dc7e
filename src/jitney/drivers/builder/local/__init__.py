"""Images on one machine: Python environments made by uv, and root file systems in layers where they are asked for.

How it stands on the disk, below the folder that the builder is given:

    im-…/image.json          what an image consists of: an environment, layers, its variables, what it runs
    im-…/used                touched whenever the image is used; its time decides what `collect` removes
    im-…/environment.json    the environment that is in force: the name of its folder
    im-…/env-1a2b3c4d/       an environment; its paths are absolute, so it is made where it stays
    im-…/env-1a2b3c4d.lock   held while it is made, by the builder and by the uv that it started
    roots/…                  layers of root file systems, by the digest of their step (`roots`)
    leases/…                 who uses what now (`leases`)
    names.json               what names stand for
    cache/                   uv's cache behind the wall; nothing outside reads it
    steps/…, trash/…         what is passing

A file that names a folder is written last, by renaming: that is the commit, and the reason why a build may die at any
point. A folder that no file names and whose lock nobody holds is a leftover, and `reap` removes it; one that was
replaced by `force_build` stays until no process uses it.

All install steps are replayed in one fresh environment, rather than starting from what the parent image resolved to.
With uv's cache that costs two tenths of a second, an image depends on nothing but its own declaration, and no chain
of parents has to be kept alive. The price is that versions that were left open may move when a layer is added: as in
any build, pin what must not move. Layers of a root file system cost more, and are kept one by one.

Byte code is left to the first import. `--compile-bytecode` compiles every module of every package: with numpy and
scikit-learn that is 8 s on top of 0.2 s, where the first import needs 2 s more than later ones, once, and compiles
only what is used.
"""

from jitney.drivers.builder.local.build import LocalBuilder as LocalBuilder
from jitney.drivers.builder.local.shelf import Hold as Hold
from jitney.drivers.builder.local.tools import Settings as Settings
