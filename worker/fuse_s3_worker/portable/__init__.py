"""The portable engine, `engine=libfuse`: the same file system, with libfuse before the kernel.

    library     finding libfuse before the sandbox closes
    binding     its calls, from threads of its own to the loop
    adapter     from paths to the file system

The kernel's protocol is libfuse's affair here, so this serves where our own engine cannot, and
says in the tests whether both mean the same.
"""
