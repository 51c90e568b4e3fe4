"""What a file system means: names, nodes, handles, attributes, errno. No bytes, no HTTP."""
