"""What tests share: servers, stores and mounts."""
