"""HTTP/1.1 to one endpoint: connections, their pool, TLS, proxies. Nothing here knows S3."""
