"""Moving bytes: read streams with read-ahead, and uploads, out of one bounded pool of memory."""
