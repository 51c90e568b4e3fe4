"""Entry point of the zipapp."""

import sys

from fuse_s3_helper.main import main

sys.exit(main(sys.argv))
