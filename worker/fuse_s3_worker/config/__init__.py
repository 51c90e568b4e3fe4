"""Every setting: one table, validated once, before anything is mounted."""
