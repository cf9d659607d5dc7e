"""A bucket of S3, seen from the server: no driver, but what those drivers have in common that keep something in one.

`address` says which it is; `bucket` asks it; `owner` sees to it that one server folder has a prefix for itself. What
is below the prefix:

    <prefix><workspace>/files/..., <prefix><workspace>/blocks/...   `contents.s3`: files of volumes
    <prefix><workspace>/blobs/...                                   `blobs.s3`: contents of shipped sources
    <prefix>owner                                                   `owner`
"""
