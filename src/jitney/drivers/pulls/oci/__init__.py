"""Images without an engine: from registries, OCI layouts and `docker save` archives to folders of an overlay.

What strangers send is checked three times: a manifest and a blob by the digest that they were asked by, a layer, once
it is unpacked, by the digest that the image's own configuration has for it. Unpacking is the work of a child behind a
wall (`runner/unpack.py`); here, nothing looks into a layer.

Layers are kept by what they are when unpacked, so images that share a base share its folder, whatever registry they
came from and however they were packed. Packed layers are not kept.
"""

from jitney.drivers.pulls.oci.puller import OciPuller as OciPuller
from jitney.drivers.pulls.oci.settings import PullSettings as PullSettings
from jitney.drivers.pulls.oci.unpacker import ChildUnpacker as ChildUnpacker
