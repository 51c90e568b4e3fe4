"""What `-o posix` keeps of a file beside its bytes, and the formats it is kept in; without I/O."""
