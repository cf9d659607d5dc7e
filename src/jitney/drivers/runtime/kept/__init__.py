"""What runtimes have in common whose walls are made by somebody else: an engine, gVisor.

Such a wall is made for one template: the *box*. In it runs a keeper of ours (`runner.keep`), which starts the template
at our word; containers are forks of that. What makes boxes is a driver's `Boxes` (see `box`); everything else is here.

The worker and the keeper meet on a Unix socket in a folder that is mounted into the box, and descriptors travel over
it: of pipes, for output, and of the template's control socket. The other direction carries data only. So the box has to
be on this machine; whether it has this machine's kernel does not matter. All that comes out of a box is taken for
hostile: a box that speaks nonsense is ended.
"""
