"""Where this helper finds its worker. The build of the zipapp writes this module anew."""

VERSION = "source tree"

# Run by the helper after it gave up root; installed root-owned, so that only root replaces it.
WORKER = "/usr/lib/fuse-s3/bin/fuse-s3-worker"
KEEPER = "/usr/lib/fuse-s3/bin/fuse-s3-keeper"
